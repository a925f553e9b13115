//! The sampler: draws digits with the generator of a run, while the run trains or afterwards.
//!
//! A run must never wait for its sampler. The coordinator sends a generator when a grid is due, and
//! takes the picture when it comes back. What the sampler shows is always the newest generator that
//! it has. Pictures are drawn apart from the network's thread, one at a time.
//!
//! # Layout
//!
//! * `serve`: the verb `serve`, with its gRPC `service`, its web `page`, `watch`, which knows what
//!   the page tells of a run, and `follow`, which brings new generators from a coordinator or a run
//!   directory (`followed_folder`).
//! * `export`: the verbs `grid`, `export` and `latents`, which write files. `npy` is the format of
//!   those for Python.
//! * `eval`: the verbs `eval` and `train-evaluator`.
//! * `newest`: the newest generator, shared by all of these. `run_dir` reads one from a checkpoint.
//! * `picture`: a grid of images as a PNG.

mod args;
mod eval;
mod export;
mod follow;
mod followed_folder;
mod newest;
mod npy;
mod page;
mod picture;
mod run_dir;
mod serve;
mod service;
mod watch;

use std::process::ExitCode;

pub use args::Args;
use args::Verb;
use dcgan_core::spec::RunSpec;
use dcgan_process::settings::warn_of_unknown_variables;

/// Runs the program, and returns its exit status.
pub fn main() -> ExitCode {
    dcgan_process::exit::run(|| {
        let (args, matches) = dcgan_process::settings::parse::<Args>();
        if matches!(args.verb, Verb::Serve(_)) {
            dcgan_process::output::start()?;
        }
        args.log.start()?;
        warn_of_unknown_variables(&RunSpec::setting_names());
        match &args.prefer_flags(&matches)?.verb {
            Verb::Serve(args) => serve::run(args),
            Verb::Grid(args) => export::grid(args),
            Verb::Export(args) => export::images(args),
            Verb::Latents(args) => export::latents(args),
            Verb::Eval(args) => eval::eval(args),
            Verb::TrainEvaluator(args) => eval::train_evaluator(args),
        }
    })
}
