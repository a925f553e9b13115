//! What determines a run's result. Everything else (workers, threads, addresses, intervals, length) does not.

pub mod networks;
pub mod schedule;
pub mod sharding;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, ShardId, Step};
use crate::spec::sharding::{Sharding, ShardingError};

/// What is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectiveKind {
    /// The DCGAN.
    #[default]
    Dcgan,
    /// A quadratic function without tensors, for the protocol's tests.
    Toy,
}

impl fmt::Display for ObjectiveKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dcgan => "dcgan",
            Self::Toy => "toy",
        })
    }
}

/// A data set, as far as results depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DatasetInfo {
    /// Training images.
    pub images: usize,
    /// Pixels down.
    pub rows: usize,
    /// Pixels across.
    pub columns: usize,
    /// XXH3-64 of all training pixels, in order.
    pub digest: Digest,
}

impl DatasetInfo {
    /// Bytes of one image.
    pub fn image_bytes(&self) -> usize {
        self.rows * self.columns
    }
}

/// Everything that a run's result is a function of, besides the step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunSpec {
    /// What is trained.
    pub objective: ObjectiveKind,
    /// Images a step.
    pub batch_size: usize,
    /// Logical shards of the batch.
    pub shards: u16,
    /// Determines the initial weights, the latents and every order.
    pub seed: u64,
    /// Adam's step size.
    pub learning_rate: f64,
    /// Adam's decay of the first moment.
    pub beta1: f64,
    /// What is trained on.
    pub data: DatasetInfo,
}

/// A spec that cannot be followed.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum RunSpecError {
    /// The batch does not fit the shards or the data.
    #[error(transparent)]
    Sharding(#[from] ShardingError),
    /// Adam's step size is not a positive number.
    #[error("learning rate {0} is not above 0 and finite")]
    LearningRate(f64),
    /// Adam's decay is not in [0, 1).
    #[error("beta1 {0} is not at least 0 and below 1")]
    Beta1(f64),
    /// The networks are made for 28 x 28 images.
    #[error(
        "images of {rows} x {columns} pixels do not fit the networks, which are made for 28 x 28"
    )]
    Shape {
        /// Pixels down.
        rows: usize,
        /// Pixels across.
        columns: usize,
    },
}

impl RunSpec {
    /// The split of the data into shards.
    ///
    /// # Errors
    /// If the spec cannot be followed: every program calls this before it uses one.
    pub fn check(&self) -> Result<Sharding, RunSpecError> {
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

    /// What differs between this spec (the saved one) and another (the given one).
    pub fn differences(&self, given: &Self) -> Vec<Difference> {
        let rows: [(&'static str, &dyn fmt::Display, &dyn fmt::Display); 7] = [
            ("objective", &self.objective, &given.objective),
            ("batch-size", &self.batch_size, &given.batch_size),
            ("shards", &self.shards, &given.shards),
            ("seed", &self.seed, &given.seed),
            ("learning-rate", &self.learning_rate, &given.learning_rate),
            ("beta1", &self.beta1, &given.beta1),
            ("data", &self.data, &given.data),
        ];
        rows.into_iter()
            .map(|(name, saved, given)| Difference {
                name,
                saved: saved.to_string(),
                given: given.to_string(),
            })
            .filter(|row| row.saved != row.given)
            .collect()
    }
}

/// One setting in which a resumed run would differ from the saved one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The setting's flag.
    pub name: &'static str,
    /// What the run directory says.
    pub saved: String,
    /// What was given.
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

/// The shards in their order.
pub fn shard_ids(shards: u16) -> impl Iterator<Item = ShardId> {
    (0..shards).map(ShardId)
}

/// The length of a run of `epochs` epochs, in steps.
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
    fn a_recipe_that_cannot_be_followed_says_why() {
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
