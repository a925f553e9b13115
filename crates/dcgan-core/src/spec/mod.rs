//! The specification of a run: everything that its result depends on, besides the step.
//!
//! Two runs of one [`RunSpec`] have the same state after step n, bit for bit. The number of
//! workers, threads, addresses, intervals and the length of the run are not part of it, and may
//! change at any time. The [`schedule`] is kept here as well, because it says which steps of the
//! run leave a trace on disk.

pub mod networks;
pub mod schedule;
pub mod sharding;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::evaluation::EvaluationInfo;
use crate::ids::{Digest, ShardId, Step};
use crate::spec::sharding::{Sharding, ShardingError};
use crate::toy;

/// The kind of objective that a run trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectiveKind {
    /// The DCGAN.
    #[default]
    Dcgan,
    /// A quadratic function that costs nothing to compute, for tests of the protocol.
    Toy,
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
}

impl ObjectiveKind {
    /// The properties of the objective's evaluation, if it has one.
    pub fn evaluation(self) -> Option<EvaluationInfo> {
        match self {
            Self::Dcgan => None,
            Self::Toy => Some(toy::EVALUATION),
        }
    }
}

impl fmt::Display for ObjectiveKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dcgan => "dcgan",
            Self::Toy => "toy",
        })
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

/// The specification of a run.
///
/// The state after step n is a function of these fields and of n alone. The specification is
/// written to the run directory when a run begins, and a resumed run must have the same one. Its
/// fields are plain values, as read from flags or a file; [`RunSpec::check`] tells whether they fit
/// together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunSpec {
    /// The objective that is trained.
    pub objective: ObjectiveKind,
    /// The number of images in a step.
    pub batch_size: usize,
    /// The number of shards that a batch is divided into. Batch statistics are those of a shard,
    /// and sums follow the reduction tree over the shards, so another number gives other bits.
    pub shards: u16,
    /// The seed of the initial weights, of the latent vectors, and of the order of the images.
    pub seed: u64,
    /// The step size of Adam (alpha in Kingma and Ba, "Adam", 2015).
    pub learning_rate: f64,
    /// The decay of Adam's first moment, from 0 to below 1.
    pub beta1: f64,
    /// The training data.
    pub data: DatasetInfo,
}

/// The error for a specification that cannot be trained.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum RunSpecError {
    /// The batch does not fit the shards or the data.
    #[error(transparent)]
    Sharding(#[from] ShardingError),
    /// Adam's step size is not a finite number above 0.
    #[error("learning rate {0} is not above 0 and finite")]
    LearningRate(f64),
    /// Adam's decay is not at least 0 and below 1.
    #[error("beta1 {0} is not at least 0 and below 1")]
    Beta1(f64),
    /// The images have another size than the networks are made for.
    #[error(
        "images of {rows} x {columns} pixels do not fit the networks, which are made for 28 x 28"
    )]
    Shape {
        /// The height of the images, in pixels.
        rows: usize,
        /// The width of the images, in pixels.
        columns: usize,
    },
}

impl RunSpec {
    /// Checks that the specification can be trained, and returns the split of its data into shards.
    ///
    /// Every program calls this before it uses a specification.
    ///
    /// # Errors
    /// If a value is out of its range, or the batch does not fit the shards, the data or
    /// the networks.
    pub fn check(&self) -> Result<Sharding, RunSpecError> {
        // NaN is neither above 0 nor finite.
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return Err(RunSpecError::LearningRate(self.learning_rate));
        }
        if !(0.0..1.0).contains(&self.beta1) {
            return Err(RunSpecError::Beta1(self.beta1));
        }
        let DatasetInfo { images, rows, columns, .. } = self.data;
        if self.objective == ObjectiveKind::Dcgan && (rows, columns) != (28, 28) {
            return Err(RunSpecError::Shape { rows, columns });
        }
        Ok(Sharding::new(self.seed, images, self.shards, self.batch_size)?)
    }

    /// The settings in which `given` differs from this specification, the saved one.
    pub fn differences(&self, given: &Self) -> Vec<Difference> {
        let settings: [(&'static str, &dyn fmt::Display, &dyn fmt::Display); 7] = [
            ("objective", &self.objective, &given.objective),
            ("batch-size", &self.batch_size, &given.batch_size),
            ("shards", &self.shards, &given.shards),
            ("seed", &self.seed, &given.seed),
            ("learning-rate", &self.learning_rate, &given.learning_rate),
            ("beta1", &self.beta1, &given.beta1),
            ("data", &self.data, &given.data),
        ];
        let mut differences = Vec::new();
        for (name, saved, given) in settings {
            let (saved, given) = (saved.to_string(), given.to_string());
            if saved != given {
                differences.push(Difference { name, saved, given });
            }
        }
        differences
    }
}

/// One setting in which a resumed run would differ from the saved one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The name of the setting, which is also that of its flag without the dashes.
    pub name: &'static str,
    /// The value in the run directory.
    pub saved: String,
    /// The value that was given now.
    pub given: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: saved {}, given {}", self.name, self.saved, self.given)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> RunSpec {
        RunSpec {
            objective: ObjectiveKind::Dcgan,
            batch_size: 256,
            shards: 8,
            seed: 22,
            learning_rate: 2e-4,
            beta1: 0.5,
            data: DatasetInfo { images: 60_000, rows: 28, columns: 28, digest: Digest(1) },
        }
    }

    #[test]
    fn a_spec_that_cannot_be_trained_is_refused_with_the_reason() {
        assert_eq!(steps(&spec().check().unwrap(), 20), 4680);
        let mut wrong = spec();
        wrong.data.rows = 32;
        assert_eq!(
            wrong.check().unwrap_err().to_string(),
            "images of 32 x 28 pixels do not fit the networks, which are made for 28 x 28"
        );
        for learning_rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(
                RunSpec { learning_rate, ..spec() }.check(),
                Err(RunSpecError::LearningRate(_))
            ));
        }
        assert!(matches!(RunSpec { beta1: 1.0, ..spec() }.check(), Err(RunSpecError::Beta1(_))));
    }

    #[test]
    fn differences_are_listed_by_flag() {
        let given = RunSpec { seed: 23, learning_rate: 1e-3, ..spec() };
        let rows: Vec<String> =
            spec().differences(&given).iter().map(ToString::to_string).collect();
        assert_eq!(rows, ["seed: saved 22, given 23", "learning-rate: saved 0.0002, given 0.001"]);
        assert!(spec().differences(&spec()).is_empty());
    }
}
