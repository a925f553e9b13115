//! The run directory of a running coordinator: one half writes, on a thread of its own, and one
//! half reads.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

use anyhow::Context;
use dcgan_core::evaluation::EvaluationRow;
use dcgan_core::ids::{RunId, Step};
use dcgan_core::metrics::{MetricsRow, NamedMetrics};
use dcgan_core::protocol::coordinator::{PersistedOutputs, SavedCheckpoint, Write};
use dcgan_core::protocol::plan::Plan;
use dcgan_core::spec::RunSpec;
use dcgan_core::spec::schedule::Schedule;
use dcgan_core::state::digest;
use dcgan_store::address_file::AddressFile;
use dcgan_store::checkpoint::{Checkpoints, Damaged, Manifest, Owner, WatchedCheckpoint};
use dcgan_store::evaluator_file::EvaluatorFile;
use dcgan_store::metrics_log::{self, MetricsLog};
use dcgan_store::run_dir::{Ended, FORMAT, Grids, RunDir, RunFile, RunPaths, read_pending_grid};
use dcgan_store::state_file;

use crate::config::RunConfig;
use crate::initial_weights::WeightsFile;
use crate::newest_checkpoint::GENERATOR_PREFIXES;

/// So many checkpoints are kept until they are evaluated. Workers keep as many snapshots, so that
/// no more evaluations can be still to come. Mostly there is one at most.
const PENDING_MAX: usize = 16;

/// A run directory that was opened, and what it holds already.
pub(crate) struct OpenedRun {
    pub(crate) recorder: Recorder,
    pub(crate) files: RunFiles,
    pub(crate) run: RunFile,
    /// True if the last start has ended with all its workers.
    pub(crate) are_workers_over: bool,
    pub(crate) persisted: PersistedOutputs,
    /// Steps whose generators are kept until their grids are drawn.
    pub(crate) pending_grids: BTreeSet<Step>,
}

/// Opens the run directory of `config`, or creates it.
///
/// # Errors
/// If it cannot be written, belongs to something else, or is damaged.
pub(crate) fn open(
    root: &Path,
    config: &RunConfig,
    config_text: &str,
    initial_weights: Option<&WeightsFile>,
    evaluator: Option<&EvaluatorFile>,
) -> anyhow::Result<OpenedRun> {
    let (mut dir, run) = RunDir::open(root)?;
    if let Some(weights) = initial_weights {
        dir.save_initial_weights(&weights.bytes)?;
    }
    let is_new = run.is_none();
    let paths = dir.paths().clone();
    let owner = Owner { spec: Some(config.spec.clone()), ..Owner::default() };
    let ended = run.as_ref().and_then(|run| run.ended.as_ref());
    let are_workers_over = ended.is_some_and(|ended| ended.workers_over);
    let run = match run {
        Some(run) => {
            // The end of an earlier start is not that of this one, and an older version must not
            // read what this one adds to the directory.
            save_run(&mut dir, RunFile { format: FORMAT, ended: None, ..run })?
        }
        None => {
            // The configuration is written before `run.json`: a directory that says which run it
            // belongs to always has the settings of that run.
            save_settings(&mut dir, config_text, evaluator)?;
            new_run(&mut dir, &Checkpoints::new(&paths).of_run(owner.clone()))?
        }
    };
    let owner = Owner { run: Some(run.run), fingerprint: run.fingerprint.clone(), ..owner };
    let checkpoints = Checkpoints::new(&paths).of_run(owner);
    let (metrics, rows) = MetricsLog::<MetricsRow>::open(&dir.paths().metrics())?;
    let shards = config.spec.shards();
    if let Some(plan) = run.plan.as_ref().filter(|plan| plan.shards() != shards) {
        let found = plan.shards();
        let root = root.display();
        anyhow::bail!(
            "{root}/run.json: its plan has {found} shards, and the run has {shards}; the file was \
             changed: restore it, or choose another --out"
        );
    }
    // A run without evaluations has no file for them, but it may have had some before.
    let path = dir.paths().evaluations();
    let (evaluations, evaluated) = match config.schedule.evaluate_every {
        Some(_) => {
            let (log, rows) = MetricsLog::<EvaluationRow>::open(&path)?;
            (Some(log), rows)
        }
        None => (None, metrics_log::read(&path)?),
    };
    let evaluated: BTreeMap<Step, NamedMetrics> =
        evaluated.into_iter().map(|EvaluationRow { step, values, .. }| (step, values)).collect();
    let Grids { drawn, pending } = dir.grids()?;
    let files = RunFiles { checkpoints, paths };
    let persisted = PersistedOutputs {
        rows: rows.into_iter().map(|row| (row.step, row.state_digest)).collect(),
        checkpoint: files.checkpoint_to_go_on_from(&config.schedule, &evaluated)?,
        grids: drawn.into_iter().chain(pending.iter().copied()).collect(),
        evaluations: evaluated.clone(),
    };
    // A start that has nothing to do is no reason to remember its settings.
    let done = persisted.checkpoint.as_ref().map_or(0, |saved| saved.step);
    if !is_new && done < config.schedule.last_step {
        save_settings(&mut dir, config_text, evaluator)?;
    }
    let recorder = Recorder {
        dir,
        run: run.clone(),
        metrics,
        evaluations,
        newest: persisted.checkpoint.as_ref().map(|saved| files.checkpoints.watch(saved.step)),
        checkpoints: files.checkpoints.clone(),
        spec: config.spec.clone(),
        schedule: config.schedule,
        evaluated,
        keep_checkpoints: config.keep_checkpoints,
        cleanup_error: None,
    };
    Ok(OpenedRun { recorder, files, run, are_workers_over, persisted, pending_grids: pending })
}

