//! Finds the coordinator that a verb is for: at an address, or by its run directory.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::ArgMatches;
use dcgan_core::evaluation::{BestEvaluation, EvaluationRow};
use dcgan_core::ids::{RunId, Step};
use dcgan_core::words::counted;
use dcgan_process::exit::{status as exit, usage};
use dcgan_process::names;
use dcgan_process::settings::is_from_variable;
use dcgan_rpc::net::{Address, Connector};
use dcgan_rpc::pb;
use dcgan_store::address_file::{read_address, read_address_at};
use dcgan_store::checkpoint::{Checkpoints, VerifiedCheckpoint};
use dcgan_store::metrics_log;
use dcgan_store::run_dir::{DEFAULT_ROOT, EndState, RunPaths, is_in_use, read_run_file};
use serde::Serialize;
use serde_json::Value;

use crate::admin;
use crate::args::CoordinatorArg;
use crate::resolve::read_run;

/// The address of a coordinator without a flag, a variable or a run directory.
const DEFAULT_ADDRESS: &str = "http://127.0.0.1:7420";

/// A run, as its directory tells.
pub(crate) enum Found {
    /// Its coordinator listens here.
    Running(Address),
    Ended(EndedRun),
}

/// A run whose coordinator is not reached.
pub(crate) struct EndedRun {
    run: RunId,
    state: State,
    /// The signal or the person that stopped it, or the failure.
    cause: Option<String>,
    /// True if all its steps are done.
    is_finished: bool,
    /// The step of the newest checkpoint; 0 without one.
    step: Step,
    last_step: Step,
    /// The best state of those that are evaluated.
    best: Option<BestEvaluation>,
    /// True if states were evaluated and nothing is left of it.
    are_evaluations_lost: bool,
    directory: PathBuf,
}

/// The state of a run whose coordinator is not reached.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// All steps were done when it ended.
    Finished,
    /// Somebody stopped it, and it can go on.
    Stopped,
    /// A failure ended it.
    Failed,
    /// The coordinator has ended without a word.
    Killed,
    /// A coordinator uses its directory, and does not answer here.
    Running,
}

/// Finds the coordinator that the flags of a verb name.
///
/// # Errors
/// If none is running there.
pub(crate) fn coordinator(
    given: &CoordinatorArg,
    matches: &ArgMatches,
    connector: &Connector,
) -> anyhow::Result<Address> {
    match coordinator_or_ended(given, matches, connector)? {
        Found::Running(address) => Ok(address),
        Found::Ended(ended) => bail!("no coordinator is running: {}", ended.describe()),
    }
}

/// Finds the coordinator that the flags of a verb name, or else what has become of its run.
///
/// # Errors
/// If the directory that they name is none of a run.
pub(crate) fn coordinator_or_ended(
    given: &CoordinatorArg,
    matches: &ArgMatches,
    connector: &Connector,
) -> anyhow::Result<Found> {
    let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
    match (&given.run, &given.address) {
        (Some(_), Some(address)) if is_from_variable(matches, "run") => {
            Ok(Found::Running(address.find(read_address_at)?))
        }
        (Some(run), Some(_)) if is_from_variable(matches, "address") => look_into(run, connector),
        (Some(_), Some(_)) => {
            bail!(usage(anyhow!("--run and --coordinator both name a coordinator: give one")))
        }
        (Some(run), None) => look_into(run, connector),
        (None, Some(address)) => Ok(Found::Running(address.find(read_address_at)?)),
        (None, None) => find_by_default(connector),
    }
}

/// Looks into the default folder, and at the documented address: another folder's run may be there.
fn find_by_default(connector: &Connector) -> anyhow::Result<Found> {
    let (root, address): (_, Address) = (Path::new(DEFAULT_ROOT), DEFAULT_ADDRESS.parse()?);
    if let Some(address) = address_in(root, connector)? {
        return Ok(Found::Running(address));
    }
    if matches!(admin::run_at(connector, &address), Ok(None))
        && let Ok(ended) = EndedRun::read(root)
    {
        return Ok(Found::Ended(ended));
    }
    Ok(Found::Running(address))
}

fn look_into(root: &Path, connector: &Connector) -> anyhow::Result<Found> {
    match address_in(root, connector)? {
        Some(address) => Ok(Found::Running(address)),
        None => Ok(Found::Ended(EndedRun::read(root)?)),
    }
}

/// The address of the coordinator that uses a run directory, if one does.
fn address_in(root: &Path, connector: &Connector) -> anyhow::Result<Option<Address>> {
    let paths = RunPaths::new(root);
    let Some(text) = read_address(&paths)? else {
        return Ok(None);
    };
    let address: Address = text.parse().with_context(|| format!("{}/address", root.display()))?;
    // A coordinator that was killed leaves its address behind, and another run may be there now.
    // One that does not answer is the verb's to report.
    let own = read_run_file(&paths)?.map(|file| file.run);
    let found = admin::run_at(connector, &address);
    Ok(found.map_or(true, |run| run.is_some() && run == own).then_some(address))
}

