//! The processes of a chaos run, and what is done to them.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Handle;

use super::proxy::Proxy;
use crate::local_processes::{beside_this_program, open_log};

/// Where the processes listen.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// A worker that has ended by itself is started again after this time.
const REVIVE_PAUSE: Duration = Duration::from_millis(250);
/// One part in three of this time a slowed worker runs.
const SLOW_PERIOD: Duration = Duration::from_millis(60);

/// A coordinator, its workers, and the relays between them.
pub(crate) struct Processes {
    coordinator: Program,
    workers: Vec<Worker>,
    /// Where the coordinator listens.
    pub(crate) address: SocketAddr,
    runtime: Handle,
    logs: PathBuf,
}

/// A program that is started again and again.
struct Program {
    path: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    running: Option<Child>,
    /// When it is to be started.
    starts_at: Option<Instant>,
}

struct Worker {
    program: Program,
    /// To the coordinator.
    control: Proxy,
    /// From the other workers.
    data: Proxy,
    stopped_until: Option<Instant>,
    slow_until: Option<Instant>,
    control_cut_until: Option<Instant>,
    data_cut_until: Option<Instant>,
    is_halted: bool,
}

impl Program {
    fn start(&mut self) -> anyhow::Result<()> {
        let log = open_log(&self.log).with_context(|| self.log.display().to_string())?;
        let mut command = Command::new(&self.path);
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DCGAN_"))
        {
            command.env_remove(name);
        }
        command
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        self.running = Some(command.spawn().with_context(|| self.path.display().to_string())?);
        self.starts_at = None;
        Ok(())
    }

    fn kill(&mut self, again: Duration) {
        if let Some(mut child) = self.running.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.starts_at = Some(Instant::now() + again);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.running.as_ref().and_then(|child| Pid::from_raw(child.id() as i32))
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// Whether it has ended by itself.
    fn has_ended(&mut self) -> bool {
        self.running.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))))
    }

    /// Starts it if it is time to.
    fn supervise(&mut self) -> anyhow::Result<bool> {
        let due = self.starts_at.is_some_and(|at| Instant::now() >= at);
        if due {
            self.start()?;
        }
        Ok(due)
    }
}

impl Processes {
    /// Starts a coordinator with these arguments, and workers.
    ///
    /// # Errors
    /// If one cannot be started.
    pub(crate) fn start(
        runtime: &Handle,
        logs: &Path,
        arguments: &[String],
        workers: usize,
    ) -> anyhow::Result<Self> {
        let address = free_address()?;
        let own = ["--listen".to_owned(), address.to_string(), "--exit-with-stdin".to_owned()];
        let mut coordinator = Program {
            path: std::env::current_exe()?,
            arguments: [arguments, &own].concat(),
            log: logs.join("coordinator.log"),
            running: None,
            starts_at: None,
        };
        coordinator.start()?;
        let mut processes = Self {
            coordinator,
            workers: Vec::new(),
            address,
            runtime: runtime.clone(),
            logs: logs.to_owned(),
        };
        for _ in 0..workers {
            processes.join()?;
        }
        Ok(processes)
    }

    /// Starts one more worker.
    pub(crate) fn join(&mut self) -> anyhow::Result<usize> {
        let number = self.workers.len();
        let control = Proxy::start(&self.runtime, self.address)?;
        let listen = free_address()?;
        let data = Proxy::start(&self.runtime, listen)?;
        let name = format!("worker-{number}");
        let coordinator = format!("http://{}", control.address);
        let advertise = data.address.to_string();
        let listen = listen.to_string();
        let arguments = [
            "--coordinator",
            &coordinator,
            "--name",
            &name,
            "--listen",
            &listen,
            "--advertise",
            &advertise,
        ];
        let arguments =
            arguments.into_iter().chain(["--exit-with-stdin"]).map(str::to_owned).collect();
        let log = self.logs.join(format!("{name}.log"));
        let path = beside_this_program("dcgan-worker")?;
        let mut program = Program { path, arguments, log, running: None, starts_at: None };
        program.start()?;
        self.workers.push(Worker {
            program,
            control,
            data,
            stopped_until: None,
            slow_until: None,
            control_cut_until: None,
            data_cut_until: None,
            is_halted: false,
        });
        Ok(number)
    }

