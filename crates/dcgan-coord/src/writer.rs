//! The thread that writes the run directory.
//!
//! A disk may take seconds for a write, or hang for minutes, as a network file system does when its
//! server is away. Whoever writes waits for it. So the driver does not: it hands its writes to this
//! thread, which does them in order, and their ends come back as inputs. What fails goes back to
//! the machine, which decides what is tried next.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dcgan_core::ids::Step;
use dcgan_core::protocol::coordinator::Write;
use dcgan_process::fault;
use dcgan_store::metrics_log::MetricsError;
use dcgan_store::run_dir::{Ended, RunDirError};
use tokio::sync::mpsc;

use crate::input::Input;
use crate::recorder::Recorder;

/// Pause after an attempt that has failed.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(500);
/// Between jobs, the writer looks this often whether others have changed the directory.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Something to write.
pub(crate) enum Job {
    /// A write of the machine.
    Machine(Write),
    /// A grid that was drawn, as a PNG file.
    Grid { step: Step, png: Bytes },
    /// A write of the machine that has failed: the snapshot for a grid, as a safetensors file.
    PendingGrid { step: Step, bytes: Arc<Vec<u8>> },
    /// How this start has ended. It is the last job.
    End(Ended),
}

impl Job {
    /// The thing that is written, for people.
    pub(crate) fn what(&self) -> String {
        match self {
            Self::Machine(write) => write.to_string(),
            Self::Grid { step, .. } => format!("the grid of step {step}"),
            Self::PendingGrid { step, .. } => format!("the snapshot for the grid of step {step}"),
            Self::End(_) => "how the run has ended".to_owned(),
        }
    }

    /// The step of a grid.
    pub(crate) fn grid_step(&self) -> Option<Step> {
        match self {
            Self::Machine(Write::PendingGrid { step, .. })
            | Self::Grid { step, .. }
            | Self::PendingGrid { step, .. } => Some(*step),
            Self::Machine(_) | Self::End(_) => None,
        }
    }

    /// The kind of the job: the name by which `--fault` refers to it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Machine(Write::Plan { .. }) => "store-plan",
            Self::Machine(Write::Rows(_)) => "append-row",
            Self::Machine(Write::Evaluation(_)) => "append-evaluation",
            Self::Machine(Write::Checkpoint { .. }) => "save-checkpoint",
            Self::Machine(Write::PendingGrid { .. })
            | Self::Grid { .. }
            | Self::PendingGrid { .. } => "save-grid",
            Self::End(_) => "save-end",
        }
    }
}

/// News of a job.
pub(crate) enum JobNews {
    /// The job is done: its file is durable.
    Done(Job),
    /// The attempt has failed, for this reason. Another one may succeed.
    Failed(Job, String),
    /// The job is given up, for this reason.
    GivenUp(Job, String),
    /// Somebody has removed or damaged the newest checkpoint.
    CheckpointLost,
}

/// Starts the thread. It ends when the sender that is returned is dropped.
///
/// # Errors
/// If the system has no thread to give.
pub(crate) fn start(
    mut recorder: Recorder,
    inputs: mpsc::Sender<Input>,
) -> io::Result<std_mpsc::Sender<Job>> {
    let (sender, jobs) = std_mpsc::channel::<Job>();
    thread::Builder::new().name("writer".to_owned()).spawn(move || {
        let mut has_failed = false;
        let mut said = String::new();
        let mut look_at = Instant::now() + LOOK_INTERVAL;
        loop {
            // Jobs may come more often than that.
            let until_look = look_at.saturating_duration_since(Instant::now());
            let news = match jobs.recv_timeout(until_look) {
                Ok(job) => {
                    if has_failed {
                        #[expect(
                            clippy::disallowed_methods,
                            reason = "a disk gives no event when it works again"
                        )]
                        thread::sleep(ATTEMPT_PAUSE);
                    }
                    let news = attempt(&mut recorder, job);
                    has_failed = matches!(news, JobNews::Failed(..));
                    Some(news)
                }
                Err(RecvTimeoutError::Timeout) => {
                    look(&mut recorder, &mut said);
                    look_at = Instant::now() + LOOK_INTERVAL;
                    recorder.lost_newest_checkpoint().then_some(JobNews::CheckpointLost)
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let is_last = matches!(news, Some(JobNews::Done(Job::End(_))));
            // The driver is gone if the coordinator is ending.
            let is_sent = news.is_none_or(|it| inputs.blocking_send(Input::Writer(it)).is_ok());
            if is_last || !is_sent {
                return;
            }
        }
    })?;
    Ok(sender)
}

/// Restores what others have changed, while nothing is to be written. Why that fails is said once.
fn look(recorder: &mut Recorder, said: &mut String) {
    let error = recorder.restore().err().map(|error| format!("{error:#}")).unwrap_or_default();
    if !error.is_empty() && error != *said {
        tracing::warn!(
            event = "directory_lost",
            "somebody has changed the run directory, and it cannot be restored: {error}"
        );
    }
    *said = error;
}

/// Does a job, if it can be done.
fn attempt(recorder: &mut Recorder, job: Job) -> JobNews {
    fault::pass("write");
    fault::pass(job.kind());
    // Whatever keeps the directory from being restored may end.
    if let Err(error) = recorder.restore() {
        return JobNews::Failed(job, format!("{error:#}"));
    }
    let result = match &job {
        Job::Machine(write) => recorder.write(write),
        Job::Grid { step, png } => recorder.save_grid(*step, png),
        Job::PendingGrid { step, bytes } => recorder.save_pending_grid(*step, bytes),
        Job::End(ended) => recorder.save_end(ended),
    };
    match result {
        Ok(()) => JobNews::Done(job),
        Err(error) if is_hopeless(&error) => JobNews::GivenUp(job, format!("{error:#}")),
        Err(error) => JobNews::Failed(job, format!("{error:#}")),
    }
}

/// Returns whether no later attempt can succeed: something else stands where a file or a folder
/// should be, or the content itself cannot be written. Room may become free, and a folder that is
/// missing may be mounted again.
fn is_hopeless(error: &anyhow::Error) -> bool {
    match io_error(error) {
        Some(error) => matches!(
            error.kind(),
            ErrorKind::NotADirectory
                | ErrorKind::IsADirectory
                | ErrorKind::InvalidInput
                | ErrorKind::InvalidFilename
        ),
        None => true,
    }
}

/// The error of the system below an error, if it is one.
fn io_error(error: &anyhow::Error) -> Option<&io::Error> {
    match (error.downcast_ref(), error.downcast_ref()) {
        (Some(RunDirError::Io { error, .. }), _) | (_, Some(MetricsError::Io { error, .. })) => {
            Some(error)
        }
        _ => error.downcast_ref(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_tried_again_and_a_file_in_the_place_of_a_folder_is_not() {
        let with = |kind: ErrorKind| {
            let error = RunDirError::Io { path: "grids".into(), error: kind.into() };
            is_hopeless(&anyhow::Error::from(error).context("cannot write a grid"))
        };
        assert!(!with(ErrorKind::StorageFull));
        assert!(!with(ErrorKind::NotFound));
        assert!(with(ErrorKind::NotADirectory));
        let checkpoint = anyhow::Error::from(io::Error::from(ErrorKind::NotADirectory));
        assert!(is_hopeless(&checkpoint.context("cannot write a checkpoint")));
        assert!(is_hopeless(&anyhow::anyhow!("no tensor of this name")));
    }
}
