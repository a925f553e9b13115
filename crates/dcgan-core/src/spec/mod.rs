//! The specification of a run: everything that its result depends on, besides the step.
//!
//! Two runs of one [`RunSpec`] have the same state after step n, bit for bit. The number of
//! workers, threads, addresses, intervals and the length of the run are not part of it, and may
//! change at any time. The [`schedule`] is kept here as well, because it says which steps of the
//! run leave a trace on disk.

mod initial_weights;
mod learning_rate;
pub mod networks;
mod recipe;
mod run_spec;
pub mod schedule;
pub mod sharding;
pub mod words;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use initial_weights::InitialWeights;
pub use learning_rate::LearningRateSchedule;
pub use recipe::{Initializer, Loss};
pub use run_spec::{Difference, RunSpec, RunSpecBuilder, RunSpecError};

use crate::evaluation::EvaluationInfo;
use crate::ids::{Digest, ShardId, Step};
use crate::spec::sharding::Sharding;
use crate::spec::words::words;
use crate::toy;

words! {
    /// The kind of objective that a run trains.
    ObjectiveKind {
        /// The DCGAN.
        #[default]
        Dcgan = "dcgan",
        /// A quadratic function that costs nothing to compute, for tests of the protocol.
        Toy = "toy",
    }
}

impl ObjectiveKind {
    /// The names of the metrics that the objective reports of every step, in their order. They are
    /// keys of `metrics.jsonl`, so none may be a key of [`MetricsRow`](crate::metrics::MetricsRow).
    pub fn metric_names(self) -> &'static [&'static str] {
        match self {
            Self::Dcgan => networks::METRIC_NAMES,
            Self::Toy => toy::METRIC_NAMES,
        }
    }

    /// The names of the same metrics in a line for people, which must be short. Metrics in a row
    /// with one name share it: `acc 0.45/0.98/0.01`.
    pub fn short_metric_names(self) -> &'static [&'static str] {
        match self {
            // The toy's metrics have the DCGAN's names.
            Self::Dcgan | Self::Toy => networks::SHORT_METRIC_NAMES,
        }
    }
}

impl ObjectiveKind {
    /// The rows and columns that images must have, if the objective is made for one size.
    pub fn image_size(self) -> Option<(usize, usize)> {
        match self {
            Self::Dcgan => Some((28, 28)),
            Self::Toy => None,
        }
    }

    /// The properties of the objective's evaluation, if it has one.
    pub fn evaluation(self) -> Option<EvaluationInfo> {
        match self {
            Self::Dcgan => Some(networks::EVALUATION),
            Self::Toy => Some(toy::EVALUATION),
        }
    }
}

/// The properties of a data set that a run's result depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DatasetInfo {
    /// The number of training images.
    pub images: usize,
    /// The height of an image, in pixels.
    pub rows: usize,
    /// The width of an image, in pixels.
    pub columns: usize,
    /// The XXH3-64 digest of all training pixels, in order.
    pub digest: Digest,
}

impl DatasetInfo {
    /// The number of bytes of one image, with one byte a pixel.
    pub fn image_bytes(&self) -> usize {
        self.rows * self.columns
    }
}

impl fmt::Display for DatasetInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} images of {} x {}, digest {}",
            self.images, self.rows, self.columns, self.digest
        )
    }
}

/// The ids of `shards` shards, in order.
pub fn shard_ids(shards: u16) -> impl Iterator<Item = ShardId> {
    (0..shards).map(ShardId)
}

/// The number of steps in `epochs` epochs.
pub fn steps(sharding: &Sharding, epochs: u64) -> Step {
    epochs.saturating_mul(sharding.steps_per_epoch())
}
