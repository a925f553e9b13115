//! What decides.
//!
//! A training run is a pure function of (configuration, data, step). This crate holds that function's bookkeeping and
//! the two machines that keep it going while processes come and go: [`membership::Membership`] for the coordinator and
//! [`step_machine::StepMachine`] for a worker. Both take `(now, event)` and return commands; drivers elsewhere own the
//! sockets, the clock and the disk, and execute the commands in order.
//!
//! There is no I/O here, no clock, no thread, no hash order and no tensor library; `clippy.toml` beside this crate and
//! `tests/tidy` keep it so.

pub mod config;
pub mod digest;
pub mod ids;
pub mod layers;
pub mod membership;
pub mod message;
pub mod metrics;
pub mod objective;
pub mod plan;
pub mod random;
pub mod reduction;
pub mod schedule;
pub mod sharding;
pub mod state;
pub mod step_machine;
pub mod toy;
pub mod values;
