//! The last lines of a run: how it ended, what is saved, and how to resume it.

use dcgan_core::protocol::coordinator::Outcome;
use dcgan_process::exit::status;
use dcgan_process::logging;
use dcgan_process::signals::Signal;

use super::Driver;
use crate::local_processes::LocalProcesses;

impl Driver {
    /// Reports how the run ended. Returns the exit status of the program.
    pub(super) fn conclude(&self, outcome: Outcome) -> u8 {
        match (outcome, &self.out_of_workers) {
            (Outcome::Failed(failure), _) => {
                self.print_failure(failure.code(), &failure.to_string());
                status::FAILED
            }
            (_, Some(why)) => {
                self.print_failure("out_of_workers", why);
                status::FAILED
            }
            (Outcome::Finished, None) => {
                let (step, directory) = (self.machine.reached(), self.disk.files.root().display());
                tracing::info!(
                    event = "run_finished",
                    step,
                    "finished: {step} steps; everything is in {directory}"
                );
                status::FINISHED
            }
            (Outcome::Stopped(step), None) => {
                tracing::info!(
                    event = "run_stopped",
                    step,
                    "stopped after step {step}; go on with: {}",
                    self.resume_command()
                );
                self.signal.map_or(status::FINISHED, Signal::status)
            }
        }
    }

    /// Says what failed, where to look, what is saved and how to resume: as one block, the last
    /// thing on the screen, or as one event if the log is JSON.
    fn print_failure(&self, code: &'static str, what: &str) {
        let crash = self.local.as_ref().and_then(LocalProcesses::first_crash);
        let first = crash.map(|crash| format!("{} ended with {}", crash.name, crash.status));
        let log = crash.map(|crash| crash.log.display().to_string());
        let logs = (self.is_local && crash.is_none())
            .then(|| self.disk.files.logs().display().to_string());
        let saved = self.machine.checkpoint().map_or("no checkpoint".to_owned(), |saved| {
            format!("checkpoint of step {}", saved.step)
        });
        let resume = self.resume_command();
        if logging::is_json() {
            tracing::error!(
                event = "run_failed",
                cause = code,
                first,
                log,
                logs,
                saved,
                resume,
                "the run has failed: {what}"
            );
            return;
        }
        eprintln!("\nthe run has failed: {what}");
        for (key, value) in [("first:", first), ("log:", log), ("logs:", logs)] {
            if let Some(value) = value {
                eprintln!("  {key:<8} {value}");
            }
        }
        eprintln!("  saved:   {saved}");
        eprintln!("  resume:  {resume}");
    }

    fn resume_command(&self) -> String {
        let local = if self.is_local { " --local" } else { "" };
        format!("dcgan-coord --out {}{local}", self.disk.files.root().display())
    }
}
