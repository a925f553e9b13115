//! Checkpoints: one folder for each, complete or absent, and verified before anything in it is
//! used.
//!
//! ```text
//! checkpoints/
//!   step-00000468/
//!     manifest.json       what the checkpoint belongs to, with the digests of the state
//!     state.safetensors   all tensors of the training
//!   step-00000936.tmp/    being written or removed, or left behind by a crash; never read
//! ```
//!
//! A folder cannot be replaced in one operation, and a crash between its two files would leave half
//! a checkpoint. A new one is therefore written under another name and renamed when it is on disk,
//! and an old one is renamed before it is removed.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dcgan_core::ids::{Digest, RunId, Step};
use dcgan_core::metrics::LogWindow;
use dcgan_core::spec::RunSpec;
use dcgan_core::state::digest;
use serde::{Deserialize, Serialize};

use crate::file;
use crate::format::{self, Newer, Unreadable};
use crate::run_dir::RunPaths;
use crate::state_file;

const STATE: &str = "state.safetensors";
const MANIFEST: &str = "manifest.json";
/// The extension of a folder that is not, or no longer, a checkpoint.
const TEMPORARY: &str = "tmp";

/// The content of `manifest.json`: what a checkpoint belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the format: at most [`FORMAT`](format::FORMAT).
    pub format: u32,
    /// The run that the checkpoint belongs to.
    pub run: RunId,
    /// The step after which the state was taken.
    pub step: Step,
    /// The digest of the state: a digest of the digests of its tensors.
    pub state_digest: Digest,
    /// The digest of the bytes of `state.safetensors`.
    pub file_digest: Digest,
    /// The size of `state.safetensors` in bytes.
    pub file_bytes: u64,
    /// Everything that the training result depends on, including the digest of the data set.
    pub config: RunSpec,
    /// The fingerprint of the workers' arithmetic, such as `cpu r2 fma`.
    pub fingerprint: String,
    /// The sums of the open log window.
    pub window: LogWindow,
    /// True if the run ends with this state, whatever its schedule says. Format 1 has no such runs.
    #[serde(default)]
    pub ends_run: bool,
}

/// A checkpoint that was read and whose digests are right.
#[derive(Clone, Debug)]
pub struct VerifiedCheckpoint {
    manifest: Manifest,
    state: Vec<u8>,
}

impl VerifiedCheckpoint {
    /// Returns the manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the content of `state.safetensors`.
    pub fn state(&self) -> &[u8] {
        &self.state
    }
}

/// The error for a checkpoint that is not what it should be; names its folder and the file that is
/// wrong.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {what}")]
pub struct Damaged {
    path: PathBuf,
    what: String,
}

impl Damaged {
    /// Returns the folder of the checkpoint.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Why a checkpoint cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The checkpoint is missing or damaged. An earlier one may do.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The checkpoint is of a newer version of this program.
    #[error(transparent)]
    Newer(#[from] Newer),
}

/// Why the newest checkpoint cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum NewestError {
    /// The folder cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The newest checkpoint that is not damaged is of a newer version of this program. To go back
    /// to one before it would throw work away.
    #[error(transparent)]
    Newer(#[from] Newer),
}

/// The folder that holds the checkpoints of a run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// Returns the checkpoints of a run directory. Nothing is read yet.
    pub fn new(paths: &RunPaths) -> Self {
        Self { folder: paths.checkpoints() }
    }

    /// Returns the steps that have a checkpoint, intact or not, in ascending order.
    ///
    /// # Errors
    /// If the folder cannot be read. A missing folder is an empty one.
    pub fn steps(&self) -> io::Result<Vec<Step>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut steps = Vec::new();
        for entry in entries {
            steps.extend(step_of(&entry?.file_name()));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Writes a checkpoint and waits until it is on disk.
    ///
    /// An intact checkpoint of the same step and state is left as it is; a damaged one is replaced.
    ///
    /// # Errors
    /// If the checkpoint cannot be written, or there is one of a newer version of this program.
    /// Checkpoints of other steps are not touched.
    ///
    /// # Panics
    /// Never: every manifest can be written as JSON.
    pub fn save(&self, manifest: &Manifest, state: &[u8]) -> io::Result<()> {
        let target = self.path(manifest.step);
        if target.exists() {
            match self.load(manifest.step) {
                Ok(found) if found.manifest.state_digest == manifest.state_digest => return Ok(()),
                Err(LoadError::Newer(newer)) => {
                    // No later attempt can succeed.
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, newer));
                }
                _ => fs::remove_dir_all(&target)?,
            }
        }
        let temporary = target.with_extension(TEMPORARY);
        if temporary.exists() {
            fs::remove_dir_all(&temporary)?;
        }

