//! The last lines of a run: how it ended, what is saved, and how to resume it.

use dcgan_core::protocol::coordinator::Outcome;
use dcgan_process::exit::status;
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
                let (step, directory) = (self.machine.reached(), self.recorder.root().display());
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

    /// Prints one block that says what failed, where to look, what is saved and how to resume. It
    /// is the last thing on the screen.
    fn print_failure(&self, code: &'static str, what: &str) {
        tracing::error!(event = "run_failed", cause = code, "the run has failed: {what}");
        if let Some(first) = self.local.as_ref().and_then(LocalProcesses::first_crash) {
            eprintln!("  first:   {} ended with {}", first.name, first.status);
            eprintln!("  log:     {}", first.log.display());
        } else if self.is_local {
            eprintln!("  logs:    {}", self.recorder.logs().display());
        }
        match self.machine.checkpoint() {
            Some(saved) => eprintln!("  saved:   checkpoint of step {}", saved.step),
            None => eprintln!("  saved:   no checkpoint"),
        }
        eprintln!("  resume:  {}", self.resume_command());
    }

    fn resume_command(&self) -> String {
        let local = if self.is_local { " --local" } else { "" };
        format!("dcgan-coord --out {}{local}", self.recorder.root().display())
    }
}
