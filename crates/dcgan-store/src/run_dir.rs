//! The run directory: its paths, its lock, and its small files.
//!
//! ```text
//! run.lock               locked while a coordinator uses the directory
//! run.json               the run's identity, its newest plan, and how its last start ended
//! address                where its coordinator listens, while it runs
//! config.toml            every setting of the run
//! initial.safetensors    the weights that the run began with, if they were given
//! evaluator.safetensors  the judge of its samples, if it was given one
//! metrics.jsonl          one row for each log window
//! evaluations.jsonl      one row for each evaluation, if there are any
//! checkpoints/           one folder for each checkpoint
//! grids/
//!   step-00000468.png      a grid of samples
//!   step-00000936.pending  a generator whose grid is not drawn yet, as a safetensors file
//! logs/                  the output of processes that the coordinator has started
//! ```

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use dcgan_core::ids::{RunId, Step};

use crate::evaluator_file::EvaluatorFile;
use crate::file;
use crate::format::Newer;
use crate::restore::KeptFiles;
use crate::state_file;

pub use crate::format::FORMAT;
pub use crate::run_file::{EndState, Ended, RunFile, RunState, read_run_file};

/// The run directory of a person who names none.
pub const DEFAULT_ROOT: &str = "runs/dcgan";
/// The most bytes of `config.toml`. A larger file is refused. It has 20 lines.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// The most bytes of a generator whose grid is not drawn yet: what a message to a sampler may have.
/// A larger one is damaged. The DCGAN's has 2.6 MB, half of it the moving average.
const GENERATOR_BYTES_MAX: u64 = 4 * 1024 * 1024 - 1024;
/// A directory whose lock is taken is tried so often. Whoever only looks takes it for a moment.
const LOCK_ATTEMPTS: usize = 5;
/// The pause between two of these attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The paths of the files in a run directory. They may exist or not.
#[derive(Clone, Debug)]
pub struct RunPaths {
    root: PathBuf,
}

impl RunPaths {
    /// Returns the paths below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the run directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path of `config.toml`: every setting of the run.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// Returns the path of the weights that the run began with, if its seed did not draw them.
    pub fn initial_weights(&self) -> PathBuf {
        self.root.join("initial.safetensors")
    }

    /// Returns the path of the evaluator that the run was given.
    pub fn evaluator(&self) -> PathBuf {
        self.root.join("evaluator.safetensors")
    }

    /// Returns the path of `metrics.jsonl`: one row for each log window.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// Returns the path of the log of evaluations.
    pub fn evaluations(&self) -> PathBuf {
        self.root.join("evaluations.jsonl")
    }

    /// Returns the path of the folder of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// Returns the path of the folder of grids.
    pub fn grids(&self) -> PathBuf {
        self.root.join("grids")
    }

    /// Returns the path of the grid that is drawn after a step.
    pub fn grid(&self, step: Step) -> PathBuf {
        self.grids().join(format!("step-{step:08}.png"))
    }

    /// Returns the path of the folder for the logs of local processes.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The folders of a run directory.
    pub(crate) fn folders(&self) -> [PathBuf; 3] {
        [self.checkpoints(), self.grids(), self.logs()]
    }

    /// Returns the path of the generator whose grid is not drawn yet.
    fn pending_grid(&self, step: Step) -> PathBuf {
        self.grids().join(format!("step-{step:08}.pending"))
    }

    /// Returns the path of the file that has the coordinator's address, while it runs.
    pub fn address(&self) -> PathBuf {
        self.root.join("address")
    }

    pub(crate) fn run_file(&self) -> PathBuf {
        self.root.join("run.json")
    }

    pub(crate) fn lock_file(&self) -> PathBuf {
        self.root.join("run.lock")
    }
}

/// Why a run directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// A file or folder cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// Another coordinator is using the directory.
    #[error(
        "{0}: another coordinator is using this run directory: see it with `dcgan-coord status \
         --run {0}`, end it with `dcgan-coord stop --run {0}`, or choose another --out"
    )]
    Locked(PathBuf),
    /// A file has other content than it should.
    #[error("{path}: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The fault.
        what: String,
    },
    /// A file is of a newer version of this program.
    #[error(transparent)]
    Newer(#[from] Newer),
    /// The directory is missing, or no run has begun in it.
    #[error("{root}: not a run directory: {why}")]
    NoRun {
        /// The path.
        root: PathBuf,
        /// The reason, and where there is a run.
        why: String,
    },
    /// The directory holds files and is not a run directory.
    #[error("{0}: not empty, and not a run directory; choose another --out")]
    Foreign(PathBuf),
}