/// Saves the configuration, and before it the evaluator whose digest it has.
fn save_settings(
    dir: &mut RunDir,
    config_text: &str,
    evaluator: Option<&EvaluatorFile>,
) -> anyhow::Result<()> {
    if let Some(evaluator) = evaluator {
        dir.save_evaluator(evaluator)?;
    }
    Ok(dir.save_config(config_text)?)
}

/// Logs the checkpoints that are skipped for an older one.
pub(crate) fn warn_of_skipped(damaged: &[Damaged]) {
    for damaged in damaged {
        tracing::warn!(
            event = "checkpoint_skipped",
            path = %damaged.path().display(),
            "skipping a checkpoint: {damaged}"
        );
    }
}

/// Gives a run directory without `run.json` an identity, and saves it: that of its checkpoints, if
/// there are any, because they belong to no other run.
fn new_run(dir: &mut RunDir, checkpoints: &Checkpoints) -> anyhow::Result<RunFile> {
    let (newest, _) = checkpoints.newest()?;
    let (id, fingerprint) = match newest {
        Some(checkpoint) => {
            let Manifest { run, step, fingerprint, .. } = checkpoint.manifest().clone();
            tracing::warn!(
                event = "identity_restored",
                %run,
                step,
                "run.json was missing; this is run {run}, as the checkpoint of step {step} says"
            );
            (run, Some(fingerprint))
        }
        // The identity only tells runs apart, so the random keys of a hasher are random enough.
        None => (RunId(RandomState::new().hash_one(dir.paths().root())), None),
    };
    save_run(dir, RunFile { fingerprint, ..RunFile::new(id) })
}

fn save_run(dir: &mut RunDir, run: RunFile) -> anyhow::Result<RunFile> {
    dir.save_run(&run)?;
    Ok(run)
}

/// The half that writes. Each function returns when the file is durable, which may take long.
pub(crate) struct Recorder {
    dir: RunDir,
    run: RunFile,
    metrics: MetricsLog<MetricsRow>,
    /// None if the run has no evaluations.
    evaluations: Option<MetricsLog<EvaluationRow>>,
    checkpoints: Checkpoints,
    /// The newest checkpoint, as long as it is intact.
    newest: Option<WatchedCheckpoint>,
    spec: RunSpec,
    schedule: Schedule,
    /// The evaluations on disk.
    evaluated: BTreeMap<Step, NamedMetrics>,
    keep_checkpoints: usize,
    /// Why old checkpoints could not be removed, once it is said.
    cleanup_error: Option<String>,
}

impl Recorder {
    /// Does a write of the machine.
    pub(crate) fn write(&mut self, write: &Write) -> anyhow::Result<()> {
        match write {
            Write::Plan { plan, fingerprint } => self.store_plan(plan, fingerprint),
            Write::Rows(rows) => self.append_rows(rows),
            Write::Checkpoint { saved, bytes } => self.save_checkpoint(saved, bytes),
            Write::Evaluation(row) => self.append_evaluation(row),
            Write::PendingGrid { step, bytes } => self.save_pending_grid(*step, bytes),
        }
        .with_context(|| format!("cannot write {write}"))
    }

    /// Says in the directory at which address the coordinator listens, and with which arguments the
    /// run goes on as it was started now.
    pub(crate) fn publish_address(
        &mut self,
        address: &str,
        resume: &str,
    ) -> anyhow::Result<AddressFile> {
        self.run.address = Some(address.to_owned());
        self.run.resume = Some(resume.to_owned());
        self.run.last_step = Some(self.schedule.last_step);
        self.dir.save_run(&self.run)?;
        Ok(self.dir.publish_address(address)?)
    }

