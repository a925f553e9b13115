//! Something that happened, worth a line in the log.

use std::fmt;
use std::time::Duration;

use crate::ids::{Generation, Position, Step};

/// Something that happened, worth a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A worker said hello.
    Joined(String),
    /// A worker may be planned.
    Ready(String),
    /// A worker is no longer counted on.
    Lost {
        /// Which.
        name: String,
        /// Why.
        why: Departure,
    },
    /// A worker complained; a new generation follows.
    Complaint {
        /// Who.
        by: String,
        /// About whom and what.
        about: String,
    },
    /// A worker's state was another than that of the majority, at this position; it has copied theirs.
    StateDiffered {
        /// Which worker.
        name: String,
        /// Where.
        position: Position,
        /// The first tensor that differs.
        tensor: String,
    },
    /// A worker waits outside, because it and its peers do not reach each other.
    Outside {
        /// Which worker.
        name: String,
        /// Whom it does not reach.
        peers: Vec<String>,
    },
    /// A worker that waited outside reaches its peers again.
    Inside(String),
    /// Shards move from a worker that takes longer than the others.
    Slow {
        /// Which worker.
        name: String,
        /// How long it takes for a shard, in percent of the others' time.
        percent: u32,
    },
    /// A new plan.
    Planned {
        /// Its number.
        generation: Generation,
        /// Its members' names, by rank.
        members: Vec<String>,
        /// Where they go on.
        start: Position,
    },
    /// The workers of the last plan are all here, and go on as if nothing had happened.
    Adopted(Generation),
    /// A snapshot that was due is held by nobody any more.
    GivenUp(Step),
    /// The checkpoint of a step, whose state no worker has, cannot be read: an older one, or the beginning, takes its place.
    FellBack {
        /// The step that is lost.
        from: Step,
        /// The step that leads, or 0.
        to: Step,
    },
    /// A step was computed again, with the same result as before.
    Repeated(Step),
    /// The coordinator itself was not running for a while.
    Late(Duration),
}

impl Notice {
    /// A stable name for logs and programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Joined(_) => "worker_connected",
            Self::Ready(_) => "worker_ready",
            Self::Lost { .. } => "worker_lost",
            Self::Complaint { .. } => "complaint",
            Self::StateDiffered { .. } => "state_differed",
            Self::Outside { .. } => "worker_quarantined",
            Self::Inside(_) => "worker_readmitted",
            Self::Slow { .. } => "shards_moved",
            Self::Planned { .. } => "plan",
            Self::Adopted(_) => "plan_adopted",
            Self::GivenUp(_) => "snapshot_given_up",
            Self::FellBack { .. } => "checkpoint_fell_back",
            Self::Repeated(_) => "step_recomputed",
            Self::Late(_) => "clock_late",
        }
    }

    /// The name of the worker that the notice is about.
    pub fn worker(&self) -> Option<&str> {
        match self {
            Self::Joined(name)
            | Self::Ready(name)
            | Self::Inside(name)
            | Self::Lost { name, .. }
            | Self::StateDiffered { name, .. }
            | Self::Outside { name, .. }
            | Self::Slow { name, .. }
            | Self::Complaint { by: name, .. } => Some(name),
            _ => None,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined(name) => write!(f, "worker {name} connected"),
            Self::Ready(name) => write!(f, "worker {name} is ready"),
            Self::Lost { name, why } => write!(f, "lost worker {name}: {why}"),
            Self::Complaint { by, about } => write!(f, "worker {by}: {about}"),
            Self::StateDiffered { name, position, tensor } => {
                write!(
                    f,
                    "worker {name} differed at {position}, first in {tensor}; it has copied the others' state"
                )
            }
            Self::Outside { name, peers } => {
                write!(
                    f,
                    "worker {name} and {} do not reach each other: {name} waits outside",
                    peers.join(", ")
                )
            }
            Self::Inside(name) => write!(f, "worker {name} reaches the others again"),
            Self::Slow { name, percent } => {
                write!(
                    f,
                    "worker {name} takes {percent}% of the others' time for a shard: shards move from it"
                )
            }
            Self::Planned { generation, members, start } => {
                write!(
                    f,
                    "generation {generation} trains on {} from step {} on",
                    members.join(", "),
                    start.step + 1
                )
            }
            Self::Adopted(generation) => {
                write!(f, "all workers of generation {generation} are back, and go on")
            }
            Self::GivenUp(step) => {
                write!(f, "nobody holds the snapshot of step {step} any more: it is skipped")
            }
            Self::FellBack { from, to } => {
                write!(
                    f,
                    "the checkpoint of step {from}, which no worker has, cannot be read: going on after step {to}"
                )
            }
            Self::Repeated(step) => {
                write!(f, "step {step} was computed again, with the same digest")
            }
            Self::Late(by) => {
                write!(f, "the coordinator was not running for {:.1} s", by.as_secs_f64())
            }
        }
    }
}

/// Why a worker is no longer counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// Its control and data streams closed.
    Closed,
    /// Nothing was heard of it for too long.
    Silent,
    /// It owed others a contribution for too long.
    Stuck,
    /// It said that it goes.
    Left,
    /// A newer process has its name.
    Replaced,
    /// A person asked it to leave.
    Drained,
    /// Its vectors were not finite, and others' of the same shards were.
    FailedShards,
}

impl Departure {
    /// A stable name for logs and programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Silent => "silent",
            Self::Stuck => "late",
            Self::Left => "left",
            Self::Replaced => "replaced",
            Self::Drained => "drained",
            Self::FailedShards => "bad_results",
        }
    }
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "its connection closed",
            Self::Silent => "nothing heard of it for 3 s",
            Self::Stuck => "others waited too long for its contribution",
            Self::Left => "it was told to stop",
            Self::Replaced => "a newer process has its name",
            Self::Drained => "it was drained",
            Self::FailedShards => {
                "its vectors were not finite, and others' of the same shards were"
            }
        })
    }
}
