//! The end of a run whose coordinator is not reached, as its directory tells it.

use std::path::{Path, PathBuf};

use dcgan_core::evaluation::{BestEvaluation, EvaluationRow};
use dcgan_core::ids::{Digest, RunId, Step};
use dcgan_core::metrics::MetricsRow;
use dcgan_core::words::counted;
use dcgan_process::exit::{status as exit, usage};
use dcgan_process::names;
use dcgan_process::output::print_result;
use dcgan_rpc::pb;
use dcgan_store::checkpoint::{Checkpoints, VerifiedCheckpoint};
use dcgan_store::metrics_log;
use dcgan_store::run_dir::{EndState, RunPaths, RunState, is_in_use};
use serde_json::Value;

use crate::resolve::read_run;

/// A run whose coordinator is not reached.
pub(crate) struct EndedRun {
    run: RunId,
    state: RunState,
    /// The signal or the person that stopped it, or the failure.
    cause: Option<String>,
    /// True if all its steps are done.
    is_finished: bool,
    /// The step of the newest checkpoint; 0 without one.
    step: Step,
    last_step: Step,
    /// The epoch of that step.
    epoch: u64,
    /// The digest of the newest checkpoint.
    digest: Option<Digest>,
    newest_row: Option<pb::NewestRow>,
    /// The best state of those that are evaluated.
    best: Option<BestEvaluation>,
    /// True if states were evaluated and nothing is left of it.
    are_evaluations_lost: bool,
    directory: PathBuf,
    /// The arguments with which it goes on; `None` if an earlier version has started it.
    resume: Option<String>,
}

/// The command that goes on with a run, for people to copy.
pub(crate) fn resume_command(root: &Path, arguments: &str) -> String {
    let (program, out) = (names::called(), names::quoted(&root.to_string_lossy()));
    format!("{program} --out {out} {arguments}").trim_end().to_owned()
}

/// How far a run is, by its newest checkpoint.
#[derive(Default)]
pub(crate) struct Progress {
    /// The step of the checkpoint; 0 without one.
    pub(crate) step: Step,
    /// True if its state ends the run, although the schedule goes on.
    pub(crate) ends_run: bool,
    /// The digest of the state.
    digest: Option<Digest>,
}

/// Reads how far the run of a directory is.
pub(crate) fn progress(paths: &RunPaths) -> anyhow::Result<Progress> {
    let (newest, _) = Checkpoints::new(paths).newest()?;
    let newest = newest.as_ref().map(VerifiedCheckpoint::manifest);
    Ok(newest.map_or_else(Progress::default, |manifest| Progress {
        step: manifest.step,
        ends_run: manifest.ends_run,
        digest: Some(manifest.state_digest),
    }))
}

impl EndedRun {
    /// Reads what has become of the run of a directory.
    ///
    /// # Errors
    /// If it belongs to none, or its files cannot be read.
    pub(crate) fn read(root: &Path) -> anyhow::Result<Self> {
        let paths = RunPaths::new(root);
        let (file, config) = read_run(&paths).map_err(usage)?;
        let (spec, last_step) = (&config.spec, config.schedule.last_step);
        let Progress { step, ends_run, digest } = progress(&paths)?;
        // A log that is damaged is for `verify` to tell.
        let rows: Vec<EvaluationRow> = metrics_log::read(&paths.evaluations()).unwrap_or_default();
        let rows = rows.iter().map(|row| (row.step, &row.values));
        let best = spec.evaluation().and_then(|info| info.best(rows));
        let were_evaluated = (1..=step).any(|step| config.schedule.evaluation_due(step));
        let has_finished =
            file.ended.as_ref().is_some_and(|ended| ended.state == EndState::Finished);
        // One that has ended early has not done all the steps of its schedule.
        let is_finished = ends_run || step >= last_step || has_finished;
        let state = file.state(is_in_use(&paths), is_finished);
        let rows: Vec<MetricsRow> = metrics_log::read(&paths.metrics()).unwrap_or_default();
        let newest_row = rows
            .last()
            .map(|row| dcgan_rpc::newest_row(row, spec.batch_size(), row.step, last_step));
        Ok(Self {
            run: file.run,
            state,
            cause: file.ended.and_then(|ended| ended.cause),
            is_finished,
            step,
            last_step,
            epoch: spec.sharding().epoch(step),
            digest,
            newest_row,
            are_evaluations_lost: were_evaluated && best.is_none(),
            best,
            directory: root.to_owned(),
            resume: file.resume,
        })
    }

