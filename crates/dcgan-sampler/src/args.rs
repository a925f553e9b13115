//! The command line.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{anyhow, bail};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args as ClapArgs, Parser, Subcommand, ValueEnum};
use dcgan_core::ids::Step;
use dcgan_model::Weights;
use dcgan_model::evaluation::{IMAGES_MIN, PIECE_IMAGES};
use dcgan_process::exit::usage;
use dcgan_process::logging::LogArgs;
use dcgan_process::settings::{self, is_from_variable, variable_of};
use dcgan_rpc::net::{CoordinatorAt, ListenAddress};
use dcgan_store::run_dir::DEFAULT_ROOT;

use crate::eval::SAMPLES;
use crate::picture::{GRID, SIDE_MAX};

/// Draws digits with the generator of a run
#[derive(Debug, Parser)]
#[command(name = "dcgan-sampler", version)]
pub struct Args {
    #[command(subcommand)]
    pub(crate) verb: Verb,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Verbs of the program.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Follows a run: draws its grids, answers requests for samples and shows the newest grid on a
    /// web page
    Serve(ServeArgs),
    /// Draws one grid with the generator of a checkpoint
    Grid(GridArgs),
    /// Writes images in MNIST's IDX format, or as a NumPy array
    Export(ExportArgs),
    /// Writes the latent vectors that grid and export draw with, as a NumPy array
    Latents(LatentsArgs),
    /// Measures how good samples are, by a classifier and real images
    Eval(EvalArgs),
    /// Trains the classifier of an evaluator for eval
    TrainEvaluator(TrainEvaluatorArgs),
}

impl Args {
    /// Drops what a variable gives if an argument gives another that excludes it. Without both
    /// there is a default.
    ///
    /// # Errors
    /// If two arguments name a run directory.
    pub(crate) fn prefer_flags(mut self, matches: &ArgMatches) -> anyhow::Result<Self> {
        let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
        let serve = match &mut self.verb {
            Verb::Grid(GridArgs { which, .. })
            | Verb::Export(ExportArgs { which, .. })
            | Verb::Eval(EvalArgs { which, .. }) => {
                resolve_run(&mut which.run, which.directory.take(), matches)?;
                return Ok(self);
            }
            Verb::Serve(serve) => serve,
            Verb::Latents(latents) => {
                resolve_run(&mut latents.run, None, matches)?;
                return Ok(self);
            }
            Verb::TrainEvaluator(_) => return Ok(self),
        };
        match (&serve.coordinator, serve.run.is_empty()) {
            (Some(_), false) => {
                match ["coordinator", "run"].map(|id| is_from_variable(matches, id)) {
                    [true, false] => serve.coordinator = None,
                    [false, true] => serve.run.clear(),
                    _ => {}
                }
            }
            (None, true) => serve.run.push(default_run()),
            _ => {}
        }
        Ok(self)
    }
}

/// The address of the page without `--http`.
pub(crate) const DEFAULT_HTTP: &str = "127.0.0.1:7421";
/// The address for requests without `--grpc`.
pub(crate) const DEFAULT_GRPC: &str = "127.0.0.1:7422";

