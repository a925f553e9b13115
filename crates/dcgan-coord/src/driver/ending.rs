//! The last lines of a run: how it ended, what is saved, and how to resume it.

use std::fmt::Write;

use dcgan_core::evaluation::BestEvaluation;
use dcgan_core::ids::Step;
use dcgan_core::protocol::coordinator::{EarlyEnd, LostSteps, Outcome};
use dcgan_core::words::counted;
use dcgan_process::exit::status;
use dcgan_process::logging::RESULT;
use dcgan_process::signals::Signal;
use dcgan_process::{logging, output};
use dcgan_rpc::pb;
use dcgan_store::run_dir::{EndState, Ended};

use super::Driver;
use crate::local_processes::{Crash, LocalProcesses};

impl Driver {
    /// Reports how the run ended, in the log and to the people who have asked for the end. Returns
    /// the exit status of the program.
    pub(super) fn conclude(&mut self, outcome: &Outcome) -> u8 {
        let failure = self.failure(outcome);
        let ended = describe(outcome, failure.as_ref().map(|(_, what)| &**what));
        self.watchers.tell_end(&ended);
        if let Outcome::Stopped { saved, lost: Some(lost) } = outcome {
            let LostSteps { first: from, last: to } = lost;
            tracing::error!(
                event = "steps_lost",
                from,
                to,
                saved,
                "{lost} could not be saved: no worker that holds them has answered"
            );
        }
        // The block about a failure has the best state in it.
        self.log_summary(failure.is_none() || logging::is_json());
        if let Some((code, what)) = failure {
            self.print_failure(code, &what);
            return status::FAILED;
        }
        match outcome {
            Outcome::Finished | Outcome::Failed(_) => {
                let (step, directory) = (self.machine.reached(), self.disk.files.root().display());
                let early = self.machine.early_end();
                let early = early.map_or_else(String::new, |end| {
                    format!(" early ({})", describe_early_end(&end))
                });
                tracing::info!(
                    target: RESULT,
                    event = "run_finished",
                    step,
                    "finished{early}: {}; everything is in {directory}",
                    counted(step, "step")
                );
                status::FINISHED
            }
            Outcome::Stopped { saved: step, lost } => {
                tracing::info!(
                    target: RESULT,
                    event = "run_stopped",
                    step,
                    "stopped after step {step}; go on with: {}",
                    self.resume_command
                );
                let in_order = self.signal.map_or(status::FINISHED, Signal::status);
                if lost.is_some() { status::FAILED } else { in_order }
            }
        }
    }

    /// Says which state was the best, if `with_best`, and what went wrong until the end.
    fn log_summary(&self, with_best: bool) {
        if let Some(best) = self.machine.best_evaluation().filter(|_| with_best) {
            let BestEvaluation { step, value, criterion } = best;
            tracing::info!(
                event = "best_evaluation",
                step,
                name = criterion,
                value,
                "best evaluation: {best}"
            );
        }
        for alarm in self.machine.alarms() {
            tracing::warn!(
                event = "alarm_lasts",
                alarm = alarm.code,
                step = alarm.since,
                "alarm {alarm}"
            );
        }
    }

    /// The code of a failure, and the failure in words.
    fn failure(&self, outcome: &Outcome) -> Option<(&'static str, String)> {
        match (outcome, &self.out_of_workers) {
            (Outcome::Failed(failure), _) => Some((failure.code(), failure.to_string())),
            (_, Some(why)) => Some(("out_of_workers", why.clone())),
            _ => None,
        }
    }

    /// How the run has ended, for its directory.
    pub(super) fn ended(&self, outcome: &Outcome) -> Ended {
        let reached = self.machine.reached();
        if let Some((_, what)) = self.failure(outcome) {
            // Workers that were away may come back with what they have.
            let (state, cause) = (EndState::Failed, Some(what));
            return Ended { state, step: reached, cause, workers_over: false };
        }
        match outcome {
            Outcome::Finished | Outcome::Failed(_) => {
                let state = EndState::Finished;
                let cause = self.machine.early_end().map(|end| describe_early_end(&end));
                Ended { state, step: reached, cause, workers_over: true }
            }
            Outcome::Stopped { saved: step, lost } => {
                let workers_over = lost.is_none() && !self.machine.hands_over();
                let by = self.stopped_by.clone();
                let lost = lost.as_ref().map(|lost| format!("{lost} could not be saved"));
                let causes: Vec<String> = by.into_iter().chain(lost).collect();
                let cause = (!causes.is_empty()).then(|| causes.join("; "));
                Ended { state: EndState::Stopped, step: *step, cause, workers_over }
            }
        }
    }

    /// Says what failed, where to look, what is saved and how to resume: as one block, the last
    /// thing on the screen, or as one event if the log is JSON.
    fn print_failure(&self, code: &'static str, what: &str) {
        let crash = self.local.as_ref().and_then(LocalProcesses::first_crash);
        let first = crash.map(ToString::to_string);
        let log = crash.map(|crash| crash.log.display().to_string());
        let logs = (self.is_local && crash.is_none())
            .then(|| self.disk.files.logs().display().to_string());
        let saved = self.machine.checkpoint().map_or("no checkpoint".to_owned(), |saved| {
            format!("checkpoint of step {}", saved.step)
        });
        // The same command would fail in the same way.
        let is_hopeless = crash.is_some_and(Crash::is_wrong_setting);
        let resume = (!is_hopeless).then(|| self.resume_command.clone());
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
        let mut block = format!("\nthe run has failed: {what}\n");
        let saved = ("saved:", Some(saved));
        let resume = ("resume:", resume);
        let best = ("best:", self.machine.best_evaluation().map(|best| best.to_string()));
        for (key, value) in [("first:", first), ("log:", log), ("logs:", logs), saved, best, resume]
        {
            if let Some(value) = value {
                // Writing to a string cannot fail.
                let _ = writeln!(block, "  {key:<8} {value}");
            }
        }
        output::say(block.trim_end());
    }
}

/// Why a run has ended before its schedule.
pub(crate) fn describe_early_end(end: &EarlyEnd) -> String {
    let EarlyEnd { patience, best, .. } = end;
    format!("--early-stopping {patience}: the best evaluation is {best}")
}

/// How a run has ended, for a person who has asked for its end.
fn describe(outcome: &Outcome, failure: Option<&str>) -> pb::RunEnded {
    let saved = |step: &Step| match step {
        0 => "no step was finished".to_owned(),
        step => format!("step {step} is saved"),
    };
    let (code, text) = match (outcome, failure) {
        (_, Some(what)) => ("failed", format!("the run has failed: {what}")),
        (Outcome::Finished | Outcome::Failed(_), None) => {
            ("finished", "the run has ended: all its steps are done".to_owned())
        }
        (Outcome::Stopped { saved: step, lost: None }, None) => {
            ("stopped", format!("the run has ended: {}", saved(step)))
        }
        (Outcome::Stopped { saved: step, lost: Some(lost) }, None) => {
            let saved = if *step == 0 { "nothing is saved".to_owned() } else { saved(step) };
            ("steps_lost", format!("the run has ended, but {lost} could not be saved: {saved}"))
        }
    };
    pb::RunEnded { code: code.to_owned(), text }
}
