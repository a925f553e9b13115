//! The command line of `dcgan-coord`.

use std::fmt;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use dcgan_process::fault::Fault;
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
    /// Removes a worker from the run; the others take over its shards.
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
        /// The run directory to check.
        run: PathBuf,
        /// A second run directory to compare with.
        other: Option<PathBuf>,
    },
    /// Trains on this machine while processes are killed, stopped and cut off, and compares the
    /// result with that of an undisturbed run.
    Chaos(ChaosArgs),
}

/// The flags that name a running coordinator.
#[derive(Debug, clap::Args)]
pub(crate) struct CoordinatorArg {
    /// The run directory, in which the coordinator keeps its address [default: runs/dcgan, if a
    /// coordinator runs there].
    #[arg(long, value_name = "RUN_DIR", env = "DCGAN_RUN")]
    pub(crate) run: Option<PathBuf>,
    /// The coordinator's address [default: http://127.0.0.1:7420].
    #[arg(long = "coordinator", value_name = "URL", env = "DCGAN_COORDINATOR")]
    pub(crate) address: Option<CoordinatorAt>,
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
