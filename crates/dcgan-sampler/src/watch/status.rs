//! The status of a run as a JSON object: the keys of `dcgan-coord status --json`, and some more.
//! docs/http.md has them.

use std::path::Path;
use std::time::Duration;

use dcgan_core::ids::Step;
use dcgan_process::names;
use dcgan_rpc::pb;
use dcgan_store::run_dir::RunState;
use serde_json::{Map, Value, json};

use super::folder::{About, Newest};
use super::view::View;
use crate::newest::Drawn;

/// The status of a run whose coordinator has just told it.
pub(super) fn running(status: &pb::Status, about: Option<&About>) -> Value {
    let mut object = of(status);
    object["state"] = "running".into();
    object["sentence"] = status.reason.clone().into();
    with_settings(object, about)
}

/// The status of a run whose coordinator was there, and does not answer now.
pub(super) fn unreachable(
    last: &pb::Status,
    about: Option<&About>,
    since: Duration,
    why: &str,
) -> Value {
    let mut object = of(last);
    object["state"] = "unreachable".into();
    object["sentence"] =
        format!("the coordinator has not answered for {} s: {why}", since.as_secs()).into();
    object["reason_code"] = Value::Null;
    with_settings(object, about)
}

/// The status of a run that a coordinator uses which has never answered here.
pub(super) fn in_use(about: &About, view: &View, why: &str) -> Value {
    let mut object = of_folder(about, view);
    object["state"] = "unreachable".into();
    object["sentence"] = format!("a coordinator uses the run, and does not answer: {why}").into();
    with_settings(object, Some(about))
}

/// The status of a run that nobody trains.
pub(super) fn ended(about: &About, view: &View) -> Value {
    let mut object = of_folder(about, view);
    object["state"] = json!(about.state);
    let step = &object["step"];
    object["sentence"] = match (&about.file.ended, about.state) {
        (Some(ended), _) => ended.to_string(),
        (None, RunState::Killed) => {
            format!("was killed: it has not said how it ended; it is saved up to step {step}")
        }
        (None, RunState::Finished) => format!("finished: {step} steps"),
        (None, _) => format!("stopped after step {step}"),
    }
    .into();
    if about.state != RunState::Finished
        && let Some(resume) = &about.file.resume
    {
        object["go_on_with"] = command(&about.root, resume).into();
    }
    with_settings(object, Some(about))
}

/// The status before anything is known.
pub(super) fn unknown(why: &str) -> Value {
    let mut object = without_values();
    object["state"] = "unreachable".into();
    object["sentence"] = format!("waiting for the coordinator: {why}").into();
    object
}

/// The same status, with the run's name and the generator that samples are drawn with.
pub(super) fn with_shown(mut status: Value, name: &str, shown: Option<&Drawn>) -> Value {
    status["name"] = name.into();
    status["shown"] = shown.map_or(Value::Null, |drawn| {
        let generator = &drawn.generator;
        json!({
            "step": generator.step,
            "digest": generator.digest.map(|digest| digest.to_string()),
            "weights": generator.weights(),
        })
    });
    status
}

/// The command that goes on with a run.
fn command(root: &Path, resume: &str) -> String {
    let (program, out) = (names::called_beside("dcgan-coord"), root.to_string_lossy());
    format!("{program} --out {} {resume}", names::quoted(&out)).trim_end().to_owned()
}

/// All keys. Lists are empty, and what else is not known is null.
fn without_values() -> Value {
    let mut object = serde_json::to_value(pb::Status::default()).unwrap_or_default();
    if let Value::Object(keys) = &mut object {
        keys.values_mut().filter(|value| !value.is_array()).for_each(|it| *it = Value::Null);
        for key in ["go_on_with", "epochs", "steps_per_epoch"] {
            keys.insert(key.to_owned(), Value::Null);
        }
        keys.insert("settings".to_owned(), Value::Object(Map::new()));
    }
    object
}

fn of(status: &pb::Status) -> Value {
    let mut object = without_values();
    if let (Value::Object(keys), Ok(Value::Object(told))) =
        (&mut object, serde_json::to_value(status))
    {
        keys.extend(told);
    }
    object["run"] = format!("{:016x}", status.run).into();
    object
}

fn of_folder(about: &About, view: &View) -> Value {
    let About { root, file, newest, .. } = about;
    let mut object = without_values();
    let known = view.known();
    let last_row = known.rows.last();
    let step = newest.as_ref().map_or(0, |newest| newest.step);
    let last_step = file.last_step.unwrap_or(step);
    let spec = newest.as_ref().map(|newest| &newest.spec);
    let rows = known.evaluations.iter().map(|row| (row.step, &row.values));
    let best = spec.and_then(|spec| spec.evaluation()?.best(rows));
    let newest_row = spec
        .zip(last_row)
        .map(|(spec, row)| dcgan_rpc::newest_row(row, spec.batch_size(), row.step, last_step));
    for (key, value) in [
        ("run", json!(file.run)),
        ("step", step.into()),
        ("last_step", last_step.into()),
        ("checkpoint", newest.as_ref().map(|newest| newest.step).into()),
        ("digest", newest.as_ref().map(|newest| newest.digest.to_string()).into()),
        ("epoch", spec.map(|spec| spec.sharding().epoch(step)).into()),
        ("newest_row", json!(newest_row)),
        ("best", json!(best.map(dcgan_rpc::best))),
        ("directory", root.to_string_lossy().into()),
    ] {
        object[key] = value;
    }
    object
}

/// Adds the settings of the run, and what follows from them.
fn with_settings(mut object: Value, about: Option<&About>) -> Value {
    let Some((about, Newest { spec, .. })) =
        about.and_then(|about| Some((about, about.newest.as_ref()?)))
    else {
        return object;
    };
    let steps_per_epoch: Step = spec.sharding().steps_per_epoch();
    object["steps_per_epoch"] = steps_per_epoch.into();
    object["epochs"] =
        object["last_step"].as_u64().map(|last| last.div_ceil(steps_per_epoch)).into();
    let mut settings = serde_json::to_value(spec).unwrap_or_default();
    if about.has_own_evaluator {
        settings["evaluator-digest"] = "its own".into();
    }
    object["settings"] = settings;
    object
}
