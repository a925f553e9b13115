//! The settings of a run, in two forms: [`PartialConfig`], in which each setting may be missing, as
//! flags, variables and files give it; and [`RunConfig`], in which each has its value and all go
//! together.

use std::num::{NonZeroU16, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use dcgan_core::ids::Step;
use dcgan_core::spec::schedule::Schedule;
use dcgan_core::spec::sharding::Sharding;
use dcgan_core::spec::{DatasetInfo, ObjectiveKind, RunSpec, steps};
use dcgan_store::dataset::{Source, default_source};
use serde::{Deserialize, Serialize};

/// Settings as a person gives them. A setting that is not given keeps its saved value, or else its
/// default. The keys of a configuration file are the names of the flags.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct PartialConfig {
    /// Number of workers that must be connected before the first step.
    #[arg(long, value_name = "N", env = "DCGAN_WORKERS")]
    pub(crate) workers: Option<NonZeroU16>,
    /// After the start, the run pauses while fewer than N workers are connected [default: 1].
    #[arg(long, value_name = "N", env = "DCGAN_MIN_WORKERS")]
    pub(crate) min_workers: Option<NonZeroU16>,
    /// Threads of each worker of --local; each computes one shard at a time [default: 1].
    #[arg(long, value_name = "N", env = "DCGAN_THREADS")]
    pub(crate) threads: Option<NonZeroU16>,
    /// Training images: mnist, which is built in, or a folder that holds train-images-idx3-ubyte
    /// (.gz or not) [default: mnist].
    #[arg(long, value_name = "mnist|DIR", env = "DCGAN_DATA")]
    pub(crate) data: Option<PathBuf>,
    /// Length of the run in epochs [default: 20].
    #[arg(long, value_name = "N", env = "DCGAN_EPOCHS")]
    pub(crate) epochs: Option<NonZeroU64>,
    /// Length of the run in steps, instead of epochs.
    #[arg(long, value_name = "N", env = "DCGAN_STEPS")]
    pub(crate) steps: Option<NonZeroU64>,
    /// Images in a step, of all workers together [default: 256].
    #[arg(long, value_name = "N", env = "DCGAN_BATCH_SIZE")]
    pub(crate) batch_size: Option<NonZeroUsize>,
    /// Parts that each batch is split into. The result depends on their number, and not on the
    /// number of workers that share them [default: 8].
    #[arg(long, value_name = "N", env = "DCGAN_SHARDS")]
    pub(crate) shards: Option<NonZeroU16>,
    /// Seed of the initial weights, the latents and the order of the images [default: 22].
    #[arg(long, value_name = "N", env = "DCGAN_SEED")]
    pub(crate) seed: Option<u64>,
    /// Learning rate of Adam [default: 0.0002].
    #[arg(long, value_name = "X", allow_negative_numbers = true, env = "DCGAN_LEARNING_RATE")]
    pub(crate) learning_rate: Option<f64>,
    /// Decay rate of Adam's first moment [default: 0.5].
    #[arg(long, value_name = "X", allow_negative_numbers = true, env = "DCGAN_BETA1")]
    pub(crate) beta1: Option<f64>,
    /// Steps between two rows of metrics [default: 20].
    #[arg(long, value_name = "STEPS", env = "DCGAN_LOG_EVERY")]
    pub(crate) log_every: Option<NonZeroU64>,
    /// Steps between two grids of samples [default: 20].
    #[arg(long, value_name = "STEPS", env = "DCGAN_GRID_EVERY")]
    pub(crate) grid_every: Option<NonZeroU64>,
    /// Steps between two checkpoints [default: an epoch].
    #[arg(long, value_name = "STEPS", env = "DCGAN_CHECKPOINT_EVERY")]
    pub(crate) checkpoint_every: Option<NonZeroU64>,
    /// Number of checkpoints to keep; older ones are removed [default: 5].
    #[arg(long, value_name = "N", env = "DCGAN_KEEP_CHECKPOINTS")]
    pub(crate) keep_checkpoints: Option<NonZeroUsize>,
    /// Objective of the training: the DCGAN, or a toy that tests the protocol.
    #[arg(long, hide = true, value_parser = parse_objective, env = "DCGAN_OBJECTIVE")]
    pub(crate) objective: Option<ObjectiveKind>,
    /// Data set that a saved configuration was used with. No flag gives it.
    #[arg(skip)]
    pub(crate) data_set: Option<DatasetInfo>,
}

