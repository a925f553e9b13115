//! Checkpoints: a folder each, complete or absent, verified before anything in it is used.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dcgan_core::ids::{Digest, RunId, Step};
use dcgan_core::metrics::LogWindow;
use dcgan_core::spec::RunSpec;
use dcgan_core::state::digest;
use serde::{Deserialize, Serialize};

use crate::file;
use crate::run_dir::{FORMAT, RunPaths};
use crate::state_file;

const STATE: &str = "state.safetensors";
const MANIFEST: &str = "manifest.json";

/// What a checkpoint says of itself: `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the format.
    pub format: u32,
    /// The run that it belongs to.
    pub run: RunId,
    /// The step after which it was taken.
    pub step: Step,
    /// The digest of the state.
    pub state_digest: Digest,
    /// The digest of the file `state.safetensors`.
    pub file_digest: Digest,
    /// Its size in bytes.
    pub file_bytes: u64,
    /// Everything that the result depends on, the data's digest among it.
    pub config: RunSpec,
    /// What the run's arithmetic depends on.
    pub fingerprint: String,
    /// The sums of the open log window.
    pub window: LogWindow,
}

/// A checkpoint whose digests were found right.
#[derive(Clone, Debug)]
pub struct VerifiedCheckpoint {
    manifest: Manifest,
    state: Vec<u8>,
}

impl VerifiedCheckpoint {
    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The state, as a safetensors file.
    pub fn state(&self) -> &[u8] {
        &self.state
    }
}

/// A checkpoint that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {what}")]
pub struct Damaged {
    path: PathBuf,
    what: String,
}

impl Damaged {
    /// The path of the checkpoint's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The folder of a run's checkpoints.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// The checkpoints of a run directory.
    pub fn new(paths: &RunPaths) -> Self {
        Self { folder: paths.checkpoints() }
    }

    /// The steps that have a checkpoint, intact or not, in order.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn steps(&self) -> io::Result<Vec<Step>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut steps = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            steps.extend(
                name.to_str().and_then(|name| name.strip_prefix("step-")?.parse::<Step>().ok()),
            );
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Makes a checkpoint durable. One that is there and intact is left as it is.
    ///
    /// # Errors
    /// If it cannot be written; other checkpoints are untouched.
    pub fn save(&self, manifest: &Manifest, state: &[u8]) -> io::Result<()> {
        let target = self.path(manifest.step);
        if target.exists() {
            if self
                .load(manifest.step)
                .is_ok_and(|found| found.manifest.state_digest == manifest.state_digest)
            {
                return Ok(());
            }
            fs::remove_dir_all(&target)?;
        }
        let temporary = target.with_extension("tmp");
        if temporary.exists() {
            fs::remove_dir_all(&temporary)?;
        }
        fs::create_dir(&temporary)?;
        let text = serde_json::to_string_pretty(manifest).expect("manifests are always JSON");
        file::write_through(&temporary.join(STATE), state)?;
        file::write_through(&temporary.join(MANIFEST), text.as_bytes())?;
        file::sync_folder_of(&temporary.join(MANIFEST))?;
        fs::rename(&temporary, &target)?;
        file::sync_folder_of(&target)
    }

    /// Loads and verifies the checkpoint of a step.
    ///
    /// # Errors
    /// If it is missing or damaged; says how.
    pub fn load(&self, step: Step) -> Result<VerifiedCheckpoint, Damaged> {
        let path = self.path(step);
        load(&path, step).map_err(|what| Damaged { path, what })
    }

    /// The newest intact checkpoint, and what was wrong with newer ones.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn newest(&self) -> io::Result<(Option<VerifiedCheckpoint>, Vec<Damaged>)> {
        let mut damaged = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            match self.load(step) {
                Ok(checkpoint) => return Ok((Some(checkpoint), damaged)),
                Err(error) => damaged.push(error),
            }
        }
        Ok((None, damaged))
    }

    /// Of those up to `step`, removes all but the newest `keep`; and what crashes left behind. If there are later ones, the
    /// training has gone back before them because they are damaged: they are replaced as it comes by.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn prune(&self, keep: usize, step: Step) -> io::Result<()> {
        let steps = self.steps()?;
        for &step in steps.iter().rev().filter(|&&other| other <= step).skip(keep.max(1)) {
            // Renamed first: a checkpoint that is being removed is no checkpoint.
            let leaving = self.path(step).with_extension("tmp");
            fs::rename(self.path(step), &leaving)?;
            fs::remove_dir_all(leaving)?;
        }
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }

    fn path(&self, step: Step) -> PathBuf {
        self.folder.join(format!("step-{step:08}"))
    }
}

