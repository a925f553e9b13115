//! The coordinator: membership, the data set, the run directory, progress.
//!
//! The decisions are those of [`dcgan_core::membership`]. Here are its driver (one thread that turns everything that
//! happens into events, in order, and makes its commands durable before it says them), the service that workers and
//! samplers talk to, the processes of `--local`, and what people see. It loads no tensor library, and no gradient
//! passes through it.

mod args;
mod ask;
mod chaos;
mod config;
mod driver;
mod followers;
mod local;
mod merge;
mod prepare;
mod record;
mod screen;
mod service;
mod start;
mod summary;
mod verify;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

pub use args::Args;
use args::Verb;

/// The program.
pub fn main() -> ExitCode {
    dcgan_process::run(|| {
        let matches = Args::command().get_matches();
        let args = Args::from_arg_matches(&matches)?;
        match &args.verb {
            None => start::run(&args, &matches),
            Some(Verb::Summary { format }) => {
                dcgan_process::print(&summary::render(*format));
                Ok(dcgan_process::status::FINISHED)
            }
            Some(Verb::Status { at, json }) => ask::status(at, *json),
            Some(Verb::Checkpoint { at }) => ask::checkpoint(at),
            Some(Verb::Drain { name, at }) => ask::drain(at, name),
            Some(Verb::Stop { at }) => ask::stop(at),
            Some(Verb::Verify { run, other }) => verify::run(run, other.as_deref()),
            Some(Verb::Chaos(chaos)) => chaos::run(chaos),
        }
    })
}
