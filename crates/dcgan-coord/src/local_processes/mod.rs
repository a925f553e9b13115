//! The child processes of `--local`: workers and a sampler.
//!
//! A child that dies is started again, up to a limit. No child outlives the coordinator, even if
//! that is killed: the coordinator holds the other end of each child's standard input, and a child
//! ends when that closes. Killing children by their process ids would fail exactly when the
//! coordinator crashes. At an orderly end, a child that is stopped or hangs is killed.
//!
//! Each child has a thread, which starts it again, because that opens its log on a disk that may
//! hang, and waits for its end.

mod child;
mod last_words;
mod restarts;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{anyhow, bail};
use dcgan_process::exit::{status as exit, usage};
use dcgan_process::logging::LogFormat;
use dcgan_process::without_settings;
use dcgan_rpc::net::Address;
use tokio::sync::mpsc;

use crate::input::Input;
use child::ChildPlace;
pub(crate) use child::{spawn, spawn_logged};
use restarts::{RESTARTS_MAX, Restarts};

/// At the end of the run, the coordinator waits this long for its children, and then kills them.
const ENDING_MAX: Duration = Duration::from_secs(5);
/// The coordinator waits this long for children that it has killed. One that hangs in the system
/// stays longer.
const KILLED_MAX: Duration = Duration::from_secs(1);
/// The program of the workers.
const WORKER: &str = "dcgan-worker";
/// The name of the sampler.
const SAMPLER: &str = "sampler";

/// How a child ended, or why it could not be started.
pub(crate) type ChildEnd = Result<Exit, String>;

/// The end of a child process.
#[derive(Clone, Debug)]
pub(crate) struct Exit {
    pub(crate) status: ExitStatus,
    /// Its last words, if it has not ended well.
    words: Option<String>,
}

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
    /// The address of the sampler's page, if it is given.
    pub(crate) http: Option<SocketAddr>,
    /// The device of the workers, if it is given.
    pub(crate) device: Option<String>,
    /// True if connections to other machines are allowed: the coordinator may listen on an address
    /// that is not this machine's own.
    pub(crate) insecure: bool,
    /// The format of their logs: the coordinator's, so that all logs of a run have one format.
    pub(crate) log_format: LogFormat,
    /// True if their logs have more lines.
    pub(crate) verbose: bool,
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
    restarts: Restarts,
    state: ChildState,
    place: ChildPlace,
}

/// The state of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChildState {
    Running,
    /// Ended, and to be started again at this time of the driver's clock.
    Restarting(Duration),
    Ended,
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
    name: String,
    exit: Exit,
    pub(crate) log: PathBuf,
}

impl Exit {
    /// Notes how a child ended, which wrote to this log.
    fn of(status: ExitStatus, log: &Path) -> Self {
        // Whom a signal has killed, had no time for words.
        let has_failed = status.code().is_some_and(|code| code != 0);
        Self { status, words: has_failed.then(|| last_words::in_log(log)).flatten() }
    }

    /// Returns whether a setting is wrong: the same would follow from another start.
    fn is_wrong_setting(&self) -> bool {
        self.status.code() == Some(exit::USAGE.into())
    }
}

impl Crash {
    /// Returns whether a setting of the child is wrong.
    pub(crate) fn is_wrong_setting(&self) -> bool {
        self.exit.is_wrong_setting()
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, exit: Exit { status, words }, .. } = self;
        write!(f, "{name} ended with {status}")?;
        words.as_ref().map_or(Ok(()), |words| write!(f, ": {words}"))
    }
}