/// Parses the name of an objective.
fn parse_objective(name: &str) -> Result<ObjectiveKind, String> {
    let kinds = [ObjectiveKind::Dcgan, ObjectiveKind::Toy];
    kinds
        .into_iter()
        .find(|kind| kind.to_string() == name)
        .ok_or_else(|| "expected dcgan or toy".to_owned())
}

/// The length of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Epochs(NonZeroU64),
    Steps(NonZeroU64),
}

/// Settings that go together, each with its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RunConfig {
    /// Workers that must be connected before the first step.
    pub(crate) workers: usize,
    /// Workers without which the run pauses later.
    pub(crate) min_workers: usize,
    /// Threads of each local worker.
    pub(crate) threads: u16,
    pub(crate) length: Length,
    pub(crate) keep_checkpoints: usize,
    /// Everything that the result depends on.
    pub(crate) spec: RunSpec,
    pub(crate) sharding: Sharding,
    pub(crate) schedule: Schedule,
}

impl PartialConfig {
    /// The source of the images.
    pub(crate) fn source(&self) -> Source {
        match &self.data {
            None => default_source(self.objective.unwrap_or_default()),
            Some(name) if name.as_os_str() == "mnist" => Source::Mnist,
            Some(folder) => Source::Folder(folder.clone()),
        }
    }

    /// The specification of a run on this data set, with the defaults of the tutorial that the
    /// model is taken from.
    pub(crate) fn spec(&self, data: DatasetInfo) -> RunSpec {
        RunSpec {
            objective: self.objective.unwrap_or_default(),
            batch_size: self.batch_size.map_or(256, NonZeroUsize::get),
            shards: self.shards.map_or(8, NonZeroU16::get),
            seed: self.seed.unwrap_or(22),
            learning_rate: self.learning_rate.unwrap_or(2e-4),
            beta1: self.beta1.unwrap_or(0.5),
            data,
        }
    }

    /// Gives each setting its value, for a run on this data set.
    ///
    /// # Errors
    /// If the settings contradict each other, or one that has no default is missing.
    pub(crate) fn resolve(&self, data: DatasetInfo) -> anyhow::Result<RunConfig> {
        let workers = self
            .workers
            .context("--workers is missing: say how many workers the run starts with")?;
        let min_workers = self.min_workers.unwrap_or(NonZeroU16::MIN);
        ensure!(
            min_workers <= workers,
            "--min-workers {min_workers} is more than --workers {workers}"
        );
        let spec = self.spec(data);
        let sharding = spec.check()?;
        let length = self.length()?;
        let last_step: Step = match length {
            Length::Steps(steps) => steps.get(),
            Length::Epochs(epochs) => steps(&sharding, epochs.get()),
        };
        let schedule = Schedule {
            last_step,
            log_every: self.log_every.map_or(20, NonZeroU64::get),
            grid_every: self.grid_every.map_or(20, NonZeroU64::get),
            checkpoint_every: self
                .checkpoint_every
                .map_or(sharding.steps_per_epoch(), NonZeroU64::get),
        };
        Ok(RunConfig {
            workers: workers.get().into(),
            min_workers: min_workers.get().into(),
            threads: self.threads.map_or(1, NonZeroU16::get),
            length,
            keep_checkpoints: self.keep_checkpoints.map_or(5, NonZeroUsize::get),
            spec,
            sharding,
            schedule,
        })
    }

