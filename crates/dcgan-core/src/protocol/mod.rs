//! The protocol: two state machines, the messages between them, and the plans that they follow.
//!
//! The [`coordinator`] decides which workers train, who computes which shard, and from which state;
//! a [`plan`] is the record of such a decision. A [`worker`] computes, and exchanges sums with the
//! other members of its plan. No step waits for the coordinator: it is needed only when the members
//! change, and to write results to disk.
//!
//! Both machines take `(now, event)` and return commands, so that tests can drive them without
//! sockets, threads or a clock. `docs/protocol.md` explains the rules that they follow.

pub mod coordinator;
mod false_claim;
pub mod message;
pub mod plan;
pub mod worker;

pub use false_claim::FalseClaim;