        // Both files and their names must be on disk before the folder gets its name.
        fs::create_dir(&temporary)?;
        let text = serde_json::to_string_pretty(manifest).expect("manifests are always JSON");
        file::write_through(&temporary.join(STATE), state)?;
        file::write_through(&temporary.join(MANIFEST), text.as_bytes())?;
        file::sync_folder_of(&temporary.join(MANIFEST))?;
        fs::rename(&temporary, &target)?;
        file::sync_folder_of(&target)
    }

    /// Reads and verifies the checkpoint of a step.
    ///
    /// # Errors
    /// If the checkpoint is missing, damaged, or of a newer version of this program. One of an
    /// older version is read.
    pub fn load(&self, step: Step) -> Result<VerifiedCheckpoint, LoadError> {
        let path = self.path(step);
        match load(&path, step) {
            Ok(checkpoint) => Ok(checkpoint),
            Err(Unreadable::Newer(newer)) => Err(newer.into()),
            Err(Unreadable::Damaged(what)) => Err(Damaged { path, what }.into()),
        }
    }

    /// Returns the newest intact checkpoint, if there is one, and what is wrong with each later
    /// one.
    ///
    /// # Errors
    /// If the folder cannot be read, or a checkpoint is of a newer version of this program and none
    /// after it is intact.
    pub fn newest(&self) -> Result<(Option<VerifiedCheckpoint>, Vec<Damaged>), NewestError> {
        let mut damaged = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            match self.load(step) {
                Ok(checkpoint) => return Ok((Some(checkpoint), damaged)),
                Err(LoadError::Damaged(error)) => damaged.push(error),
                Err(LoadError::Newer(newer)) => return Err(newer.into()),
            }
        }
        Ok((None, damaged))
    }

    /// Removes all checkpoints up to `step` except the newest `keep`, of which one is always kept.
    /// Removes what crashes have left behind as well. Checkpoints of a newer version of this
    /// program stay.
    ///
    /// If there are checkpoints after `step`, the training has gone back because they are damaged,
    /// and will replace them. They do not count as the newest.
    ///
    /// # Errors
    /// If a folder cannot be removed.
    pub fn prune(&self, keep: usize, step: Step) -> io::Result<()> {
        let mut candidates = self.steps()?;
        candidates.retain(|&candidate| candidate <= step);
        for &superfluous in candidates.iter().rev().skip(keep.max(1)) {
            let path = self.path(superfluous);
            if matches!(read_manifest(&path), Err(Unreadable::Newer(_))) {
                continue;
            }
            // Renamed first: a crash in the middle of the removal must not leave half a checkpoint.
            let leaving = path.with_extension(TEMPORARY);
            fs::rename(path, &leaving)?;
            fs::remove_dir_all(leaving)?;
        }

        // Remove the remains of crashes.
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == TEMPORARY) {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }

    fn path(&self, step: Step) -> PathBuf {
        self.folder.join(format!("step-{step:08}"))
    }
}

/// Returns the step whose checkpoint a folder of this name holds; `None` if it holds none.
fn step_of(name: &OsStr) -> Option<Step> {
    name.to_str()?.strip_prefix("step-")?.parse().ok()
}

/// Reads and verifies the checkpoint in a folder. If it is damaged, the error is what is wrong,
/// without the path.
fn load(path: &Path, step: Step) -> Result<VerifiedCheckpoint, Unreadable> {
    let manifest = read_manifest(path)?;
    verify(path, step, manifest).map_err(Unreadable::Damaged)
}

/// Reads the manifest in the folder of a checkpoint.
fn read_manifest(path: &Path) -> Result<Manifest, Unreadable> {
    let content = read(path, MANIFEST).map_err(Unreadable::Damaged)?;
    format::parse(&path.join(MANIFEST), &content).map_err(|error| match error {
        Unreadable::Damaged(what) => Unreadable::Damaged(format!("{MANIFEST}: {what}")),
        newer @ Unreadable::Newer(_) => newer,
    })
}

