//! The thread that writes the run directory.
//!
//! A disk may take seconds for a write, or hang for minutes, as a network file system does when its
//! server is away. Whoever writes waits for it. So the driver does not: it hands its writes to this
//! thread, which does them in order, and their ends come back as inputs. What fails goes back to
//! the machine, which decides what is tried next.

use std::io::{self, ErrorKind};
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use dcgan_core::ids::Step;
use dcgan_core::protocol::coordinator::Write;
use dcgan_process::fault;
use dcgan_store::metrics_log::MetricsError;
use dcgan_store::run_dir::RunDirError;
use tokio::sync::mpsc;

use crate::input::Input;
use crate::recorder::Recorder;

/// Pause after an attempt that has failed.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(500);

/// Something to write.
pub(crate) enum Job {
    /// A write of the machine.
    Machine(Write),
    /// A grid that was drawn, as a PNG file.
    Grid { step: Step, png: Bytes },
}

impl Job {
    /// The thing that is written, for people.
    pub(crate) fn what(&self) -> String {
        match self {
            Self::Machine(write) => write.to_string(),
            Self::Grid { step, .. } => format!("the grid of step {step}"),
        }
    }

    fn is_grid(&self) -> bool {
        matches!(self, Self::Machine(Write::PendingGrid { .. }) | Self::Grid { .. })
    }

    /// The name by which `--fault` refers to the job.
    fn fault_point(&self) -> &'static str {
        match self {
            Self::Machine(Write::Plan { .. }) => "store-plan",
            Self::Machine(Write::Rows(_)) => "append-row",
            Self::Machine(Write::Evaluation(_)) => "append-evaluation",
            Self::Machine(Write::Checkpoint { .. }) => "save-checkpoint",
            Self::Machine(Write::PendingGrid { .. }) | Self::Grid { .. } => "save-grid",
        }
    }
}

/// News of a job.
pub(crate) enum JobNews {
    /// The job is done: its file is durable.
    Done(Job),
    /// The attempt has failed, for this reason. Another one may succeed.
    Failed(String),
    /// The job is given up, for this reason.
    GivenUp(Job, String),
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
        for job in jobs {
            if has_failed {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a disk gives no event when it works again"
                )]
                thread::sleep(ATTEMPT_PAUSE);
            }
            let news = attempt(&mut recorder, job);
            has_failed = matches!(news, JobNews::Failed(_));
            // The driver is gone if the coordinator is ending.
            if inputs.blocking_send(Input::Writer(news)).is_err() {
                return;
            }
        }
    })?;
    Ok(sender)
}

/// Does a job, if it can be done.
fn attempt(recorder: &mut Recorder, job: Job) -> JobNews {
    fault::pass(job.fault_point());
    let result = match &job {
        Job::Machine(write) => recorder.write(write),
        Job::Grid { step, png } => recorder.save_grid(*step, png),
    };
    let Err(error) = result else {
        return JobNews::Done(job);
    };
    let text = format!("{error:#}");
    // A grid is not tried again: a picture that is missing must not hold up a checkpoint.
    if job.is_grid() || is_hopeless(&error) {
        JobNews::GivenUp(job, text)
    } else {
        JobNews::Failed(text)
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
