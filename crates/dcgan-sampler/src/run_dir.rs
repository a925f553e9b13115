//! Generators from the checkpoints of a run directory.

use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, anyhow, bail, ensure};
use dcgan_core::evaluation::EvaluationRow;
use dcgan_core::ids::Step;
use dcgan_core::spec::ObjectiveKind;
use dcgan_model::Weights;
use dcgan_process::exit::usage;
use dcgan_process::names;
use dcgan_store::checkpoint::{Checkpoints, Damaged, Manifest, Owner, VerifiedCheckpoint};
use dcgan_store::evaluator_file::EvaluatorFile;
use dcgan_store::metrics_log;
use dcgan_store::run_dir::{RunDirError, RunFile, RunPaths, is_in_use, read_run_file};

use crate::args::{CheckpointArg, Which};
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

/// The time at which a folder was last changed, if it can be told.
pub(crate) fn modified(folder: &Path) -> Option<SystemTime> {
    std::fs::metadata(folder).ok()?.modified().ok()
}

/// Loads the generator that the command line selects.
///
/// # Errors
/// If there is no such checkpoint, or it is damaged.
pub(crate) fn load(which: &Which) -> anyhow::Result<RunGenerator> {
    let checkpoint = checkpoint(&which.run, which.checkpoint)?;
    generator(&checkpoint, which.weights.map(Into::into))
}

/// Loads a checkpoint of a run directory.
///
/// # Errors
/// If there is no such checkpoint, or it is damaged.
pub(crate) fn checkpoint(root: &Path, which: CheckpointArg) -> anyhow::Result<VerifiedCheckpoint> {
    let checkpoints = checkpoints(root).context("--run")?;
    match which {
        CheckpointArg::Of(step) => {
            check_exists(&checkpoints, step)?;
            Ok(checkpoints.load(step)?)
        }
        CheckpointArg::Best => Ok(checkpoints.load(best(&checkpoints, root)?)?),
        CheckpointArg::Newest => newest(&checkpoints, root)?.with_context(|| no_checkpoint(root)),
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

/// Reads the evaluator that a run keeps, if it was given one.
///
/// # Errors
/// If it cannot be read, or is damaged.
pub(crate) fn evaluator(root: &Path) -> anyhow::Result<Option<EvaluatorFile>> {
    let path = RunPaths::new(root).evaluator();
    if !path.exists() {
        return Ok(None);
    }
    EvaluatorFile::read(&path).map(Some).with_context(|| path.display().to_string())
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

/// The step with the best evaluation of those that have a checkpoint.
fn best(checkpoints: &Checkpoints, root: &Path) -> anyhow::Result<Step> {
    let path = RunPaths::new(root).evaluations();
    let rows: Vec<EvaluationRow> = metrics_log::read(&path)?;
    let steps = checkpoints.steps()?;
    // Any checkpoint says what the run trains, and so which value counts.
    let (newest, _) = newest_and_damaged(checkpoints, root)?;
    let objective = newest.map(|checkpoint| checkpoint.manifest().config.objective());
    let info = objective.unwrap_or_default().evaluation();
    let best_of = |is_taken: &dyn Fn(Step) -> bool| {
        let rows = rows.iter().map(|row| (row.step, &row.values));
        info.and_then(|info| info.best(rows.filter(|(step, _)| is_taken(*step))))
    };
    let Some(best) = best_of(&|step| steps.contains(&step)) else {
        let why = match rows.len() {
            0 => "it has no evaluation",
            _ => "no checkpoint of a step that is evaluated is left",
        };
        bail!(usage(anyhow!(
            "--checkpoint best: {}: {why}, so the best checkpoint is not known; give newest or a \
             step",
            path.display()
        )));
    };
    if let Some(gone) = best_of(&|_| true).filter(|other| other.step != best.step) {
        tracing::warn!(
            event = "best_checkpoint_gone",
            step = gone.step,
            "the best evaluation is {gone}, and its checkpoint is gone: taking {best}"
        );
    }
    Ok(best.step)
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
    let Manifest { step, config, state_digest, .. } = checkpoint.manifest();
    let (step, objective) = (*step, config.objective());
    ensure!(
        objective == ObjectiveKind::Dcgan,
        usage(anyhow!(
            "the checkpoint of step {step} is of the {objective}, which draws no pictures"
        ))
    );
    let generator = RunGenerator::read(checkpoint.state(), weights, step, config.seed())
        .with_context(|| format!("the checkpoint of step {step}"))?;
    Ok(RunGenerator { digest: Some(*state_digest), ..generator })
}
