//! The coordinator: membership, the data set, the run directory, progress.
//!
//! The decisions are those of [`dcgan_core::protocol::coordinator`]. Here are its driver (one thread that turns everything that
//! happens into events, in order, and makes its commands durable before it says them), the service that workers and
//! samplers talk to, the processes of `--local`, and what people see. It loads no tensor library, and no gradient
//! passes through it.

mod admin;
mod args;
mod chaos;
mod config;
mod console;
mod driver;
mod feed;
mod local_processes;
mod merge;
mod reason_log;
mod recorder;
mod resolve;
mod service;
mod start;
mod summary;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

pub use args::Args;
use args::Verb;

/// The program.
pub fn main() -> ExitCode {
    dcgan_process::exit::run(|| {
        let matches = Args::command().get_matches();
        let args = Args::from_arg_matches(&matches)?;
        match &args.verb {
            None => start::run(&args, &matches),
            Some(Verb::Summary { format }) => {
                dcgan_process::print(&summary::render(*format));
                Ok(dcgan_process::exit::status::FINISHED)
            }
            Some(Verb::Status { at, json }) => admin::status(at, *json),
            Some(Verb::Checkpoint { at }) => admin::checkpoint(at),
            Some(Verb::Drain { name, at }) => admin::drain(at, name),
            Some(Verb::Stop { at }) => admin::stop(at),
            Some(Verb::Verify { run, other }) => verify::run(run, other.as_deref()),
            Some(Verb::Chaos(chaos)) => chaos::run(chaos),
        }
    })
}
