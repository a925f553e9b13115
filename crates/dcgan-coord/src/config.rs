//! The settings of a run, in two forms: [`PartialConfig`], in which each setting may be missing, as
//! flags, variables and files give it; and [`RunConfig`], in which each has its value and all go
//! together.

use std::num::{NonZeroU16, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use dcgan_core::ids::{Digest, Step};
use dcgan_core::spec::schedule::Schedule;
use dcgan_core::spec::sharding::Sharding;
use dcgan_core::spec::words::Word;
use dcgan_core::spec::{
    DatasetInfo, InitialWeights, Initializer, LearningRateSchedule, Loss, ObjectiveKind, RunSpec,
    RunSpecBuilder, steps,
};
use dcgan_process::logging::LogFormat;
use dcgan_process::settings::Time;
use dcgan_rpc::net::ListenAddress;
use dcgan_store::dataset::{Source, default_source};
use serde::{Deserialize, Serialize};
use toml::Table;

use crate::args::{Resume, Transpose};
use crate::checkpoint_every::CheckpointEvery;
use crate::headings::under_heading;

/// Settings as a person gives them. A setting that is not given keeps its saved value, or else its
/// default. Each is a flag, a variable and a key of a configuration file; the keys are the names of
/// the flags.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
#[command(mut_args = under_heading)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct PartialConfig {
    /// Number of workers that must be connected before the first step [default with --local: one
    /// for each core, and at most one for each shard].
    #[arg(long, value_name = "N", env = "DCGAN_WORKERS")]
    pub(crate) workers: Option<NonZeroU16>,
    /// After the start, the run pauses while fewer than N workers are connected [default: 1].
    #[arg(long, value_name = "N", env = "DCGAN_MIN_WORKERS")]
    pub(crate) min_workers: Option<NonZeroU16>,
    /// Threads of each worker of --local; each computes one shard at a time [default: 1].
    #[arg(long, value_name = "N", env = "DCGAN_THREADS")]
    pub(crate) threads: Option<NonZeroU16>,
    /// Training images: mnist, which is built in, or a file in IDX format (gzip or not), or a
    /// folder that holds one, such as train-images-idx3-ubyte.gz, or a folder of PNG and JPEG
    /// pictures, which become grey and 28 x 28; a folder with the name mnist is ./mnist
    /// [default: mnist].
    #[arg(long, value_name = "mnist|PATH", env = "DCGAN_DATA")]
    pub(crate) data: Option<PathBuf>,
    /// Exchange of rows and columns of each image. "auto": for EMNIST, which is stored
    /// transposed and is recognised by its name; "yes": for any data set; "no": for none
    /// [default: auto].
    #[arg(long, value_name = "WHEN", value_enum, env = "DCGAN_TRANSPOSE")]
    pub(crate) transpose: Option<Transpose>,
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
    /// Weights of both networks that a new run begins with: a safetensors file with the names and
    /// shapes of a checkpoint's, the folder of a checkpoint, or a run directory for those of its
    /// newest checkpoint [default: drawn by the seed].
    #[arg(long, value_name = "FILE|DIR", env = "DCGAN_INIT_FROM")]
    pub(crate) init_from: Option<PathBuf>,
    /// Digest of these weights, which the run directory keeps, or seed.
    #[arg(long, hide = true, value_name = "DIGEST", env = "DCGAN_INITIAL_WEIGHTS")]
    pub(crate) initial_weights: Option<InitialWeights>,
    /// Learning rate of Adam [default: 0.0002].
    #[arg(long, value_name = "X", env = "DCGAN_LEARNING_RATE")]
    pub(crate) learning_rate: Option<f64>,
    /// Decay rate of Adam's first moment [default: 0.5].
    #[arg(long, value_name = "X", env = "DCGAN_BETA1")]
    pub(crate) beta1: Option<f64>,
    /// Decay of Adam's second moment [default: 0.999].
    #[arg(long, value_name = "X", env = "DCGAN_BETA2")]
    pub(crate) beta2: Option<f64>,
    /// Learning rate of the discriminator over the generator's (the two time-scale update rule,
    /// TTUR) [default: 1.0].
    #[arg(long, value_name = "X", env = "DCGAN_D_LR_RATIO")]
    pub(crate) d_lr_ratio: Option<f64>,
    /// Course of the learning rate after the warm-up: constant, or falling to
    /// --final-learning-rate along a line or half a cosine (SGDR), or multiplied by
    /// --decay-factor every --decay-every steps [default: constant].
    #[arg(
        long,
        value_name = "SCHEDULE",
        value_parser = word::<LearningRateSchedule>(),
        env = "DCGAN_LR_SCHEDULE"
    )]
    pub(crate) lr_schedule: Option<LearningRateSchedule>,
    /// Steps in which the learning rate first rises from 1/N of itself to all of it [default: 0].
    #[arg(long, value_name = "N", env = "DCGAN_WARMUP_STEPS")]
    pub(crate) warmup_steps: Option<u64>,
    /// Steps, warm-up included, after which a linear or cosine schedule is at its end; 0 means
    /// those of 20 epochs, whatever the length of the run, which may change [default: 0].
    #[arg(long, value_name = "N", env = "DCGAN_SCHEDULE_STEPS")]
    pub(crate) schedule_steps: Option<u64>,
    /// Learning rate after --schedule-steps, if the schedule is linear or cosine [default: 0.0].
    #[arg(long, value_name = "X", env = "DCGAN_FINAL_LEARNING_RATE")]
    pub(crate) final_learning_rate: Option<f64>,
    /// Steps between two drops of the learning rate, if its schedule is step; 0 means those of 5
    /// epochs [default: 0].
    #[arg(long, value_name = "N", env = "DCGAN_DECAY_EVERY")]
    pub(crate) decay_every: Option<u64>,
    /// Factor of each of these drops, between 0 and 1 [default: 0.5].
    #[arg(long, value_name = "X", env = "DCGAN_DECAY_FACTOR")]
    pub(crate) decay_factor: Option<f64>,
    /// Decay of the exponential moving average (EMA) of the generator's weights, which samples are
    /// drawn with: min(X, (1 + t) / (10 + t)) in update t, as in TensorFlow. The training itself
    /// does not depend on it; 0 means no average, as in the tutorial [default: 0.997].
    #[arg(long, value_name = "X", env = "DCGAN_EMA_DECAY")]
    pub(crate) ema_decay: Option<f64>,
    /// Losses of both networks: binary cross-entropy, the hinge loss (Geometric GAN) or least
    /// squares (LSGAN) [default: bce].
    #[arg(long, value_name = "LOSS", value_parser = word::<Loss>(), env = "DCGAN_LOSS")]
    pub(crate) loss: Option<Loss>,
    /// Distance of the label of real images from 1 when the discriminator is trained (one-sided
    /// label smoothing, Improved Techniques for Training GANs), below 0.5 [default: 0.0].
    #[arg(long, value_name = "X", env = "DCGAN_LABEL_SMOOTHING")]
    pub(crate) label_smoothing: Option<f64>,
    /// Greatest norm of the gradient of all of a network's weights; a longer one is scaled down;
    /// 0 means any [default: 0.0].
    #[arg(long, value_name = "X", env = "DCGAN_CLIP_GRAD_NORM")]
    pub(crate) clip_grad_norm: Option<f64>,
    /// Steps for each update of the generator. The discriminator is trained in all of them
    /// [default: 1].
    #[arg(long, value_name = "N", env = "DCGAN_D_STEPS")]
    pub(crate) d_steps: Option<u64>,
    /// Initial weights: uniform (Glorot and Bengio, as in Keras), or normal with deviation 0.02
    /// (the DCGAN paper) [default: glorot].
    #[arg(
        long,
        value_name = "NAME",
        value_parser = word::<Initializer>(),
        env = "DCGAN_INIT"
    )]
    pub(crate) init: Option<Initializer>,
    /// Divides the discriminator's weights by their spectral norm (SNGAN) [default: no].
    #[arg(long, env = "DCGAN_SPECTRAL_NORM")]
    pub(crate) spectral_norm: Option<bool>,
    /// Greatest number of pixels by which each image, real or fake, is moved before the
    /// discriminator sees it (DiffAugment's translation), for data sets of a few thousand images
    /// [default: 0].
    #[arg(long, value_name = "PIXELS", env = "DCGAN_AUGMENT_TRANSLATION")]
    pub(crate) augment_translation: Option<u16>,
    /// Steps between two rows of metrics [default: 20].
    #[arg(long, value_name = "STEPS", env = "DCGAN_LOG_EVERY")]
    pub(crate) log_every: Option<NonZeroU64>,
    /// Steps between two grids of samples [default: 20].
    #[arg(long, value_name = "STEPS", env = "DCGAN_GRID_EVERY")]
    pub(crate) grid_every: Option<NonZeroU64>,
    /// Steps between two checkpoints, or the time between two, such as 90s, 10m or 2h: then one is
    /// saved at the end of each epoch, too [default: 30s].
    #[arg(long, value_name = "STEPS|TIME", env = "DCGAN_CHECKPOINT_EVERY")]
    pub(crate) checkpoint_every: Option<CheckpointEvery>,
    /// Epochs between two evaluations of the samples by a classifier, 0 for none [default: 1 with
    /// MNIST or an evaluator, and else 0].
    #[arg(long, value_name = "EPOCHS", env = "DCGAN_EVAL_EVERY")]
    pub(crate) eval_every: Option<u64>,
    /// The judge of the samples, as dcgan-sampler train-evaluator makes it; the run keeps a copy,
    /// and goes on with it [default: that of MNIST, for MNIST].
    #[arg(long, value_name = "FILE.safetensors", env = "DCGAN_EVALUATOR")]
    pub(crate) evaluator: Option<PathBuf>,
    /// Ends the run when so many evaluations in a row are no better than the best before them, one
    /// evaluation later; 0 means that none ends it [default: 0].
    #[arg(long, value_name = "N", env = "DCGAN_EARLY_STOPPING")]
    pub(crate) early_stopping: Option<u64>,
    /// Number of checkpoints to keep, besides the one with the best evaluation; older ones are
    /// removed [default: 5].
    #[arg(long, value_name = "N", env = "DCGAN_KEEP_CHECKPOINTS")]
    pub(crate) keep_checkpoints: Option<NonZeroUsize>,
    /// Objective of the training: the DCGAN, or a toy that tests the protocol.
    #[arg(long, hide = true, value_parser = word::<ObjectiveKind>(), env = "DCGAN_OBJECTIVE")]
    pub(crate) objective: Option<ObjectiveKind>,
    /// Also starts the workers and a sampler, on this machine, and ends them with the run
    /// [default: no].
    #[arg(long, env = "DCGAN_LOCAL")]
    pub local: Option<bool>,
    /// The run directory: everything that is saved goes there [default: runs/dcgan].
    #[arg(long, value_name = "RUN_DIR", env = "DCGAN_OUT")]
    pub(crate) out: Option<PathBuf>,
    /// The address that workers and samplers connect to [default: 127.0.0.1:7420; with --local a
    /// free port if that is taken].
    #[arg(long, value_name = "ADDR:PORT", env = "DCGAN_LISTEN")]
    pub(crate) listen: Option<ListenAddress>,
    /// The address of the page of --local [default: 127.0.0.1:7421, or a free port if that is
    /// taken].
    #[arg(long, value_name = "ADDR:PORT", env = "DCGAN_HTTP")]
    pub(crate) http: Option<ListenAddress>,
    /// The device of the workers of --local: cpu, cuda or cuda:N [default: cpu].
    #[arg(long, value_name = "DEVICE", env = "DCGAN_DEVICE")]
    pub(crate) device: Option<String>,
    /// Treatment of a run that the run directory holds already. "auto": it goes on; "never": the
    /// start is refused [default: auto].
    #[arg(long, value_name = "WHEN", value_enum, env = "DCGAN_RESUME")]
    pub(crate) resume: Option<Resume>,
    /// File of settings, with the names of the flags as keys, such as a run directory's
    /// config.toml; flags and DCGAN_* variables override the file.
    #[arg(long, value_name = "FILE.toml", env = "DCGAN_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// The run ends when none of its workers has been connected for this long, such as 90s, 10m or
    /// 2h [default: 1h].
    #[arg(long, value_name = "TIME", env = "DCGAN_WORKERS_TIMEOUT")]
    pub(crate) workers_timeout: Option<Time>,
    /// Does not move shards away from slow workers [default: no].
    #[arg(long, env = "DCGAN_FIXED_SHARDS")]
    pub(crate) fixed_shards: Option<bool>,
    /// Checks all settings, prints them, and ends [default: no].
    #[arg(long, env = "DCGAN_DRY_RUN")]
    pub(crate) dry_run: Option<bool>,
    /// Allows connections to other machines, although they are not encrypted [default: no].
    #[arg(long, env = "DCGAN_INSECURE")]
    pub insecure: Option<bool>,
    /// Format of the log lines, which go to standard error [default: text].
    #[arg(long, value_name = "FORMAT", value_enum, env = "DCGAN_LOG_FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// Shows only warnings, errors and the result [default: no].
    #[arg(short, long, env = "DCGAN_QUIET")]
    pub(crate) quiet: Option<bool>,
    /// Logs more, such as what is sent to whom; with --local the workers and the sampler do, too
    /// [default: no].
    #[arg(short, long, env = "DCGAN_VERBOSE")]
    pub(crate) verbose: Option<bool>,
    /// Digest of the evaluator that a saved configuration was used with. No flag gives it.
    #[arg(skip)]
    pub(crate) evaluator_digest: Option<Digest>,
    /// Data set that a saved configuration was used with. No flag gives it.
    #[arg(skip)]
    pub(crate) data_set: Option<DatasetInfo>,
}

