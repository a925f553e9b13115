//! The checkpoints of a run directory that is followed: what was seen of them, shown and said.
//!
//! A look every second must cost nothing while nothing changes, also if the newest checkpoint is
//! damaged. And a disk may hang: whatever reads runs on a thread of its own.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dcgan_core::ids::{Digest, Step};
use dcgan_store::checkpoint::{Damaged, VerifiedCheckpoint};
use dcgan_store::run_dir::RunPaths;
use tokio::task::spawn_blocking;

use crate::newest::Newest;
use crate::run_dir;

/// A run directory, and what this sampler knows of it.
pub(crate) struct FollowedFolder {
    root: PathBuf,
    /// The folder of checkpoints at the last look.
    seen: Seen,
    /// The checkpoint that is shown.
    shown: Option<(Step, Digest)>,
    /// The checkpoints that were skipped, and why: each is said once.
    skipped: Vec<String>,
    /// The error that was said, while it lasts.
    error: Option<String>,
    /// True if it is said that there is no checkpoint yet.
    is_wait_said: bool,
}

/// The steps in the folder of checkpoints, and the time of its last change, which tells also of one
/// that is written anew.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    steps: Vec<Step>,
    modified: Option<SystemTime>,
}

/// The result of a look at a folder that has changed.
struct Found {
    seen: Seen,
    newest: Option<VerifiedCheckpoint>,
    /// The later ones, which are skipped.
    skipped: Vec<Damaged>,
}

impl FollowedFolder {
    pub(crate) fn new(root: PathBuf) -> Self {
        let (seen, skipped) = (Seen::default(), Vec::new());
        Self { root, seen, shown: None, skipped, error: None, is_wait_said: false }
    }

    /// Looks once, and shows the newest checkpoint if it is not shown already.
    ///
    /// # Errors
    /// If the directory cannot be read, or the generator not be drawn. The next look tries again.
    pub(crate) async fn look(&mut self, newest: &Newest) -> anyhow::Result<()> {
        let (root, seen) = (self.root.clone(), self.seen.clone());
        let Some(found) = spawn_blocking(move || look(&root, &seen)).await?? else {
            return Ok(());
        };
        self.report_skipped(&found.skipped);
        if let Some(checkpoint) = found.newest {
            let manifest = checkpoint.manifest();
            let (step, digest) = (manifest.step, manifest.state_digest);
            if self.shown != Some((step, digest)) {
                newest.replace(move |weights| run_dir::generator(&checkpoint, weights)).await?;
                self.shown = Some((step, digest));
                tracing::info!(event = "showing", step, "showing the checkpoint of step {step}");
            }
        }
        if self.shown.is_none() && !std::mem::replace(&mut self.is_wait_said, true) {
            let what = "the first checkpoint";
            tracing::info!(event = "waiting", "for" = what, seconds = 0, "waiting for {what}");
        }
        (self.seen, self.error) = (found.seen, None);
        Ok(())
    }

    fn report_skipped(&mut self, skipped: &[Damaged]) {
        let said = std::mem::take(&mut self.skipped);
        for checkpoint in skipped {
            let why = checkpoint.to_string();
            if !said.contains(&why) {
                tracing::warn!(
                    event = "checkpoint_skipped",
                    path = %checkpoint.path().display(),
                    "skipping a checkpoint: {why}"
                );
            }
            self.skipped.push(why);
        }
    }

    /// Logs an error of a look. A checkpoint may be removed while it is read, and then the next
    /// look succeeds. An error that stays is logged once.
    pub(crate) fn report(&mut self, error: &anyhow::Error) {
        let text = format!("{error:#}");
        if self.error.as_ref() != Some(&text) {
            tracing::warn!(
                event = "look_failed",
                "could not load a checkpoint, trying again: {text}"
            );
            self.error = Some(text);
        }
    }
}

/// Looks into a run directory; `None` if nothing has changed since `seen`.
fn look(root: &Path, seen: &Seen) -> anyhow::Result<Option<Found>> {
    let checkpoints = run_dir::checkpoints(root)?;
    let modified = run_dir::modified(&RunPaths::new(root).checkpoints());
    let now = Seen { steps: checkpoints.steps()?, modified };
    // A folder whose time cannot be told is read at each look.
    if now == *seen && modified.is_some() {
        return Ok(None);
    }
    let (newest, skipped) = run_dir::newest_and_damaged(&checkpoints, root)?;
    Ok(Some(Found { seen: now, newest, skipped }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use dcgan_core::ids::RunId;
    use dcgan_core::metrics::LogWindow;
    use dcgan_core::spec::{DatasetInfo, ObjectiveKind, RunSpec};
    use dcgan_core::state::{Layout, State, digest};
    use dcgan_store::checkpoint::{Checkpoints, Manifest};
    use dcgan_store::run_dir::{FORMAT, RunDir, RunFile};
    use dcgan_store::state_file;

    use super::*;

    /// Saves a checkpoint of the toy.
    fn save(checkpoints: &Checkpoints, step: Step) {
        let layout = Arc::new(Layout::new([("weight".to_owned(), vec![5])]));
        let state = state_file::encode(&State::zeros(layout));
        let data = DatasetInfo { images: 9, rows: 1, columns: 1, digest: Digest(3) };
        let spec = RunSpec::builder().objective(ObjectiveKind::Toy).batch_size(4).shards(2);
        let metrics = ObjectiveKind::Toy.metric_names().len();
        let manifest = Manifest {
            format: FORMAT,
            run: RunId(7),
            step,
            state_digest: state_file::digest_of(&state).unwrap(),
            file_digest: digest::of_bytes(&state),
            file_bytes: state.len() as u64,
            config: spec.build(data).unwrap(),
            fingerprint: "toy".to_owned(),
            window: LogWindow::after(step, metrics),
            ends_run: false,
        };
        checkpoints.save(&manifest, &state).unwrap();
    }

    #[test]
    fn a_damaged_newest_checkpoint_is_read_once_until_the_folder_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (mut dir, _) = RunDir::open(folder.path()).unwrap();
        let run = RunFile::new(RunId(7));
        dir.save_run(&run).unwrap();
        let checkpoints = Checkpoints::new(dir.paths());
        save(&checkpoints, 10);
        save(&checkpoints, 20);
        let state = dir.paths().checkpoints().join("step-00000020/state.safetensors");
        fs::write(state, "torn").unwrap();

        let step = |found: &Found| found.newest.as_ref().map(|newest| newest.manifest().step);
        let first = look(folder.path(), &Seen::default()).unwrap().unwrap();
        assert_eq!((step(&first), first.skipped.len()), (Some(10), 1));
        assert!(look(folder.path(), &first.seen).unwrap().is_none());

        // It is written anew, under the same name.
        save(&checkpoints, 20);
        let second = look(folder.path(), &first.seen).unwrap().unwrap();
        assert_eq!((step(&second), second.skipped.len()), (Some(20), 0));
        assert!(look(folder.path(), &second.seen).unwrap().is_none());
    }
}
