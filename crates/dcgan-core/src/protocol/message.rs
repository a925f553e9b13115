//! The messages between the coordinator and its workers.
//!
//! They travel on one control stream for each worker. Bulk data (partitions of the data set,
//! snapshots and copies of a state) has streams of its own, so that it does not delay them.
//!
//! The control stream may break and be opened again at any time, and no message is acknowledged.
//! Therefore every message can be repeated without harm, and after each [`Hello`] both sides repeat
//! everything that still matters.

use std::fmt;
use std::sync::Arc;

use crate::evaluation::{EvaluationTask, PartId};
use crate::ids::{Digest, Generation, Position, Rank, RunId, ShardId, Step, WorkerId};
use crate::metrics::StepDone;
use crate::protocol::plan::{Plan, StateRef};

/// The version of everything on the wire. Programs of different versions refuse each other, with a
/// message that names both versions.
pub const PROTOCOL: u32 = 6;

/// The first message of every control stream, from the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The run that the worker belongs to; `None` until it has joined one.
    pub run: Option<RunId>,
    /// The identity of the worker process.
    pub id: WorkerId,
    /// The version of the protocol that the worker speaks; compare [`PROTOCOL`].
    pub protocol: u32,
    /// The fingerprint of the worker's arithmetic. Workers that round differently do not train
    /// together.
    pub fingerprint: String,
    /// The address at which other workers reach this one, as host:port.
    pub address: String,
    /// The generation of the worker's plan; 0 without one.
    pub plan: Generation,
    /// The newest fence that the worker has answered.
    pub promised: Generation,
}

/// A message from a worker to the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum FromWorker {
    /// The worker holds the partitions of the shards that it is likely to compute, and may become a
    /// member of a plan.
    Ready,
    /// The answer to a fence: a promise to apply no result of an older generation, and the worker's
    /// state. A repeated fence is answered again.
    FenceAck {
        /// The generation of the fence.
        generation: Generation,
        /// The state that the worker holds. A worker whose state is damaged falls back to the
        /// initial state, so that this version always sends one.
        state: Option<StateRef>,
    },
    /// The report of a finished step.
    StepDone(StepDone),
    /// A request for a new generation, because this one cannot continue.
    Complaint {
        /// The generation that cannot continue.
        generation: Generation,
        /// The reason.
        complaint: Complaint,
    },
    /// The answer to [`ToWorker::RequestSnapshot`] from a worker that does not hold the snapshot.
    SnapshotMissing(Step),
    /// News that the worker holds the start state of the plan of this generation, which it had to
    /// copy.
    Copied(Generation),
    /// News that the worker had reached a position with another state than its peers. It has copied
    /// theirs since.
    StateDiffered {
        /// The position of both states.
        position: Position,
        /// The name of the first tensor in which they differed.
        tensor: String,
    },
    /// The answer to [`ToWorker::Probe`].
    ProbeResult {
        /// The worker that was probed.
        peer: WorkerId,
        /// Why it was not reached; `Ok` if it answered, as itself.
        result: Result<(), String>,
    },
    /// The answer to [`ToWorker::Trial`].
    TrialResult {
        /// The worker whose state was to be copied.
        donor: WorkerId,
        /// The times that it took, or why there was no copy or no vector.
        result: Result<TrialTimes, String>,
    },
    /// The answer to [`ToWorker::Evaluate`].
    Evaluated {
        /// The part.
        id: PartId,
        /// The result, or why there is none.
        result: Result<Vec<f64>, String>,
    },
    /// News that the worker was told to stop. It exits when the coordinator releases it with
    /// [`ToWorker::Finish`]: until then it may hold the only copy of the newest state.
    Leave,
}

/// The times that a worker took in its trial.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrialTimes {
    /// The milliseconds for a copy of a state.
    pub copy_ms: f64,
    /// The milliseconds for one shard in one step.
    pub shard_ms: f64,
}

