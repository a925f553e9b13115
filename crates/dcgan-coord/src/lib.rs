//! The coordinator: membership, the data set, the run directory, progress.
//!
//! All decisions are made by [`dcgan_core::protocol::coordinator`]. This crate is the world around
//! that machine. It loads no tensor library, and no gradient passes through it.
//!
//! # Layout
//!
//! * Running a training: `start` builds everything, and `driver` runs it. Every `input` reaches
//!   the driver on one channel. `service` answers workers, samplers and people, `local_processes`
//!   runs the children of `--local`.
//! * Settings: `args` and `config` define them, `headings` orders them for help, `merge` and
//!   `resolve` find their values, also in a `config_file`.
//! * What a run leaves behind: `recorder` knows the run directory, and `writer` is the thread that
//!   writes it; `newest_checkpoint` keeps what many ask for; `feed` sends generators to samplers,
//!   which send grids back.
//! * What a person sees: `sinks` (rows of metrics), `console`, `notices`, `reason_log`.
//! * Other verbs: `admin` (status, checkpoint, drain, stop), which `find` the coordinator or what
//!   has `ended`, and say it as `status_text`; `chaos`, `summary`, `verify`.

mod admin;
mod args;
mod chaos;
mod checkpoint_every;
mod config;
mod config_file;
mod console;
mod driver;
mod ended;
mod feed;
mod find;
mod headings;
mod initial_weights;
mod input;
mod local_processes;
mod merge;
mod newest_checkpoint;
mod notices;
mod reason_log;
mod recorder;
mod resolve;
mod service;
mod sinks;
mod start;
mod status_text;
mod summary;
mod verify;
mod writer;

use std::process::ExitCode;

use dcgan_rpc::net::Connector;

pub use args::Args;
use args::Verb;
#[doc(hidden)]
pub use config::resolve_text;
use find::Found;

/// Runs the program. Its exit status is one of [`dcgan_process::exit::status`].
pub fn main() -> ExitCode {
    dcgan_process::exit::run(|| {
        let (args, matches) = dcgan_process::settings::parse::<Args>();
        // A verb connects to whichever address its user names: it has no flag --insecure.
        let connector = Connector::new(true);
        if let Some((verb, _)) = matches.subcommand() {
            args::refuse_settings_before(verb, &matches)?;
        }
        // Before a verb, only a variable can have given it.
        let out = args.given.out.as_deref();
        let running = |named| find::coordinator(named, &matches, out, &connector);
        match &args.verb {
            None => start::run(&args, &matches),
            Some(Verb::Summary { format }) => {
                dcgan_process::output::print_result(&summary::render(*format))?;
                Ok(dcgan_process::exit::status::FINISHED)
            }
            Some(Verb::Status { coordinator, json }) => {
                match find::coordinator_or_ended(coordinator, &matches, out, &connector)? {
                    Found::Running(address) => admin::status(&connector, &address, *json, ""),
                    Found::Elsewhere(address) => {
                        let found = format!(", found at {address}: there is no run here");
                        admin::status(&connector, &address, *json, &found)
                    }
                    Found::Ended(ended) => ended.print(*json),
                }
            }
            Some(Verb::Checkpoint { coordinator }) => {
                admin::checkpoint(&connector, &running(coordinator)?)
            }
            Some(Verb::Drain { name, coordinator }) => {
                find::refuse_run_as_worker(name)?;
                admin::drain(&connector, &running(coordinator)?, name)
            }
            Some(Verb::Stop { coordinator }) => admin::stop(&connector, &running(coordinator)?),
            Some(Verb::Verify { first, other, run }) => {
                let (run, other) =
                    find::runs_to_verify([first, other], run.as_ref(), &matches, out)?;
                verify::run(&run, other.as_deref())
            }
            Some(Verb::Chaos(chaos)) => chaos::run(chaos, connector),
        }
    })
}
