//! The run directory: where everything lies, its lock, and the two small files that say what run it is.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use dcgan_core::ids::{RunId, Step};
use dcgan_core::protocol::plan::Plan;
use serde::{Deserialize, Serialize};

use crate::file;

/// The version of `run.json` and of checkpoint manifests.
pub const FORMAT: u32 = 1;

/// The paths of a run directory, for readers and writers.
#[derive(Clone, Debug)]
pub struct RunPaths {
    root: PathBuf,
}

impl RunPaths {
    /// The paths below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// One object per logged step.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// The folder of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// The folder of grids.
    pub fn grids(&self) -> PathBuf {
        self.root.join("grids")
    }

    /// The grid of a step.
    pub fn grid(&self, step: Step) -> PathBuf {
        self.grids().join(format!("step-{step:08}.png"))
    }

    /// The folder of local processes' logs.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Snapshots of generators whose grids are not drawn yet.
    fn pending_grid(&self, step: Step) -> PathBuf {
        self.grids().join(format!("step-{step:08}.pending"))
    }

    fn run_file(&self) -> PathBuf {
        self.root.join("run.json")
    }

    fn lock_file(&self) -> PathBuf {
        self.root.join("run.lock")
    }
}

/// What run a directory belongs to: `run.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFile {
    /// The version of the format.
    pub format: u32,
    /// The run's identity.
    pub run: RunId,
    /// What its arithmetic depends on, once a worker has said so.
    pub fingerprint: Option<String>,
    /// The newest plan.
    pub plan: Option<Plan>,
}

/// A run directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// It cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another coordinator has it.
    #[error("{0}: another coordinator is using this run directory")]
    Locked(PathBuf),
    /// A file in it is not what it should be.
    #[error("{path}: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It holds files of something else.
    #[error("{0}: not empty, and not a run directory")]
    Foreign(PathBuf),
}

/// A run directory that this process writes: it holds the lock.
#[derive(Debug)]
pub struct RunDir {
    paths: RunPaths,
    _lock: File,
}

impl RunDir {
    /// Opens a run directory, or makes an empty one; gives what run it belongs to, if it belongs to one.
    ///
    /// # Errors
    /// If it cannot be written, another coordinator has it, or it holds something else.
    pub fn open(root: &Path) -> Result<(Self, Option<RunFile>), RunDirError> {
        let paths = RunPaths::new(root);
        // The lock is made first: a folder that has one is ours, also if a crash left it without a run.
        if !paths.lock_file().exists() && !is_empty(root).map_err(|error| io_error(root, error))? {
            return Err(RunDirError::Foreign(root.to_owned()));
        }
        for folder in [root.to_owned(), paths.checkpoints(), paths.grids(), paths.logs()] {
            fs::create_dir_all(&folder).map_err(|error| io_error(&folder, error))?;
        }
        let lock_file = paths.lock_file();
        let options = File::options().write(true).create(true).truncate(false).open(&lock_file);
        let lock = options.map_err(|error| io_error(&lock_file, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(RunDirError::Locked(root.to_owned())),
            Err(TryLockError::Error(error)) => return Err(io_error(&lock_file, error)),
        }
        let run = read_run_file(&paths)?;
        Ok((Self { paths, _lock: lock }, run))
    }

    /// Where everything lies.
    pub fn paths(&self) -> &RunPaths {
        &self.paths
    }

    /// Makes `run.json` durable.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save_run(&self, run: &RunFile) -> Result<(), RunDirError> {
        let text = serde_json::to_string_pretty(run).expect("plans are always JSON");
        self.write(&self.paths.run_file(), text.as_bytes())
    }