/// How far a run is, by its newest checkpoint.
#[derive(Default)]
pub(crate) struct Progress {
    /// The step of the checkpoint; 0 without one.
    pub(crate) step: Step,
    /// True if its state ends the run, although the schedule goes on.
    pub(crate) ends_run: bool,
}

/// Reads how far the run of a directory is.
pub(crate) fn progress(paths: &RunPaths) -> anyhow::Result<Progress> {
    let (newest, _) = Checkpoints::new(paths).newest()?;
    let newest = newest.as_ref().map(VerifiedCheckpoint::manifest);
    Ok(newest.map_or_else(Progress::default, |manifest| Progress {
        step: manifest.step,
        ends_run: manifest.ends_run,
    }))
}

impl EndedRun {
    fn read(root: &Path) -> anyhow::Result<Self> {
        let paths = RunPaths::new(root);
        let (file, config) = read_run(&paths).map_err(usage)?;
        let last_step = config.schedule.last_step;
        let Progress { step, ends_run } = progress(&paths)?;
        // A file that cannot be read is as good as lost here; `verify` says what is wrong.
        let rows: Vec<EvaluationRow> = metrics_log::read(&paths.evaluations()).unwrap_or_default();
        let rows = rows.iter().map(|row| (row.step, &row.values));
        let best = config.spec.evaluation().and_then(|info| info.best(rows));
        let were_evaluated = (1..=step).any(|step| config.schedule.evaluation_due(step));
        let has_finished =
            file.ended.as_ref().is_some_and(|ended| ended.state == EndState::Finished);
        // One that has ended early has not done all the steps of its schedule.
        let is_finished = ends_run || step >= last_step || has_finished;
        let state = match file.ended.as_ref().map(|ended| ended.state) {
            _ if is_in_use(&paths) => State::Running,
            Some(EndState::Finished) => State::Finished,
            Some(EndState::Stopped) => State::Stopped,
            Some(EndState::Failed) => State::Failed,
            // Earlier versions recorded no address and no end.
            None if file.address.is_some() => State::Killed,
            None if is_finished => State::Finished,
            None => State::Stopped,
        };
        let (run, cause) = (file.run, file.ended.and_then(|ended| ended.cause));
        Ok(Self {
            run,
            state,
            cause,
            is_finished,
            step,
            last_step,
            are_evaluations_lost: were_evaluated && best.is_none(),
            best,
            directory: root.to_owned(),
        })
    }

    fn describe(&self) -> String {
        let Self { run, state, cause, is_finished, step, last_step, directory, .. } = self;
        let run = format!("run {run} in {}", directory.display());
        let saved = match step {
            0 => "has no checkpoint yet".to_owned(),
            step if *is_finished => format!("has done its {}", counted(*step, "step")),
            step => format!("is saved up to step {step} of {last_step}"),
        };
        let cause = cause.as_ref().map_or(String::new(), |cause| format!(" ({cause})"));
        match state {
            State::Finished => format!("{run} has finished: {}{cause}", counted(*step, "step")),
            State::Stopped if *step > 0 && !is_finished => {
                format!("{run} is stopped after step {step} of {last_step}{cause}")
            }
            State::Stopped => format!("{run} is stopped{cause}; it {saved}"),
            State::Failed => format!("{run} has failed{cause}; it {saved}"),
            State::Killed => format!("{run} was killed: it has not said how it ended; it {saved}"),
            State::Running => {
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

    /// The command that goes on with the run, as a line of its own, if it can go on.
    fn how_to_go_on(&self) -> String {
        if self.is_finished || !matches!(self.state, State::Stopped | State::Killed) {
            return String::new();
        }
        let (program, out) = (names::called(), names::quoted(&self.directory.to_string_lossy()));
        format!("\ngo on with: {program} --out {out} --local (or --workers N, as before)")
    }

    /// The same keys as those of a run that goes on; those that are not known are null.
    pub(crate) fn as_json(&self) -> anyhow::Result<String> {
        let mut object = serde_json::to_value(pb::Status::default())?;
        if let Value::Object(keys) = &mut object {
            keys.values_mut().for_each(|value| *value = Value::Null);
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
            ("best", serde_json::to_value(self.best.map(dcgan_rpc::best))?),
            ("directory", directory.to_string_lossy().into()),
        ] {
            object[key] = value;
        }
        Ok(object.to_string())
    }

    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            run: RunId(7),
            state: State::Stopped,
            cause: None,
            is_finished: false,
            step: 4,
            last_step: 9,
            best: None,
            are_evaluations_lost: false,
            directory: "runs/dcgan".into(),
        }
    }

    /// Prints what has become of the run, for people or as JSON.
    pub(crate) fn print(&self, json: bool) -> anyhow::Result<u8> {
        let text = if json {
            self.as_json()?
        } else {
            self.describe() + &self.describe_best() + &self.how_to_go_on()
        };
        dcgan_process::print(&format!("{text}\n"));
        Ok(exit::FINISHED)
    }
}