/// A run directory that this process may write, because it holds the lock.
#[derive(Debug)]
pub struct RunDir {
    pub(crate) paths: RunPaths,
    pub(crate) lock: File,
    /// The run that the directory belongs to, once it is known.
    pub(crate) run: Option<RunId>,
    pub(crate) kept: KeptFiles,
}

impl RunDir {
    /// Opens and locks a run directory, and returns the content of `run.json` if there is one. A
    /// directory that is missing or empty becomes a run directory.
    ///
    /// # Errors
    /// If the directory cannot be written, another coordinator is using it, or it holds other
    /// files.
    pub fn open(root: &Path) -> Result<(Self, Option<RunFile>), RunDirError> {
        let paths = RunPaths::new(root);
        let lock = create_and_lock(&paths)?;
        for folder in paths.folders() {
            create_folder(&folder)?;
        }
        for folder in [root, &paths.grids()] {
            // What cannot be removed only takes room.
            let _ = file::remove_remains(folder);
        }
        let run = read_run_file(&paths)?;
        let id = run.as_ref().map(|file| file.run);
        Ok((Self { paths, lock, run: id, kept: KeptFiles::default() }, run))
    }

    /// Returns the paths of the directory.
    pub fn paths(&self) -> &RunPaths {
        &self.paths
    }

    /// Replaces `run.json`, and waits until it is on disk.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save_run(&mut self, run: &RunFile) -> Result<(), RunDirError> {
        self.run = Some(run.run);
        self.write_and_keep(&self.paths.run_file(), run.text().into_bytes())
    }

    /// Replaces `config.toml`, and waits until it is on disk.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save_config(&mut self, text: &str) -> Result<(), RunDirError> {
        self.write_and_keep(&self.paths.config(), text.as_bytes().to_vec())
    }

    /// Writes the weights that the run begins with, a safetensors file, and waits until they are on
    /// disk.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save_initial_weights(&mut self, weights: &[u8]) -> Result<(), RunDirError> {
        self.write_and_keep(&self.paths.initial_weights(), weights.to_vec())
    }

    /// Writes the evaluator of the run, if it is not there already, and waits until it is on disk.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save_evaluator(&mut self, evaluator: &EvaluatorFile) -> Result<(), RunDirError> {
        let path = self.paths.evaluator();
        let bytes = evaluator.bytes();
        if file::read(&path, bytes.len() as u64).is_ok_and(|found| found == bytes) {
            self.kept.insert(&path, bytes.to_vec());
            return Ok(());
        }
        self.write_and_keep(&path, bytes.to_vec())
    }

    /// Writes the grid of a step, waits until it is on disk, and removes the generator that it was
    /// drawn from.
    ///
    /// # Errors
    /// If the grid cannot be written or the generator cannot be removed.
    pub fn save_grid(&self, step: Step, png: &[u8]) -> Result<(), RunDirError> {
        self.write(&self.paths.grid(step), png)?;
        let pending = self.paths.pending_grid(step);
        match fs::remove_file(&pending) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&pending, error)),
            _ => Ok(()),
        }
    }

    /// Writes the generator of a step, a safetensors file, to be kept until its grid is drawn.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save_pending_grid(&self, step: Step, generator: &[u8]) -> Result<(), RunDirError> {
        self.write(&self.paths.pending_grid(step), generator)
    }

    /// Reads [`grids`] of this directory.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn grids(&self) -> Result<Grids, RunDirError> {
        grids(&self.paths)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), RunDirError> {
        file::write(path, bytes).map_err(|error| io_error(path, error))
    }

    /// Writes a small file that is to stay as it is.
    pub(crate) fn write_and_keep(
        &mut self,
        path: &Path,
        bytes: Vec<u8>,
    ) -> Result<(), RunDirError> {
        self.write(path, &bytes)?;
        self.kept.insert(path, bytes);
        Ok(())
    }
}

/// Creates and locks a run directory. The lock file is the first file of one: a directory that has
/// it is a run directory, also if a crash came before `run.json` was written.
pub(crate) fn create_and_lock(paths: &RunPaths) -> Result<File, RunDirError> {
    let root = paths.root();
    refuse_foreign(paths)?;
    create_folder(root)?;
    lock(paths)
}

/// Refuses a directory that holds other files.
fn refuse_foreign(paths: &RunPaths) -> Result<(), RunDirError> {
    let root = paths.root();
    let has_lock = fs::symlink_metadata(paths.lock_file()).is_ok();
    if has_lock || file::is_empty(root).map_err(|error| io_error(root, error))? {
        return Ok(());
    }
    Err(RunDirError::Foreign(root.to_owned()))
}

