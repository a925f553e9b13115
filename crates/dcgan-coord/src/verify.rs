//! `dcgan-coord verify`: checks the files of a run, or compares two runs.
//!
//! Two runs with the same settings must have the same digest after every step, whatever happened to
//! their processes. The first step at which they differ tells where the search for a mistake
//! begins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, bail};
use dcgan_core::evaluation::EvaluationRow;
use dcgan_core::ids::{Digest, Step};
use dcgan_core::metrics::MetricsRow;
use dcgan_core::spec::InitialWeights;
use dcgan_core::words::counted;
use dcgan_process::exit::{status, usage};
use dcgan_process::output::print_result;
use dcgan_store::checkpoint::{Checkpoints, Owner};
use dcgan_store::run_dir::{RunDirError, RunFile, RunPaths, read_run_file};
use dcgan_store::{metrics_log, state_file};

use crate::initial_weights::WeightsFile;
use crate::resolve::check_evaluator;

/// The contents of a run directory.
struct Run {
    name: String,
    /// The digest after each logged step.
    rows: BTreeMap<Step, Digest>,
    /// The digest of each intact checkpoint. Their states are read again where one is needed: all
    /// of them may be more than the memory.
    checkpoints: BTreeMap<Step, Digest>,
    folder: Checkpoints,
    /// The faults of its files.
    damages: Vec<String>,
}

/// The result of a comparison.
pub(crate) struct Comparison {
    /// The result in words.
    pub(crate) text: String,
    pub(crate) same: bool,
}

/// A step that two runs have, with the digest of each.
struct CommonStep {
    step: Step,
    first: Digest,
    second: Digest,
}

/// Checks `run`, or compares it with `other`. The exit status says whether all is well.
pub(crate) fn run(run: &Path, other: Option<&Path>) -> anyhow::Result<u8> {
    let first = Run::read(run)?;
    let second = other.map(Run::read).transpose()?;
    let mut intact = true;
    for damage in [Some(&first), second.as_ref()].into_iter().flatten().flat_map(|run| &run.damages)
    {
        intact = false;
        print_result(&format!("{damage}\n"))?;
    }
    let Comparison { text, same } = match &second {
        Some(second) => compare(&first, second)?,
        None => Comparison { text: first.describe(), same: true },
    };
    print_result(&format!("{text}\n"))?;
    Ok(if same && intact { status::FINISHED } else { status::FAILED })
}

/// Compares two runs, which must have logged the same steps. Runs with damaged files are not the
/// same.
pub(crate) fn compare_whole_runs(run: &Path, other: &Path) -> anyhow::Result<Comparison> {
    let (first, second) = (Run::read(run)?, Run::read(other)?);
    if let Some(damage) = first.damages.iter().chain(&second.damages).next() {
        return Ok(Comparison { text: damage.clone(), same: false });
    }
    if first.rows.keys().ne(second.rows.keys()) {
        return Ok(Comparison { text: "they have logged different steps".to_owned(), same: false });
    }
    compare(&first, &second)
}

impl Run {
    /// Reads and checks the files of a run.
    fn read(root: &Path) -> anyhow::Result<Self> {
        let paths = RunPaths::new(root);
        let name = root.display().to_string();
        let Some(RunFile { run, fingerprint, .. }) = read_run_file(&paths)? else {
            bail!(usage(RunDirError::no_run(root)));
        };
        let owner = Owner { run: Some(run), fingerprint, spec: None };
        let mut run = Self {
            name,
            rows: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            folder: Checkpoints::new(&paths).of_run(owner),
            damages: Vec::new(),
        };
        run.read_rows(&paths);
        run.read_evaluations(&paths);
        run.damages.extend(check_evaluator(&paths).err().map(|error| error.to_string()));
        run.read_checkpoints(&paths)?;
        Ok(run)
    }

    fn read_rows(&mut self, paths: &RunPaths) {
        let rows: Vec<MetricsRow> = match metrics_log::read(&paths.metrics()) {
            Ok(rows) => rows,
            Err(error) => return self.damages.push(error.to_string()),
        };
        for row in rows {
            if self.rows.last_key_value().is_some_and(|(&last, _)| last >= row.step) {
                self.damages.push(format!(
                    "{}: the line of step {} is not in order",
                    paths.metrics().display(),
                    row.step
                ));
            }
            self.rows.insert(row.step, row.state_digest);
        }
    }

    /// Checks that each state was evaluated once, and that it is the state of its line.
    fn read_evaluations(&mut self, paths: &RunPaths) {
        let path = paths.evaluations();
        let rows: Vec<EvaluationRow> = match metrics_log::read(&path) {
            Ok(rows) => rows,
            Err(error) => return self.damages.push(error.to_string()),
        };
        let mut steps = BTreeSet::new();
        for EvaluationRow { step, state_digest, .. } in rows {
            let is_logged = self.rows.get(&step).is_none_or(|&logged| logged == state_digest);
            if !steps.insert(step) || !is_logged {
                self.damages.push(format!(
                    "{}: the evaluation of step {step} is there twice, or of another state",
                    path.display()
                ));
            }
        }
    }

