//! Generators from the checkpoints of a run directory.

use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, anyhow, bail};
use dcgan_core::ids::Step;
use dcgan_model::Weights;
use dcgan_process::exit::usage;
use dcgan_process::names;
use dcgan_store::checkpoint::{Checkpoints, Damaged, Owner, VerifiedCheckpoint};
use dcgan_store::run_dir::{RunDirError, RunFile, RunPaths, is_in_use, read_run_file};

use crate::args::Which;
use crate::newest::RunGenerator;

/// Opens the checkpoints of a run directory.
///
/// # Errors
/// If the folder is not a run directory.
pub(crate) fn checkpoints(root: &Path) -> anyhow::Result<Checkpoints> {
    let paths = RunPaths::new(root);
    let Some(RunFile { run, fingerprint, .. }) = read_run_file(&paths)? else {
        bail!(usage(RunDirError::no_run(root)));
    };
    let owner = Owner { run: Some(run), fingerprint, spec: None };
    Ok(Checkpoints::new(&paths).of_run(owner))
}

/// The time at which the folder of checkpoints was last changed, if it can be told.
pub(crate) fn modified(root: &Path) -> Option<SystemTime> {
    std::fs::metadata(RunPaths::new(root).checkpoints()).ok()?.modified().ok()
}

/// Loads the generator that the command line selects.
///
/// # Errors
/// If there is no such checkpoint, or it is damaged.
pub(crate) fn load(which: &Which) -> anyhow::Result<RunGenerator> {
    let checkpoint = checkpoint(&which.run, which.checkpoint)?;
    generator(&checkpoint, which.weights.map(Into::into))
}

/// Loads the checkpoint of a step, or else the newest one.
///
/// # Errors
/// If there is no such checkpoint, or it is damaged.
pub(crate) fn checkpoint(root: &Path, step: Option<Step>) -> anyhow::Result<VerifiedCheckpoint> {
    let checkpoints = checkpoints(root).context("--run")?;
    match step {
        Some(step) => {
            check_exists(&checkpoints, step)?;
            Ok(checkpoints.load(step)?)
        }
        None => newest(&checkpoints, root)?.with_context(|| no_checkpoint(root)),
    }
}

/// Says that a run has no checkpoint, and how it gets one.
fn no_checkpoint(root: &Path) -> String {
    let (paths, run) = (RunPaths::new(root), names::quoted(&root.to_string_lossy()));
    let (root, coordinator) = (root.display(), names::called_beside("dcgan-coord"));
    if is_in_use(&paths) {
        return format!(
            "{root}: there is no checkpoint yet; the run saves one every 30 s by default, and \
             `{coordinator} checkpoint --run {run}` takes one now"
        );
    }
    let resume = read_run_file(&paths).ok().flatten().and_then(|file| file.resume);
    let resume = resume.unwrap_or_else(|| "--local".to_owned());
    format!(
        "{root}: there is no checkpoint: the run has ended before its first one; `{coordinator} \
         --out {run} {resume}` begins it again"
    )
}

/// Checks that a step has a checkpoint, intact or not.
fn check_exists(checkpoints: &Checkpoints, step: Step) -> anyhow::Result<()> {
    let steps = checkpoints.steps()?;
    if steps.contains(&step) {
        return Ok(());
    }
    let existing = match &*steps {
        [] => "none".to_owned(),
        steps => steps.iter().map(Step::to_string).collect::<Vec<_>>().join(", "),
    };
    bail!(usage(anyhow!(
        "--checkpoint {step}: there is no checkpoint of this step; there are: {existing}"
    )));
}

/// Returns the newest intact checkpoint of a run directory, if there is one, and logs which newer
/// ones are damaged or another run's.
fn newest(checkpoints: &Checkpoints, root: &Path) -> anyhow::Result<Option<VerifiedCheckpoint>> {
    let (newest, damaged) = newest_and_damaged(checkpoints, root)?;
    for damaged in damaged {
        tracing::warn!(
            event = "checkpoint_skipped",
            path = %damaged.path().display(),
            "skipping a checkpoint: {damaged}"
        );
    }
    Ok(newest)
}

/// Returns the newest intact checkpoint of a run directory, if there is one, and the newer ones.
pub(crate) fn newest_and_damaged(
    checkpoints: &Checkpoints,
    root: &Path,
) -> anyhow::Result<(Option<VerifiedCheckpoint>, Vec<Damaged>)> {
    checkpoints.newest().with_context(|| root.display().to_string())
}

/// Loads the generator of a checkpoint.
pub(crate) fn generator(
    checkpoint: &VerifiedCheckpoint,
    weights: Option<Weights>,
) -> anyhow::Result<RunGenerator> {
    let (step, seed) = (checkpoint.manifest().step, checkpoint.manifest().config.seed());
    RunGenerator::read(checkpoint.state(), weights, step, seed)
        .with_context(|| format!("the checkpoint of step {step}"))
}
