//! The worker: computes its shards, all-reduces, applies.
//!
//! The decisions are those of [`dcgan_core::protocol::worker`]. Here are its driver (one thread that turns everything that
//! happens into events, in order, and executes the machine's commands), the control connection with its heartbeat on a
//! thread of its own, the threads that compute, and what is fetched and sent in the background.

mod args;
mod compute;
mod driver;
mod partitions;
mod session;
mod transfers;
mod waiting;

use std::process::ExitCode;

use clap::Parser;

/// The program.
pub fn main() -> ExitCode {
    dcgan_process::exit::run(|| {
        let args = Args::parse();
        args.log.start(std::io::stderr);
        if args.exit_with_stdin {
            dcgan_process::lifeline::exit_with_stdin();
        }
        if let Some(fault) = args.fault.clone() {
            fault.arm();
        }
        driver::run(&args)
    })
}

pub use args::Args;
