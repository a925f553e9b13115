//! What the coordinator and its workers tell each other. Partitions, snapshots and copies of a state travel apart.

use std::fmt;
use std::sync::Arc;

use crate::ids::{Digest, Generation, Position, Rank, RunId, ShardId, Step, WorkerId};
use crate::metrics::StepDone;
use crate::protocol::plan::{Plan, StateRef};

/// The version of everything on the wire. Programs of different versions refuse each other in words.
pub const PROTOCOL: u32 = 2;

/// The first message of every control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The run that the worker belongs to, once it does.
    pub run: Option<RunId>,
    /// Who it is.
    pub id: WorkerId,
    /// The version of what it speaks.
    pub protocol: u32,
    /// What its arithmetic depends on: workers that would round differently do not mix.
    pub fingerprint: String,
    /// Where other workers reach it, as host:port.
    pub address: String,
    /// The generation of its plan; 0 without one.
    pub plan: Generation,
    /// The newest fence that it has answered.
    pub promised: Generation,
}

/// From a worker to the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum FromWorker {
    /// The likely shards' partitions are held: may be planned.
    Ready,
    /// The promise to apply no result of an older generation, and the state as it is; given as often as it is asked.
    FenceAck {
        /// The fence that is answered.
        generation: Generation,
        /// None if the worker's state turned out to be damaged.
        state: Option<StateRef>,
    },
    /// A finished step.
    StepDone(StepDone),
    /// Asks for a new generation.
    Complaint {
        /// The generation that cannot go on.
        generation: Generation,
        /// Why.
        complaint: Complaint,
    },
    /// The answer to a fetch of a snapshot that the worker does not hold.
    SnapshotMissing(Step),
    /// The worker's state was another than the one that it has copied since, though both were at this position.
    StateDiffered {
        /// Where.
        position: Position,
        /// The first tensor that differs.
        tensor: String,
    },
    /// Whether the worker has reached another one, as it was asked to try.
    ProbeResult {
        /// The other one.
        peer: WorkerId,
        /// Whether it answered.
        reached: bool,
    },
    /// The worker was told to stop, and goes.
    Leave,
}

/// What keeps a worker from going on, and who owes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// The stream to or from a member broke.
    StreamBroken(Rank),
    /// A member has owed a piece for longer than the deadline.
    Timeout(Rank),
    /// A member computes from another state at the same generation and position.
    StateMismatch {
        /// Which member.
        peer: Rank,
        /// Where.
        position: Position,
        /// The digest of the reporting worker's state.
        mine: Digest,
        /// The digest of the peer's.
        theirs: Digest,
    },
    /// The start state cannot be had from anybody who should hold it.
    CopyFailed,
    /// The bytes of this tensor of the worker's own state are not those that it has hashed.
    StateCorrupted(String),
    /// Vectors of some shards cannot be summed: another worker is to compute them once more.
    ShardsFailed(FailedShards),
}

/// Vectors that cannot be summed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedShards {
    /// The position of the state that they were computed from.
    pub position: Position,
    /// Whose vectors.
    pub shards: Vec<ShardId>,
    /// What is wrong with the first.
    pub what: String,
}

/// From the coordinator to a worker.
#[derive(Clone, Debug, PartialEq)]
pub enum ToWorker {
    /// Stop applying results of generations before this one, and say where you are.
    Fence(Generation),
    /// Go on from its start.
    Plan(Arc<Plan>),
    /// Everything due up to this step is on disk: it may be forgotten.
    Persisted(Step),
    /// Send the snapshot of this step.
    RequestSnapshot(Step),
    /// RetainSnapshot the snapshot of this step, which was not due before.
    RetainSnapshot(Step),
    /// Say whether this worker can be reached, at this address.
    Probe(WorkerId, String),
    /// The run is over.
    Finish(Finish),
}

/// How a run is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// As it should be, or because a person ended it.
    Done,
    /// For the reason given.
    Failed(String),
}

/// Why a worker is turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It speaks another version.
    Protocol {
        /// The coordinator's.
        coordinator: u32,
        /// The worker's.
        worker: u32,
    },
    /// It belongs to another run.
    OtherRun {
        /// The coordinator's.
        coordinator: RunId,
        /// The worker's.
        worker: RunId,
    },
    /// A newer process of the same name is connected.
    Replaced(String),
    /// Its arithmetic would give other bits.
    Fingerprint {
        /// The run's.
        run: String,
        /// The worker's.
        worker: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol { coordinator, worker } => write!(
                f,
                "this worker speaks protocol version {worker} and the coordinator version {coordinator}: \
                 use programs of one build"
            ),
            Self::OtherRun { coordinator, worker } => write!(
                f,
                "this worker belongs to run {worker} and the coordinator runs {coordinator}: start the worker again"
            ),
            Self::Replaced(name) => {
                write!(
                    f,
                    "a newer worker named {name} is connected: give one of the two another --name"
                )
            }
            Self::Fingerprint { run, worker } => write!(
                f,
                "this worker's arithmetic ({worker}) differs from the run's ({run}), so its results would not be the \
                 same bits: use machines of one kind"
            ),
        }
    }
}
