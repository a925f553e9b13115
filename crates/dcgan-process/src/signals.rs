//! Signals that ask a program to end, and those that must not end it.
//!
//! The first one asks for an orderly end: the program's driver takes it when it can. The second one
//! ends the process at once, from a thread that does nothing else. So neither a driver that is busy
//! or hangs, nor a queue that is full, nor a disk that is away can keep a person from ending it. An
//! echo of the first one is none: `timeout` and other tools send a signal to a process, and then to
//! the group that it is in.
//!
//! Clusters send SIGUSR1 or SIGUSR2 to every process of a job before they end it, and the system
//! sends SIGXFSZ to whoever writes a file that may not grow. By default each of them kills.

use std::fmt;
use std::future::pending;
use std::io;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::sync::watch;

use crate::exit::status;
use crate::output;

/// The same signal within this time after the first one is an echo.
const ECHO_MAX: Duration = Duration::from_millis(100);

/// A signal that asks a program to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM, which a cluster sends to a pod that it moves.
    Terminate,
    /// SIGHUP: the terminal was closed, or the connection to it was lost.
    HangUp,
}

impl Signal {
    /// The exit status of a program that ended in order because of the signal.
    pub fn status(self) -> u8 {
        match self {
            Self::Interrupt => status::INTERRUPTED,
            Self::Terminate => status::TERMINATED,
            Self::HangUp => status::HUNG_UP,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::HangUp => "SIGHUP",
        })
    }
}

/// The first signal, once it has come. It waits here until it is taken, and cannot be lost.
#[derive(Clone, Debug)]
pub struct FirstSignal(watch::Receiver<Option<Signal>>);

impl FirstSignal {
    /// Returns the first signal if it has come. Does not take it.
    pub fn peek(&self) -> Option<Signal> {
        *self.0.borrow()
    }

    /// Waits for the first signal and takes it. Never returns a second time. It may be dropped and
    /// called again while it waits.
    pub async fn take(&mut self) -> Signal {
        loop {
            // Nobody sends any more if the thread has ended: no signal comes.
            if self.0.changed().await.is_err() {
                pending::<()>().await;
            }
            if let Some(signal) = *self.0.borrow_and_update() {
                return signal;
            }
        }
    }
}

/// Listens for signals from now on, on a thread of its own. A second signal ends the process.
///
/// # Errors
/// If the operating system refuses to deliver the signals.
pub fn listen() -> io::Result<FirstSignal> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let mut streams = {
        let _entered = runtime.enter();
        Streams::open()?
    };
    let (first_in, first) = watch::channel(None);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            // A program that waits for no signal (any more) still ends with the second one.
            let (first, since) = (streams.next().await, Instant::now());
            let _ = first_in.send(Some(first));
            loop {
                let second = streams.next().await;
                if second != first || since.elapsed() >= ECHO_MAX {
                    if LAST_WORDS.get().is_some_and(|say| say()) {
                        output::flush();
                    }
                    std::process::exit(second.status().into());
                }
            }
        });
    })?;
    Ok(FirstSignal(first))
}

/// The last words of this program, before a second signal ends it. Returns whether there were any.
static LAST_WORDS: OnceLock<Box<dyn Fn() -> bool + Send + Sync>> = OnceLock::new();

/// Lets the process say this before a second signal ends it. Whoever says it must wait for nothing;
/// a terminal gets a moment to show it.
pub fn before_second(say: impl Fn() -> bool + Send + Sync + 'static) {
    // A program has one thing to say.
    let _ = LAST_WORDS.set(Box::new(say));
}

/// The action of this program at SIGUSR1, if it has one. Returns whether it could be done.
static AT_USER_1: OnceLock<Box<dyn Fn() -> bool + Send + Sync>> = OnceLock::new();

/// Lets SIGUSR1, SIGUSR2 and SIGXFSZ end this process no more. All programs call this first.
///
/// # Errors
/// If the operating system refuses to deliver the signals.
pub fn survive() -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let (mut user_1, mut user_2, mut file_size) = {
        let _entered = runtime.enter();
        let file_size = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
        (
            signal(SignalKind::user_defined1())?,
            signal(SignalKind::user_defined2())?,
            // The write fails, which is reported where it happens.
            signal(file_size)?,
        )
    };
    thread::Builder::new().name("survive".to_owned()).spawn(move || {
        runtime.block_on(async {
            loop {
                let name = tokio::select! {
                    _ = user_1.recv() => "SIGUSR1",
                    _ = user_2.recv() => "SIGUSR2",
                    _ = file_size.recv() => continue,
                };
                let action = AT_USER_1.get().filter(|_| name == "SIGUSR1");
                if !action.is_some_and(|action| action()) {
                    tracing::info!(
                        event = "signal_ignored",
                        signal = name,
                        "{name} has no meaning for this program now, and is ignored"
                    );
                }
            }
        });
    })?;
    Ok(())
}

/// Does this at each SIGUSR1 from now on. `action` returns whether it could be done.
pub fn at_user_1(action: impl Fn() -> bool + Send + Sync + 'static) {
    // A program has one action.
    let _ = AT_USER_1.set(Box::new(action));
}

/// The signals that are listened for.
struct Streams {
    interrupt: Stream,
    terminate: Stream,
    hang_up: Option<Stream>,
}

impl Streams {
    fn open() -> io::Result<Self> {
        let hang_up =
            if ends_with_its_terminal() { Some(signal(SignalKind::hangup())?) } else { None };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up,
        })
    }

    async fn next(&mut self) -> Signal {
        let hang_up = async {
            match &mut self.hang_up {
                Some(stream) => stream.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
            _ = hang_up => Signal::HangUp,
        }
    }
}

/// Returns whether SIGHUP ends this process. `nohup` starts programs that ignore it, and listening
/// for it would undo that. Where the system does not tell, nothing is changed.
fn ends_with_its_terminal() -> bool {
    let own = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_signals(&own).is_some_and(|mask| mask & 1 == 0)
}

/// The mask of ignored signals in a process' status file. The lowest bit is SIGHUP's.
fn ignored_signals(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let nohup = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert_eq!(ignored_signals(nohup), Some(0x1001));
        assert_eq!(ignored_signals("Name:\tx\n"), None);
    }

    #[tokio::test]
    async fn the_first_signal_waits_until_it_is_taken_and_is_taken_once() {
        let (sender, receiver) = watch::channel(None);
        let mut first = FirstSignal(receiver);
        assert_eq!(first.peek(), None);
        sender.send(Some(Signal::Terminate)).unwrap();
        assert_eq!(first.peek(), Some(Signal::Terminate));
        assert_eq!(first.take().await, Signal::Terminate);
        drop(sender);
        let again = tokio::time::timeout(std::time::Duration::from_millis(1), first.take());
        assert!(again.await.is_err(), "there is no second one");
    }
}