    /// Reads what has become of this run, which was in `root`; `None` if it is not there.
    pub(crate) fn of(run: RunId, root: &Path) -> Option<Self> {
        Self::read(root).ok().filter(|ended| ended.run == run)
    }

    /// Returns whether a coordinator uses its directory.
    pub(crate) fn is_running(&self) -> bool {
        self.state == RunState::Running
    }

    /// Describes it for people, in a line.
    pub(crate) fn describe(&self) -> String {
        let Self { run, state, cause, is_finished, step, last_step, directory, .. } = self;
        let run = format!("run {run} in {}", directory.display());
        let saved = match step {
            0 => "has no checkpoint yet".to_owned(),
            step if *is_finished => format!("has done its {}", counted(*step, "step")),
            step => format!("is saved up to step {step} of {last_step}"),
        };
        let cause = cause.as_ref().map_or(String::new(), |cause| format!(" ({cause})"));
        match state {
            RunState::Finished => format!("{run} has finished: {}{cause}", counted(*step, "step")),
            RunState::Stopped if *step > 0 && !is_finished => {
                format!("{run} is stopped after step {step} of {last_step}{cause}")
            }
            RunState::Stopped => format!("{run} is stopped{cause}; it {saved}"),
            RunState::Failed => format!("{run} has failed{cause}; it {saved}"),
            RunState::Killed => {
                format!("{run} was killed: it has not said how it ended; it {saved}")
            }
            RunState::Running => {
                format!("{run} {saved}; a coordinator uses it, and does not answer here")
            }
        }
    }

    /// The best evaluation, as a line of its own.
    fn describe_best(&self) -> String {
        match self.best {
            Some(best) => format!("\nbest evaluation: {best}"),
            None if self.are_evaluations_lost => {
                "\nwhich checkpoint is best is not known: evaluations.jsonl has no evaluation"
                    .to_owned()
            }
            None => String::new(),
        }
    }

    /// The command that goes on with the run, after `separator`, if it can go on.
    pub(crate) fn how_to_go_on(&self, separator: &str) -> String {
        if self.is_finished || matches!(self.state, RunState::Finished | RunState::Running) {
            return String::new();
        }
        let of_earlier_version = "--local (or --workers N, as before)";
        let arguments = self.resume.as_deref().unwrap_or(of_earlier_version);
        format!("{separator}go on with: {}", resume_command(&self.directory, arguments))
    }

    /// The same keys as those of a run that goes on. Lists are empty: nobody takes part; what else
    /// is not known is null.
    pub(crate) fn as_json(&self) -> anyhow::Result<String> {
        let mut object = serde_json::to_value(pb::Status::default())?;
        if let Value::Object(keys) = &mut object {
            for value in keys.values_mut().filter(|value| !value.is_array()) {
                *value = Value::Null;
            }
        }
        let Self { run, state, cause, is_finished, step, last_step, directory, .. } = self;
        for (key, value) in [
            ("run", serde_json::to_value(run)?),
            ("state", serde_json::to_value(state)?),
            ("cause", cause.clone().into()),
            ("is_finished", (*is_finished).into()),
            ("step", (*step).into()),
            ("last_step", (*last_step).into()),
            ("checkpoint", (*step > 0).then_some(*step).into()),
            ("epoch", self.epoch.into()),
            ("digest", self.digest.map(|digest| digest.to_string()).into()),
            ("newest_row", serde_json::to_value(&self.newest_row)?),
            ("best", serde_json::to_value(self.best.map(dcgan_rpc::best))?),
            ("directory", std::path::absolute(directory)?.to_string_lossy().into()),
        ] {
            object[key] = value;
        }
        Ok(object.to_string())
    }

    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            run: RunId(7),
            state: RunState::Stopped,
            cause: None,
            is_finished: false,
            step: 4,
            last_step: 9,
            epoch: 1,
            digest: None,
            newest_row: None,
            best: None,
            are_evaluations_lost: false,
            directory: "runs/dcgan".into(),
            resume: None,
        }
    }

    /// Prints what has become of the run, for people or as JSON.
    pub(crate) fn print(&self, json: bool) -> anyhow::Result<u8> {
        let text = if json {
            self.as_json()?
        } else {
            self.describe() + &self.describe_best() + &self.how_to_go_on("\n")
        };
        print_result(&format!("{text}\n"))?;
        Ok(exit::FINISHED)
    }
}
