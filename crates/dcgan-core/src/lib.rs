//! Decides, and does nothing else.
//!
//! A training run is a pure function of (specification, data, step). This crate holds that
//! function's bookkeeping and the two state machines that keep it going while processes come and
//! go. Both take `(now, event)` and return commands; drivers in other crates own the sockets, the
//! clock, the disk and the threads, and execute the commands in order.
//!
//! There is no I/O here, no clock, no thread, no hash order and no tensor library. `clippy.toml`
//! beside this crate and `tests/tidy` keep it so.
//!
//! # Layout
//!
//! * [`train`]: the definition of a training step, on one page. Start here.
//! * [`objective`]: what a model gives to the engine; [`toy`] is one without tensors, for tests.
//! * [`evaluation`]: the second kind of work, which tells how good a state is.
//! * [`spec`]: what a run's result is a function of, and what is due at which step.
//! * [`state`]: named tensors with their digest.
//! * [`reduction`]: the sum over shards, in an order that never changes.
//! * [`protocol`]: the two state machines, their messages and their plans. `docs/protocol.md`
//!   explains the rules.
//! * [`metrics`], [`random`], [`portable`], [`ids`], [`words`]: rows of metrics, keyed random
//!   numbers, functions with the same bits everywhere, small types, numbers in sentences.
//!
//! # Glossary
//!
//! One word for one thing, in the code, on the wire, in the log and in the documents.
//!
//! * **objective**: what is trained: the DCGAN, or the toy.
//! * **specification** (spec): everything that the result depends on besides the step: the
//!   objective, its settings, and the digest of the data.
//! * **step**, **phase**: a step has three phases (discriminator on real images, discriminator on
//!   fakes, generator). Each phase ends with one all-reduce and one optimizer step.
//! * **shard**: a fixed part of every batch. There are always as many, whatever the number of
//!   workers.
//! * **partition**: the part of the data set that one shard draws its images from.
//! * **state**, **position**, **digest**: all tensors of the training; how many steps and phases
//!   led to them; XXH3-64 of their bytes.
//! * **snapshot**, **checkpoint**: a state after a finished step, kept in memory by workers; the
//!   same on disk.
//! * **worker**, **member**: a process that computes; a worker that has a rank in the current plan.
//! * **plan**, **generation**: which members train, who computes which shard, and from which state;
//!   the plan's number, which only grows.
//! * **fence**: the question that precedes every plan. A worker that answers it promises to apply
//!   no result of an older generation, and says which state it has.
//! * **slice**, **bucket**: rank r owns slice r of every summed vector; a slice travels in buckets.
//! * **vector**, **frame**: everything that a phase computes for a shard and that is summed over
//!   the shards, as one flat array; a bucket on its way between two members, with the state that it
//!   belongs to.
//! * **subtree**: shards that are added up together, in the reduction tree's order.
//! * **complaint**: a worker says what keeps it from going on, and asks for a new generation.
//! * **spare**: a worker that waits for a free shard.
//! * **trial**, **outside**: a worker shows that it can do a member's work; one that cannot, or has
//!   kept the members from going on, waits to be tried again.
//! * **core**, **fruitless**: the members that last finished a step together; a plan that has
//!   finished none.
//! * **evict**: to remove a worker whose results are wrong or late. Others leave, are lost or
//!   drained.
//! * **evaluation**, **part**: numbers about the state after a step that the training does not
//!   need; one of its pieces, or the combination of their results.
//! * **fingerprint**: what the last bits of the arithmetic depend on, such as `cpu r2 fma`.

pub mod evaluation;
pub mod ids;
pub mod metrics;
pub mod objective;
pub mod portable;
pub mod protocol;
pub mod random;
pub mod reduction;
pub mod spec;
pub mod state;
pub mod toy;
pub mod train;
pub mod words;