/// The settings that hold for one start, and are not saved with the run.
const ONE_START: [&str; 15] = [
    "config",
    "device",
    "dry-run",
    "evaluator",
    "fixed-shards",
    "http",
    "insecure",
    "listen",
    "local",
    "log-format",
    "out",
    "quiet",
    "resume",
    "verbose",
    "workers-timeout",
];

/// The settings that are saved as a record of the last start, and that the next one does not go on
/// with: a trial must not change what the same command does later.
const LAST_START: [&str; 4] = ["epochs", "steps", "threads", "workers"];

/// The keys of a saved configuration that are no flags.
const NOT_FLAGS: [&str; 2] = ["data-set", "evaluator-digest"];

/// The default number of epochs, and of steps between two rows and two grids.
const TWENTY: NonZeroU64 = NonZeroU64::new(20).unwrap();
/// The default number of checkpoints that are kept.
const FIVE: NonZeroUsize = NonZeroUsize::new(5).unwrap();

/// The number of cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// One worker for each core of this machine, and at most one for each shard.
fn one_for_each_core(shards: u16) -> NonZeroU16 {
    let workers = u16::try_from(cores()).unwrap_or(u16::MAX).min(shards);
    NonZeroU16::new(workers).unwrap_or(NonZeroU16::MIN)
}

