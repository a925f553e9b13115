//! The directory of a run that is watched.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::SystemTime;

use dcgan_core::evaluation::EvaluationRow;
use dcgan_core::ids::{Digest, RunId, Step};
use dcgan_core::metrics::MetricsRow;
use dcgan_core::spec::RunSpec;
use dcgan_store::checkpoint::Manifest;
use dcgan_store::metrics_log::{LogTail, MetricsError, NewRows};
use dcgan_store::run_dir::{self, RunFile, RunPaths, RunState, is_in_use, read_run_file};

use crate::run_dir::{checkpoints, modified};

/// A run directory, and what was seen of it.
pub(super) struct Folder {
    paths: RunPaths,
    metrics: LogTail<MetricsRow>,
    evaluations: LogTail<EvaluationRow>,
    /// The time of the last change of the folder of grids that was seen.
    grids_modified: Option<SystemTime>,
    /// The same of the folder of checkpoints.
    checkpoints_modified: Option<SystemTime>,
    newest: Option<Newest>,
    run: Option<RunId>,
}

/// The newest checkpoint.
#[derive(Clone)]
pub(super) struct Newest {
    pub(super) step: Step,
    pub(super) digest: Digest,
    pub(super) ends_run: bool,
    pub(super) spec: RunSpec,
}

/// The findings of a look.
pub(super) struct Look {
    pub(super) rows: NewRows<MetricsRow>,
    pub(super) evaluations: NewRows<EvaluationRow>,
    /// The steps that have a grid; `None` if nothing has changed.
    pub(super) grids: Option<BTreeSet<Step>>,
    /// `None` if the directory is not one of a run any more.
    pub(super) about: Option<About>,
}

/// The run itself, as its directory tells.
pub(super) struct About {
    pub(super) root: PathBuf,
    pub(super) file: RunFile,
    pub(super) state: RunState,
    pub(super) newest: Option<Newest>,
    pub(super) has_own_evaluator: bool,
}

impl About {
    /// Returns whether a coordinator uses the directory.
    pub(super) fn is_in_use(&self) -> bool {
        self.state == RunState::Running
    }
}

impl Folder {
    pub(super) fn new(root: PathBuf) -> Self {
        let paths = RunPaths::new(root);
        Self {
            metrics: LogTail::new(paths.metrics()),
            evaluations: LogTail::new(paths.evaluations()),
            paths,
            grids_modified: None,
            checkpoints_modified: None,
            newest: None,
            run: None,
        }
    }

    /// The run of the directory, once it is known.
    pub(super) fn run(&self) -> Option<RunId> {
        self.run
    }

    /// The file that has the coordinator's address.
    pub(super) fn address_file(&self) -> PathBuf {
        self.paths.address()
    }

    /// Looks into the directory; `None` if it cannot be read.
    pub(super) fn look(&mut self) -> Option<Look> {
        let file = read_run_file(&self.paths).ok()?;
        let mut is_other = false;
        if let Some(file) = &file {
            is_other = self.run.is_some_and(|run| run != file.run);
            if is_other {
                // Another run is in its place.
                *self = Self::new(self.paths.root().to_owned());
            }
            self.run = Some(file.run);
        }
        self.look_at_checkpoints();
        Some(Look {
            rows: readable(self.metrics.read(), is_other),
            evaluations: readable(self.evaluations.read(), is_other),
            grids: self.look_at_grids(),
            about: file.map(|file| self.about(file)),
        })
    }

    fn about(&self, file: RunFile) -> About {
        let newest = self.newest.clone();
        let is_complete = newest.as_ref().is_some_and(|newest| {
            newest.ends_run || file.last_step.is_some_and(|last| newest.step >= last)
        });
        let state = file.state(is_in_use(&self.paths), is_complete);
        let has_own_evaluator = self.paths.evaluator().exists();
        About { root: self.paths.root().to_owned(), file, state, newest, has_own_evaluator }
    }

    fn look_at_grids(&mut self) -> Option<BTreeSet<Step>> {
        let modified = modified(&self.paths.grids());
        // A folder whose time cannot be told is read at each look.
        if modified.is_some() && modified == self.grids_modified {
            return None;
        }
        let grids = run_dir::grids(&self.paths).ok()?;
        self.grids_modified = modified;
        Some(grids.drawn)
    }

    fn look_at_checkpoints(&mut self) {
        let modified = modified(&self.paths.checkpoints());
        if modified.is_some() && modified == self.checkpoints_modified {
            return;
        }
        let newest = checkpoints(self.paths.root()).ok().and_then(|all| all.newest().ok());
        self.newest = newest.and_then(|(newest, _)| newest).map(|checkpoint| {
            let Manifest { step, state_digest, ends_run, config, .. } = checkpoint.manifest();
            let (step, digest, ends_run) = (*step, *state_digest, *ends_run);
            Newest { step, digest, ends_run, spec: config.clone() }
        });
        self.checkpoints_modified = modified;
    }
}

/// The rows, or none if the log cannot be read: `verify` says why. Those of another run than before
/// are all that there are.
fn readable<R>(rows: Result<NewRows<R>, MetricsError>, is_other: bool) -> NewRows<R> {
    match rows.unwrap_or_else(|_| added(None)) {
        NewRows::Added(rows) if is_other => NewRows::All(rows),
        rows => rows,
    }
}

/// A row that was added.
pub(super) fn added<R>(row: Option<R>) -> NewRows<R> {
    NewRows::Added(row.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use dcgan_store::run_dir::RunDir;

    use super::*;

    #[test]
    fn rows_of_another_run_in_the_same_place_are_no_additions() {
        let row = r#"{"step":20,"epoch":1,"g_loss":0.8,"learning_rate":0.1,"images_per_second":1.0,
            "step_ms":1.0,"allreduce_ms":1.0,"world_size":1,"generation":1,
            "state_digest":"9f1c0a5be27d4386"}"#;
        let row = row.replace(['\n', ' '], "");
        let folder = tempfile::tempdir().unwrap();
        for (name, run, rows) in [("a", 1, 3), ("b", 2, 1)] {
            let (mut dir, _) = RunDir::open(&folder.path().join(name)).unwrap();
            dir.save_run(&RunFile::new(RunId(run))).unwrap();
            fs::write(dir.paths().metrics(), format!("{row}\n").repeat(rows)).unwrap();
        }
        let root = folder.path().join("a");
        let mut watched = Folder::new(root.clone());
        let first = watched.look().unwrap();
        assert!(matches!(first.rows, NewRows::Added(rows) if rows.len() == 3));
        assert!(matches!(watched.look().unwrap().rows, NewRows::Added(rows) if rows.is_empty()));
        fs::rename(&root, folder.path().join("away")).unwrap();
        fs::rename(folder.path().join("b"), &root).unwrap();
        let other = watched.look().unwrap();
        assert!(matches!(other.rows, NewRows::All(rows) if rows.len() == 1));
        assert_eq!(other.about.unwrap().file.run, RunId(2));
    }
}
