//! The messages of the control stream, by which the coordinator and its workers talk.
//!
//! Each direction has a message type of its own here, made of the core's types. Converting from the
//! wire checks everything that the types promise: a message that was received is a valid one.

mod coordinator_message;
mod spec;
#[cfg(test)]
mod tests;
mod worker_message;

use dcgan_core::ids::{RunId, ShardId};
use dcgan_core::protocol::message::{FromWorker, Hello, ToWorker};
use dcgan_core::spec::RunSpec;
use dcgan_core::spec::schedule::Schedule;

/// A message from a worker to the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerMessage {
    /// The first message of a stream.
    Hello(Hello),
    /// A sign of life.
    Heartbeat,
    /// A message for the coordinator's state machine.
    Message(FromWorker),
}

/// A message from the coordinator to a worker.
#[derive(Clone, Debug, PartialEq)]
pub enum CoordinatorMessage {
    /// Answers a hello: the worker takes part in the run.
    Welcome(Box<Welcome>),
    /// Answers a hello: the worker is turned away, for this reason.
    Refused(String),
    /// A sign of life.
    Heartbeat,
    /// A message for the worker's state machine.
    Message(ToWorker),
}

/// The facts that a worker has to know about the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Welcome {
    /// The run's identity.
    pub run: RunId,
    /// The specification: the objective, its settings and its data.
    pub spec: RunSpec,
    /// The length of the run and its intervals, in steps.
    pub schedule: Schedule,
    /// The shards that the worker will probably own: it fetches their partitions first.
    pub likely_shards: Vec<ShardId>,
}