    /// Makes `config.toml` durable.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save_config(&self, text: &str) -> Result<(), RunDirError> {
        self.write(&self.paths.config(), text.as_bytes())
    }

    /// Makes a grid durable, and drops the snapshot that it was drawn from.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save_grid(&self, step: Step, png: &[u8]) -> Result<(), RunDirError> {
        self.write(&self.paths.grid(step), png)?;
        let pending = self.paths.pending_grid(step);
        match fs::remove_file(&pending) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&pending, error)),
            _ => Ok(()),
        }
    }

    /// Keeps the snapshot of a generator until its grid is drawn.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save_pending_grid(&self, step: Step, generator: &[u8]) -> Result<(), RunDirError> {
        self.write(&self.paths.pending_grid(step), generator)
    }

    /// The snapshot of a generator whose grid is not drawn yet.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn pending_grid(&self, step: Step) -> Result<Vec<u8>, RunDirError> {
        let path = self.paths.pending_grid(step);
        fs::read(&path).map_err(|error| io_error(&path, error))
    }

    /// The steps that have a grid, and those whose grid is not drawn yet.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn grids(&self) -> Result<(Vec<Step>, Vec<Step>), RunDirError> {
        let folder = self.paths.grids();
        let entries = fs::read_dir(&folder).map_err(|error| io_error(&folder, error))?;
        let (mut drawn, mut pending) = (Vec::new(), Vec::new());
        for entry in entries {
            let name = entry.map_err(|error| io_error(&folder, error))?.file_name();
            let Some((step, extension)) =
                name.to_str().and_then(|name| name.strip_prefix("step-")?.split_once('.'))
            else {
                continue;
            };
            match (step.parse(), extension) {
                (Ok(step), "png") => drawn.push(step),
                (Ok(step), "pending") => pending.push(step),
                _ => {}
            }
        }
        pending.retain(|step| !drawn.contains(step));
        pending.sort_unstable();
        Ok((drawn, pending))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), RunDirError> {
        file::write(path, bytes).map_err(|error| io_error(path, error))
    }
}

/// What run a directory belongs to, for readers; none if it belongs to none.
///
/// # Errors
/// If `run.json` cannot be read.
pub fn read_run_file(paths: &RunPaths) -> Result<Option<RunFile>, RunDirError> {
    let path = paths.run_file();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(&path, error)),
    };
    let damaged = |what: String| RunDirError::Damaged { path: path.clone(), what };
    let run: RunFile = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    if run.format != FORMAT {
        return Err(damaged(format!("expected format {FORMAT}, found {}", run.format)));
    }
    if run.plan.as_ref().is_some_and(|plan| !plan.is_valid()) {
        return Err(damaged("it holds a plan that cannot be one".to_owned()));
    }
    Ok(Some(run))
}

fn is_empty(root: &Path) -> io::Result<bool> {
    match fs::read_dir(root) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

fn io_error(path: &Path, error: io::Error) -> RunDirError {
    RunDirError::Io { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_belongs_to_one_run_and_one_coordinator() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("run");
        let (dir, run) = RunDir::open(&root).unwrap();
        assert_eq!(run, None);
        let run = RunFile { format: FORMAT, run: RunId(7), fingerprint: None, plan: None };
        dir.save_run(&run).unwrap();
        let refused = RunDir::open(&root).unwrap_err().to_string();
        assert!(refused.ends_with("another coordinator is using this run directory"), "{refused}");
        drop(dir);
        assert_eq!(RunDir::open(&root).unwrap().1, Some(run));
    }

    #[test]
    fn other_peoples_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.tex"), "important").unwrap();
        let refused = RunDir::open(folder.path()).unwrap_err().to_string();
        assert!(refused.ends_with("not empty, and not a run directory"), "{refused}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_grid_is_pending_until_it_is_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, _) = RunDir::open(&folder.path().join("run")).unwrap();
        for step in [40, 20] {
            dir.save_pending_grid(step, b"weights").unwrap();
        }
        assert_eq!(dir.grids().unwrap(), (vec![], vec![20, 40]));
        dir.save_grid(20, b"png").unwrap();
        assert_eq!(dir.grids().unwrap(), (vec![20], vec![40]));
        assert_eq!(dir.pending_grid(40).unwrap(), b"weights");
    }

    #[test]
    fn a_run_file_of_another_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("run.json"), r#"{"format":9,"run":"0000000000000007"}"#)
            .unwrap();
        let error = read_run_file(&RunPaths::new(folder.path())).unwrap_err().to_string();
        assert!(error.ends_with("expected format 1, found 9"), "{error}");
    }
}