fn load(path: &Path, step: Step) -> Result<VerifiedCheckpoint, String> {
    let read = |name: &str| fs::read(path.join(name)).map_err(|error| format!("{name}: {error}"));
    let manifest: Manifest =
        serde_json::from_slice(&read(MANIFEST)?).map_err(|error| format!("{MANIFEST}: {error}"))?;
    if manifest.format != FORMAT {
        return Err(format!("{MANIFEST}: expected format {FORMAT}, found {}", manifest.format));
    }
    if manifest.step != step {
        return Err(format!("{MANIFEST}: expected step {step}, found {}", manifest.step));
    }
    let state = read(STATE)?;
    let (bytes, digest) = (state.len() as u64, digest::of_bytes(&state));
    if bytes != manifest.file_bytes {
        return Err(format!("{STATE}: expected {} bytes, found {bytes}", manifest.file_bytes));
    }
    if digest != manifest.file_digest {
        return Err(format!("{STATE}: expected digest {}, found {digest}", manifest.file_digest));
    }
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

    fn manifest(step: Step) -> Manifest {
        let state = state(step);
        Manifest {
            format: FORMAT,
            run: RunId(7),
            step,
            state_digest: state_file::digest_of(&state).unwrap(),
            file_digest: digest::of_bytes(&state),
            file_bytes: state.len() as u64,
            config: RunSpec {
                objective: ObjectiveKind::Toy,
                batch_size: 4,
                shards: 2,
                seed: 22,
                learning_rate: 0.1,
                beta1: 0.5,
                data: DatasetInfo { images: 9, rows: 1, columns: 1, digest: Digest(3) },
            },
            fingerprint: "toy".to_owned(),
            window: LogWindow {
                through: step,
                steps: 1,
                sums: [0.1 + 0.2; 6],
                step_ms: 1.0 / 3.0,
                allreduce_ms: 0.0,
            },
        }
    }

    fn three() -> (tempfile::TempDir, Checkpoints) {
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
    fn what_is_saved_is_loaded_to_the_last_bit() {
        let (_folder, checkpoints) = three();
        let (newest, damaged) = checkpoints.newest().unwrap();
        let newest = newest.unwrap();
        assert_eq!((newest.manifest(), newest.state()), (&manifest(30), &*state(30)));
        assert!(damaged.is_empty());
        checkpoints.save(&manifest(30), &state(30)).unwrap();
    }

    #[test]
    fn a_damaged_checkpoint_is_told_and_skipped() {
        let (folder, checkpoints) = three();
        let at = |step: Step, name: &str| {
            folder.path().join(format!("checkpoints/step-{step:08}/{name}"))
        };
        let mut bytes = fs::read(at(30, STATE)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(at(30, STATE), bytes).unwrap();
        fs::write(at(20, MANIFEST), "{").unwrap();
        let (newest, damaged) = checkpoints.newest().unwrap();
        assert_eq!(newest.unwrap().manifest().step, 10);
        let damaged: Vec<String> = damaged.iter().map(ToString::to_string).collect();
        assert!(
            damaged[0].contains("step-00000030: state.safetensors: expected digest"),
            "{damaged:?}"
        );
        assert!(damaged[1].contains("step-00000020: manifest.json: EOF"), "{damaged:?}");
        checkpoints.save(&manifest(30), &state(30)).unwrap();
        assert_eq!(checkpoints.newest().unwrap().0.unwrap().manifest().step, 30);
    }

    #[test]
    fn the_newest_are_kept_and_debris_goes() {
        let (folder, checkpoints) = three();
        fs::create_dir(folder.path().join("checkpoints/step-00000040.tmp")).unwrap();
        assert_eq!(
            checkpoints.steps().unwrap(),
            [10, 20, 30],
            "what a crash left is no checkpoint"
        );
        checkpoints.prune(1, 20).unwrap();
        assert_eq!(
            checkpoints.steps().unwrap(),
            [20, 30],
            "what is later is not kept in the place of what was just saved"
        );
        checkpoints.prune(1, 30).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [30]);
        assert_eq!(fs::read_dir(folder.path().join("checkpoints")).unwrap().count(), 1);
    }
}
