//! Why a run cannot go on.

use std::fmt;

use crate::ids::{Digest, Position, ShardId, Step};

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
    /// A step that is already persisted came out differently this time.
    Unrepeatable {
        /// The step.
        step: Step,
        /// The persisted digest.
        persisted: Digest,
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

impl Failure {
    /// A stable name for logs and programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Differ { .. } => "states_differ",
            Self::Unrepeatable { .. } => "not_repeatable",
            Self::Diverged { .. } => "diverged",
            Self::NotFinite { .. } => "not_finite",
        }
    }
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
            Self::Unrepeatable { step, persisted, computed } => {
                write!(
                    f,
                    "step {step} was persisted with digest {persisted} and came out as {computed} this time"
                )
            }
            Self::Diverged { position, shard, what } => {
                write!(
                    f,
                    "the training has diverged: the vector of shard {shard} at {position} cannot be used: {what}"
                )
            }
            Self::NotFinite { step, metric } => {
                write!(
                    f,
                    "the training has diverged: {metric} of step {step} is not a finite number"
                )
            }
        }
    }
}
