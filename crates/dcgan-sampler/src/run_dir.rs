//! The generator of a checkpoint.

use std::path::Path;

use anyhow::{Context, bail};
use dcgan_core::ids::Step;
use dcgan_model::Generator;
use dcgan_process::exit::usage;
use dcgan_store::checkpoint::{Checkpoints, VerifiedCheckpoint};
use dcgan_store::run_dir::{RunPaths, read_run_file};

use crate::args::{Weights, Which};
use crate::newest::Source;

/// Opens the checkpoints of a run directory.
///
/// # Errors
/// If it is not one.
pub(crate) fn checkpoints(root: &Path) -> anyhow::Result<Checkpoints> {
    let paths = RunPaths::new(root);
    if read_run_file(&paths)?.is_none() {
        bail!(usage(anyhow::anyhow!(
            "{}: not a run directory: there is no run.json",
            root.display()
        )));
    }
    Ok(Checkpoints::new(&paths))
}

/// The generator that was asked for.
///
/// # Errors
/// If there is none, or it is damaged.
pub(crate) fn load(which: &Which) -> anyhow::Result<Source> {
    if which.weights == Weights::Ema {
        bail!(usage(anyhow::anyhow!(
            "--weights ema: checkpoints of this version hold no moving average; use raw"
        )));
    }
    let checkpoints = checkpoints(&which.run)?;
    let checkpoint = match which.checkpoint {
        Some(step) if !checkpoints.steps()?.contains(&step) => {
            let steps: Vec<String> = checkpoints.steps()?.iter().map(Step::to_string).collect();
            let there = if steps.is_empty() { "none".to_owned() } else { steps.join(", ") };
            bail!(usage(anyhow::anyhow!("--checkpoint {step}: there is none; there are: {there}")));
        }
        Some(step) => checkpoints.load(step)?,
        None => newest(&checkpoints, &which.run)?.with_context(|| {
            format!(
                "{}: there is no checkpoint yet; the run saves one every epoch by default",
                which.run.display()
            )
        })?,
    };
    source(&checkpoint)
}

/// The newest intact checkpoint; says which are damaged.
pub(crate) fn newest(
    checkpoints: &Checkpoints,
    root: &Path,
) -> anyhow::Result<Option<VerifiedCheckpoint>> {
    let (newest, damaged) = checkpoints.newest().with_context(|| root.display().to_string())?;
    for damaged in damaged {
        tracing::warn!("skipping a damaged checkpoint: {damaged}");
    }
    Ok(newest)
}

/// What a checkpoint draws with.
pub(crate) fn source(checkpoint: &VerifiedCheckpoint) -> anyhow::Result<Source> {
    let manifest = checkpoint.manifest();
    let generator = Generator::from_file(checkpoint.state())
        .with_context(|| format!("the checkpoint of step {}", manifest.step))?;
    Ok(Source { step: manifest.step, seed: manifest.config.seed, generator })
}