/// Returns a parser of a setting that is one of a few words.
fn word<W: Word>() -> impl TypedValueParser<Value = W> {
    PossibleValuesParser::new(W::ALL.iter().map(|value| value.word())).map(|word| {
        let value = W::ALL.iter().find(|value| value.word() == word);
        *value.expect("the parser before this one knows the same words")
    })
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
    pub(crate) keep_checkpoints: usize,
    /// The time between two checkpoints, besides those of the schedule.
    pub(crate) checkpoint_interval: Option<Duration>,
    /// The digest of the evaluator, if it is not built in.
    pub(crate) evaluator: Option<Digest>,
    /// Everything that the result depends on.
    pub(crate) spec: RunSpec,
    pub(crate) schedule: Schedule,
}

impl PartialConfig {
    /// The source of the images.
    pub(crate) fn source(&self) -> Source {
        match &self.data {
            None => default_source(self.objective.unwrap_or_default()),
            Some(name) if name.as_os_str() == "mnist" => Source::Mnist,
            Some(path) => Source::Path(path.clone()),
        }
    }

    /// Those of these settings that the result depends on.
    pub(crate) fn spec(&self) -> anyhow::Result<RunSpecBuilder> {
        // The builder takes the keys that it knows.
        Ok(self.table()?.try_into()?)
    }

