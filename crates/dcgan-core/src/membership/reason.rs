//! Why the coordinator is in the state that it is in: for people, and for tests to match.

use std::fmt;
use std::time::Duration;

use crate::ids::{Digest, Generation, Position, ShardId, Step};

/// What the coordinator is doing or waiting for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The first step needs more workers.
    Gathering {
        /// Workers that may be planned.
        ready: usize,
        /// Workers that the first step waits for.
        workers: usize,
    },
    /// Just started again: the workers of the last plan may be on their way.
    Adopting {
        /// Members of the last plan that are here.
        here: usize,
        /// Members of the last plan.
        members: usize,
    },
    /// Workers are asked where they are.
    Fencing {
        /// The generation to come.
        generation: Generation,
        /// Who has not answered.
        waiting_for: Vec<String>,
    },
    /// Too few workers to go on.
    BelowMinimum {
        /// Workers that may be planned.
        ready: usize,
        /// `--min-workers`.
        minimum: usize,
        /// The others that have been here, the latest first.
        missing: Vec<LastSeen>,
    },
    /// Without workers that do not reach each other there would be too few.
    Unreachable {
        /// Each with those that it does not reach.
        pairs: Vec<(String, Vec<String>)>,
    },
    /// The members train.
    Training {
        /// Their generation.
        generation: Generation,
        /// How many they are.
        members: usize,
    },
    /// The last checkpoint before a stop is on its way.
    Stopping,
    /// The run is over, and the workers are told.
    Finishing,
}

/// A worker that is not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastSeen {
    /// Its name.
    pub name: String,
    /// The last step that it reported.
    pub step: Step,
    /// How long ago it was heard.
    pub ago: Duration,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gathering { ready, workers } => {
                write!(f, "waiting for {} of {workers} workers to start", workers.saturating_sub(*ready))
            }
            Self::Adopting { here, members } => {
                write!(f, "waiting for {} of {members} workers of the last plan", members.saturating_sub(*here))
            }
            Self::Fencing { generation, waiting_for } => {
                write!(f, "forming generation {generation}: waiting for {}", waiting_for.join(", "))
            }
            Self::BelowMinimum { ready, minimum, missing } => {
                write!(f, "waiting for {} of {minimum} workers", minimum.saturating_sub(*ready))?;
                for (i, LastSeen { name, step, ago }) in missing.iter().enumerate() {
                    let separator = if i == 0 { ": worker" } else { ", worker" };
                    write!(f, "{separator} {name} last seen at step {step}, {} s ago", ago.as_secs())?;
                }
                Ok(())
            }
            Self::Unreachable { pairs } => {
                f.write_str("waiting for workers to reach each other:")?;
                for (name, peers) in pairs {
                    write!(f, " {name} and {}", peers.join(", "))?;
                }
                Ok(())
            }
            Self::Training { generation, members } => write!(f, "training: generation {generation}, {members} workers"),
            Self::Stopping => f.write_str("stopping: waiting for the last checkpoint"),
            Self::Finishing => f.write_str("finished: waiting for the workers to leave"),
        }
    }
}

/// Something that happened, worth a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A worker said hello.
    Joined(String),
    /// A worker may be planned.
    Ready(String),
    /// A worker is no longer counted on.
    Lost {
        /// Which.
        name: String,
        /// Why.
        why: Loss,
    },
    /// A worker complained; a new generation follows.
    Complaint {
        /// Who.
        by: String,
        /// About whom and what.
        about: String,
    },
    /// A worker's state was another than that of the majority, at this position; it has copied theirs.
    Differed {
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

/// Why a worker is no longer counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
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
    Unusable,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined(name) => write!(f, "worker {name} connected"),
            Self::Ready(name) => write!(f, "worker {name} is ready"),
            Self::Lost { name, why } => write!(f, "lost worker {name}: {why}"),
            Self::Complaint { by, about } => write!(f, "worker {by}: {about}"),
            Self::Differed { name, position, tensor } => {
                write!(f, "worker {name} differed at {position}, first in {tensor}; it has copied the others' state")
            }
            Self::Outside { name, peers } => {
                write!(f, "worker {name} and {} do not reach each other: {name} waits outside", peers.join(", "))
            }
            Self::Inside(name) => write!(f, "worker {name} reaches the others again"),
            Self::Slow { name, percent } => {
                write!(f, "worker {name} takes {percent}% of the others' time for a shard: shards move from it")
            }
            Self::Planned { generation, members, start } => {
                write!(f, "generation {generation} trains on {} from step {} on", members.join(", "), start.step + 1)
            }
            Self::Adopted(generation) => write!(f, "all workers of generation {generation} are back, and go on"),
            Self::GivenUp(step) => write!(f, "nobody holds the snapshot of step {step} any more: it is skipped"),
            Self::FellBack { from, to } => {
                write!(
                    f,
                    "the checkpoint of step {from}, which no worker has, cannot be read: going on after step {to}"
                )
            }
            Self::Repeated(step) => write!(f, "step {step} was computed again, with the same digest"),
            Self::Late(by) => write!(f, "the coordinator was not running for {:.1} s", by.as_secs_f64()),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "its connection closed",
            Self::Silent => "nothing heard of it for 3 s",
            Self::Stuck => "others waited too long for its contribution",
            Self::Left => "it was told to stop",
            Self::Replaced => "a newer process has its name",
            Self::Drained => "it was drained",
            Self::Unusable => "its vectors were not finite, and others' of the same shards were",
        })
    }
}

/// Why a run cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Two workers hold different states where they should hold the same.
    Differ {
        /// Where.
        position: Position,
        /// Each worker's name and digest.
        states: Vec<(String, Digest)>,
    },
    /// A step that is already recorded came out differently this time.
    Unrepeatable {
        /// The step.
        step: Step,
        /// The recorded digest.
        recorded: Digest,
        /// This time's.
        computed: Digest,
    },
    /// Two workers found that a shard's vector cannot be summed.
    Diverged {
        /// Where.
        position: Position,
        /// Which shard.
        shard: ShardId,
        /// What is wrong with it.
        what: String,
    },
    /// A loss is no longer a finite number.
    NotFinite {
        /// The step.
        step: Step,
        /// Which number.
        metric: &'static str,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Differ { position, states } => {
                write!(f, "workers differ at {position}:")?;
                for (name, digest) in states {
                    write!(f, " {name} has {digest}")?;
                }
                Ok(())
            }
            Self::Unrepeatable { step, recorded, computed } => {
                write!(f, "step {step} was recorded with digest {recorded} and came out as {computed} this time")
            }
            Self::Diverged { position, shard, what } => {
                write!(f, "the training has diverged: the vector of shard {shard} at {position} cannot be used: {what}")
            }
            Self::NotFinite { step, metric } => {
                write!(f, "the training has diverged: {metric} of step {step} is not a finite number")
            }
        }
    }
}