    fn read_checkpoints(&mut self, paths: &RunPaths) -> anyhow::Result<()> {
        let mut initial_weights = InitialWeights::Seed;
        for step in self.folder.steps().context(self.name.clone())? {
            // A run that goes on may have removed or replaced it meanwhile.
            let checkpoint = match self.folder.load(step).or_else(|_| self.folder.load(step)) {
                Ok(checkpoint) => checkpoint,
                Err(_) if !self.folder.steps()?.contains(&step) => continue,
                Err(error) => {
                    self.damages.push(error.to_string());
                    continue;
                }
            };
            initial_weights = checkpoint.manifest().config.initial_weights();
            let digest = checkpoint.manifest().state_digest;
            if self.rows.get(&step).is_some_and(|&logged| logged != digest) {
                self.damages.push(format!(
                    "{}: the checkpoint of step {step} is not the state of its line",
                    self.name
                ));
            }
            self.checkpoints.insert(step, digest);
        }
        if let InitialWeights::File(digest) = initial_weights {
            let damage = WeightsFile::of_run(paths, digest).err();
            self.damages.extend(damage.map(|error| format!("{error:#}")));
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let (rows, checkpoints) = (self.rows.len(), self.checkpoints.len());
        if rows + checkpoints == 0 && self.damages.is_empty() {
            return format!("{}: nothing to check: the run has saved nothing yet", self.name);
        }
        let (rows, checkpoints) = (counted(rows, "line"), counted(checkpoints, "checkpoint"));
        format!("{}: {rows} and {checkpoints} are intact", self.name)
    }

    /// The digest after a step, from its checkpoint or else from its row.
    fn digest(&self, step: Step) -> Option<Digest> {
        self.checkpoints.get(&step).or_else(|| self.rows.get(&step)).copied()
    }

    /// All steps with a row or a checkpoint, in order.
    fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> =
            self.rows.keys().chain(self.checkpoints.keys()).copied().collect();
        steps.sort_unstable();
        steps.dedup();
        steps
    }
}

impl CommonStep {
    fn is_same(&self) -> bool {
        self.first == self.second
    }
}

/// The steps that both runs have, in order.
fn common_steps(first: &Run, second: &Run) -> Vec<CommonStep> {
    let mut common = Vec::new();
    for step in first.steps() {
        if let (Some(first), Some(second)) = (first.digest(step), second.digest(step)) {
            common.push(CommonStep { step, first, second });
        }
    }
    common
}

fn compare(first: &Run, second: &Run) -> anyhow::Result<Comparison> {
    let common = common_steps(first, second);
    let Some(last) = common.last() else {
        return Ok(Comparison { text: "the runs have no step in common".to_owned(), same: false });
    };
    let Some(differing) = common.iter().find(|step| !step.is_same()) else {
        let (steps, CommonStep { step, first: digest, .. }) =
            (counted(common.len(), "recorded step"), last);
        let mut text = format!("the same at all {steps}, up to step {step} (digest {digest})");
        for Run { name, rows, checkpoints, .. } in [first, second] {
            let ends = rows.keys().chain(checkpoints.keys()).max();
            if let Some(end) = ends.filter(|end| *end > step) {
                text += &format!("; {name} goes on to step {end}");
            }
        }
        return Ok(Comparison { text, same: true });
    };
    let text = format!(
        "they differ first at step {}: {} has {}, {} has {}; {}",
        differing.step,
        first.name,
        differing.first,
        second.name,
        differing.second,
        first_differing_tensor(first, second, &common)?
    );
    Ok(Comparison { text, same: false })
}

/// Names the first tensor that differs, at the first differing step of which both runs have the
/// state.
fn first_differing_tensor(
    first: &Run,
    second: &Run,
    common: &[CommonStep],
) -> anyhow::Result<String> {
    for CommonStep { step, .. } in common.iter().filter(|step| !step.is_same()) {
        if [first, second].iter().any(|run| !run.checkpoints.contains_key(step)) {
            continue;
        }
        let one = state_file::tensor_digests(first.folder.load(*step)?.state())?;
        let other = state_file::tensor_digests(second.folder.load(*step)?.state())?;
        let differing = one.iter().find(|(name, digest)| other.get(*name) != Some(digest));
        let tensor = match differing {
            Some((name, _)) => name,
            None => "they have other tensors",
        };
        return Ok(format!("first tensor, at step {step}: {tensor}"));
    }
    Ok("both have no checkpoint of a step at which they differ, so the tensor is not known"
        .to_owned())
}
