//! The child processes of `--local`: workers and a sampler.
//!
//! A child that dies is started again, up to a limit. No child outlives the coordinator, even if
//! that is killed: the coordinator holds the other end of each child's standard input, and a child
//! ends when that closes. Killing children by their process ids would fail exactly when the
//! coordinator crashes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use dcgan_process::logging::LogFormat;
use dcgan_process::without_settings;
use dcgan_rpc::net::Address;
use tokio::sync::mpsc;

use crate::input::Input;

/// A child that dies is started again at most this often.
const RESTARTS_MAX: usize = 3;
/// At the end of the run, the coordinator waits this long for its children.
const ENDING_MAX: Duration = Duration::from_secs(5);
/// The name of the sampler.
const SAMPLER: &str = "sampler";
/// The number of arguments that set the format of a child's log. They come first.
const LOG_FORMAT_ARGUMENTS: usize = 2;

/// The settings that the children are started with.
pub(crate) struct LocalSettings {
    /// The address that they connect to.
    pub(crate) coordinator: Address,
    pub(crate) workers: usize,
    /// Threads of each worker.
    pub(crate) threads: u16,
    /// True if there is a sampler.
    pub(crate) sampler: bool,
    /// The folder of their logs.
    pub(crate) logs: PathBuf,
    /// True if connections to other machines are allowed: the coordinator may listen on an address
    /// that is not this machine's own.
    pub(crate) insecure: bool,
    /// The format of their logs: the coordinator's, so that all logs of a run have one format.
    pub(crate) log_format: LogFormat,
}

/// The child processes.
pub(crate) struct LocalProcesses {
    children: Vec<LocalProcess>,
    driver: mpsc::Sender<Input>,
    running: Arc<RunningCount>,
    first_crash: Option<Crash>,
}

/// A child process, running or not.
struct LocalProcess {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    restarts: usize,
    is_alive: bool,
    /// The other end of its standard input. It ends when this is dropped.
    lifeline: Option<ChildStdin>,
}

/// How many children are running, for a thread that waits for all of them.
#[derive(Default)]
struct RunningCount {
    count: Mutex<usize>,
    changed: Condvar,
}

/// The end of a child that nobody asked for.
#[derive(Clone, Debug)]
pub(crate) struct Crash {
    pub(crate) name: String,
    pub(crate) status: ExitStatus,
    pub(crate) log: PathBuf,
}

