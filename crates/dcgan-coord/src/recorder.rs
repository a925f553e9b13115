//! The run directory of a running coordinator. Each function that writes returns when the file is
//! durable, so the driver may tell others of it at once.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

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

/// The names of the generator's tensors begin with this.
const GENERATOR_PREFIX: &str = "generator.";

/// An open run directory.
pub(crate) struct Recorder {
    dir: RunDir,
    run: RunFile,
    metrics: MetricsLog,
    checkpoints: Checkpoints,
    spec: RunSpec,
    keep_checkpoints: usize,
    /// Steps whose generators are kept until their grids are drawn.
    pending_grids: BTreeSet<Step>,
}

impl Recorder {
    /// Opens the run directory of `config`, or creates it. Returns also what it holds already.
    ///
    /// # Errors
    /// If it cannot be written, belongs to something else, or is damaged.
    pub(crate) fn open(
        root: &Path,
        config: &RunConfig,
        config_text: &str,
    ) -> anyhow::Result<(Self, PersistedOutputs)> {
        let (dir, run) = RunDir::open(root)?;
        // The configuration is written before `run.json`: a directory that says which run it
        // belongs to always has the settings of that run.
        dir.save_config(config_text)?;
        let run = match run {
            // An older version must not read what this one adds to the directory.
            Some(older) if older.format < FORMAT => {
                save_run(&dir, RunFile { format: FORMAT, ..older })?
            }
            Some(run) => run,
            None => new_run(&dir)?,
        };
        let (metrics, rows) = MetricsLog::open(&dir.paths().metrics())?;
        let (drawn, pending) = dir.grids()?;
        let recorder = Self {
            checkpoints: Checkpoints::new(dir.paths()),
            pending_grids: pending.iter().copied().collect(),
            dir,
            run,
            metrics,
            spec: config.spec.clone(),
            keep_checkpoints: config.keep_checkpoints,
        };
        let persisted = PersistedOutputs {
            rows: rows.into_iter().map(|row| (row.step, row.state_digest)).collect(),
            checkpoint: recorder.newest_checkpoint()?,
            grids: drawn.into_iter().chain(pending).collect(),
        };
        Ok((recorder, persisted))
    }

    /// The newest intact checkpoint. Logs the newer ones that are damaged.
    ///
    /// # Errors
    /// If the folder of checkpoints cannot be read.
    pub(crate) fn newest_checkpoint(&self) -> anyhow::Result<Option<SavedCheckpoint>> {
        let folder = self.dir.paths().checkpoints();
        let (newest, damaged) =
            self.checkpoints.newest().with_context(|| folder.display().to_string())?;
        for damaged in damaged {
            tracing::warn!(
                event = "checkpoint_skipped",
                path = %damaged.path().display(),
                "skipping a damaged checkpoint: {damaged}"
            );
        }
        Ok(newest.map(|checkpoint| {
            let Manifest { step, state_digest: digest, window, .. } = checkpoint.manifest().clone();
            SavedCheckpoint { step, digest, window }
        }))
    }

    /// The path of the directory.
    pub(crate) fn root(&self) -> &Path {
        self.dir.paths().root()
    }

    /// The folder of the local processes' logs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.dir.paths().logs()
    }

    /// The contents of `run.json`.
    pub(crate) fn run(&self) -> &RunFile {
        &self.run
    }

    /// The folder of checkpoints, for readers.
    pub(crate) fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }

    /// The steps whose grids are not drawn yet.
    pub(crate) fn pending_grids(&self) -> &BTreeSet<Step> {
        &self.pending_grids
    }

    /// Saves a plan, and the fingerprint of the run's arithmetic.
    pub(crate) fn store_plan(&mut self, plan: &Plan, fingerprint: &str) -> anyhow::Result<()> {
        self.run.plan = Some(plan.clone());
        self.run.fingerprint = Some(fingerprint.to_owned());
        Ok(self.dir.save_run(&self.run)?)
    }

    /// Appends a row to the metrics log.
    pub(crate) fn append_row(&mut self, row: &MetricsRow) -> anyhow::Result<()> {
        Ok(self.metrics.append(row)?)
    }

    /// Saves a checkpoint, and removes the oldest ones that are too many. `bytes` is its state, as
    /// a safetensors file.
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
        self.checkpoints
            .save(&manifest, bytes)
            .and_then(|()| self.checkpoints.prune(self.keep_checkpoints, step))
            .with_context(|| format!("cannot save the checkpoint of step {step}"))
    }

    /// Saves the generator of a state until its grid is drawn. `state` is a safetensors file.
    pub(crate) fn save_pending_grid(&mut self, step: Step, state: &[u8]) -> anyhow::Result<()> {
        let generator = state_file::subset(state, GENERATOR_PREFIX)?;
        self.dir.save_pending_grid(step, &generator)?;
        self.pending_grids.insert(step);
        Ok(())
    }

    /// Saves a grid. If several samplers draw the same one, the first is kept.
    pub(crate) fn save_grid(&mut self, step: Step, png: &[u8]) -> anyhow::Result<()> {
        if self.pending_grids.contains(&step) {
            self.dir.save_grid(step, png)?;
            self.pending_grids.remove(&step);
        }
        Ok(())
    }

    /// The generator of a pending grid, as a safetensors file.
    pub(crate) fn pending_generator(&self, step: Step) -> anyhow::Result<Vec<u8>> {
        Ok(self.dir.pending_grid(step)?)
    }

    /// The generator in the checkpoint of a step, as a safetensors file.
    pub(crate) fn checkpoint_generator(&self, step: Step) -> anyhow::Result<Vec<u8>> {
        let checkpoint = self.checkpoints.load(step)?;
        Ok(state_file::subset(checkpoint.state(), GENERATOR_PREFIX)?)
    }
}

/// Gives an empty run directory an identity, and saves it.
fn new_run(dir: &RunDir) -> anyhow::Result<RunFile> {
    // The identity only tells runs apart, so the random keys of a hasher are random enough.
    let id = RunId(RandomState::new().hash_one(dir.paths().root()));
    save_run(dir, RunFile { format: FORMAT, run: id, fingerprint: None, plan: None })
}

fn save_run(dir: &RunDir, run: RunFile) -> anyhow::Result<RunFile> {
    dir.save_run(&run)?;
    Ok(run)
}
