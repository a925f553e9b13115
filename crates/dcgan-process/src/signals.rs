//! Signals that ask a program to end.

use std::fmt;
use std::io;

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::status;

/// A signal that asks a program to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM, which a cluster sends to a pod that it moves.
    Terminate,
}

impl Signal {
    /// The exit status of a program that ended in order because of the signal.
    pub fn status(self) -> u8 {
        match self {
            Self::Interrupt => status::INTERRUPTED,
            Self::Terminate => status::TERMINATED,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// Calls `on_signal` for every signal, from a task of the current runtime.
///
/// # Errors
/// If the operating system refuses to deliver the signals.
pub fn listen(on_signal: impl Fn(Signal) + Send + 'static) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        loop {
            let signal = tokio::select! {
                _ = interrupt.recv() => Signal::Interrupt,
                _ = terminate.recv() => Signal::Terminate,
            };
            on_signal(signal);
        }
    });
    Ok(())
}
