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

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use dcgan_core::ids::{Digest, RunId, Step};
use dcgan_core::metrics::LogWindow;
use dcgan_core::spec::RunSpec;
use dcgan_core::state::digest;
use serde::{Deserialize, Serialize};

use crate::file::{self, Stamp};
use crate::format::{self, Newer, Unreadable};
use crate::run_dir::RunPaths;
use crate::state_file;

/// The name of the file with the state, in the folder of a checkpoint.
pub const STATE_FILE: &str = "state.safetensors";
const MANIFEST: &str = "manifest.json";
/// The extension by which earlier versions named what they wrote or removed.
const TEMPORARY: &str = "tmp";
/// The most bytes of a state. A larger one is neither written nor read. The DCGAN's has 6 MB.
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
        self.newest_through(Step::MAX)
    }

    /// Returns the newest intact checkpoint of a step up to `through`, if there is one, and what is
    /// wrong with each later one up to there.
    ///
    /// # Errors
    /// As [`Checkpoints::newest`].
    pub fn newest_through(
        &self,
        through: Step,
    ) -> Result<(Option<VerifiedCheckpoint>, Vec<Damaged>), NewestError> {
        let mut damaged = Vec::new();
        for step in self.steps()?.into_iter().rev().filter(|&step| step <= through) {
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
    /// well. Checkpoints of another run or of a newer version of this program stay, and so do those
    /// of the steps `also`.
    ///
    /// If there are checkpoints after `step`, the training has gone back because they are damaged,
    /// and will replace them. They do not count as the newest.
    ///
    /// # Errors
    /// If a folder cannot be removed. Everything else is removed then.
    pub fn prune(&self, keep: usize, step: Step, also: &BTreeSet<Step>) -> io::Result<()> {
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
                if also.contains(&candidate) {
                    continue;
                }
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
        let before = Stamp::of(&self.path(step).join(STATE_FILE));
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
    file::write_new(&folder.join(STATE_FILE), state)?;
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
    let in_words = |error: io::Error| format!("{STATE_FILE}: {error}");
    let file = file::open(&path.join(STATE_FILE)).map_err(in_words)?;
    let expected = manifest.file_bytes;
    let bytes = file.metadata().map_err(in_words)?.len();
    if bytes != expected {
        return Err(format!("{STATE_FILE}: expected {expected} bytes, found {bytes}"));
    }
    let mut state = Vec::with_capacity(expected as usize);
    file.take(expected).read_to_end(&mut state).map_err(in_words)?;
    let digest = digest::of_bytes(&state);
    if digest != manifest.file_digest {
        return Err(format!(
            "{STATE_FILE}: expected digest {}, found {digest}",
            manifest.file_digest
        ));
    }

    // Check that they hold the state that the run had.
    let state_digest =
        state_file::digest_of(&state).map_err(|error| format!("{STATE_FILE}: {error}"))?;
    if state_digest != manifest.state_digest {
        return Err(format!(
            "{STATE_FILE}: expected state digest {}, found {state_digest}",
            manifest.state_digest
        ));
    }
    Ok(VerifiedCheckpoint { manifest, state })
}

#[cfg(test)]
mod tests;
mod watched;

pub use watched::WatchedCheckpoint;
