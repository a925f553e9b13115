//! The failures that end a run.

use std::fmt;

use crate::ids::{Digest, Position, ShardId, Step};

/// The reason that a run cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Workers have different states at one position, and none is more frequent than every other.
    StatesDiffer {
        /// The position.
        position: Position,
        /// The name of each worker there and the digest of its state.
        states: Vec<(String, Digest)>,
    },
    /// A step that is already on disk was computed again, with another result.
    NotReproducible {
        /// The step.
        step: Step,
        /// The digest on disk.
        persisted: Digest,
        /// The digest that the workers have computed now.
        computed: Digest,
    },
    /// Two workers, or one worker twice, found that the vector of a shard cannot be summed.
    Diverged {
        /// The position of the state that the vector was computed from.
        position: Position,
        /// The shard.
        shard: ShardId,
        /// The fault of the vector.
        what: String,
    },
    /// A loss or an accuracy is not a finite number.
    MetricNotFinite {
        /// The step.
        step: Step,
        /// The name of the metric.
        metric: &'static str,
    },
    /// An evaluation on which the end of the run depends was lost again and again.
    NotEvaluated {
        /// The step.
        step: Step,
    },
    /// A file that the run cannot do without can never be written.
    CannotWrite {
        /// The thing that was to be written.
        what: String,
        /// The error, with the file's path.
        error: String,
    },
}

impl Failure {
    /// The failure's stable name, for logs and programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::StatesDiffer { .. } => "states_differ",
            Self::NotReproducible { .. } => "not_reproducible",
            Self::Diverged { .. } => "diverged",
            Self::MetricNotFinite { .. } => "metric_not_finite",
            Self::NotEvaluated { .. } => "not_evaluated",
            Self::CannotWrite { .. } => "cannot_write",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StatesDiffer { position, states } => {
                write!(f, "workers differ at {position}, and no state is the most frequent one")?;
                for (i, (name, digest)) in states.iter().enumerate() {
                    let separator = if i == 0 { ":" } else { "," };
                    write!(f, "{separator} {name} has {digest}")?;
                }
                Ok(())
            }
            Self::NotReproducible { step, persisted, computed } => write!(
                f,
                "step {step} has digest {persisted} on disk, and was computed again with digest \
                 {computed}"
            ),
            Self::Diverged { position, shard, what } => write!(
                f,
                "the training has diverged: the vector of shard {shard} at {position} cannot be \
                 used: {what}"
            ),
            Self::MetricNotFinite { step, metric } => write!(
                f,
                "the training has diverged: {metric} of step {step} is not a finite number"
            ),
            Self::NotEvaluated { step } => write!(
                f,
                "no worker can evaluate the state after step {step}, on which the end of the run \
                 depends: see the lines about it above; --early-stopping 0 goes on without"
            ),
            Self::CannotWrite { what, error } => write!(f, "cannot write {what}: {error}"),
        }
    }
}