    /// Records how this start has ended.
    pub(crate) fn save_end(&mut self, ended: &Ended) -> anyhow::Result<()> {
        self.run.ended = Some(ended.clone());
        Ok(self.dir.save_run(&self.run)?)
    }

    /// Restores what others have removed or changed in the directory, and says so.
    ///
    /// # Errors
    /// If the directory cannot be written, or is not this run's any more.
    pub(crate) fn restore(&mut self) -> anyhow::Result<()> {
        let mut names = self.dir.restore()?;
        let mut restore = |is_restored: bool, name: &str| {
            names.extend(is_restored.then(|| name.to_owned()));
        };
        restore(self.metrics.restore()?, "metrics.jsonl");
        if let Some(evaluations) = &mut self.evaluations {
            restore(evaluations.restore()?, "evaluations.jsonl");
        }
        if !names.is_empty() {
            let (root, names) = (self.dir.paths().root().display(), names.join(", "));
            tracing::warn!(
                event = "files_restored",
                names,
                "{root}: somebody has removed or changed these, and they are written again with \
                 what is known: {names}"
            );
        }
        Ok(())
    }

    /// Returns whether others have removed or damaged the newest checkpoint, once, and says so.
    pub(crate) fn lost_newest_checkpoint(&mut self) -> bool {
        let Some(newest) = &mut self.newest else {
            return false;
        };
        let Some(damage) = self.checkpoints.damage_of(newest) else {
            return false;
        };
        let step = newest.step();
        tracing::warn!(
            event = "checkpoint_damaged",
            step,
            "the newest checkpoint is damaged, and another one is taken: {damage}"
        );
        self.newest = None;
        true
    }

    /// Saves a plan, and the fingerprint of the run's arithmetic.
    fn store_plan(&mut self, plan: &Plan, fingerprint: &str) -> anyhow::Result<()> {
        self.run.plan = Some(plan.clone());
        self.run.fingerprint = Some(fingerprint.to_owned());
        Ok(self.dir.save_run(&self.run)?)
    }

    /// Appends rows to the metrics log.
    fn append_rows(&mut self, rows: &[MetricsRow]) -> anyhow::Result<()> {
        Ok(self.metrics.append(rows)?)
    }

    /// Appends the result of an evaluation to its log.
    fn append_evaluation(&mut self, row: &EvaluationRow) -> anyhow::Result<()> {
        let log = self.evaluations.as_mut().context("the run has no evaluations")?;
        log.append(std::slice::from_ref(row))?;
        self.evaluated.insert(row.step, row.values.clone());
        Ok(())
    }

    /// Saves a checkpoint, and removes the oldest ones that are too many. `bytes` is its state, as
    /// a safetensors file.
    fn save_checkpoint(&mut self, saved: &SavedCheckpoint, bytes: &[u8]) -> anyhow::Result<()> {
        let SavedCheckpoint { step, digest: state_digest, window, ends_run } = saved.clone();
        let manifest = Manifest {
            format: FORMAT,
            run: self.run.run,
            step,
            state_digest,
            file_digest: digest::of_bytes(bytes),
            file_bytes: bytes.len() as u64,
            config: self.spec.clone(),
            fingerprint: self.run.fingerprint.clone().unwrap_or_default(),
            window,
            ends_run,
        };
        if let Some(what) = self.checkpoints.save(&manifest, bytes)? {
            tracing::warn!(
                event = "checkpoint_replaced",
                step,
                "the checkpoint of step {step} replaces another one, which is removed: {what}"
            );
        }
        if self.newest.as_ref().is_none_or(|newest| newest.step() <= step) {
            self.newest = Some(self.checkpoints.watch(step));
        }
        self.remove_old_checkpoints(step);
        Ok(())
    }

    /// Removes the oldest checkpoints that are too many. The newest one is there, and old ones that
    /// stay only take room. So an error is not one of the run, and it is said once.
    fn remove_old_checkpoints(&mut self, newest: Step) {
        let also = self.kept_for_evaluations();
        let result = self.checkpoints.prune(self.keep_checkpoints, newest, &also);
        let error = result.err().map(|error| error.to_string());
        if let Some(error) = &error
            && self.cleanup_error.as_ref() != Some(error)
        {
            let folder = self.dir.paths().checkpoints();
            tracing::warn!(
                event = "cleanup_failed",
                path = %folder.display(),
                "{}: old checkpoints cannot be removed: {error}",
                folder.display()
            );
        }
        self.cleanup_error = error;
    }