    /// The length, which may be given in one of two units.
    fn length(&self) -> anyhow::Result<Length> {
        match (self.epochs, self.steps) {
            (Some(_), Some(_)) => {
                anyhow::bail!("--epochs and --steps both give the length: give one")
            }
            (None, Some(steps)) => Ok(Length::Steps(steps)),
            (epochs, None) => {
                Ok(Length::Epochs(epochs.unwrap_or(const { NonZeroU64::new(20).unwrap() })))
            }
        }
    }
}

impl RunConfig {
    /// The same settings as if a person had given each of them, to be saved in the run directory.
    /// `data` is the `--data` that the images came from.
    pub(crate) fn to_partial(&self, data: Option<PathBuf>) -> PartialConfig {
        let RunSpec { objective, batch_size, shards, seed, learning_rate, beta1, data: data_set } =
            self.spec.clone();
        let (epochs, steps) = match self.length {
            Length::Epochs(epochs) => (Some(epochs), None),
            Length::Steps(steps) => (None, Some(steps)),
        };
        PartialConfig {
            workers: NonZeroU16::new(self.workers as u16),
            min_workers: NonZeroU16::new(self.min_workers as u16),
            threads: NonZeroU16::new(self.threads),
            data,
            epochs,
            steps,
            batch_size: NonZeroUsize::new(batch_size),
            shards: NonZeroU16::new(shards),
            seed: Some(seed),
            learning_rate: Some(learning_rate),
            beta1: Some(beta1),
            log_every: NonZeroU64::new(self.schedule.log_every),
            grid_every: NonZeroU64::new(self.schedule.grid_every),
            checkpoint_every: NonZeroU64::new(self.schedule.checkpoint_every),
            keep_checkpoints: NonZeroUsize::new(self.keep_checkpoints),
            objective: Some(objective),
            data_set: Some(data_set),
        }
    }
}

#[cfg(test)]
mod tests {
    use dcgan_core::ids::Digest;

    use super::*;

    const MNIST: DatasetInfo =
        DatasetInfo { images: 60_000, rows: 28, columns: 28, digest: Digest(1) };

    fn given(toml: &str) -> PartialConfig {
        toml::from_str(toml).unwrap()
    }

    #[test]
    fn the_defaults_are_those_of_the_tutorial() {
        let config = given("workers = 4").resolve(MNIST).unwrap();
        assert_eq!((config.schedule.last_step, config.schedule.checkpoint_every), (4680, 234));
        let RunSpec { batch_size, shards, seed, learning_rate, beta1, .. } = config.spec;
        assert_eq!((batch_size, shards, seed, learning_rate, beta1), (256, 8, 22, 2e-4, 0.5));
    }

    #[test]
    fn saved_settings_resolve_to_the_same_configuration() {
        for text in
            ["workers = 4", "workers = 2\nsteps = 40\nlearning-rate = 0.001\nmin-workers = 2"]
        {
            let config = given(text).resolve(MNIST).unwrap();
            let saved = toml::to_string(&config.to_partial(Some("mnist".into()))).unwrap();
            assert_eq!(given(&saved).resolve(MNIST).unwrap(), config, "{saved}");
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let error = |text: &str| given(text).resolve(MNIST).unwrap_err().to_string();
        assert_eq!(error(""), "--workers is missing: say how many workers the run starts with");
        assert_eq!(
            error("workers = 2\nmin-workers = 3"),
            "--min-workers 3 is more than --workers 2"
        );
        assert_eq!(
            error("workers = 2\nsteps = 3\nepochs = 1"),
            "--epochs and --steps both give the length: give one"
        );
        assert!(
            error("workers = 2\nshards = 7")
                .starts_with("batch size 256 cannot be split into 7 shards")
        );
        assert!(
            toml::from_str::<PartialConfig>("worker = 2")
                .unwrap_err()
                .to_string()
                .contains("unknown field `worker`")
        );
        assert!(toml::from_str::<PartialConfig>("log-every = 0").is_err());
    }
}
