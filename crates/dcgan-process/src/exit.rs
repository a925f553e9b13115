//! The end of a program: its exit status, and one line that says what went wrong.

use std::process::ExitCode;
use std::{fmt, io};

use crate::{logging, output, panics, settings, signals};

/// Exit statuses, the same for all programs. The README has them as a table.
pub mod status {
    /// The program did what it was asked to: the run has finished, or a person has ended it with
    /// `dcgan-coord stop` and every finished step is saved. A worker has this status when the
    /// coordinator says that the run is over.
    pub const FINISHED: u8 = 0;
    /// The program failed in a way that has no status of its own, or finished steps are lost.
    pub const FAILED: u8 = 1;
    /// The usage or the configuration is wrong.
    pub const USAGE: u8 = 2;
    /// SIGHUP stopped the program, which ended in order: what it had is saved.
    pub const HUNG_UP: u8 = 129;
    /// Ctrl-C stopped the program, which ended in order: what it had is saved.
    pub const INTERRUPTED: u8 = 130;
    /// SIGTERM stopped the program, which ended in order: what it had is saved.
    pub const TERMINATED: u8 = 143;
}

/// A mistake of the person who started the program, and who can correct it.
#[derive(Debug)]
pub struct UsageError(anyhow::Error);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The alternate form shows the whole chain of causes.
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for UsageError {}

/// Marks an error as a mistake of usage: the program ends with [`status::USAGE`].
pub fn usage(error: impl Into<anyhow::Error>) -> anyhow::Error {
    UsageError(error.into()).into()
}

/// Runs the main function of a program. Returns its exit status, and prints one line if it failed:
/// as an event of the log if that is JSON, as plain text else.
pub fn run(main: impl FnOnce() -> anyhow::Result<u8>) -> ExitCode {
    panics::end_the_process();
    let survived = signals::survive().map_err(anyhow::Error::from);
    let status = survived.and_then(|()| main()).unwrap_or_else(|error| {
        let status = status_of(&error);
        let mut error = format!("{error:#}");
        error += &settings::variables_behind(&error);
        if logging::is_json() {
            tracing::error!(event = "program_failed", status, "{error}");
        } else {
            output::say(&format!("error: {error}"));
        }
        status
    });
    output::flush();
    status.into()
}

/// Ends the process after it has printed all that it was asked for.
pub(crate) fn after_printing(printed: io::Result<()>) -> ! {
    match output::check_written(printed) {
        Ok(()) => now(status::FINISHED),
        Err(error) => {
            output::say(&format!("error: {error:#}"));
            now(status::FAILED)
        }
    }
}

/// Ends the process with a status, from any thread.
pub(crate) fn now(status: u8) -> ! {
    output::flush();
    std::process::exit(status.into())
}

/// The exit status of a program that fails with this error.
fn status_of(error: &anyhow::Error) -> u8 {
    if error.is::<UsageError>() { status::USAGE } else { status::FAILED }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn a_mistake_of_usage_has_its_own_status_and_keeps_its_causes() {
        let error = usage(anyhow!("not a number").context("--seed"));
        assert_eq!(status_of(&error), status::USAGE);
        assert_eq!(format!("{error:#}"), "--seed: not a number");
        assert_eq!(status_of(&anyhow!("the disk is full")), status::FAILED);
    }

    #[test]
    fn context_does_not_hide_a_mistake_of_usage() {
        let error = Err::<(), _>(usage(anyhow!("not a number"))).context("--seed").unwrap_err();
        assert_eq!(status_of(&error), status::USAGE);
    }
}