    /// The steps whose checkpoints are kept however old they are: that of the best evaluation, and
    /// the newest ones whose evaluations have not come yet, because each of them may be the best.
    fn kept_for_evaluations(&self) -> BTreeSet<Step> {
        let evaluated = self.evaluated.iter().map(|(&step, values)| (step, values));
        let best = self.spec.evaluation().and_then(|info| info.best(evaluated));
        // An evaluation that is overtaken by a later one was given up.
        let last = self.evaluated.keys().next_back().copied().unwrap_or(0);
        // What cannot be read now is kept the next time, and `prune` says what is wrong.
        let steps = self.checkpoints.steps().unwrap_or_default();
        // With early stopping, a start may have to go on before an evaluation that is not known.
        let newest = steps.last().and_then(|&newest| self.schedule.verdict_before(newest));
        let undecided = newest.filter(|step| !self.evaluated.contains_key(step));
        let before = undecided
            .and_then(|undecided| steps.iter().rev().find(|&&step| step <= undecided).copied());
        let pending = steps
            .into_iter()
            .rev()
            .filter(|&step| step > last && self.schedule.evaluation_due(step));
        let best = best.map(|best| best.step);
        best.into_iter().chain(before).chain(pending.take(PENDING_MAX)).collect()
    }

    /// Saves the generator of a state until its grid is drawn. `state` is a safetensors file.
    pub(crate) fn save_pending_grid(&mut self, step: Step, state: &[u8]) -> anyhow::Result<()> {
        let generator = state_file::subset(state, &GENERATOR_PREFIXES)?;
        Ok(self.dir.save_pending_grid(step, &generator)?)
    }

    /// Saves a grid, as a PNG file, and removes its generator.
    pub(crate) fn save_grid(&mut self, step: Step, png: &[u8]) -> anyhow::Result<()> {
        Ok(self.dir.save_grid(step, png)?)
    }
}

/// The half that reads. What it reads never changes, but may be removed.
#[derive(Clone)]
pub(crate) struct RunFiles {
    paths: RunPaths,
    checkpoints: Checkpoints,
}

impl RunFiles {
    /// The path of the directory.
    pub(crate) fn root(&self) -> &Path {
        self.paths.root()
    }

    /// The folder of the local processes' logs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.paths.logs()
    }

    /// The folder of checkpoints.
    pub(crate) fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }

    /// The checkpoint from which a run goes on: the newest intact one, or with early stopping the
    /// newest one before an evaluation that is not on disk and decides whether the run goes on.
    ///
    /// Nobody trains far beyond such an evaluation, so only the last one before the checkpoint can
    /// be missing because of an end. If it is missing for another reason (somebody has removed the
    /// file, or early stopping is new), there may be no checkpoint before it, and it counts for
    /// nothing.
    ///
    /// # Errors
    /// If the folder of checkpoints cannot be read.
    fn checkpoint_to_go_on_from(
        &self,
        schedule: &Schedule,
        evaluated: &BTreeMap<Step, NamedMetrics>,
    ) -> anyhow::Result<Option<SavedCheckpoint>> {
        let newest = self.newest_checkpoint(Step::MAX)?;
        // A state that ends the run is the last one, whatever evaluations say.
        let goes_on = newest.as_ref().filter(|saved| !saved.ends_run);
        let step = goes_on.map_or(0, |saved| saved.step);
        let undecided = schedule.verdict_before(step);
        let Some(undecided) = undecided.filter(|step| !evaluated.contains_key(step)) else {
            return Ok(newest);
        };
        let before = self.newest_checkpoint(undecided)?;
        // Before the first evaluation there may be none yet: the run begins again.
        if before.is_none() && schedule.verdict_before(undecided).is_some() {
            return Ok(newest);
        }
        let from = before.as_ref().map_or(0, |saved| saved.step);
        tracing::info!(
            event = "resumed_earlier",
            step = from,
            "the evaluation of step {undecided} is not on disk, and decides whether the run goes \
             on: going on after step {from}, with the same bits, although step {step} is saved"
        );
        Ok(before)
    }

    /// The newest intact checkpoint up to `through`. Logs the newer ones that are damaged or
    /// another run's.
    ///
    /// # Errors
    /// If the folder of checkpoints cannot be read.
    pub(crate) fn newest_checkpoint(
        &self,
        through: Step,
    ) -> anyhow::Result<Option<SavedCheckpoint>> {
        let folder = self.paths.checkpoints();
        let newest = self.checkpoints.newest_through(through);
        let (newest, damaged) = newest.with_context(|| folder.display().to_string())?;
        warn_of_skipped(&damaged);
        Ok(newest.map(|checkpoint| {
            let manifest = checkpoint.manifest().clone();
            let Manifest { step, state_digest: digest, window, ends_run, .. } = manifest;
            SavedCheckpoint { step, digest, window, ends_run }
        }))
    }

    /// The generator of a pending grid, as a safetensors file.
    pub(crate) fn pending_generator(&self, step: Step) -> anyhow::Result<Vec<u8>> {
        Ok(read_pending_grid(&self.paths, step)?)
    }
}
