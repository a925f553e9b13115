//! The settings of a run that its result depends on, and the data that it is trained on.
//!
//! All of them are in one table, below. The flags of `dcgan-coord` are merged, saved, sent to the
//! workers, read again and compared by way of serde and this table, setting by setting, so that no
//! place has a list of its own in which one could be forgotten.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::evaluation::EvaluationInfo;
use crate::spec::learning_rate::DECAY_FACTOR;
use crate::spec::networks::EVALUATED_DATA;
use crate::spec::sharding::{Sharding, ShardingError};
use crate::spec::{
    DatasetInfo, InitialWeights, Initializer, LearningRateSchedule, Loss, ObjectiveKind,
};

/// Defines the settings. A line has the name of a setting, its type and its default.
///
/// A setting that is added later has one more value: `older runs: VALUE`. A run that was begun
/// before the setting existed goes on with it, so it must be the value with which the program does
/// what it did then. The default may be another.
macro_rules! settings {
    ($(
        $(#[$doc:meta])+
        $name:ident: $type:ty = $default:expr $(, older runs: $older:expr)?;
    )+) => {
        /// A value for each setting.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(rename_all = "kebab-case")]
        struct Settings {
            $($name: $type,)+
        }

        impl Settings {
            /// The name and the value of each setting, as text.
            fn rows(&self) -> Vec<(String, String)> {
                vec![$((key(stringify!($name)), self.$name.to_string()),)+]
            }
        }

        impl RunSpec {
            $(
                $(#[$doc])+
                pub fn $name(&self) -> $type {
                    self.settings.$name
                }
            )+

            /// The names of all settings: the keys in files, and the flags without the dashes.
            pub fn setting_names() -> Vec<String> {
                vec![$(key(stringify!($name))),+]
            }
        }

        /// Settings some of which are given.
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub struct RunSpecBuilder {
            $($name: Option<$type>,)+
        }

        impl RunSpecBuilder {
            $(
                #[doc = concat!("Sets [`RunSpec::", stringify!($name), "`].")]
                #[must_use]
                pub fn $name(mut self, $name: $type) -> Self {
                    self.$name = Some($name);
                    self
                }
            )+

            /// The given settings, and the default of each other.
            fn or_defaults(self) -> Settings {
                Settings { $($name: self.$name.unwrap_or($default),)+ }
            }

            /// The saved settings. Each that did not exist when they were saved has its value of
            /// older runs.
            fn or_older(self) -> Result<Settings, RunSpecError> {
                let missing = |name| RunSpecError::Missing(key(name));
                Ok(Settings {
                    $($name: self.$name$(.or(Some($older)))?
                        .ok_or_else(|| missing(stringify!($name)))?,)+
                })
            }
        }
    };
}

// The defaults are those of the tutorial that the model is taken from. The tutorial has no moving
// average, which changes nothing of the training.
settings! {
    /// The objective that is trained.
    objective: ObjectiveKind = ObjectiveKind::Dcgan;
    /// The number of images in a step.
    batch_size: usize = 256;
    /// The number of shards that a batch is divided into. Batch statistics are those of a shard,
    /// and sums follow the reduction tree over the shards, so another number gives other bits.
    shards: u16 = 8;
    /// The seed of the initial weights, of the latent vectors, and of the order of the images.
    seed: u64 = 22;
    /// The origin of the initial weights, if it is not the seed.
    initial_weights: InitialWeights = InitialWeights::Seed, older runs: InitialWeights::Seed;
    /// The step size of Adam (alpha in Kingma and Ba, "Adam", 2015).
    learning_rate: f64 = 2e-4;
    /// The decay of Adam's first moment, from 0 to below 1.
    beta1: f64 = 0.5;
    /// The decay of Adam's second moment, from 0 to below 1.
    beta2: f64 = 0.999, older runs: 0.999;
    /// The learning rate of D over that of G (the two time-scale update rule, Heusel et al., "GANs
    /// Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", NIPS 2017).
    d_lr_ratio: f64 = 1.0, older runs: 1.0;
    /// The course of the learning rate after the warm-up.
    lr_schedule: LearningRateSchedule = LearningRateSchedule::Constant,
        older runs: LearningRateSchedule::Constant;
    /// The number of steps in which the learning rate rises to all of it.
    warmup_steps: u64 = 0, older runs: 0;
    /// The number of steps, warm-up included, in which the learning rate falls to the final one; 0
    /// for those of 20 epochs. See [`RunSpec::schedule_horizon`].
    schedule_steps: u64 = 0, older runs: 0;
    /// The learning rate after these steps.
    final_learning_rate: f64 = 0.0, older runs: 0.0;
    /// The number of steps between two drops of the learning rate; 0 for those of 5 epochs. See
    /// [`RunSpec::decay_interval`].
    decay_every: u64 = 0, older runs: 0;
    /// The factor of each of these drops.
    decay_factor: f64 = DECAY_FACTOR, older runs: DECAY_FACTOR;
    /// The decay of the moving average of the generator's weights, from 0 to below 1. With 0 there
    /// is no average, and the state has no tensors for one.
    ema_decay: f64 = 0.997, older runs: 0.0;
    /// The losses of both networks.
    loss: Loss = Loss::Bce, older runs: Loss::Bce;
    /// The distance of the label of real images from 1 when D is trained: one-sided label smoothing
    /// (Salimans et al., "Improved Techniques for Training GANs", NIPS 2016, section 3.4).
    label_smoothing: f64 = 0.0, older runs: 0.0;
    /// The greatest norm of a network's gradient; a longer one is scaled down (Pascanu et al., "On
    /// the difficulty of training recurrent neural networks", ICML 2013, algorithm 1). 0: any.
    clip_grad_norm: f64 = 0.0, older runs: 0.0;
    /// The number of steps, each with two updates of D, for one update of G.
    d_steps: u64 = 1, older runs: 1;
    /// The distribution of the initial weights.
    init: Initializer = Initializer::Glorot, older runs: Initializer::Glorot;
    /// True if D computes with weights that are divided by their spectral norm (Miyato et al.,
    /// "Spectral Normalization for Generative Adversarial Networks", ICLR 2018).
    spectral_norm: bool = false, older runs: false;
    /// The greatest number of pixels by which each image is moved before D sees it, real or fake
    /// (Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020).
    augment_translation: u16 = 0, older runs: 0;
}

/// The specification of a run, checked: it can be trained.
///
/// The state after step n is a function of the specification and of n alone. It is written to the
/// run directory when a run begins, and a resumed run must have the same one.
///
/// ```
/// # use dcgan_core::{ids::Digest, spec::{DatasetInfo, RunSpec}};
/// let data = DatasetInfo { images: 60_000, rows: 28, columns: 28, digest: Digest(1) };
/// let spec = RunSpec::builder().seed(7).build(data)?;
/// assert_eq!((spec.seed(), spec.batch_size(), spec.sharding().steps_per_epoch()), (7, 256, 234));
/// # Ok::<(), dcgan_core::spec::RunSpecError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "SavedSpec")]
pub struct RunSpec {
    #[serde(flatten)]
    settings: Settings,
    data: DatasetInfo,
    /// A function of the other two.
    #[serde(skip)]
    sharding: Sharding,
}

/// The key of the data in a saved specification.
const DATA: &str = "data";

/// A specification as files and messages have it: an object with a key for each setting.
#[derive(Deserialize)]
struct SavedSpec {
    #[serde(flatten)]
    settings: RunSpecBuilder,
    data: DatasetInfo,
    #[serde(flatten)]
    unknown: BTreeMap<String, IgnoredAny>,
}

/// The error for a specification that cannot be trained.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum RunSpecError {
    /// The batch does not fit the shards or the data.
    #[error(transparent)]
    Sharding(#[from] ShardingError),
    /// The objective has no networks that could begin with the weights of a file.
    #[error("--init-from: the {0} has no networks whose weights a file could give; leave it out")]
    InitialWeights(ObjectiveKind),
    /// A value is out of its range.
    #[error("--{setting} {value} is not {range}")]
    OutOfRange {
        /// The name of the setting.
        setting: &'static str,
        /// The value.
        value: String,
        /// The values that are possible, in words.
        range: String,
    },
    /// A setting has no effect beside the value of another one.
    #[error("--{setting} has no effect with --{other}; leave it out")]
    NoEffect {
        /// The name of the setting.
        setting: &'static str,
        /// The name and the value of the other one.
        other: String,
    },
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
    /// A saved specification lacks a setting that every version has saved.
    #[error("the setting {0} is missing")]
    Missing(String),
    /// A saved specification has a setting of a newer version of this program.
    #[error("the setting {0} is of a newer version of this program")]
    Unknown(String),
}

impl RunSpecError {
    /// Refuses the value of a setting that is not in its range.
    pub(super) fn unless_in_range(
        setting: &'static str,
        value: impl fmt::Display,
        is_in_range: bool,
        range: impl Into<String>,
    ) -> Result<(), Self> {
        if is_in_range {
            return Ok(());
        }
        Err(Self::OutOfRange { setting, value: value.to_string(), range: range.into() })
    }

    /// Refuses a setting that has no effect beside the value of `other`.
    pub(super) fn no_effect(
        setting: &'static str,
        other: &'static str,
        value: impl fmt::Display,
    ) -> Self {
        Self::NoEffect { setting, other: format!("{other} {value}") }
    }
}

impl RunSpec {
    /// A builder in which every setting has its default.
    pub fn builder() -> RunSpecBuilder {
        RunSpecBuilder::default()
    }

    /// Checks that the settings fit each other and the data.
    fn new(settings: Settings, data: DatasetInfo) -> Result<Self, RunSpecError> {
        // Every setting is named, so that the compiler asks for the range of a new one.
        let Settings {
            objective,
            batch_size,
            shards,
            seed,
            initial_weights,
            learning_rate,
            beta1,
            beta2,
            d_lr_ratio,
            ema_decay,
            // `check_schedule`:
            lr_schedule: _,
            warmup_steps: _,
            schedule_steps: _,
            final_learning_rate: _,
            decay_every: _,
            decay_factor: _,
            // `check_recipe`:
            loss: _,
            label_smoothing: _,
            clip_grad_norm: _,
            d_steps: _,
            init: _,
            spectral_norm: _,
            augment_translation: _,
        } = settings;
        if initial_weights != InitialWeights::Seed && objective != ObjectiveKind::Dcgan {
            return Err(RunSpecError::InitialWeights(objective));
        }
        for (setting, value) in [("learning-rate", learning_rate), ("d-lr-ratio", d_lr_ratio)] {
            // NaN is neither above 0 nor finite.
            let is_positive = value > 0.0 && value.is_finite();
            RunSpecError::unless_in_range(setting, value, is_positive, "above 0 and finite")?;
        }
        for (setting, decay) in [("beta1", beta1), ("beta2", beta2), ("ema-decay", ema_decay)] {
            let is_decay = (0.0..1.0).contains(&decay);
            RunSpecError::unless_in_range(setting, decay, is_decay, "at least 0 and below 1")?;
        }
        let DatasetInfo { images, rows, columns, .. } = data;
        if objective.image_size().is_some_and(|size| size != (rows, columns)) {
            return Err(RunSpecError::Shape { rows, columns });
        }
        let sharding = Sharding::new(seed, images, shards, batch_size)?;
        let spec = Self { settings, data, sharding };
        spec.check_schedule()?;
        spec.check_recipe()?;
        Ok(spec)
    }

    /// Tells whether a saved specification may have this key.
    pub fn has_key(name: &str) -> bool {
        name == DATA || Self::setting_names().iter().any(|setting| setting == name)
    }

    /// The properties of the evaluation, if the objective has one.
    pub fn evaluation(&self) -> Option<EvaluationInfo> {
        self.objective().evaluation()
    }

    /// Tells whether the evaluation of these data needs no file: the toy's has none, and the
    /// evaluator of MNIST is built in.
    pub fn has_built_in_evaluator(&self) -> bool {
        self.objective() != ObjectiveKind::Dcgan || self.data.digest == EVALUATED_DATA
    }

    /// The training data.
    pub fn data(&self) -> &DatasetInfo {
        &self.data
    }

    /// The split of the data into shards.
    pub fn sharding(&self) -> &Sharding {
        &self.sharding
    }

    /// The settings in which `given` differs from this specification, the saved one.
    pub fn differences(&self, given: &Self) -> Vec<Difference> {
        let mut differences = Vec::new();
        for ((name, saved), (_, given)) in self.rows().into_iter().zip(given.rows()) {
            if saved != given {
                differences.push(Difference { name, saved, given });
            }
        }
        differences
    }

    /// The name and the value of each setting and of the data, as text.
    fn rows(&self) -> Vec<(String, String)> {
        let mut rows = self.settings.rows();
        rows.push((DATA.to_owned(), self.data.to_string()));
        rows
    }
}

impl RunSpecBuilder {
    /// The specification of a new run on this data. A setting that is not given has its default.
    ///
    /// # Errors
    /// If a value is out of its range, or the batch does not fit the shards, the data or
    /// the networks.
    pub fn build(self, data: DatasetInfo) -> Result<RunSpec, RunSpecError> {
        RunSpec::new(self.or_defaults(), data)
    }

    /// The specification of a run whose settings were saved, maybe by an older version of this
    /// program. A setting that did not exist then has the value with which the run goes on as it
    /// began.
    ///
    /// # Errors
    /// If a setting is missing that every version has saved; else as [`RunSpecBuilder::build`].
    pub fn build_saved(self, data: DatasetInfo) -> Result<RunSpec, RunSpecError> {
        RunSpec::new(self.or_older()?, data)
    }
}

impl TryFrom<SavedSpec> for RunSpec {
    type Error = RunSpecError;

    fn try_from(saved: SavedSpec) -> Result<Self, RunSpecError> {
        // A setting that this version does not know may change the result.
        if let Some(name) = saved.unknown.into_keys().next() {
            return Err(RunSpecError::Unknown(name));
        }
        saved.settings.build_saved(saved.data)
    }
}

/// The key of a setting in files and messages, which is also its flag without the dashes.
fn key(field: &str) -> String {
    field.replace('_', "-")
}

/// One setting in which a resumed run would differ from the saved one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The name of the setting, which is also that of its flag without the dashes.
    pub name: String,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use crate::spec::steps;

    const MNIST: DatasetInfo =
        DatasetInfo { images: 60_000, rows: 28, columns: 28, digest: Digest(1) };

    #[test]
    fn the_defaults_are_those_of_the_tutorial() {
        let spec = RunSpec::builder().build(MNIST).unwrap();
        assert_eq!((spec.objective(), spec.batch_size()), (ObjectiveKind::Dcgan, 256));
        assert_eq!((spec.shards(), spec.seed()), (8, 22));
        assert_eq!((spec.learning_rate(), spec.beta1()), (2e-4, 0.5));
        assert_eq!((spec.lr_schedule(), spec.warmup_steps()), (Default::default(), 0));
        assert_eq!(steps(spec.sharding(), 20), 4680);
    }

    #[test]
    fn a_spec_that_cannot_be_trained_is_refused_with_the_reason() {
        let error = RunSpec::builder().build(DatasetInfo { rows: 32, ..MNIST }).unwrap_err();
        assert_eq!(
            error.to_string(),
            "images of 32 x 28 pixels do not fit the networks, which are made for 28 x 28"
        );
        let error = RunSpec::builder().learning_rate(0.0).build(MNIST).unwrap_err();
        assert_eq!(error.to_string(), "--learning-rate 0 is not above 0 and finite");
        let new = RunSpec::builder;
        let rates = [-1.0, f64::NAN, f64::INFINITY].map(|rate| new().learning_rate(rate));
        let decays = [-0.1, 1.0, f64::NAN].map(|decay| new().ema_decay(decay));
        for builder in rates.into_iter().chain(decays).chain([new().beta1(1.0)]) {
            assert!(matches!(builder.build(MNIST), Err(RunSpecError::OutOfRange { .. })));
        }
    }

    #[test]
    fn a_run_that_was_begun_before_goes_on_as_it_was() {
        let begun = RunSpec::builder()
            .objective(ObjectiveKind::Dcgan)
            .batch_size(256)
            .shards(8)
            .seed(22)
            .learning_rate(2e-4)
            .beta1(0.5);
        let older = begun.clone().build_saved(MNIST).unwrap();
        assert_eq!(older, begun.ema_decay(0.0).build(MNIST).unwrap());
        assert_eq!(older.learning_rate_at(1_000_000), 2e-4);
    }

    #[test]
    fn differences_are_listed_by_flag() {
        let spec = RunSpec::builder().build(MNIST).unwrap();
        let given = RunSpec::builder().seed(23).learning_rate(1e-3).build(MNIST).unwrap();
        let rows: Vec<String> = spec.differences(&given).iter().map(ToString::to_string).collect();
        assert_eq!(rows, ["seed: saved 22, given 23", "learning-rate: saved 0.0002, given 0.001"]);
        assert!(spec.differences(&spec).is_empty());
        let other_data = DatasetInfo { images: 60_001, ..MNIST };
        let given = RunSpec::builder().build(other_data).unwrap();
        assert_eq!(spec.differences(&given)[0].name, "data");
    }

    /// The table of a later version, which has one more setting than its first.
    #[expect(unreachable_pub, reason = "the macro is made for public types")]
    mod later {
        use super::super::{RunSpecError, key};
        use serde::{Deserialize, Serialize};

        struct RunSpec {
            settings: Settings,
        }

        settings! {
            /// The first setting.
            batch_size: usize = 256;
            /// A setting that is on by default, and that older runs did not have.
            warmup: u64 = 100, older runs: 0;
        }

        #[test]
        fn a_setting_that_was_not_saved_has_its_value_of_older_runs() {
            let saved = RunSpecBuilder::default().batch_size(16);
            let spec = RunSpec { settings: saved.clone().or_older().unwrap() };
            assert_eq!((spec.batch_size(), spec.warmup()), (16, 0));
            assert_eq!(saved.clone().or_defaults().warmup, 100);
            assert_eq!(saved.warmup(7).or_older().unwrap().warmup, 7);
            let rows = [("batch-size", "16"), ("warmup", "0")];
            assert_eq!(spec.settings.rows(), rows.map(|(a, b)| (a.to_owned(), b.to_owned())));
            assert_eq!(RunSpec::setting_names(), ["batch-size", "warmup"]);
            let missing = RunSpecBuilder::default().or_older().unwrap_err();
            assert_eq!(missing, RunSpecError::Missing("batch-size".to_owned()));
        }
    }
}