impl LocalSettings {
    /// The children that these settings ask for, not started yet.
    fn children(&self) -> anyhow::Result<Vec<LocalProcess>> {
        let mut children = Vec::new();
        for worker in 0..self.workers {
            let name = format!("worker-{worker}");
            let threads = self.threads.to_string();
            let arguments = self.arguments(&["--name", &name, "--threads", &threads]);
            children.push(LocalProcess::new(&name, "dcgan-worker", arguments, &self.logs)?);
        }
        if self.sampler {
            let mut arguments = self.arguments(&["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]);
            // The format of the log belongs to the program, the other options to its verb.
            arguments.insert(LOG_FORMAT_ARGUMENTS, "serve".to_owned());
            children.push(LocalProcess::new(SAMPLER, "dcgan-sampler", arguments, &self.logs)?);
        }
        Ok(children)
    }

    /// The arguments of every child, and then its own.
    fn arguments(&self, own: &[&str]) -> Vec<String> {
        let mut arguments = vec![
            "--log-format".to_owned(),
            self.log_format.to_string(),
            "--coordinator".to_owned(),
            self.coordinator.to_string(),
            "--exit-with-stdin".to_owned(),
        ];
        arguments.extend(self.insecure.then(|| "--insecure".to_owned()));
        arguments.extend(own.iter().map(|argument| (*argument).to_owned()));
        arguments
    }
}

impl LocalProcesses {
    /// Starts the children. The ends of children become inputs of the driver.
    ///
    /// # Errors
    /// If a program is missing or a child cannot be started.
    pub(crate) fn start(
        settings: &LocalSettings,
        driver: mpsc::Sender<Input>,
    ) -> anyhow::Result<Self> {
        let children = settings.children()?;
        let mut local = Self { children, driver, running: Arc::default(), first_crash: None };
        for index in 0..local.children.len() {
            local.spawn(index)?;
        }
        Ok(local)
    }

    /// Starts a child, and a thread that waits for its end.
    fn spawn(&mut self, index: usize) -> anyhow::Result<()> {
        let process = &mut self.children[index];
        let mut child = spawn_logged(&process.program, &process.arguments, &process.log)?;
        process.lifeline = child.stdin.take();
        process.is_alive = true;
        *self.running.lock() += 1;
        let (driver, running) = (self.driver.clone(), Arc::clone(&self.running));
        let thread = std::thread::Builder::new().name(format!("wait-{}", process.name));
        thread.spawn(move || wait_for_end(child, index, &running, &driver))?;
        Ok(())
    }

    /// Starts a child again that ended by itself, unless it did so too often.
    pub(crate) fn restart(&mut self, index: usize, status: ExitStatus) {
        self.mark_ended(index);
        let process = &mut self.children[index];
        let LocalProcess { name, log, .. } = process;
        let log_path = log.display();
        tracing::warn!(
            event = "child_ended",
            child = %name,
            "{name} ended with {status}; its log is {log_path}"
        );
        self.first_crash.get_or_insert_with(|| Crash {
            name: name.clone(),
            status,
            log: log.clone(),
        });
        if process.restarts == RESTARTS_MAX {
            let times = RESTARTS_MAX + 1;
            tracing::error!(
                event = "child_given_up",
                child = %name,
                "{name} ended {times} times and will not be restarted (limit {RESTARTS_MAX}); \
                 see {log_path}"
            );
            return;
        }
        process.restarts += 1;
        let attempt = process.restarts;
        tracing::info!(
            event = "child_restarted",
            child = %name,
            attempt,
            "restarting {name} ({attempt} of {RESTARTS_MAX})"
        );
        if let Err(error) = self.spawn(index) {
            tracing::error!(event = "child_not_started", index, "{error:#}");
        }
    }

    /// Notes that a child has ended.
    pub(crate) fn mark_ended(&mut self, index: usize) {
        self.children[index].is_alive = false;
        self.children[index].lifeline = None;
    }

    /// How many workers are running. One that was just restarted counts.
    pub(crate) fn workers(&self) -> usize {
        self.children.iter().filter(|child| child.is_alive && !child.is_sampler()).count()
    }

    /// True if this child is the sampler.
    pub(crate) fn is_sampler(&self, index: usize) -> bool {
        self.children[index].is_sampler()
    }

    /// True if the sampler is running.
    pub(crate) fn has_sampler(&self) -> bool {
        self.children.iter().any(|child| child.is_alive && child.is_sampler())
    }

    /// The first end of a child that nobody asked for.
    pub(crate) fn first_crash(&self) -> Option<&Crash> {
        self.first_crash.as_ref()
    }

    /// Ends every child, and waits for them for up to 5 s.
    pub(crate) fn end(mut self) {
        for child in &mut self.children {
            child.lifeline = None;
        }
        let still_running = self.running.wait_for_none(ENDING_MAX);
        if still_running > 0 {
            tracing::warn!(
                event = "children_left",
                count = still_running,
                "{still_running} local processes did not end within {} s",
                ENDING_MAX.as_secs()
            );
        }
    }
}

/// Waits for the end of a child, and reports it. Runs in a thread of its own.
fn wait_for_end(
    mut child: Child,
    index: usize,
    running: &RunningCount,
    driver: &mpsc::Sender<Input>,
) {
    let status = child.wait();
    running.decrement();
    if let Ok(status) = status {
        // The driver may be gone: the run is over, and nobody needs to know.
        let _ = driver.blocking_send(Input::ChildEnded(index, status));
    }
}

impl RunningCount {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decrement(&self) {
        *self.lock() -= 1;
        self.changed.notify_all();
    }

    /// Waits until no child runs any more. Returns how many still run when the time is up.
    fn wait_for_none(&self, timeout: Duration) -> usize {
        let waited = self.changed.wait_timeout_while(self.lock(), timeout, |count| *count > 0);
        let (count, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *count
    }
}

impl LocalProcess {
    /// Describes a child, and finds its program.
    fn new(name: &str, program: &str, arguments: Vec<String>, logs: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            program: beside_this_program(program)?,
            arguments,
            log: logs.join(format!("{name}.log")),
            restarts: 0,
            is_alive: false,
            lifeline: None,
        })
    }

    fn is_sampler(&self) -> bool {
        self.name == SAMPLER
    }
}

/// Starts a program whose settings are its arguments alone, and which writes to a log. The caller
/// holds the other end of its standard input.
pub(crate) fn spawn_logged(
    program: &Path,
    arguments: &[String],
    log: &Path,
) -> anyhow::Result<Child> {
    let log = open_log(log).with_context(|| log.display().to_string())?;
    let mut command = Command::new(program);
    without_settings(&mut command)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A group of its own: Ctrl-C in a terminal then reaches only the process that the person
        // started, which ends its children in order.
        .process_group(0);
    command.spawn().with_context(|| format!("cannot start {}", program.display()))
}

/// Opens a log for appending: a process that is restarted continues it.
fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The path of a program that lies in the same folder as this one.
pub(crate) fn beside_this_program(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    anyhow::ensure!(
        path.exists(),
        "{}: not found; --local needs all programs in one folder",
        path.display()
    );
    Ok(path)
}
