//! Checkpoints: one folder for each, complete or absent, and verified before anything in it is
//! used.
//!
//! ```text
//! checkpoints/
//!   step-00000468/
//!     manifest.json       what the checkpoint belongs to, with the digests of the state
//!     state.safetensors   all tensors of the training
//!   step-00000936.9f1c0a5be27d4386.tmp/
//!                         being written or removed, or left behind by a crash; never read
//! ```
//!
//! A folder cannot be replaced in one operation, and a crash between its two files would leave half
//! a checkpoint. A new one is therefore written under another name and renamed when it is on disk,
//! and an old one is renamed before it is removed.
//!
//! A checkpoint that is damaged, or that somebody has copied from another run, is skipped. It does
//! not count as one of those that a run keeps.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

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
/// The extension by which earlier versions named what they wrote or removed.
const TEMPORARY: &str = "tmp";
/// The most bytes of a state. A larger one is neither written nor read. The DCGAN's has 5 MB.
pub const STATE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The most bytes of a manifest. A larger file is damaged. It has 2 kB.
const MANIFEST_BYTES_MAX: u64 = 1024 * 1024;

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

    /// Takes the content of `state.safetensors` out.
    pub fn into_state(self) -> Vec<u8> {
        self.state
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

/// The run that a directory belongs to, as far as it is known. A checkpoint of another run is
/// skipped like a damaged one.
#[derive(Clone, Debug, Default)]
pub struct Owner {
    /// The run's identity.
    pub run: Option<RunId>,
    /// The fingerprint of its arithmetic.
    pub fingerprint: Option<String>,
    /// Its specification.
    pub spec: Option<RunSpec>,
}

/// The folder that holds the checkpoints of a run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    owner: Owner,
    /// The states that were verified for [`Checkpoints::prune`], as they were then.
    intact: Arc<Mutex<BTreeMap<Step, Stamp>>>,
}

/// The inode, size and time of a file, which tell that it is still the one that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp(u64, u64, i64, i64);

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self(metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec())
    }
}

impl Checkpoints {
    /// Returns the checkpoints of a run directory. Nothing is read yet.
    pub fn new(paths: &RunPaths) -> Self {
        Self { folder: paths.checkpoints(), owner: Owner::default(), intact: Arc::default() }
    }