/// The reason why a generation cannot continue, as one worker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// The stream to or from this member broke.
    StreamBroken(Rank),
    /// This member has owed a bucket sum for longer than the deadline.
    Timeout(Rank),
    /// A member computes from another state, although generation and position are the same.
    StateMismatch {
        /// The rank of that member.
        peer: Rank,
        /// The position of both states.
        position: Position,
        /// The digest of the complaining worker's state.
        mine: Digest,
        /// The digest of the peer's state.
        theirs: Digest,
    },
    /// None of the members that should hold the start state has provided a copy of it.
    CopyFailed,
    /// The values of this tensor, in the worker's own state, are not those that were hashed: its
    /// memory has lost a bit.
    StateCorrupted(String),
    /// The worker cannot compute some of its shards; another worker has to try.
    ShardsFailed(FailedShards),
}

/// The shards of one worker whose vectors cannot be summed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedShards {
    /// The position of the state that the vectors were computed from.
    pub position: Position,
    /// The shards, in order.
    pub shards: Vec<ShardId>,
    /// The reason why the vector of the first shard cannot be summed.
    pub what: String,
}

/// A message from the coordinator to a worker.
#[derive(Clone, Debug, PartialEq)]
pub enum ToWorker {
    /// Stop applying results of generations before this one, and answer with
    /// [`FromWorker::FenceAck`].
    Fence(Generation),
    /// Train by this plan.
    Plan(Arc<Plan>),
    /// Everything that was due up to this step is on disk. Its reports and snapshots may be
    /// dropped.
    Persisted(Step),
    /// Train through this step and not beyond, before a later message allows more. A state after it
    /// is of no use: the worker goes back to the initial one. Only in runs with early stopping.
    TrainThrough(Step),
    /// Send the snapshot of this step.
    RequestSnapshot(Step),
    /// Keep the snapshot of this step, although the schedule does not ask for it.
    RetainSnapshot(Step),
    /// Find out whether this worker answers at this address, as host:port.
    Probe(WorkerId, String),
    /// Copy the state of this worker at this address, whichever state that is, and compute the
    /// vectors of a shard from it.
    Trial(WorkerId, String),
    /// Compute a part of an evaluation when no gradient is due.
    Evaluate(EvaluationTask),
    /// The run is over, or the worker is released because it leaves; exit.
    Finish(Finish),
}

/// Why a worker is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The run has done all its steps, or a person has stopped it.
    Done,
    /// The run goes on without this worker, which a person has drained, or which was told to stop.
    Released,
    /// The run has failed, for this reason.
    Failed(String),
}

/// The reason why the coordinator refuses a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The worker speaks another version of the protocol.
    Protocol {
        /// The coordinator's version.
        coordinator: u32,
        /// The worker's version.
        worker: u32,
    },
    /// The worker belongs to another run.
    OtherRun {
        /// The coordinator's run.
        coordinator: RunId,
        /// The worker's run.
        worker: RunId,
    },
    /// A newer process with this name is connected.
    Replaced(String),
    /// The worker's arithmetic rounds differently, so its results would have other bits.
    Fingerprint {
        /// The fingerprint of the run.
        run: String,
        /// The fingerprint of the worker.
        worker: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol { coordinator, worker } => write!(
                f,
                "this worker speaks protocol version {worker} and the coordinator version \
                 {coordinator}: use programs of one build"
            ),
            Self::OtherRun { coordinator, worker } => write!(
                f,
                "this worker belongs to run {worker} and the coordinator runs {coordinator}: \
                 start the worker again"
            ),
            Self::Replaced(name) => {
                write!(
                    f,
                    "a newer worker named {name} is connected: give one of the two another --name"
                )
            }
            Self::Fingerprint { run, worker } => write!(
                f,
                "this worker's arithmetic ({worker}) differs from the run's ({run}), so its \
                 results would not be the same bits: use machines of one kind"
            ),
        }
    }
}