impl LocalSettings {
    /// The children that these settings ask for, not started yet.
    fn children(&self) -> anyhow::Result<Vec<LocalProcess>> {
        let mut children = Vec::new();
        for worker in 0..self.workers {
            let name = format!("worker-{worker}");
            let threads = self.threads.to_string();
            let mut own = vec!["--name", &name, "--threads", &threads];
            own.extend(self.device.iter().flat_map(|device| ["--device", device]));
            let arguments = self.arguments(&own);
            children.push(LocalProcess::new(&name, WORKER, arguments, &self.logs)?);
        }
        if self.sampler {
            let http = self.http.map(|address| address.to_string());
            let own: &[&str] = match &http {
                Some(http) => &["--http", http, "--grpc", "127.0.0.1:0"],
                // The documented addresses, if nobody has them.
                None => &["--or-free-port"],
            };
            let mut arguments = vec!["serve".to_owned()];
            arguments.extend(self.arguments(own));
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
        arguments.extend(self.verbose.then(|| "--verbose".to_owned()));
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
        let local = Self { children, driver, running: Arc::default(), first_crash: None };
        for index in 0..local.children.len() {
            // A mistake that keeps the children from starting is said before anything begins.
            let LocalProcess { program, arguments, log, .. } = &local.children[index];
            let child = spawn_logged(program, arguments, log)?;
            local.supervise(index, move || Ok(child))?;
        }
        Ok(local)
    }

    /// Starts a thread that starts a child, waits for its end and reports it.
    fn supervise(
        &self,
        index: usize,
        spawn: impl FnOnce() -> anyhow::Result<Child> + Send + 'static,
    ) -> std::io::Result<()> {
        let LocalProcess { name, place, log, .. } = &self.children[index];
        let (place, log) = (place.clone(), log.clone());
        let (running, driver) = (Arc::clone(&self.running), self.driver.clone());
        *self.running.lock() += 1;
        let thread = std::thread::Builder::new().name(format!("wait-{name}"));
        let started = thread.spawn(move || {
            let end = match spawn() {
                Ok(child) => match place.wait(child) {
                    Ok(status) => Ok(Exit::of(status, &log)),
                    Err(error) => Err(error.to_string()),
                },
                Err(error) => Err(format!("{error:#}")),
            };
            running.decrement();
            // The driver may be gone: the run is over, and nobody needs to know.
            let _ = driver.blocking_send(Input::ChildEnded(index, end));
        });
        if started.is_err() {
            self.running.decrement();
        }
        started.map(drop)
    }

    /// Notes that a child has ended without being asked to. It is started again after a pause,
    /// unless it ended too often, or one of its settings is wrong.
    pub(crate) fn restart_later(&mut self, now: Duration, index: usize, end: ChildEnd) {
        let LocalProcess { name, log, .. } = &self.children[index];
        let log_path = log.display();
        match end {
            Ok(exit) => {
                let crash = Crash { name: name.clone(), exit, log: log.clone() };
                tracing::warn!(
                    event = "child_ended",
                    child = %name,
                    "{crash} (its log is {log_path})"
                );
                let is_hopeless = crash.is_wrong_setting();
                self.first_crash.get_or_insert(crash);
                if is_hopeless {
                    self.give_up(index, "a setting of it is wrong, and it will not be restarted");
                    return;
                }
            }
            Err(error) => {
                tracing::error!(
                    event = "child_not_started",
                    child = %name,
                    "{name} could not be started: {error}"
                );
            }
        }
        self.schedule_restart(now, index);
    }

    fn schedule_restart(&mut self, now: Duration, index: usize) {
        let process = &mut self.children[index];
        if let Some(pause) = process.restarts.on_end(now) {
            process.state = ChildState::Restarting(now + pause);
            return;
        }
        let times = RESTARTS_MAX + 1;
        self.give_up(
            index,
            &format!("it ended {times} times and will not be restarted (limit {RESTARTS_MAX})"),
        );
    }

    fn give_up(&mut self, index: usize, why: &str) {
        let process = &mut self.children[index];
        process.state = ChildState::Ended;
        let (name, log_path) = (&process.name, process.log.display());
        tracing::error!(
            event = "child_given_up",
            child = %name,
            "{name}: {why}; see {log_path}"
        );
    }

    /// Starts the children again whose pause is over.
    pub(crate) fn on_tick(&mut self, now: Duration) {
        for index in 0..self.children.len() {
            if let ChildState::Restarting(at) = self.children[index].state
                && now >= at
            {
                self.restart(now, index);
            }
        }
    }

    fn restart(&mut self, now: Duration, index: usize) {
        let process = &mut self.children[index];
        let (name, attempt) = (&process.name, process.restarts.attempt());
        tracing::info!(
            event = "child_restarted",
            child = %name,
            attempt,
            "restarting {name} ({attempt} of {RESTARTS_MAX})"
        );
        process.restarts.on_start(now);
        process.state = ChildState::Running;
        let LocalProcess { program, arguments, log, .. } = &*process;
        let (program, arguments, log) = (program.clone(), arguments.clone(), log.clone());
        let spawn = move || spawn_logged(&program, &arguments, &log);
        if let Err(error) = self.supervise(index, spawn) {
            self.restart_later(now, index, Err(error.to_string()));
        }
    }

    /// Notes that a child has ended.
    pub(crate) fn mark_ended(&mut self, index: usize) {
        self.children[index].state = ChildState::Ended;
    }

    /// The names of the workers that are running, or about to be restarted.
    pub(crate) fn workers(&self) -> impl Iterator<Item = &str> {
        let workers = self.children.iter().filter(|child| child.is_alive() && !child.is_sampler());
        workers.map(|child| &*child.name)
    }

    /// True if this child is running, or about to be restarted.
    pub(crate) fn is_alive(&self, index: usize) -> bool {
        self.children[index].is_alive()
    }

    /// The name of a child. That of a worker is its name in the run, too.
    pub(crate) fn name(&self, index: usize) -> &str {
        &self.children[index].name
    }

    /// True if this child is the sampler.
    pub(crate) fn is_sampler(&self, index: usize) -> bool {
        self.children[index].is_sampler()
    }

    /// True if the sampler is running, or about to be restarted.
    pub(crate) fn has_sampler(&self) -> bool {
        self.children.iter().any(|child| child.is_alive() && child.is_sampler())
    }

    /// The first end of a child that nobody asked for.
    pub(crate) fn first_crash(&self) -> Option<&Crash> {
        self.first_crash.as_ref()
    }

    /// Ends every child, and waits for them for up to 5 s. Kills those that do not end.
    pub(crate) fn end(self) {
        for child in &self.children {
            child.place.end();
        }
        if self.running.wait_for_none(ENDING_MAX) == 0 {
            return;
        }
        // A process that is stopped hears nothing.
        let killed = self.children.iter().filter(|child| child.place.kill());
        let names: Vec<&str> = killed.map(|child| child.name.as_str()).collect();
        let (count, seconds) = (names.len(), ENDING_MAX.as_secs());
        let names = names.join(", ");
        tracing::warn!(
            event = "children_left",
            count,
            names,
            "killed, because they did not end within {seconds} s: {names}"
        );
        self.running.wait_for_none(KILLED_MAX);
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
            restarts: Restarts::default(),
            state: ChildState::Running,
            place: ChildPlace::default(),
        })
    }

    fn is_alive(&self) -> bool {
        self.state != ChildState::Ended
    }

    fn is_sampler(&self) -> bool {
        self.name == SAMPLER
    }
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

/// Asks the worker's program whether it can compute on a device: this program knows none.
///
/// # Errors
/// In the worker's words if it cannot.
pub(crate) fn check_device(device: &str) -> anyhow::Result<()> {
    let mut command = Command::new(beside_this_program(WORKER)?);
    // It connects to nobody.
    command.args(["--check", "--coordinator", "http://127.0.0.1:1", "--device", device]);
    let output = without_settings(&mut command).output()?;
    if output.status.success() {
        return Ok(());
    }
    let words = last_words::in_text(&String::from_utf8_lossy(&output.stderr));
    let error = anyhow!(words.unwrap_or_else(|| format!("{WORKER} ended with {}", output.status)));
    match output.status.code() {
        Some(code) if code == i32::from(exit::USAGE) => bail!(usage(error)),
        _ => bail!(error.context("--device")),
    }
}