#[derive(Debug, ClapArgs)]
#[command(mut_args = settings::in_plain_words)]
pub(crate) struct ServeArgs {
    /// The coordinator of the run to follow, as http://HOST:PORT, or the file that has its address
    /// at the moment, as file:RUN_DIR/address
    #[arg(long, value_name = "URL", env = "DCGAN_COORDINATOR")]
    pub(crate) coordinator: Option<CoordinatorAt>,
    /// The run directory to follow, instead of a coordinator; given twice, the page shows two runs
    /// side by side [default: that of DCGAN_OUT, or else runs/dcgan, if no coordinator is given]
    #[arg(long, value_name = "RUN_DIR", env = "DCGAN_RUN")]
    pub(crate) run: Vec<PathBuf>,
    /// The generator's weights: their moving average or as they were trained [default: ema, if the
    /// run keeps an average]
    #[arg(long, value_enum, env = "DCGAN_WEIGHTS")]
    pub(crate) weights: Option<WeightsArg>,
    /// The address of the web page
    #[arg(long, value_name = "ADDR:PORT", default_value = DEFAULT_HTTP, env = "DCGAN_HTTP")]
    pub(crate) http: ListenAddress,
    /// The address for requests for samples over gRPC
    #[arg(long, value_name = "ADDR:PORT", default_value = DEFAULT_GRPC, env = "DCGAN_GRPC")]
    pub(crate) grpc: ListenAddress,
    /// Takes a free port if one of these is taken
    #[arg(long, hide = true)]
    pub(crate) or_free_port: bool,
    /// Allows unencrypted connections to and from other machines
    #[arg(long, action = ArgAction::Set, default_value = "no", env = "DCGAN_INSECURE")]
    pub(crate) insecure: bool,
    /// Ends when standard input closes
    #[arg(long, hide = true)]
    pub(crate) exit_with_stdin: bool,
}

/// The run directory of a person who names none: that of `dcgan-coord`.
fn default_run() -> PathBuf {
    let out = std::env::var_os(variable_of("out")).filter(|out| !out.is_empty());
    out.map_or_else(|| DEFAULT_ROOT.into(), PathBuf::from)
}

/// Selects a generator.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Which {
    /// The run directory, as --run
    #[arg(value_name = "RUN_DIR")]
    directory: Option<PathBuf>,
    /// The run directory [default: that of DCGAN_OUT, or else runs/dcgan]
    #[arg(
        long,
        value_name = "RUN_DIR",
        default_value = DEFAULT_ROOT,
        hide_default_value = true,
        env = "DCGAN_RUN"
    )]
    pub(crate) run: PathBuf,
    /// The checkpoint: the newest, the one with the best evaluation, or that of a step
    #[arg(
        long,
        value_name = "newest|best|STEP",
        allow_negative_numbers = true,
        default_value = "newest",
        env = "DCGAN_CHECKPOINT"
    )]
    pub(crate) checkpoint: CheckpointArg,
    /// The generator's weights: their moving average or as they were trained [default: ema, if the
    /// run keeps an average]
    #[arg(long, value_enum, env = "DCGAN_WEIGHTS")]
    pub(crate) weights: Option<WeightsArg>,
}

/// The name of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckpointArg {
    /// The newest intact one.
    Newest,
    /// The one with the best evaluation.
    Best,
    /// That of this step.
    Of(Step),
}

impl FromStr for CheckpointArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "newest" => Ok(Self::Newest),
            "best" => Ok(Self::Best),
            step => step.parse().map(Self::Of).map_err(|_| "expected newest, best or a step"),
        }
    }
}

/// Puts the run directory that is meant into `run`: `directory`, which was given without a flag, or
/// what the flag or its variable gave, or else the default.
fn resolve_run(
    run: &mut PathBuf,
    directory: Option<PathBuf>,
    matches: &ArgMatches,
) -> anyhow::Result<()> {
    match (directory, matches.value_source("run")) {
        (Some(_), Some(ValueSource::CommandLine)) => {
            bail!(usage(anyhow!("RUN_DIR and --run both name the run directory: give one")))
        }
        (Some(directory), _) => *run = directory,
        (None, Some(ValueSource::DefaultValue)) => *run = default_run(),
        (None, _) => {}
    }
    Ok(())
}

/// The [`Weights`] as a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WeightsArg {
    Ema,
    Raw,
}

impl From<WeightsArg> for Weights {
    fn from(weights: WeightsArg) -> Self {
        match weights {
            WeightsArg::Ema => Self::Ema,
            WeightsArg::Raw => Self::Raw,
        }
    }
}

/// The number of images in a row or a column.
const SIDE: RangeInclusive<u64> = 1..=SIDE_MAX as u64;

