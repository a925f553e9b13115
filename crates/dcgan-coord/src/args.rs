//! The command line of `dcgan-coord`.

use std::fmt;
use std::path::PathBuf;

use anyhow::{anyhow, bail};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, CommandFactory, Parser, Subcommand, ValueEnum};
use dcgan_process::exit::usage;
use dcgan_process::fault::Fault;
use dcgan_process::settings::BEFORE_VERBS;
use dcgan_rpc::net::CoordinatorAt;
use serde::{Deserialize, Serialize};

use crate::chaos::ChaosArgs;
use crate::config::PartialConfig;

/// Trains a DCGAN synchronously across worker processes; the result has the same bits with any
/// number of workers.
#[derive(Debug, Parser)]
#[command(name = "dcgan-coord", version, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
    /// Settings of a training.
    #[command(flatten)]
    pub given: PartialConfig,
    /// Injects a fault at a point of this program, for tests.
    #[arg(long, hide = true, value_name = "POINT=ACTION@N")]
    pub(crate) fault: Option<Fault>,
    /// Ends the program when standard input closes.
    #[arg(long, hide = true)]
    pub(crate) exit_with_stdin: bool,
}

/// Verbs: things that the program does instead of running a training.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Prints the layers, output shapes and parameters of both networks.
    Summary {
        /// Format: text, or a graph for Graphviz.
        #[arg(long, value_enum, default_value_t)]
        format: SummaryFormat,
    },
    /// Prints the status of a run: its step, its workers, what it waits for, what interrupted it.
    Status {
        #[command(flatten)]
        coordinator: CoordinatorArg,
        /// Prints one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Takes a checkpoint as soon as possible, while the training continues.
    Checkpoint {
        #[command(flatten)]
        coordinator: CoordinatorArg,
    },
    /// Removes a worker from the run; the others take over its shards. One that --local has started
    /// does not come back before the run is started again.
    Drain {
        /// The worker's name.
        name: String,
        #[command(flatten)]
        coordinator: CoordinatorArg,
    },
    /// Stops a run after its current step, and saves a checkpoint of that step.
    Stop {
        #[command(flatten)]
        coordinator: CoordinatorArg,
    },
    /// Checks the files of a run; compares two runs, and prints the first step at which they
    /// differ.
    Verify {
        /// The run directory to check [default: runs/dcgan].
        #[arg(value_name = "RUN")]
        first: Option<PathBuf>,
        /// A second run directory to compare with.
        other: Option<PathBuf>,
        /// The run directory to check, as for the other verbs; then RUN is the one to compare with.
        #[arg(long, value_name = "RUN_DIR", env = "DCGAN_RUN")]
        run: Option<PathBuf>,
    },
    /// Trains on this machine while processes are killed, stopped and cut off, and compares the
    /// result with that of an undisturbed run.
    Chaos(ChaosArgs),
}

/// The arguments that name a run.
#[derive(Debug, clap::Args)]
pub(crate) struct CoordinatorArg {
    /// The run directory, as --run.
    #[arg(value_name = "RUN_DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// The run directory, in which the coordinator keeps its address [default: that of DCGAN_OUT,
    /// or else runs/dcgan].
    #[arg(long, value_name = "RUN_DIR", env = "DCGAN_RUN")]
    pub(crate) run: Option<PathBuf>,
    /// The coordinator's address, or the file that has it, as file:RUN_DIR/address, in place of a
    /// run directory.
    #[arg(long = "coordinator", value_name = "URL", env = "DCGAN_COORDINATOR")]
    pub(crate) address: Option<CoordinatorAt>,
}

/// Refuses settings of a training before a verb: they would have no effect.
///
/// # Errors
/// A usage error that says what to do.
pub(crate) fn refuse_settings_before(verb: &str, matches: &ArgMatches) -> anyhow::Result<()> {
    let command = Args::command();
    let is_given = |arg: &&Arg| {
        matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
            && arg.get_long().is_some_and(|name| !BEFORE_VERBS.contains(&name))
    };
    let Some(given) = command.get_arguments().find(is_given) else {
        return Ok(());
    };
    let flag = given.get_long().unwrap_or_default();
    let of_verb = |name: &str| {
        let verb = command.find_subcommand(verb);
        verb.is_some_and(|verb| verb.get_arguments().any(|arg| arg.get_long() == Some(name)))
    };
    let value = matches.get_raw(given.get_id().as_str()).and_then(|mut values| values.next());
    let value = value.unwrap_or_default().to_string_lossy();
    let tip = if of_verb(flag) {
        format!("give it after the verb: '{verb} --{flag} ...'")
    } else if flag == "out" && of_verb("run") {
        format!("give the run as '{verb} --run {value}'")
    } else {
        "leave it out".to_owned()
    };
    bail!(usage(anyhow!("--{flag} has no meaning before {verb}: {tip}")))
}

/// The format of a summary.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum SummaryFormat {
    #[default]
    Text,
    Dot,
}

/// The choice whether rows and columns of each image change places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Transpose {
    /// For EMNIST, which is recognised by its name.
    #[default]
    Auto,
    /// For any data set.
    Yes,
    /// For none.
    No,
}

impl fmt::Display for Transpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Yes => "yes",
            Self::No => "no",
        })
    }
}

/// The treatment of a run that the directory holds already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Resume {
    /// The run goes on; an empty directory starts a new run.
    #[default]
    Auto,
    /// The start is refused: the directory must be empty.
    Never,
}