    /// Replaces the settings that the result depends on by those of `spec`.
    pub(crate) fn with_spec(self, spec: &RunSpec) -> anyhow::Result<Self> {
        let mut table = self.table()?;
        table.extend(Table::try_from(spec)?);
        // `data` is where the images come from; the specification has what they are.
        if let Some(data_set) = table.remove("data") {
            table.insert("data-set".to_owned(), data_set);
        }
        Ok(Self { data: self.data, ..table.try_into()? })
    }

    /// The keys that a configuration file may have: the names of all flags, and one more.
    pub(crate) fn keys() -> Vec<String> {
        let command = <Self as clap::Args>::augment_args(clap::Command::new(""));
        let flags = command.get_arguments().filter_map(|flag| flag.get_long().map(str::to_owned));
        flags.chain(NOT_FLAGS.map(str::to_owned)).collect()
    }

    /// The given settings by their keys.
    pub(crate) fn table(&self) -> anyhow::Result<Table> {
        Table::try_from(self).context("a setting cannot be saved in a TOML file")
    }

    /// Gives each setting its value, for a run on this data set. Returns also the settings that the
    /// run directory keeps, as if a person had given each of them.
    ///
    /// # Errors
    /// If the settings contradict each other, or one that has no default is missing.
    pub(crate) fn resolve(mut self, data: DatasetInfo) -> anyhow::Result<(RunConfig, Self)> {
        let spec = self.spec()?.build(data)?;
        let is_local = self.local.unwrap_or_default();
        let workers = self.workers.or_else(|| is_local.then(|| one_for_each_core(spec.shards())));
        self.transpose.get_or_insert_default();
        let is_judged = self.evaluator_digest.is_some() || spec.has_built_in_evaluator();
        let is_default = is_judged && spec.objective() == ObjectiveKind::Dcgan;
        let eval_every = *self.eval_every.get_or_insert(is_default.into());
        ensure!(
            eval_every == 0 || is_judged,
            "--eval-every: the evaluator that is built in knows MNIST, and these data are others; \
             make one with dcgan-sampler train-evaluator and give it to --evaluator, or leave \
             --eval-every out"
        );
        let early_stopping = *self.early_stopping.get_or_insert(0);
        ensure!(
            early_stopping == 0 || eval_every > 0,
            "--early-stopping {early_stopping} needs evaluations: give --eval-every too, or \
             leave it out"
        );
        let epoch = NonZeroU64::new(spec.sharding().steps_per_epoch()).unwrap_or(NonZeroU64::MIN);
        // A time leaves the steps to the epochs.
        let (checkpoint_every, checkpoint_interval) =
            match *self.checkpoint_every.get_or_insert(CheckpointEvery::DEFAULT) {
                CheckpointEvery::Steps(steps) => (steps, None),
                CheckpointEvery::Time(time) => (epoch, Some(time)),
            };
        let last_step = self.last_step(spec.sharding())?;
        // A mistake in what is given comes first: whoever starts out gives little.
        let workers = workers.context(
            "--workers is missing: say how many workers the run starts with, or add --local to \
             train on this machine",
        )?;
        self.workers = Some(workers);
        // A default becomes the value, and is saved with the others.
        let min_workers = *self.min_workers.get_or_insert(NonZeroU16::MIN);
        ensure!(
            min_workers <= workers,
            "--min-workers {min_workers} is more than --workers {workers}"
        );
        let config = RunConfig {
            workers: workers.get().into(),
            min_workers: min_workers.get().into(),
            threads: self.threads.get_or_insert(NonZeroU16::MIN).get(),
            keep_checkpoints: self.keep_checkpoints.get_or_insert(FIVE).get(),
            checkpoint_interval,
            evaluator: self.evaluator_digest,
            schedule: Schedule {
                last_step,
                log_every: self.log_every.get_or_insert(TWENTY).get(),
                grid_every: self.grid_every.get_or_insert(TWENTY).get(),
                checkpoint_every: checkpoint_every.get(),
                evaluate_every: NonZeroU64::new(eval_every.saturating_mul(epoch.get())),
                early_stopping: NonZeroU64::new(early_stopping),
            },
            spec,
        };
        let saved = self.without(&ONE_START)?.with_spec(&config.spec)?;
        Ok((config, saved))
    }

