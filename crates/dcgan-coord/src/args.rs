//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use dcgan_process::fault::Fault;
use dcgan_process::logging::LogArgs;
use dcgan_rpc::net::Address;
use serde::{Deserialize, Serialize};

use crate::chaos::ChaosArgs;
use crate::config::PartialConfig;

/// Trains a DCGAN synchronously across worker processes, with the same bits at any number of them
#[derive(Debug, Parser)]
#[command(name = "dcgan-coord", version, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
    #[command(flatten)]
    pub(crate) given: PartialConfig,
    /// Starts the workers and a sampler on this machine, and ends them
    #[arg(long, env = "DCGAN_LOCAL")]
    pub local: bool,
    /// The run directory [default: runs/dcgan]
    #[arg(long, value_name = "RUN_DIR", env = "DCGAN_OUT")]
    pub out: Option<PathBuf>,
    /// Where workers and samplers connect [default: 127.0.0.1:7420, or a free port with --local]
    #[arg(long, value_name = "ADDR:PORT", env = "DCGAN_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Goes on with a run directory that belongs to a run, or refuses one
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, env = "DCGAN_RESUME")]
    pub resume: Resume,
    /// CoordinatorConfig by the names of their flags, as in a run directory's config.toml; flags and DCGAN_* variables go before
    #[arg(long, value_name = "FILE.toml", env = "DCGAN_CONFIG")]
    pub config: Option<PathBuf>,
    /// Leaves shards where they are although a worker is slower than the others
    #[arg(long, env = "DCGAN_FIXED_SHARDS")]
    pub fixed_shards: bool,
    /// Checks everything, says what would be done, and ends
    #[arg(long)]
    pub dry_run: bool,
    /// Allows connections that leave this machine, although they are not encrypted
    #[arg(long, env = "DCGAN_INSECURE")]
    pub insecure: bool,
    /// Something goes wrong at a point of this program
    #[arg(long, hide = true, value_name = "POINT=ACTION@N")]
    pub(crate) fault: Option<Fault>,
    /// Ends when standard input closes
    #[arg(long, hide = true)]
    pub(crate) exit_with_stdin: bool,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Prints the layers, output shapes and parameters of both networks
    Summary {
        /// As text, or as a graph for Graphviz
        #[arg(long, value_enum, default_value_t)]
        format: SummaryFormat,
    },
    /// Says how a run is: step, members, what it waits for, what interrupted it
    Status {
        #[command(flatten)]
        at: CoordinatorAddress,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Takes a checkpoint as soon as can be, while training goes on
    Checkpoint {
        #[command(flatten)]
        at: CoordinatorAddress,
    },
    /// Has a worker leave the run; the others take its shards over
    Drain {
        /// The worker's name
        name: String,
        #[command(flatten)]
        at: CoordinatorAddress,
    },
    /// Ends a run in order, with a checkpoint of the last finished step
    Stop {
        #[command(flatten)]
        at: CoordinatorAddress,
    },
    /// Checks a run's files; with two runs, says where they differ first
    Verify {
        /// A run directory
        run: PathBuf,
        /// Another
        other: Option<PathBuf>,
    },
    /// Trains on this machine while processes are killed, stopped and cut off, and compares the result
    Chaos(ChaosArgs),
}

/// A coordinator to talk to.
#[derive(Debug, clap::Args)]
pub(crate) struct CoordinatorAddress {
    /// Where the coordinator listens
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:7420",
        env = "DCGAN_COORDINATOR"
    )]
    pub(crate) coordinator: Address,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum SummaryFormat {
    #[default]
    Text,
    Dot,
}

/// Whether a run directory that belongs to a run is gone on with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resume {
    /// Yes, and an empty one begins a run.
    #[default]
    Auto,
    /// No: the directory must be empty.
    Never,
}
