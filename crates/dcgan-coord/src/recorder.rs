//! The run directory, as the machine's commands change it. Everything is durable when a function returns.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use anyhow::Context;
use dcgan_core::ids::{RunId, Step};
use dcgan_core::metrics::MetricsRow;
use dcgan_core::protocol::coordinator::{PersistedOutputs, SavedCheckpoint};
use dcgan_core::protocol::plan::Plan;
use dcgan_core::spec::RunSpec;
use dcgan_core::state::digest;
use dcgan_store::checkpoint::{Checkpoints, Manifest};
use dcgan_store::metrics_log::MetricsLog;
use dcgan_store::run_dir::{FORMAT, RunDir, RunFile};
use dcgan_store::state_file;

use crate::config::RunConfig;

/// What a generator's tensors' names begin with.
const GENERATOR_PREFIX: &str = "generator.";

/// An open run directory.
pub(crate) struct Recorder {
    dir: RunDir,
    run: RunFile,
    metrics: MetricsLog,
    checkpoints: Checkpoints,
    spec: RunSpec,
    keep_checkpoints: usize,
    /// Grids whose generators are kept until they are drawn.
    pending_grids: BTreeSet<Step>,
}

impl Recorder {
    /// Opens the run directory of `config`, or makes it; gives what it holds of earlier times.
    ///
    /// # Errors
    /// If it cannot be written, is another's, or is damaged.
    pub(crate) fn open(
        root: &Path,
        config: &RunConfig,
        config_text: &str,
    ) -> anyhow::Result<(Self, PersistedOutputs)> {
        let (dir, run) = RunDir::open(root)?;
        // The text first: a run that is known has its configuration beside it.
        dir.save_config(config_text)?;
        let run = match run {
            Some(run) => run,
            None => {
                // Unpredictable is enough; it only tells runs apart.
                let id = RunId(RandomState::new().hash_one(root));
                let run = RunFile { format: FORMAT, run: id, fingerprint: None, plan: None };
                dir.save_run(&run)?;
                run
            }
        };
        let (metrics, lines) = MetricsLog::open(&dir.paths().metrics())?;
        let record = Self {
            checkpoints: Checkpoints::new(dir.paths()),
            pending_grids: dir.grids()?.1.into_iter().collect(),
            dir,
            run,
            metrics,
            spec: config.spec.clone(),
            keep_checkpoints: config.keep_checkpoints,
        };
        let (drawn, pending) = record.dir.grids()?;
        let persisted = PersistedOutputs {
            lines: lines.into_iter().map(|line| (line.step, line.state_digest)).collect(),
            checkpoint: record.newest_checkpoint()?,
            grids: drawn.into_iter().chain(pending).collect(),
        };
        Ok((record, persisted))
    }

    /// The newest intact checkpoint; says which newer ones are damaged.
    ///
    /// # Errors
    /// If their folder cannot be read.
    pub(crate) fn newest_checkpoint(&self) -> anyhow::Result<Option<SavedCheckpoint>> {
        let newest = self.checkpoints.newest();
        let (newest, damaged) =
            newest.with_context(|| self.dir.paths().checkpoints().display().to_string())?;
        for damaged in damaged {
            tracing::warn!("skipping a damaged checkpoint: {damaged}");
        }
        Ok(newest.map(|checkpoint| {
            let Manifest { step, state_digest: digest, window, .. } = checkpoint.manifest().clone();
            SavedCheckpoint { step, digest, window }
        }))
    }

    /// The directory.
    pub(crate) fn root(&self) -> &Path {
        self.dir.paths().root()
    }

    /// Where local processes log.
    pub(crate) fn logs(&self) -> std::path::PathBuf {
        self.dir.paths().logs()
    }

    /// What run this is.
    pub(crate) fn run(&self) -> &RunFile {
        &self.run
    }

    /// The folder of checkpoints, for readers.
    pub(crate) fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }

    /// Grids that are to be drawn.
    pub(crate) fn pending_grids(&self) -> &BTreeSet<Step> {
        &self.pending_grids
    }

    pub(crate) fn store_plan(&mut self, plan: Plan, fingerprint: String) -> anyhow::Result<()> {
        self.run.plan = Some(plan);
        self.run.fingerprint = Some(fingerprint);
        Ok(self.dir.save_run(&self.run)?)
    }

    pub(crate) fn append_line(&mut self, line: &MetricsRow) -> anyhow::Result<()> {
        Ok(self.metrics.append(line)?)
    }

    pub(crate) fn save_checkpoint(
        &mut self,
        saved: SavedCheckpoint,
        bytes: &[u8],
    ) -> anyhow::Result<()> {
        let SavedCheckpoint { step, digest: state_digest, window } = saved;
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
        };
        let failed = || format!("cannot save the checkpoint of step {step}");
        self.checkpoints.save(&manifest, bytes).with_context(failed)?;
        self.checkpoints.prune(self.keep_checkpoints, step).with_context(failed)
    }

    /// Keeps the generator of a state until its grid is drawn; gives it.
    pub(crate) fn save_pending_grid(
        &mut self,
        step: Step,
        bytes: &[u8],
    ) -> anyhow::Result<Vec<u8>> {
        let generator = state_file::subset(bytes, GENERATOR_PREFIX)?;
        self.dir.save_pending_grid(step, &generator)?;
        self.pending_grids.insert(step);
        Ok(generator)
    }

    /// Keeps a grid, if it is the first of its step.
    pub(crate) fn save_grid(&mut self, step: Step, png: &[u8]) -> anyhow::Result<()> {
        if self.pending_grids.contains(&step) {
            self.dir.save_grid(step, png)?;
            self.pending_grids.remove(&step);
        }
        Ok(())
    }

    /// The generator whose grid is to be drawn.
    pub(crate) fn pending_generator(&self, step: Step) -> anyhow::Result<Vec<u8>> {
        Ok(self.dir.pending_grid(step)?)
    }

    /// The generator of the newest checkpoint.
    pub(crate) fn newest_generator(&self, step: Step) -> anyhow::Result<Vec<u8>> {
        let checkpoint = self.checkpoints.load(step)?;
        Ok(state_file::subset(checkpoint.state(), GENERATOR_PREFIX)?)
    }
}