    /// The same folder; checkpoints of other runs than `owner` are skipped.
    pub fn of_run(self, owner: Owner) -> Self {
        Self { owner, ..self }
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
            let name = entry?.file_name();
            // A copy under another name, such as step-30, is no checkpoint.
            let step = step_of(&name).filter(|&step| self.path(step).file_name() == Some(&name));
            steps.extend(step);
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Writes a checkpoint and waits until it is on disk.
    ///
    /// An intact checkpoint of the same step and state is left as it is; anything else that is in
    /// its place is replaced. Returns what that was.
    ///
    /// # Errors
    /// If the checkpoint cannot be written, or there is one of a newer version of this program.
    /// Checkpoints of other steps are not touched.
    pub fn save(&self, manifest: &Manifest, state: &[u8]) -> io::Result<Option<String>> {
        if state.len() as u64 > STATE_BYTES_MAX {
            let what = format!("the state is larger than {STATE_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let target = self.path(manifest.step);
        let in_its_place = if fs::symlink_metadata(&target).is_err() {
            None
        } else {
            match self.try_load(manifest.step) {
                Ok(found) if found.manifest.state_digest == manifest.state_digest => {
                    return Ok(None);
                }
                Ok(found) => Some(format!("one with state digest {}", found.manifest.state_digest)),
                Err(Unreadable::Damaged(what) | Unreadable::Foreign(what)) => Some(what),
                Err(Unreadable::Newer(newer)) => {
                    // No later attempt can succeed.
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, newer));
                }
            }
        };

        // Both files and their names must be on disk before the folder gets its name.
        let temporary = file::temporary(&target);
        let written = write_folder(&temporary, manifest, state);
        if written.is_err() {
            // The error that counts is the one before.
            let _ = file::remove(&temporary);
        }
        written?;
        if in_its_place.is_none() {
            fs::rename(&temporary, &target)?;
            file::sync_folder_of(&target)?;
        } else {
            let old = file::exchange(&temporary, &target)?;
            file::sync_folder_of(&target)?;
            // If it cannot be removed, pruning tries again.
            let _ = file::remove(&old);
        }
        Ok(in_its_place)
    }

    /// Reads and verifies the checkpoint of a step.
    ///
    /// # Errors
    /// If the checkpoint is missing, damaged, or of a newer version of this program. One of an
    /// older version is read.
    pub fn load(&self, step: Step) -> Result<VerifiedCheckpoint, LoadError> {
        self.try_load(step).map_err(|error| match error {
            Unreadable::Newer(newer) => newer.into(),
            Unreadable::Damaged(what) | Unreadable::Foreign(what) => {
                Damaged { path: self.path(step), what }.into()
            }
        })
    }

    fn try_load(&self, step: Step) -> Result<VerifiedCheckpoint, Unreadable> {
        let path = self.path(step);
        let manifest = self.read_manifest(step)?;
        verify(&path, manifest).map_err(Unreadable::Damaged)
    }

    /// Reads and checks the manifest of a checkpoint. It is all of the checkpoint but the state.
    fn read_manifest(&self, step: Step) -> Result<Manifest, Unreadable> {
        let manifest = read_manifest(&self.path(step))?;
        check_fields(step, &manifest).map_err(Unreadable::Damaged)?;
        self.owner.check(&manifest).map_err(Unreadable::Foreign)?;
        Ok(manifest)
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

    /// Removes all checkpoints up to `step` except the newest `keep` that are intact, of which one
    /// is always kept, and the damaged ones among these. Removes what crashes have left behind as
    /// well. Checkpoints of another run or of a newer version of this program stay.
    ///
    /// If there are checkpoints after `step`, the training has gone back because they are damaged,
    /// and will replace them. They do not count as the newest.
    ///
    /// # Errors
    /// If a folder cannot be removed. Everything else is removed then.
    pub fn prune(&self, keep: usize, step: Step) -> io::Result<()> {
        let mut candidates = self.steps()?;
        candidates.retain(|&candidate| candidate <= step);
        let mut result = Ok(());
        let mut still_to_keep = keep.max(1);
        if candidates.len() <= still_to_keep {
            // Nothing needs to be read.
            candidates.clear();
        }
        for candidate in candidates.into_iter().rev() {
            if still_to_keep == 0 {
                result = result.and(self.remove(candidate));
            } else if self.is_intact(candidate) {
                still_to_keep -= 1;
            }
        }
        result.and(self.remove_remains())
    }

    /// Returns whether a checkpoint is intact. One that was verified before is not read again
    /// unless its file has changed.
    fn is_intact(&self, step: Step) -> bool {
        let stamp = || fs::metadata(self.path(step).join(STATE)).ok().as_ref().map(Stamp::of);
        let before = stamp();
        let mut intact = self.intact.lock().unwrap_or_else(PoisonError::into_inner);
        if intact.get(&step).copied() != before || self.read_manifest(step).is_err() {
            intact.remove(&step);
            if self.try_load(step).is_err() {
                return false;
            }
        }
        before.is_some_and(|before| {
            intact.insert(step, before);
            true
        })
    }

    /// Removes a checkpoint, unless it belongs to another run or a newer version.
    fn remove(&self, step: Step) -> io::Result<()> {
        let manifest = self.read_manifest(step);
        if matches!(manifest, Err(Unreadable::Newer(_) | Unreadable::Foreign(_))) {
            return Ok(());
        }
        // Renamed first: a crash in the middle of the removal must not leave half a checkpoint.
        let path = self.path(step);
        let leaving = file::temporary(&path);
        fs::rename(path, &leaving)?;
        self.intact.lock().unwrap_or_else(PoisonError::into_inner).remove(&step);
        file::remove(&leaving)
    }

    /// Removes what crashes have left behind, of this version or an earlier one.
    fn remove_remains(&self) -> io::Result<()> {
        let mut result = file::remove_remains(&self.folder);
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let step = path.file_stem().and_then(step_of);
            if step.is_some_and(|step| path == self.path(step).with_extension(TEMPORARY)) {
                result = result.and(file::remove(&path));
            }
        }
        result
    }

    fn path(&self, step: Step) -> PathBuf {
        self.folder.join(format!("step-{step:08}"))
    }
}

/// Returns the step whose checkpoint a folder of this name holds; `None` if it holds none.
fn step_of(name: &OsStr) -> Option<Step> {
    name.to_str()?.strip_prefix("step-")?.parse().ok()
}

impl Owner {
    /// Checks that a checkpoint belongs to this run; the error says whose it is.
    fn check(&self, manifest: &Manifest) -> Result<(), String> {
        if let Some(run) = self.run.filter(|run| *run != manifest.run) {
            return Err(format!("it is a checkpoint of run {}, not of run {run}", manifest.run));
        }
        if let Some(spec) = &self.spec {
            let differences = spec.differences(&manifest.config);
            if let Some(difference) = differences.first() {
                let (name, saved, given) = (&difference.name, &difference.saved, &difference.given);
                return Err(format!("it has {name} {given}, and the run has {saved}"));
            }
        }
        match &self.fingerprint {
            Some(fingerprint) if *fingerprint != manifest.fingerprint => Err(format!(
                "it has the arithmetic {}, and the run has {fingerprint}",
                manifest.fingerprint
            )),
            _ => Ok(()),
        }
    }
}

/// Writes the folder of a checkpoint under a temporary name, and waits until it is on disk.
fn write_folder(folder: &Path, manifest: &Manifest, state: &[u8]) -> io::Result<()> {
    fs::create_dir(folder)?;
    file::write_new(&folder.join(STATE), state)?;
    file::write_new(&folder.join(MANIFEST), format::text(manifest).as_bytes())?;
    file::sync_folder_of(&folder.join(MANIFEST))
}

/// Reads the manifest in the folder of a checkpoint.
fn read_manifest(path: &Path) -> Result<Manifest, Unreadable> {
    let content = file::read(&path.join(MANIFEST), MANIFEST_BYTES_MAX)
        .map_err(|error| Unreadable::Damaged(format!("{MANIFEST}: {error}")))?;
    format::parse(&path.join(MANIFEST), &content).map_err(|error| match error {
        Unreadable::Damaged(what) => Unreadable::Damaged(format!("{MANIFEST}: {what}")),
        other => other,
    })
}

/// Checks that the fields of a manifest fit each other; the error is what is wrong.
fn check_fields(step: Step, manifest: &Manifest) -> Result<(), String> {
    let Manifest { window, file_bytes, .. } = manifest;
    if manifest.step != step {
        return Err(format!("{MANIFEST}: expected step {step}, found {}", manifest.step));
    }
    let metrics = manifest.config.objective().metric_names().len();
    if window.sums.len() != metrics {
        let found = window.sums.len();
        return Err(format!("{MANIFEST}: expected a window of {metrics} metrics, found {found}"));
    }
    let times = [window.step_ms, window.allreduce_ms];
    if window.through != step
        || window.steps > step
        || !window.sums.iter().all(|sum| sum.is_finite())
        || !times.iter().all(|time| time.is_finite() && *time >= 0.0)
    {
        return Err(format!("{MANIFEST}: no log window of step {step}: {window:?}"));
    }
    if *file_bytes > STATE_BYTES_MAX {
        return Err(format!(
            "{MANIFEST}: a state of {file_bytes} bytes; at most {STATE_BYTES_MAX}"
        ));
    }
    Ok(())
}

/// Verifies the state in the folder of a checkpoint by its manifest; the error is what is wrong.
fn verify(path: &Path, manifest: Manifest) -> Result<VerifiedCheckpoint, String> {
    // Check that the bytes are those that were written. The size is checked on its own and first,
    // since a file that was cut off is the most frequent damage, and a file may have any size.
    let in_words = |error: io::Error| format!("{STATE}: {error}");
    let file = file::open(&path.join(STATE)).map_err(in_words)?;
    let expected = manifest.file_bytes;
    let bytes = file.metadata().map_err(in_words)?.len();
    if bytes != expected {
        return Err(format!("{STATE}: expected {expected} bytes, found {bytes}"));
    }
    let mut state = Vec::with_capacity(expected as usize);
    file.take(expected).read_to_end(&mut state).map_err(in_words)?;
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

    /// Changes the text of the manifest of step 30, and makes it one of an earlier version, without
    /// a checksum.
    fn change_manifest(checkpoints: &Checkpoints, change: impl Fn(&str) -> String) {
        let path = checkpoints.path(30).join(MANIFEST);
        let text = fs::read_to_string(&path).unwrap();
        let (fields, _) = text.split_once(",\n  \"checksum\"").unwrap();
        fs::write(&path, change(&format!("{fields}\n}}"))).unwrap();
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
        let remains = file::temporary(&folder.path().join("checkpoints/step-00000040"));
        fs::create_dir(remains).unwrap();
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

    /// The names in the folder of checkpoints.
    fn names(checkpoints: &Checkpoints) -> Vec<String> {
        let entries = fs::read_dir(&checkpoints.folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_manifest_that_somebody_has_changed_is_damaged() {
        let (_folder, checkpoints) = three_checkpoints();
        let path = checkpoints.path(30).join(MANIFEST);
        let text = fs::read_to_string(&path).unwrap();
        for (from, to) in [
            ("\"through\": 30", "\"through\": 9230"),
            ("\"beta1\"", "\"beta3\""),
            ("\"format\": 2", "\"format\": 6"),
            ("\"seed\": 22", "\"seed\": 23"),
        ] {
            assert!(text.contains(from), "{from} in {text}");
            fs::write(&path, text.replace(from, to)).unwrap();
            let (newest, damaged) = checkpoints.newest().unwrap();
            assert_eq!(newest.unwrap().manifest().step, 20);
            let damaged = damaged[0].to_string();
            assert!(damaged.contains("manifest.json: its checksum is wrong"), "{damaged}");
        }
    }

    #[test]
    fn a_log_window_that_cannot_be_that_of_its_step_is_not_used() {
        let (_folder, checkpoints) = three_checkpoints();
        for change in [
            |window: &mut LogWindow| window.through = 9230,
            |window: &mut LogWindow| window.steps = 31,
            |window: &mut LogWindow| window.sums[0] = f64::MAX * 2.0,
            |window: &mut LogWindow| window.step_ms = -1.0,
        ] {
            let mut manifest = manifest(30);
            change(&mut manifest.window);
            let error = check_fields(30, &manifest).unwrap_err();
            assert!(error.contains("no log window of step 30"), "{error}");
        }
        let huge = Manifest { file_bytes: STATE_BYTES_MAX + 1, ..manifest(30) };
        check_fields(30, &huge).unwrap_err();
        let huge = vec![0; STATE_BYTES_MAX as usize + 1];
        assert!(checkpoints.save(&manifest(40), &huge).is_err());
    }

    #[test]
    fn a_state_that_is_no_file_of_its_size_is_not_read() {
        let (_folder, checkpoints) = three_checkpoints();
        let state = |step| checkpoints.path(step).join(STATE);
        fs::remove_file(state(30)).unwrap();
        std::os::unix::fs::symlink("/dev/zero", state(30)).unwrap();
        fs::File::options().write(true).open(state(20)).unwrap().set_len(200 << 30).unwrap();
        let (newest, damaged) = checkpoints.newest().unwrap();
        assert_eq!(newest.unwrap().manifest().step, 10);
        let damaged: Vec<String> = damaged.iter().map(ToString::to_string).collect();
        assert!(damaged[0].ends_with("state.safetensors: not a regular file"), "{damaged:?}");
        assert!(damaged[1].ends_with("bytes, found 214748364800"), "{damaged:?}");
    }

    #[test]
    fn a_checkpoint_of_another_run_is_skipped_and_neither_counted_nor_removed() {
        let (_folder, checkpoints) = three_checkpoints();
        let data = DatasetInfo { images: 9, rows: 1, columns: 1, digest: Digest(3) };
        let other_spec =
            RunSpec::builder().objective(ObjectiveKind::Toy).batch_size(4).shards(2).build(data);
        let of_run = |run, fingerprint: &str, spec| Owner {
            run: Some(RunId(run)),
            fingerprint: Some(fingerprint.to_owned()),
            spec: Some(spec),
        };
        for (owner, what) in [
            (of_run(8, "toy", spec()), "it is a checkpoint of run"),
            (of_run(7, "cpu", spec()), "it has the arithmetic toy, and the run has cpu"),
            (of_run(7, "toy", other_spec.unwrap()), "it has learning-rate 0.1, and the run has"),
        ] {
            let others = checkpoints.clone().of_run(owner);
            let (newest, damaged) = others.newest().unwrap();
            assert!(newest.is_none());
            assert_eq!(damaged.len(), 3);
            assert!(damaged[0].to_string().contains(what), "{damaged:?}");
            others.prune(1, 30).unwrap();
            assert_eq!(checkpoints.steps().unwrap(), [10, 20, 30]);
        }
        let own = checkpoints.clone().of_run(of_run(7, "toy", spec()));
        assert_eq!(own.newest().unwrap().0.unwrap().manifest().step, 30);
    }

    #[test]
    fn damaged_checkpoints_do_not_count_as_those_that_are_kept() {
        let (_folder, checkpoints) = three_checkpoints();
        for step in [40, 50] {
            checkpoints.save(&manifest(step), &state(step)).unwrap();
            fs::write(checkpoints.path(step).join(STATE), "torn").unwrap();
        }
        checkpoints.prune(2, 50).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [20, 30, 40, 50]);
        // One that was intact at the last look is looked at again when its file has changed.
        let path = checkpoints.path(30).join(STATE);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        checkpoints.save(&manifest(60), &state(60)).unwrap();
        checkpoints.prune(2, 60).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [20, 30, 40, 50, 60]);
        // A damaged one is removed when enough intact ones are newer.
        checkpoints.save(&manifest(70), &state(70)).unwrap();
        checkpoints.prune(2, 70).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [60, 70]);
    }

    #[test]
    fn whatever_is_in_the_place_of_a_checkpoint_is_replaced_in_one_operation() {
        let (folder, checkpoints) = three_checkpoints();
        let other = Manifest { state_digest: Digest(1), ..manifest(30) };
        let (file, link) = (checkpoints.path(40), checkpoints.path(50));
        fs::write(file, "a file").unwrap();
        std::os::unix::fs::symlink(folder.path().join("missing"), link).unwrap();
        for (manifest, what) in [
            (other, "one with state digest"),
            (manifest(40), "manifest.json: Not a directory"),
            (manifest(50), "manifest.json: No such file"),
        ] {
            let replaced = checkpoints.save(&manifest, &state(manifest.step)).unwrap();
            assert!(replaced.as_ref().is_some_and(|it| it.starts_with(what)), "{replaced:?}");
        }
        assert_eq!(checkpoints.save(&manifest(50), &state(50)).unwrap(), None);
        assert_eq!(checkpoints.newest().unwrap().0.unwrap().manifest().step, 50);
        assert_eq!(names(&checkpoints).len(), 5);
    }

    #[test]
    fn names_that_this_program_did_not_give_are_left_alone() {
        let (_folder, checkpoints) = three_checkpoints();
        let path = |name| checkpoints.folder.join(name);
        for name in ["step-30", "step-+10"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("notes.tmp"), "important").unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [10, 20, 30]);
        checkpoints.prune(1, 30).unwrap();
        assert_eq!(names(&checkpoints), ["notes.tmp", "step-+10", "step-00000030", "step-30"]);
    }
}
