//! Why the coordinator is in the state that it is in: for people, and for tests to match.

use std::fmt;
use std::time::Duration;

use crate::ids::{Generation, Step};

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

impl Reason {
    /// A stable name for logs and programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Gathering { .. } => "gathering",
            Self::Adopting { .. } => "adopting",
            Self::Fencing { .. } => "fencing",
            Self::BelowMinimum { .. } => "below_minimum",
            Self::Unreachable { .. } => "unreachable",
            Self::Training { .. } => "training",
            Self::Stopping => "stopping",
            Self::Finishing => "finishing",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gathering { ready, workers } => {
                write!(
                    f,
                    "waiting for {} of {workers} workers to start",
                    workers.saturating_sub(*ready)
                )
            }
            Self::Adopting { here, members } => {
                write!(
                    f,
                    "waiting for {} of {members} workers of the last plan",
                    members.saturating_sub(*here)
                )
            }
            Self::Fencing { generation, waiting_for } => {
                write!(f, "forming generation {generation}: waiting for {}", waiting_for.join(", "))
            }
            Self::BelowMinimum { ready, minimum, missing } => {
                write!(f, "waiting for {} of {minimum} workers", minimum.saturating_sub(*ready))?;
                for (i, LastSeen { name, step, ago }) in missing.iter().enumerate() {
                    let separator = if i == 0 { ": worker" } else { ", worker" };
                    write!(
                        f,
                        "{separator} {name} last seen at step {step}, {} s ago",
                        ago.as_secs()
                    )?;
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
            Self::Training { generation, members } => {
                write!(f, "training: generation {generation}, {members} workers")
            }
            Self::Stopping => f.write_str("stopping: waiting for the last checkpoint"),
            Self::Finishing => f.write_str("finished: waiting for the workers to leave"),
        }
    }
}
