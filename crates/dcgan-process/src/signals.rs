//! Signals that ask a program to end.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::status;

/// A signal that asks a program to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM, as a cluster sends it to a pod that it moves.
    Terminate,
}

impl Signal {
    /// The exit status of a program that the signal ended in order.
    pub fn status(self) -> u8 {
        match self {
            Self::Interrupt => status::INTERRUPTED,
            Self::Terminate => status::TERMINATED,
        }
    }
}

/// Calls `on_signal` at every signal, from a task of the current runtime.
///
/// # Errors
/// If the operating system refuses.
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