    /// The length, which may be given in one of two units, in steps.
    fn last_step(&mut self, sharding: &Sharding) -> anyhow::Result<Step> {
        match (self.epochs, self.steps) {
            (Some(_), Some(_)) => {
                anyhow::bail!("--epochs and --steps both give the length: give one")
            }
            (None, Some(steps)) => Ok(steps.get()),
            (_, None) => Ok(steps(sharding, self.epochs.get_or_insert(TWENTY).get())),
        }
    }

    /// Those of these saved settings that the next start goes on with.
    pub(crate) fn without_last_start(&self) -> anyhow::Result<Self> {
        self.without(&LAST_START)
    }

    fn without(&self, keys: &[&str]) -> anyhow::Result<Self> {
        let mut table = self.table()?;
        table.retain(|key, _| !keys.contains(&key));
        Ok(table.try_into()?)
    }
}

/// Resolves the text of a configuration file for a run on this data. Returns the text that a run
/// directory keeps. For `fuzz/`, which has no files.
///
/// # Errors
/// If the text is refused.
pub fn resolve_text(text: &str, data: DatasetInfo) -> anyhow::Result<String> {
    let (_, saved) = toml::from_str::<PartialConfig>(text)?.resolve(data)?;
    Ok(toml::to_string(&saved)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use clap::CommandFactory;
    use dcgan_core::ids::Digest;

    use super::*;
    use crate::args::Args;

    const MNIST: DatasetInfo =
        DatasetInfo { images: 60_000, rows: 28, columns: 28, digest: Digest(1) };

    fn given(toml: &str) -> PartialConfig {
        toml::from_str(toml).unwrap()
    }

    #[test]
    fn defaults_are_saved_with_what_was_given() {
        let (config, saved) =
            given("workers = 4\nlocal = true\nout = \"x\"").resolve(MNIST).unwrap();
        assert_eq!((config.schedule.last_step, config.schedule.checkpoint_every), (4680, 234));
        assert_eq!(config.checkpoint_interval, Some(Duration::from_secs(30)));
        // A run that was begun with steps goes on with them.
        let (config, _) = given("workers = 4\ncheckpoint-every = 50").resolve(MNIST).unwrap();
        assert_eq!((config.schedule.checkpoint_every, config.checkpoint_interval), (50, None));
        // A setting that is added needs no line here.
        let saved = toml::to_string(&saved).unwrap();
        let lines: Vec<&str> = saved.lines().collect();
        let expected = "workers = 4\nmin-workers = 1\nthreads = 1\nepochs = 20\nbatch-size = 256\n\
                        shards = 8\nseed = 22\nlearning-rate = 0.0002\nbeta1 = 0.5\n\
                        log-every = 20\ngrid-every = 20\ncheckpoint-every = \"30s\"\n\
                        keep-checkpoints = 5\nobjective = \"dcgan\"\n\n[data-set]\n\
                        images = 60000\nrows = 28\ncolumns = 28\ndigest = \"0000000000000001\"";
        for line in expected.lines() {
            assert!(lines.contains(&line), "{line} is not in {saved}");
        }
        assert!(!lines.iter().any(|line| line.starts_with("local") || line.starts_with("out")));
    }

    #[test]
    fn the_learning_rate_of_a_recipe_falls_through_all_of_its_steps() {
        let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
        let recipes: Vec<PathBuf> =
            fs::read_dir(recipes).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(recipes.len() >= 2);
        for recipe in recipes {
            let text = format!("local = true\n{}", fs::read_to_string(&recipe).unwrap());
            let (config, _) = given(&text).resolve(MNIST).unwrap();
            let last_step = config.schedule.last_step;
            assert_eq!(config.spec.schedule_horizon(), last_step, "{}", recipe.display());
        }
    }

    #[test]
    fn saved_settings_resolve_to_the_same_configuration() {
        for text in [
            "workers = 4\ndata = \"mnist\"",
            "workers = 2\nsteps = 40\nlearning-rate = 0.001\nmin-workers = 2",
            "workers = 1\nlr-schedule = \"cosine\"\nschedule-steps = 9\nfinal-learning-rate = 1e-5",
        ] {
            let (config, saved) = given(text).resolve(MNIST).unwrap();
            let saved = toml::to_string(&saved).unwrap();
            assert_eq!(given(&saved).resolve(MNIST).unwrap().0, config, "{saved}");
        }
    }

    /// The names of the visible flags, and of the hidden `--objective`.
    fn flags() -> Vec<String> {
        let command = Args::command();
        let flags = command.get_arguments().filter(|flag| {
            let name = flag.get_long();
            name.is_some() && (!flag.is_hide_set() || name == Some("objective"))
        });
        flags.map(|flag| flag.get_long().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_flag_is_a_key() {
        let flags = flags();
        assert!(flags.len() > 20, "{flags:?}");
        for flag in flags {
            // An empty list is a value of no setting.
            let error = toml::from_str::<PartialConfig>(&format!("{flag} = []")).unwrap_err();
            assert!(!error.to_string().contains("unknown field"), "--{flag}: {error}");
        }
    }

    #[test]
    fn every_setting_of_a_specification_is_a_flag_that_says_its_default() {
        let command = Args::command();
        let spec = Table::try_from(RunSpec::builder().build(MNIST).unwrap()).unwrap();
        for setting in RunSpec::setting_names() {
            let flag = command.get_arguments().find(|flag| flag.get_long() == Some(&setting));
            let flag = flag.unwrap_or_else(|| panic!("--{setting} is missing in PartialConfig"));
            let help = flag.get_help().unwrap().to_string();
            let default = match &spec[&setting] {
                toml::Value::String(name) => name.clone(),
                toml::Value::Boolean(false) => "no".to_owned(),
                number => number.to_string(),
            };
            let says_it = help.ends_with(&format!("[default: {default}]"));
            assert!(says_it || flag.is_hide_set(), "--{setting}, by default {default}: {help}");
        }
    }

    #[test]
    fn the_next_start_does_not_go_on_with_the_length_and_the_workers_of_the_last() {
        let (_, saved) =
            given("workers = 4\nthreads = 2\nsteps = 9\nseed = 1").resolve(MNIST).unwrap();
        let next = saved.without_last_start().unwrap();
        let given = (next.workers, next.threads, next.steps, next.epochs);
        assert_eq!(given, (None, None, None, None));
        assert_eq!((next.seed, next.log_every), (Some(1), Some(TWENTY)));
    }

    #[test]
    fn every_setting_is_saved_or_holds_for_one_start() {
        let resolve = |text: &str| given(text).resolve(MNIST).unwrap().1.table().unwrap();
        let paths = "workers = 1\ndata = \"mnist\"\ninit-from = \"x\"";
        let saved = [resolve(paths), resolve("workers = 1\nsteps = 1")];
        for flag in flags() {
            let is_saved = saved.iter().any(|table| table.contains_key(&flag));
            let for_one_start = ONE_START.contains(&flag.as_str());
            assert!(
                is_saved != for_one_start,
                "--{flag}: give it a default, or add it to ONE_START"
            );
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let error = |text: &str| given(text).resolve(MNIST).map(drop).unwrap_err().to_string();
        assert!(error("").starts_with("--workers is missing: say how many workers"));
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
                .starts_with("--batch-size 256 cannot be split into --shards 7")
        );
        assert_eq!(
            error("workers = 2\ndecay-every = 9"),
            "--decay-every has no effect with --lr-schedule constant; leave it out"
        );
        assert_eq!(
            error("workers = 2\neval-every = 0\nearly-stopping = 3"),
            "--early-stopping 3 needs evaluations: give --eval-every too, or leave it out"
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