/// Locks a run directory for as long as the returned file is open.
pub(crate) fn lock(paths: &RunPaths) -> Result<File, RunDirError> {
    let path = paths.lock_file();
    let file = file::open_in_place(&path).map_err(|error| io_error(&path, error))?;
    for _ in 0..LOCK_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            #[expect(clippy::disallowed_methods, reason = "a lock gives no event")]
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(io_error(&path, error)),
        }
    }
    Err(RunDirError::Locked(paths.root().to_owned()))
}

/// Returns whether a coordinator uses a run directory, on this machine or on another one.
pub fn is_in_use(paths: &RunPaths) -> bool {
    let lock = file::open(&paths.lock_file()).map(|file| file.try_lock_shared());
    matches!(lock, Ok(Err(TryLockError::WouldBlock)))
}

/// The grids of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grids {
    /// The steps that have a grid.
    pub drawn: BTreeSet<Step>,
    /// The steps whose grid is not drawn yet.
    pub pending: BTreeSet<Step>,
}

/// Returns which grids a run directory has.
///
/// # Errors
/// If the folder cannot be read.
pub fn grids(paths: &RunPaths) -> Result<Grids, RunDirError> {
    let folder = paths.grids();
    let entries = fs::read_dir(&folder).map_err(|error| io_error(&folder, error))?;
    let mut grids = Grids::default();
    for entry in entries {
        let name = entry.map_err(|error| io_error(&folder, error))?.file_name();
        let Some(step) = step_of(&name) else {
            continue;
        };
        // Other programs may spell a step in another way.
        if paths.grid(step).file_name() == Some(&name) {
            grids.drawn.insert(step);
        } else if paths.pending_grid(step).file_name() == Some(&name) {
            grids.pending.insert(step);
        }
    }
    // A crash between drawing a grid and removing its generator leaves both.
    let Grids { drawn, pending } = &mut grids;
    pending.retain(|step| !drawn.contains(step));
    Ok(grids)
}

/// The step in the name of a file in the folder of grids.
fn step_of(name: &OsStr) -> Option<Step> {
    name.to_str()?.strip_prefix("step-")?.split_once('.')?.0.parse().ok()
}

pub(crate) fn create_folder(path: &Path) -> Result<(), RunDirError> {
    file::create_folder(path).map_err(|error| io_error(path, error))
}

/// Checks that a run directory can be used, or created, and leaves nothing behind.
///
/// # Errors
/// If another coordinator is using it, it holds other files, or nothing can be created there.
pub fn check(root: &Path) -> Result<(), RunDirError> {
    let paths = RunPaths::new(root);
    refuse_foreign(&paths)?;
    if paths.lock_file().exists() {
        lock(&paths)?;
    }
    // The folder itself, or the nearest one above it that is there.
    let nearest = root.ancestors().find(|folder| folder.exists());
    let nearest = nearest.filter(|folder| !folder.as_os_str().is_empty());
    let probe = file::temporary(&nearest.unwrap_or(Path::new(".")).join("check"));
    fs::create_dir(&probe).map_err(|error| io_error(root, error))?;
    fs::remove_dir(&probe).map_err(|error| io_error(&probe, error))
}

/// Reads `config.toml`. Needs no lock.
///
/// # Errors
/// If the file cannot be read, or is no text.
pub fn read_config_file(paths: &RunPaths) -> Result<String, RunDirError> {
    let path = paths.config();
    let content = file::read(&path, CONFIG_BYTES_MAX).map_err(|error| io_error(&path, error))?;
    String::from_utf8(content)
        .map_err(|_| RunDirError::Damaged { path, what: "not a text".to_owned() })
}

/// Reads the generator of a step whose grid is not drawn yet.
///
/// # Errors
/// If the file is missing, cannot be read, or is damaged.
pub fn read_pending_grid(paths: &RunPaths, step: Step) -> Result<Vec<u8>, RunDirError> {
    let path = paths.pending_grid(step);
    let generator =
        file::read(&path, GENERATOR_BYTES_MAX).map_err(|error| io_error(&path, error))?;
    match state_file::verify_subset(&generator) {
        Ok(()) => Ok(generator),
        Err(error) => Err(RunDirError::Damaged { path, what: error.to_string() }),
    }
}

