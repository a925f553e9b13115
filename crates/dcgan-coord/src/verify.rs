//! Checks a run's files, and says where two runs differ first.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use dcgan_core::ids::{Digest, Step};
use dcgan_process::exit::{status, usage};
use dcgan_store::checkpoint::{Checkpoints, VerifiedCheckpoint};
use dcgan_store::run_dir::{RunPaths, read_run_file};
use dcgan_store::{metrics_log, state_file};

/// What is compared.
struct Run {
    name: String,
    lines: BTreeMap<Step, Digest>,
    checkpoints: BTreeMap<Step, VerifiedCheckpoint>,
    damaged: Vec<String>,
}

impl Run {
    fn read(root: &Path) -> anyhow::Result<Self> {
        let paths = RunPaths::new(root);
        let name = root.display().to_string();
        if read_run_file(&paths)?.is_none() {
            bail!(usage(anyhow::anyhow!("{name}: not a run directory")));
        }
        let mut damaged = Vec::new();
        let read = metrics_log::read(&paths.metrics());
        let read = read.unwrap_or_else(|error| {
            damaged.push(error.to_string());
            Vec::new()
        });
        let mut lines = BTreeMap::new();
        for line in read {
            if lines.last_key_value().is_some_and(|(&last, _)| last >= line.step) {
                damaged.push(format!(
                    "{}: the line of step {} is not in order",
                    paths.metrics().display(),
                    line.step
                ));
            }
            lines.insert(line.step, line.state_digest);
        }
        let folder = Checkpoints::new(&paths);
        let mut checkpoints = BTreeMap::new();
        for step in folder.steps().context(name.clone())? {
            match folder.load(step) {
                Ok(checkpoint) => {
                    let digest = checkpoint.manifest().state_digest;
                    if lines.get(&step).is_some_and(|&line| line != digest) {
                        damaged.push(format!(
                            "{name}: the checkpoint of step {step} is not the state of its line"
                        ));
                    }
                    checkpoints.insert(step, checkpoint);
                }
                Err(error) => damaged.push(error.to_string()),
            }
        }
        Ok(Self { name, lines, checkpoints, damaged })
    }

    /// The digest after a step, as a line or a checkpoint says.
    fn digest(&self, step: Step) -> Option<Digest> {
        let saved =
            self.checkpoints.get(&step).map(|checkpoint| checkpoint.manifest().state_digest);
        saved.or_else(|| self.lines.get(&step).copied())
    }

    fn steps(&self) -> impl Iterator<Item = Step> {
        let mut steps: Vec<Step> =
            self.lines.keys().chain(self.checkpoints.keys()).copied().collect();
        steps.sort_unstable();
        steps.dedup();
        steps.into_iter()
    }
}

/// Checks `run`, or compares it with `other`; the status says whether all is well.
pub(crate) fn run(run: &Path, other: Option<&Path>) -> anyhow::Result<u8> {
    let first = Run::read(run)?;
    let second = other.map(Run::read).transpose()?;
    let damaged: Vec<&String> =
        first.damaged.iter().chain(second.iter().flat_map(|run| &run.damaged)).collect();
    for what in &damaged {
        dcgan_process::print(&format!("{what}\n"));
    }
    let (text, same) = match &second {
        Some(second) => compare(&first, second)?,
        None => {
            let (lines, checkpoints) = (first.lines.len(), first.checkpoints.len());
            (
                format!("{}: {lines} lines and {checkpoints} checkpoints are intact", first.name),
                true,
            )
        }
    };
    dcgan_process::print(&format!("{text}\n"));
    Ok(if same && damaged.is_empty() { status::FINISHED } else { status::FAILED })
}

/// Whether two runs are intact and the same, in words.
pub(crate) fn same(run: &Path, other: &Path) -> anyhow::Result<(String, bool)> {
    let (first, second) = (Run::read(run)?, Run::read(other)?);
    match first.damaged.iter().chain(&second.damaged).next() {
        Some(what) => Ok((what.clone(), false)),
        None if first.lines.keys().ne(second.lines.keys()) => {
            Ok(("their logs have other lines".to_owned(), false))
        }
        None => compare(&first, &second),
    }
}

fn compare(one: &Run, other: &Run) -> anyhow::Result<(String, bool)> {
    let common: Vec<(Step, Digest, Digest)> = one
        .steps()
        .filter_map(|step| Some((step, one.digest(step)?, other.digest(step)?)))
        .collect();
    let Some(&(step, mine, theirs)) = common.iter().find(|(_, mine, theirs)| mine != theirs) else {
        return Ok(match common.last() {
            Some((last, digest, _)) => {
                let count = common.len();
                (
                    format!(
                        "the same at all {count} steps that both have, up to step {last} (digest {digest})"
                    ),
                    true,
                )
            }
            None => ("the runs have no step in common".to_owned(), false),
        });
    };
    let mut text = format!(
        "they differ first at step {step}: {} has {mine}, {} has {theirs}",
        one.name, other.name
    );
    let saved = |(step, ..): &&(Step, Digest, Digest)| {
        one.checkpoints.contains_key(step) && other.checkpoints.contains_key(step)
    };
    let differing = common.iter().filter(|(_, mine, theirs)| mine != theirs);
    match differing.filter(saved).map(|&(step, ..)| step).next() {
        Some(step) => {
            let tensors = |run: &Run| state_file::tensor_digests(run.checkpoints[&step].state());
            let (mine, theirs) = (tensors(one)?, tensors(other)?);
            let tensor = mine
                .iter()
                .find(|(name, digest)| theirs.get(*name) != Some(digest))
                .map(|(name, _)| name);
            text += &format!(
                "; first tensor, at step {step}: {}",
                tensor.map_or("they have other tensors", |name| name)
            );
        }
        None => {
            text += "; both have no checkpoint of a step at which they differ, so the tensor is not known"
        }
    }
    Ok((text, false))
}