#[derive(Debug, ClapArgs)]
#[command(mut_args = settings::in_plain_words)]
pub(crate) struct GridArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Images down, at most 32
    #[arg(
        long,
        value_name = "N",
        default_value_t = GRID.rows,
        value_parser = settings::whole::<u32>(SIDE),
        env = "DCGAN_ROWS"
    )]
    pub(crate) rows: u32,
    /// Images across, at most 32
    #[arg(
        long,
        value_name = "N",
        default_value_t = GRID.columns,
        value_parser = settings::whole::<u32>(SIDE),
        env = "DCGAN_COLUMNS"
    )]
    pub(crate) columns: u32,
    /// Determines the latent vectors [default: those of the run's own grids]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// The file to write; one that exists is replaced [default: grid.png, if there is none yet]
    #[arg(long, value_name = "FILE.png")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
#[command(mut_args = settings::in_plain_words)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// How many images, at most 1000000
    #[arg(
        long,
        value_name = "N",
        value_parser = settings::whole::<u32>(1..=1_000_000),
        env = "DCGAN_COUNT"
    )]
    pub(crate) count: u32,
    /// Determines the latent vectors [default: those of the run's own grids]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// The file to write: IDX if the name ends in -ubyte or .idx or has no ending, the same
    /// compressed if it ends in .gz, and a NumPy array [N, 28, 28] of values from -1 to 1 if it
    /// ends in .npy; one that exists is replaced
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, ClapArgs)]
#[command(mut_args = settings::in_plain_words)]
pub(crate) struct LatentsArgs {
    /// The run directory, which is read if no seed is given [default: that of DCGAN_OUT, or else
    /// runs/dcgan]
    #[arg(
        long,
        value_name = "RUN_DIR",
        default_value = DEFAULT_ROOT,
        hide_default_value = true,
        env = "DCGAN_RUN"
    )]
    pub(crate) run: PathBuf,
    /// How many latent vectors, at most 1000000
    #[arg(
        long,
        value_name = "N",
        value_parser = settings::whole::<u32>(1..=1_000_000),
        env = "DCGAN_COUNT"
    )]
    pub(crate) count: u32,
    /// Determines the latent vectors [default: those of the run's own grids]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// The file to write, a NumPy array [N, 100]; one that exists is replaced
    #[arg(long, value_name = "FILE.npy")]
    pub(crate) out: PathBuf,
}

#[derive(Clone, Debug, ClapArgs)]
#[command(mut_args = settings::in_plain_words)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Judges the images in this IDX file instead of a checkpoint's
    #[arg(long, value_name = "FILE", conflicts_with_all = ["checkpoint", "seed"])]
    pub(crate) images: Option<PathBuf>,
    /// How many samples, a multiple of 100; distances of fewer are greater
    #[arg(
        long,
        default_value_t = SAMPLES,
        value_parser = hundreds,
        env = "DCGAN_COUNT"
    )]
    pub(crate) count: u32,
    /// Determines the latent vectors [default: the run's seed, as in the evaluations during the
    /// training]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// The evaluator, as train-evaluator writes it [default: the one that the run keeps, or that
    /// of MNIST, which is built in]
    #[arg(long, value_name = "FILE")]
    pub(crate) evaluator: Option<PathBuf>,
    /// The images that the run was trained on, a file or its folder [default: MNIST, which is built
    /// in]
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,
    /// Prints one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Parses a number of samples.
fn hundreds(text: &str) -> Result<u32, String> {
    let number = settings::whole::<u32>(IMAGES_MIN as u64..=1_000_000)(text)?;
    if number.is_multiple_of(PIECE_IMAGES as u32) {
        Ok(number)
    } else {
        Err(format!("expected a multiple of {PIECE_IMAGES}"))
    }
}

#[derive(Debug, ClapArgs)]
#[command(mut_args = settings::in_plain_words)]
pub(crate) struct TrainEvaluatorArgs {
    /// The folder of the data set: the four files of MNIST or of a relative, packed or not; or
    /// folders train and test, with a folder of PNG or JPEG pictures for each class
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data: PathBuf,
    /// The file to write
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) out: PathBuf,
    /// Passes over the training images
    #[arg(long, default_value_t = 10, value_parser = settings::whole::<u64>(1..=1000))]
    pub(crate) epochs: u64,
}
