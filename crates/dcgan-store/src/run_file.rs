//! The file `run.json` of a run directory: the run's identity, its newest plan, and how its last
//! start ended.
//!
//! A coordinator takes the end out of the file before it does anything else, and puts one in as the
//! last thing that it does. So an end is that of the last start, and one that was killed has none.

use std::{fmt, fs, io};

use dcgan_core::ids::{RunId, Step};
use dcgan_core::protocol::plan::Plan;
use serde::{Deserialize, Serialize};

use crate::file;
use crate::format::{self, FORMAT, Unreadable};
use crate::run_dir::{RunDirError, RunPaths, io_error};

/// The most bytes of `run.json`. A larger file is damaged. A plan with as many members and shards
/// as there may be has 20 MB.
const RUN_FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// The content of `run.json`: the run that a directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFile {
    /// The version of the format: at most [`FORMAT`].
    pub format: u32,
    /// The run's identity.
    pub run: RunId,
    /// The fingerprint of the workers' arithmetic; `None` until the first worker has connected.
    pub fingerprint: Option<String>,
    /// The newest plan; `None` until the first one is made.
    pub plan: Option<Plan>,
    /// The address at which the coordinator listens, or did at its last start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The arguments, as a shell reads them, with which a program goes on with the run as its last
    /// start would have: all but the run directory. `None` in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,
    /// The last step of the schedule of the last start. `None` in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_step: Option<Step>,
    /// The end of the last start; `None` while it lasts, and if it was killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// The end of a start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The way in which it ended.
    pub state: EndState,
    /// The last step that was finished.
    pub step: Step,
    /// The signal or the person that stopped it, the failure, or why it has finished before its
    /// schedule; `None` if it has done all its steps.
    pub cause: Option<String>,
    /// True if its workers have ended with it: nobody trains on. Unknown, and so false, in files
    /// of earlier versions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub workers_over: bool,
}

/// The way in which a start ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndState {
    /// All steps are done, or it has ended early.
    Finished,
    /// Somebody stopped it, and it can go on.
    Stopped,
    /// A failure ended it.
    Failed,
}

/// The state of a run whose coordinator is not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// All steps were done when it ended.
    Finished,
    /// Somebody stopped it, and it can go on.
    Stopped,
    /// A failure ended it.
    Failed,
    /// The coordinator has ended without a word.
    Killed,
    /// A coordinator uses its directory, and does not answer.
    Running,
}

impl RunFile {
    /// Returns the content for a run that has not begun.
    pub fn new(run: RunId) -> Self {
        Self {
            format: FORMAT,
            run,
            fingerprint: None,
            plan: None,
            address: None,
            resume: None,
            last_step: None,
            ended: None,
        }
    }

    /// The state of the run, whose coordinator is not reached. `is_in_use` tells whether one uses
    /// its directory, and `is_complete` whether all its steps are done.
    pub fn state(&self, is_in_use: bool, is_complete: bool) -> RunState {
        match self.ended.as_ref().map(|ended| ended.state) {
            _ if is_in_use => RunState::Running,
            Some(EndState::Finished) => RunState::Finished,
            Some(EndState::Stopped) => RunState::Stopped,
            Some(EndState::Failed) => RunState::Failed,
            // Earlier versions recorded no address and no end.
            None if self.address.is_some() => RunState::Killed,
            None if is_complete => RunState::Finished,
            None => RunState::Stopped,
        }
    }

    /// The text of the file.
    pub(crate) fn text(&self) -> String {
        format::text(self)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = self.step;
        match self.state {
            EndState::Finished => write!(f, "finished: {step} steps"),
            EndState::Stopped => write!(f, "stopped after step {step}"),
            EndState::Failed => write!(f, "failed after step {step}"),
        }?;
        self.cause.as_ref().map_or(Ok(()), |cause| write!(f, " ({cause})"))
    }
}

/// Reads `run.json`; `None` if there is none. Needs no lock.
///
/// # Errors
/// If the file cannot be read, is damaged, or is of a newer version.
pub fn read_run_file(paths: &RunPaths) -> Result<Option<RunFile>, RunDirError> {
    let path = paths.run_file();
    let content = match file::read(&path, RUN_FILE_BYTES_MAX) {
        Ok(content) => content,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(io_error(&path, error)),
    };
    match format::parse(&path, &content) {
        Ok(run) => Ok(Some(run)),
        Err(Unreadable::Newer(newer)) => Err(newer.into()),
        Err(Unreadable::Damaged(what) | Unreadable::Foreign(what)) => {
            let what = format!("{what}; {}", way_out(paths));
            Err(RunDirError::Damaged { path, what })
        }
    }
}

/// Returns whether an error says that there is no such file. In a file that is taken for a folder
/// there is none, either.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Says how a run goes on whose `run.json` is damaged.
fn way_out(paths: &RunPaths) -> String {
    let folder = paths.checkpoints();
    let has_checkpoint = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    let root = paths.root().display();
    if has_checkpoint {
        format!(
            "move it away, and start with --config {root}/config.toml --out {root}: the newest \
             checkpoint says which run this is"
        )
    } else {
        format!("there is no checkpoint to go on from: remove {root}, and start the run anew")
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn a_run_file_of_an_older_format_is_read_and_one_of_a_newer_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            fs::write(folder.path().join("run.json"), text).unwrap();
            read_run_file(&RunPaths::new(folder.path()))
        };
        let old = read(r#"{"format":1,"run":"0000000000000007"}"#).unwrap().unwrap();
        assert_eq!(old, RunFile { format: 1, ..RunFile::new(RunId(7)) });
        // The rest of a newer file may have any form.
        let error = read(r#"{"format":9,"runs":[]}"#).unwrap_err().to_string();
        let in_words = "run.json: format 9 is of a newer version of this program; use that version";
        assert!(error.ends_with(in_words), "{error}");
    }

    #[test]
    fn no_flipped_bit_of_a_run_file_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let paths = RunPaths::new(folder.path());
        let cause = Some("SIGTERM".to_owned());
        let ended = Some(Ended { state: EndState::Stopped, step: 40, cause, workers_over: true });
        let run = RunFile {
            fingerprint: Some("cpu r2 fma".to_owned()),
            address: Some("http://127.0.0.1:7420".to_owned()),
            resume: Some("--local --steps 40".to_owned()),
            ended,
            ..RunFile::new(RunId(7))
        };
        let text = run.text().into_bytes();
        for bit in 0..8 * text.len() {
            let mut flipped = text.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(paths.run_file(), flipped).unwrap();
            match read_run_file(&paths) {
                Err(RunDirError::Damaged { what, .. }) => {
                    assert!(what.contains("there is no checkpoint to go on from"), "{what}");
                }
                read => assert_eq!(read.unwrap(), Some(run.clone()), "bit {bit}"),
            }
        }
    }
}