/// Verifies the checkpoint in a folder by its manifest; the error is what is wrong.
fn verify(path: &Path, step: Step, manifest: Manifest) -> Result<VerifiedCheckpoint, String> {
    if manifest.step != step {
        return Err(format!("{MANIFEST}: expected step {step}, found {}", manifest.step));
    }
    let metrics = manifest.config.objective().metric_names().len();
    if manifest.window.sums.len() != metrics {
        let found = manifest.window.sums.len();
        return Err(format!("{MANIFEST}: expected a window of {metrics} metrics, found {found}"));
    }

    // Check that the bytes are those that were written. The size is checked on its own, since a
    // file that was cut off is the most frequent damage, and this error says so.
    let state = read(path, STATE)?;
    let bytes = state.len() as u64;
    if bytes != manifest.file_bytes {
        return Err(format!("{STATE}: expected {} bytes, found {bytes}", manifest.file_bytes));
    }
    let digest = digest::of_bytes(&state);
    if digest != manifest.file_digest {
        return Err(format!("{STATE}: expected digest {}, found {digest}", manifest.file_digest));
    }

    // Check that they hold the state that the run had.
    let state_digest =
        state_file::digest_of(&state).map_err(|error| format!("{STATE}: {error}"))?;
    if state_digest != manifest.state_digest {
        return Err(format!(
            "{STATE}: expected state digest {}, found {state_digest}",
            manifest.state_digest
        ));
    }
    Ok(VerifiedCheckpoint { manifest, state })
}

