//! How a program ends: its exit status, and one line that says what went wrong.

use std::fmt;
use std::process::ExitCode;

use crate::panics;

/// Exit statuses, the same for all programs.
pub mod status {
    /// Finished. A worker finishes when the coordinator says that the run is over.
    pub const FINISHED: u8 = 0;
    /// Anything that is not one of the others.
    pub const FAILED: u8 = 1;
    /// Wrong usage or configuration.
    pub const USAGE: u8 = 2;
    /// Stopped by Ctrl-C, in order.
    pub const INTERRUPTED: u8 = 130;
    /// Stopped by SIGTERM, in order.
    pub const TERMINATED: u8 = 143;
}

/// A mistake of the person who started the program, who can correct it.
#[derive(Debug)]
pub struct UsageError(anyhow::Error);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for UsageError {}

/// Marks an error as a mistake of usage: the program will end with [`status::USAGE`].
pub fn usage(error: impl Into<anyhow::Error>) -> anyhow::Error {
    UsageError(error.into()).into()
}

/// Runs a program's main function. Gives its exit status; prints one line if it failed.
pub fn run(main: impl FnOnce() -> anyhow::Result<u8>) -> ExitCode {
    panics::end_the_process();
    match main() {
        Ok(status) => status.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<UsageError>() { status::USAGE } else { status::FAILED }.into()
        }
    }
}