    /// Kills a worker; it is started again after a time. The next one's turn if it does not run; none does: false.
    pub(crate) fn kill(&mut self, worker: usize, again: Duration) -> Option<usize> {
        let count = self.workers.len();
        let mut candidates = (worker..worker + count).map(|number| number % count);
        let number = candidates.find(|&number| self.workers[number].program.running.is_some())?;
        let worker = &mut self.workers[number];
        worker.program.kill(again);
        (worker.stopped_until, worker.slow_until, worker.is_halted) = (None, None, false);
        Some(number)
    }

    /// Kills the coordinator, unless it is down.
    pub(crate) fn kill_coordinator(&mut self, again: Duration) -> bool {
        let runs = self.coordinator.running.is_some();
        if runs {
            self.coordinator.kill(again);
        }
        runs
    }

    pub(crate) fn stop(&mut self, worker: usize, time: Duration) {
        self.workers[worker].stopped_until = Some(Instant::now() + time);
    }

    pub(crate) fn slow(&mut self, worker: usize, time: Duration) {
        self.workers[worker].slow_until = Some(Instant::now() + time);
    }

    pub(crate) fn cut(&mut self, worker: usize, time: Duration) {
        self.workers[worker].data.cut(true);
        self.workers[worker].data_cut_until = Some(Instant::now() + time);
    }

    pub(crate) fn cut_off(&mut self, worker: usize, time: Duration) {
        self.workers[worker].control.cut(true);
        self.workers[worker].control_cut_until = Some(Instant::now() + time);
    }

    /// Does what is due; says whether the coordinator was started again.
    ///
    /// # Errors
    /// If a process cannot be started.
    pub(crate) fn supervise(&mut self, began: Instant) -> anyhow::Result<bool> {
        let now = Instant::now();
        for worker in &mut self.workers {
            worker.program.supervise()?;
            worker.stopped_until.take_if(|until| now >= *until);
            worker.slow_until.take_if(|until| now >= *until);
            let turn = (now - began).as_millis() / SLOW_PERIOD.as_millis();
            let halted = worker.stopped_until.is_some()
                || (worker.slow_until.is_some() && !turn.is_multiple_of(3));
            if halted != worker.is_halted {
                worker.is_halted = halted;
                worker.program.signal(if halted { Signal::STOP } else { Signal::CONT });
            }
            if worker.control_cut_until.take_if(|until| now >= *until).is_some() {
                worker.control.cut(false);
            }
            if worker.data_cut_until.take_if(|until| now >= *until).is_some() {
                worker.data.cut(false);
            }
        }
        self.coordinator.supervise()
    }

    /// Starts workers again that have ended although nobody asked them to; names them.
    pub(crate) fn restart_ended(&mut self) -> Vec<usize> {
        let mut ended = Vec::new();
        for (number, worker) in self.workers.iter_mut().enumerate() {
            if worker.program.has_ended() {
                worker.program.kill(REVIVE_PAUSE);
                ended.push(number);
            }
        }
        ended
    }

    /// How the coordinator ended by itself, if it has.
    pub(crate) fn coordinator_ended(&mut self) -> Option<std::process::ExitStatus> {
        self.coordinator.running.as_mut()?.try_wait().ok()?
    }

    /// Whether every worker has ended, once none is held up any more.
    pub(crate) fn all_ended(&mut self) -> bool {
        self.workers
            .iter_mut()
            .all(|worker| worker.program.starts_at.is_none() && worker.program.has_ended())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        let programs = self
            .workers
            .iter_mut()
            .map(|worker| &mut worker.program)
            .chain([&mut self.coordinator]);
        programs.for_each(|program| program.kill(Duration::ZERO));
    }
}

/// An address of this machine that nobody listens on, and that nobody takes by chance while a process that had it is away:
/// systems give outgoing connections higher ports than these.
fn free_address() -> anyhow::Result<SocketAddr> {
    let first = RandomState::new().hash_one(()) as u16;
    let ports =
        (0..PORTS.len() as u16).map(|i| PORTS.start + first.wrapping_add(i) % PORTS.len() as u16);
    let mut listeners =
        ports.filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    let free = listeners.next().context("all ports from 20000 to 32000 are in use")?;
    Ok(free.local_addr()?)
}