/// Reads the file `name` of a checkpoint.
fn read(folder: &Path, name: &str) -> Result<Vec<u8>, String> {
    fs::read(folder.join(name)).map_err(|error| format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dcgan_core::spec::{DatasetInfo, ObjectiveKind};
    use dcgan_core::state::{Layout, State};

    use super::*;

    fn state(step: Step) -> Vec<u8> {
        let mut state = State::zeros(Arc::new(Layout::new([("weight".to_owned(), vec![5])])));
        state.tensor_mut(0).fill(step as f32);
        state_file::encode(&state)
    }

    fn spec() -> RunSpec {
        let data = DatasetInfo { images: 9, rows: 1, columns: 1, digest: Digest(3) };
        let builder = RunSpec::builder().objective(ObjectiveKind::Toy).batch_size(4).shards(2);
        builder.learning_rate(0.1).build(data).unwrap()
    }

    fn manifest(step: Step) -> Manifest {
        let state = state(step);
        Manifest {
            format: format::FORMAT,
            run: RunId(7),
            step,
            state_digest: state_file::digest_of(&state).unwrap(),
            file_digest: digest::of_bytes(&state),
            file_bytes: state.len() as u64,
            config: spec(),
            fingerprint: "toy".to_owned(),
            window: LogWindow {
                through: step,
                steps: 1,
                sums: vec![0.1 + 0.2; 6],
                step_ms: 1.0 / 3.0,
                allreduce_ms: 0.0,
            },
            ends_run: false,
        }
    }

    /// Makes a folder with checkpoints of the steps 10, 20 and 30.
    fn three_checkpoints() -> (tempfile::TempDir, Checkpoints) {
        let folder = tempfile::tempdir().unwrap();
        let paths = RunPaths::new(folder.path());
        fs::create_dir(paths.checkpoints()).unwrap();
        let checkpoints = Checkpoints::new(&paths);
        for step in [10, 20, 30] {
            checkpoints.save(&manifest(step), &state(step)).unwrap();
        }
        (folder, checkpoints)
    }

    #[test]
    fn a_saved_checkpoint_is_loaded_to_the_last_bit() {
        let (_folder, checkpoints) = three_checkpoints();
        let (newest, damaged) = checkpoints.newest().unwrap();
        let newest = newest.unwrap();
        assert_eq!((newest.manifest(), newest.state()), (&manifest(30), &*state(30)));
        assert!(damaged.is_empty());
        checkpoints.save(&manifest(30), &state(30)).unwrap();
    }

    #[test]
    fn a_damaged_checkpoint_is_reported_and_skipped() {
        let (folder, checkpoints) = three_checkpoints();
        let state_path = folder.path().join("checkpoints/step-00000030/state.safetensors");
        let mut bytes = fs::read(&state_path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(state_path, bytes).unwrap();
        let manifest_path = folder.path().join("checkpoints/step-00000020/manifest.json");
        fs::write(manifest_path, "{").unwrap();
        let (newest, damaged) = checkpoints.newest().unwrap();
        assert_eq!(newest.unwrap().manifest().step, 10);
        let damaged: Vec<String> = damaged.iter().map(ToString::to_string).collect();
        assert!(
            damaged[0].contains("step-00000030: state.safetensors: expected digest"),
            "{damaged:?}"
        );
        assert!(damaged[1].contains("step-00000020: manifest.json: EOF"), "{damaged:?}");

        // Saving the step once more replaces the damaged checkpoint.
        checkpoints.save(&manifest(30), &state(30)).unwrap();
        assert_eq!(checkpoints.newest().unwrap().0.unwrap().manifest().step, 30);
    }

    /// Changes the text of the manifest of step 30.
    fn change_manifest(checkpoints: &Checkpoints, change: impl Fn(&str) -> String) {
        let path = checkpoints.path(30).join(MANIFEST);
        fs::write(&path, change(&fs::read_to_string(&path).unwrap())).unwrap();
    }

    #[test]
    fn a_checkpoint_of_an_older_format_is_read() {
        let (_folder, checkpoints) = three_checkpoints();
        change_manifest(&checkpoints, |text| text.replace("\"format\": 2", "\"format\": 1"));
        let (newest, damaged) = checkpoints.newest().unwrap();
        let newest = newest.unwrap();
        assert_eq!((newest.manifest().format, newest.manifest().step), (1, 30));
        assert_eq!(newest.manifest().config, spec());
        assert!(damaged.is_empty());
    }

    #[test]
    fn a_manifest_that_lacks_a_setting_of_the_first_version_is_damaged() {
        let (_folder, checkpoints) = three_checkpoints();
        change_manifest(&checkpoints, |text| text.replace("\"beta1\": 0.5,", ""));
        let error = checkpoints.load(30).unwrap_err().to_string();
        assert!(error.contains("manifest.json: the setting beta1 is missing"), "{error}");
    }

    #[test]
    fn a_checkpoint_of_a_newer_version_is_refused_in_words_and_kept() {
        for (what, change) in [
            ("format 3", ["\"format\": 2", "\"format\": 3"]),
            ("the setting warmup", ["\"beta1\": 0.5", "\"beta1\": 0.5, \"warmup\": 5"]),
        ] {
            let (_folder, checkpoints) = three_checkpoints();
            change_manifest(&checkpoints, |text| text.replace(change[0], change[1]));
            let error = checkpoints.newest().unwrap_err().to_string();
            let in_words =
                format!("{what} is of a newer version of this program; use that version");
            assert!(error.ends_with(&in_words) && error.contains("step-00000030"), "{error}");

            // It is neither replaced nor pruned.
            assert!(checkpoints.save(&manifest(30), &state(30)).is_err());
            checkpoints.save(&manifest(40), &state(40)).unwrap();
            checkpoints.prune(1, 40).unwrap();
            assert_eq!(checkpoints.steps().unwrap(), [30, 40]);
        }
    }

    #[test]
    fn a_window_of_another_number_of_metrics_is_not_used() {
        let (_folder, checkpoints) = three_checkpoints();
        let mut other = manifest(40);
        other.window.sums.pop();
        checkpoints.save(&other, &state(40)).unwrap();
        let error = checkpoints.load(40).unwrap_err().to_string();
        let expected = "manifest.json: expected a window of 6 metrics, found 5";
        assert!(error.ends_with(expected), "{error}");
    }

    #[test]
    fn pruning_keeps_the_newest_and_removes_the_remains_of_crashes() {
        let (folder, checkpoints) = three_checkpoints();
        fs::create_dir(folder.path().join("checkpoints/step-00000040.tmp")).unwrap();
        assert_eq!(
            checkpoints.steps().unwrap(),
            [10, 20, 30],
            "the remains of a crash are not a checkpoint"
        );
        checkpoints.prune(1, 20).unwrap();
        assert_eq!(
            checkpoints.steps().unwrap(),
            [20, 30],
            "a later checkpoint does not count as one of the newest"
        );
        checkpoints.prune(1, 30).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [30]);
        assert_eq!(fs::read_dir(folder.path().join("checkpoints")).unwrap().count(), 1);
    }
}
