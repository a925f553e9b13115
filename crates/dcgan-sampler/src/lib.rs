//! The sampler: grids of digits, on request and as the training goes.
//!
//! It follows a run and never slows it: generators come, pictures go back. What it shows is always the newest
//! generator that it has; drawing happens apart from the network's threads.

mod args;
mod export;
mod follow;
mod newest;
mod page;
mod picture;
mod run_dir;
mod serve;
mod service;

use std::process::ExitCode;

use clap::Parser;

pub use args::Args;
use args::Verb;

/// The program.
pub fn main() -> ExitCode {
    dcgan_process::exit::run(|| {
        let args = Args::parse();
        args.log.start(std::io::stderr);
        match &args.verb {
            Verb::Serve(args) => serve::run(args),
            Verb::Grid(args) => export::grid(args),
            Verb::Export(args) => export::images(args),
        }
    })
}