pub(crate) fn io_error(path: &Path, error: io::Error) -> RunDirError {
    RunDirError::Io { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use dcgan_core::state::State;

    use super::*;

    #[test]
    fn a_directory_belongs_to_one_run_and_one_coordinator() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("run");
        let (mut dir, run) = RunDir::open(&root).unwrap();
        assert_eq!(run, None);
        let run = RunFile::new(RunId(7));
        dir.save_run(&run).unwrap();
        let refused = RunDir::open(&root).unwrap_err().to_string();
        assert!(refused.contains("another coordinator is using this run directory"), "{refused}");
        drop(dir);
        assert_eq!(RunDir::open(&root).unwrap().1, Some(run));
    }

    #[test]
    fn a_directory_is_checked_without_a_trace() {
        let folder = tempfile::tempdir().unwrap();
        check(&folder.path().join("a/b/run")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        fs::write(folder.path().join("file"), "").unwrap();
        let refused = check(&folder.path().join("file/run")).unwrap_err().to_string();
        assert!(refused.contains("file/run"), "{refused}");
        let _in_use = RunDir::open(&folder.path().join("run")).unwrap();
        assert!(matches!(check(&folder.path().join("run")), Err(RunDirError::Locked(_))));
    }

    #[test]
    fn a_folder_with_other_files_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        for of_system in [".DS_Store", "Thumbs.db", "lost+found"] {
            fs::write(folder.path().join(of_system), "").unwrap();
        }
        RunDir::open(folder.path()).unwrap();
        fs::remove_file(folder.path().join("run.lock")).unwrap();
        fs::write(folder.path().join("thesis.tex"), "important").unwrap();
        let refused = RunDir::open(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("not empty, and not a run directory"), "{refused}");
        assert!(matches!(check(folder.path()), Err(RunDirError::Foreign(_))));
        assert!(!folder.path().join("run.lock").exists());
    }

    #[test]
    fn a_grid_is_pending_until_it_is_drawn() {
        let steps = |dir: &RunDir| {
            let Grids { drawn, pending } = dir.grids().unwrap();
            (Vec::from_iter(drawn), Vec::from_iter(pending))
        };
        let folder = tempfile::tempdir().unwrap();
        let (dir, _) = RunDir::open(&folder.path().join("run")).unwrap();
        let layout = dcgan_core::state::Layout::new([("weight".to_owned(), vec![5])]);
        let generator = state_file::encode(&State::zeros(layout.into()));
        for step in [40, 20] {
            dir.save_pending_grid(step, &generator).unwrap();
        }
        assert_eq!(steps(&dir), (vec![], vec![20, 40]));
        dir.save_grid(20, b"png").unwrap();
        assert_eq!(steps(&dir), (vec![20], vec![40]));
        assert_eq!(read_pending_grid(dir.paths(), 40).unwrap(), generator);
        // Other spellings of a step are files of somebody else's.
        fs::write(dir.paths().grids().join("step-60.pending"), generator).unwrap();
        assert_eq!(steps(&dir), (vec![20], vec![40]));
    }

    #[test]
    fn a_generator_that_is_damaged_or_too_large_for_a_message_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, _) = RunDir::open(&folder.path().join("run")).unwrap();
        dir.save_pending_grid(20, b"torn").unwrap();
        dir.save_pending_grid(40, &vec![0; GENERATOR_BYTES_MAX as usize + 1]).unwrap();
        for (step, what) in [(20, "header"), (40, "larger than")] {
            let error = read_pending_grid(dir.paths(), step).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains(".pending"), "{error}");
        }
    }

    #[test]
    fn a_crash_while_a_directory_is_made_or_written_to_leaves_one_that_opens() {
        let folder = tempfile::tempdir().unwrap();
        // The lock is there, and a folder is missing.
        let root = folder.path().join("some/run");
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("run.lock"), "").unwrap();
        fs::write(file::temporary(&root.join("run.json")), "torn").unwrap();
        RunDir::open(&root).unwrap();
        assert_eq!(fs::read_dir(&root).unwrap().count(), 4, "the lock and three folders");
    }

    #[test]
    fn no_file_of_a_run_directory_is_written_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        fs::write(&secret, "important").unwrap();
        let root = folder.path().join("run");
        fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(&secret, root.join("run.lock")).unwrap();
        let error = RunDir::open(&root).unwrap_err().to_string();
        assert!(error.contains("run.lock: a link to another file"), "{error}");
        fs::remove_file(root.join("run.lock")).unwrap();

        let (mut dir, _) = RunDir::open(&root).unwrap();
        for path in [dir.paths().run_file(), dir.paths().config(), dir.paths().grid(20)] {
            std::os::unix::fs::symlink(&secret, path).unwrap();
        }
        let run = RunFile::new(RunId(7));
        dir.save_run(&run).unwrap();
        dir.save_config("seed = 5").unwrap();
        dir.save_grid(20, b"png").unwrap();
        assert_eq!(fs::read_to_string(&secret).unwrap(), "important");
        assert_eq!(read_run_file(dir.paths()).unwrap(), Some(run));
    }
}
