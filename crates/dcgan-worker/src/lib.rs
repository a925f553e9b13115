//! The worker: computes the gradients of its shards, takes part in the all-reduces, and applies the
//! sums to its copy of the state.
//!
//! Every decision is made by [`dcgan_core::protocol::worker`], a state machine without I/O. This
//! crate is its driver, which turns whatever happens into events for the machine and executes the
//! machine's commands. It must not know the protocol's rules.
//!
//! # Layout
//!
//! * `start`: sets everything up.
//! * `driver`: one thread that handles all events in one order. `input` lists the events.
//! * `session`: the connection to the coordinator, with its heartbeats, on a thread of its own.
//! * `compute`: the threads that compute gradients.
//! * `partitions`, `evaluator`, `transfers`: images, the evaluator and states, which are fetched
//!   and sent in the background.
//! * `waiting`, `progress`: log lines about long waits and about the training.

mod args;
mod client;
mod compute;
mod driver;
mod evaluator;
mod input;
mod partitions;
mod progress;
mod session;
mod start;
mod transfers;
mod trial;
mod waiting;

use std::process::ExitCode;

pub use args::Args;
use dcgan_core::spec::RunSpec;
use dcgan_process::settings::warn_of_unknown_variables;

/// Runs the program, and returns its exit status.
pub fn main() -> ExitCode {
    dcgan_process::exit::run(|| {
        let (args, _) = dcgan_process::settings::parse::<Args>();
        dcgan_process::output::start()?;
        args.log.start()?;
        warn_of_unknown_variables(&RunSpec::setting_names());
        if args.exit_with_stdin {
            dcgan_process::lifeline::exit_with_stdin();
        }
        if let Some(fault) = args.fault.clone() {
            fault.arm();
        }
        start::run(&args)
    })
}
