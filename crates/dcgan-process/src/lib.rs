//! What the three programs have in common as processes: exit statuses, logs, signals, and how they end.

pub mod fault;

use std::cell::Cell;
use std::fmt;
use std::io::{self, IsTerminal, Read, Write};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use clap::ValueEnum;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Exit statuses, the same for all programs.
pub mod status {
    /// Finished; a worker: told so by the coordinator.
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
pub struct Usage(anyhow::Error);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Usage {}

/// Marks an error as a mistake of usage: the program will end with [`status::USAGE`].
pub fn usage(error: impl Into<anyhow::Error>) -> anyhow::Error {
    Usage(error.into()).into()
}

/// Runs a program's main function: its status, or one line that says what went wrong.
pub fn run(main: impl FnOnce() -> anyhow::Result<u8>) -> ExitCode {
    // A thread that is gone would leave the others waiting for it.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        if !CATCHES.get() {
            std::process::exit(status::FAILED.into());
        }
    }));
    match main() {
        Ok(status) => status.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            if error.is::<Usage>() { status::USAGE } else { status::FAILED }.into()
        }
    }
}

thread_local! {
    /// Whether a panic of this thread is caught.
    static CATCHES: Cell<bool> = const { Cell::new(false) };
}

/// Runs something whose panic does not end the program, but is told.
///
/// # Errors
/// If it panicked; says with what.
pub fn catch<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    CATCHES.set(true);
    let result = std::panic::catch_unwind(AssertUnwindSafe(run));
    CATCHES.set(false);
    result.map_err(|panic| match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "without a word".to_owned(),
    })
}

/// Prints to standard output. A closed pipe, as of `head`, is no failure.
pub fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: one object a line.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Flags of every program.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct LogArgs {
    /// How log lines look, on standard error
    #[arg(long, value_name = "FORMAT", default_value_t, value_enum, env = "DCGAN_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// The least important log lines that are shown
    #[arg(long, hide = true, value_name = "LEVEL", default_value = "info", env = "DCGAN_LOG_LEVEL")]
    pub log_level: LevelFilter,
}

impl LogArgs {
    /// Sends log lines to `writer`.
    pub fn start<W>(&self, writer: W)
    where
        W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        let lines = tracing_subscriber::fmt().with_max_level(self.log_level).with_target(false).with_writer(writer);
        match self.log_format {
            LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).init(),
            LogFormat::Json => lines.json().init(),
        }
    }
}

/// A signal that asks a program to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM, as a cluster sends it to a pod that it moves.
    Terminate,
}

impl Signal {
    /// The status of a program that the signal ended in order.
    pub fn status(self) -> u8 {
        match self {
            Self::Interrupt => status::INTERRUPTED,
            Self::Terminate => status::TERMINATED,
        }
    }
}

/// Calls `told` at every signal, from a task of the current runtime.
///
/// # Errors
/// If the operating system refuses.
pub fn on_signal(told: impl Fn(Signal) + Send + 'static) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        loop {
            let signal = tokio::select! {
                _ = interrupt.recv() => Signal::Interrupt,
                _ = terminate.recv() => Signal::Terminate,
            };
            told(signal);
        }
    });
    Ok(())
}

/// Ends this process when standard input closes: whoever started it holds the other end, and is gone then.
pub fn exit_with_stdin() {
    std::thread::spawn(|| {
        let mut ignored = [0; 64];
        while io::stdin().read(&mut ignored).is_ok_and(|n| n > 0) {}
        tracing::info!("standard input closed: ending");
        std::process::exit(status::FAILED.into());
    });
}
