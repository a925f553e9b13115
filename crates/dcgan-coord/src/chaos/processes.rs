//! The processes of a chaos run, and the faults that are injected into them.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use dcgan_process::logging::LogFormat;
use rustix::process::Signal;
use tokio::runtime::Handle;

use super::program::{Program, Surroundings};
use super::proxy::Proxy;
use super::strangers;
use crate::local_processes::beside_this_program;

/// The ports that the processes listen on.
const PORTS: Range<u16> = 20_000..32_000;
/// A worker that has ended by itself is started again after this time.
const RESTART_PAUSE: Duration = Duration::from_millis(250);
/// A slow worker runs for one such period, and is stopped for two.
const SLOW_PERIOD: Duration = Duration::from_millis(60);

/// A coordinator, its workers, and the proxies between them.
pub(super) struct Processes {
    // Fields are dropped in their order: the workers are killed before the coordinator, so that
    // none of them starts to look for it.
    workers: Vec<WorkerProcess>,
    /// Workers that nobody reaches, each with the time at which it is killed.
    bad_joiners: Vec<(Program, Instant)>,
    /// The number of those that have joined so far.
    bad_joins: usize,
    coordinator: Program,
    disk_full_until: Option<Instant>,
    /// The address that the coordinator listens on.
    pub(super) address: SocketAddr,
    network: Handle,
    logs: PathBuf,
    log_format: LogFormat,
    /// The zero of the periods of slow workers.
    began: Instant,
}

/// A worker, and the faults that it suffers at the moment.
struct WorkerProcess {
    program: Program,
    /// Carries its connections to the coordinator.
    control: Proxy,
    /// Carries the other workers' connections to it.
    data: Proxy,
    stopped_until: Option<Instant>,
    slow_until: Option<Instant>,
    control_cut_until: Option<Instant>,
    data_cut_until: Option<Instant>,
    /// True if the last signal stopped it.
    is_halted: bool,
}

impl WorkerProcess {
    /// Ends the faults that have lasted long enough, and stops or continues the process.
    fn supervise(&mut self, began: Instant) -> anyhow::Result<()> {
        self.program.supervise()?;
        let now = Instant::now();
        self.stopped_until.take_if(|until| now >= *until);
        self.slow_until.take_if(|until| now >= *until);
        self.halt(self.stopped_until.is_some() || self.is_slow_pause(now - began));
        if self.control_cut_until.take_if(|until| now >= *until).is_some() {
            self.control.cut(false);
        }
        if self.data_cut_until.take_if(|until| now >= *until).is_some() {
            self.data.cut(false);
        }
        Ok(())
    }

    /// True if the worker is slow, and in one of the periods in which it is stopped.
    fn is_slow_pause(&self, elapsed: Duration) -> bool {
        let period = elapsed.as_millis() / SLOW_PERIOD.as_millis();
        self.slow_until.is_some() && !period.is_multiple_of(3)
    }

    /// Stops the process, or lets it continue.
    fn halt(&mut self, halt: bool) {
        if halt != self.is_halted {
            self.is_halted = halt;
            self.program.signal(if halt { Signal::STOP } else { Signal::CONT });
        }
    }

    /// Kills the process. The new one is neither stopped nor slow.
    fn kill(&mut self, surroundings: Surroundings, restart_after: Duration) {
        self.program.kill_into(surroundings, restart_after);
        self.stopped_until = None;
        self.slow_until = None;
        self.is_halted = false;
    }
}

impl Processes {
    /// Starts a coordinator with these arguments, and workers.
    ///
    /// # Errors
    /// If a process cannot be started.
    pub(super) fn start(
        network: &Handle,
        logs: &Path,
        arguments: &[String],
        workers: usize,
        log_format: LogFormat,
    ) -> anyhow::Result<Self> {
        let address = free_address()?;
        let mut arguments = arguments.to_vec();
        arguments
            .extend(["--listen", &address.to_string(), "--exit-with-stdin"].map(str::to_owned));
        let program = std::env::current_exe()?;
        let coordinator = Program::start(program, arguments, logs.join("coordinator.log"))?;
        let mut processes = Self {
            workers: Vec::new(),
            bad_joiners: Vec::new(),
            bad_joins: 0,
            coordinator,
            disk_full_until: None,
            address,
            network: network.clone(),
            logs: logs.to_owned(),
            log_format,
            began: Instant::now(),
        };
        for _ in 0..workers {
            processes.join()?;
        }
        Ok(processes)
    }

    /// Starts one more worker.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn join(&mut self) -> anyhow::Result<()> {
        // Every connection to and from the worker goes through one of its two proxies.
        let control = Proxy::start(&self.network, self.address)?;
        let listen = free_address()?;
        let data = Proxy::start(&self.network, listen)?;
        let name = format!("worker-{}", self.workers.len());
        let program = self.start_worker(
            &name,
            control.address,
            &["--listen", &listen.to_string()],
            data.address,
        )?;
        self.workers.push(WorkerProcess {
            program,
            control,
            data,
            stopped_until: None,
            slow_until: None,
            control_cut_until: None,
            data_cut_until: None,
            is_halted: false,
        });
        Ok(())
    }

    /// Starts the process of a worker that reaches the coordinator at one address, and tells others
    /// to reach it at the other one.
    fn start_worker(
        &self,
        name: &str,
        coordinator: SocketAddr,
        listen: &[&str],
        advertised: SocketAddr,
    ) -> anyhow::Result<Program> {
        let coordinator = format!("http://{coordinator}");
        let (advertised, log_format) = (advertised.to_string(), self.log_format.to_string());
        let arguments = [
            &["--coordinator", &coordinator, "--name", name],
            listen,
            &["--advertise", &advertised, "--log-format", &log_format, "--exit-with-stdin"],
        ]
        .concat();
        let path = beside_this_program("dcgan-worker")?;
        let log = self.logs.join(format!("{name}.log"));
        Program::start(path, arguments.into_iter().map(str::to_owned).collect(), log)
    }

    /// Starts a worker for a time that gives the address of another one as its own, or an address
    /// at which nobody listens. It is killed then, and not started again.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn join_badly(
        &mut self,
        other: Option<usize>,
        time: Duration,
    ) -> anyhow::Result<()> {
        let advertised = other.map_or(free_address()?, |other| self.workers[other].data.address);
        let name = format!("bad-{}", self.bad_joins);
        self.bad_joins += 1;
        let program = self.start_worker(&name, self.address, &[], advertised)?;
        self.bad_joiners.push((program, Instant::now() + time));
        Ok(())
    }

    /// Lets a hostile client attack the coordinator for a time.
    pub(super) fn attack(&self, time: Duration) {
        self.network.spawn(strangers::attack(self.address, time));
    }

    /// Kills a worker, or the next one if it is not running. It is started again after a time, in
    /// these surroundings. Returns false if no worker is running.
    pub(super) fn kill(
        &mut self,
        worker: usize,
        surroundings: Surroundings,
        restart_after: Duration,
    ) -> bool {
        let count = self.workers.len();
        for number in worker..worker + count {
            let candidate = &mut self.workers[number % count];
            if candidate.program.is_running() {
                candidate.kill(surroundings, restart_after);
                return true;
            }
        }
        false
    }

    /// Kills the coordinator. It is started again after a time, in these surroundings. Returns
    /// false if it is not running.
    pub(super) fn kill_coordinator(
        &mut self,
        surroundings: Surroundings,
        restart_after: Duration,
    ) -> bool {
        let is_running = self.coordinator.is_running();
        if is_running {
            self.coordinator.kill_into(surroundings, restart_after);
            self.disk_full_until = None;
        }
        is_running
    }

    /// Fills the coordinator's disk for a time.
    pub(super) fn fill_disk(&mut self, time: Duration) {
        self.coordinator.fill_disk(true);
        self.disk_full_until = Some(Instant::now() + time);
    }

    /// Tells all processes to stop. Returns false if the coordinator is not running.
    pub(super) fn terminate_all(&mut self) -> bool {
        for worker in &mut self.workers {
            worker.program.signal(Signal::TERM);
        }
        self.coordinator.signal(Signal::TERM);
        self.coordinator.is_running()
    }

    /// Stops a worker for a time.
    pub(super) fn stop(&mut self, worker: usize, time: Duration) {
        self.workers[worker].stopped_until = Some(Instant::now() + time);
    }

    /// Lets a worker run at a third of its speed for a time.
    pub(super) fn slow(&mut self, worker: usize, time: Duration) {
        self.workers[worker].slow_until = Some(Instant::now() + time);
    }

    /// Cuts the other workers' connections to a worker for a time.
    pub(super) fn cut(&mut self, worker: usize, time: Duration) {
        self.workers[worker].data.cut(true);
        self.workers[worker].data_cut_until = Some(Instant::now() + time);
    }

    /// Cuts a worker's connections to the coordinator for a time.
    pub(super) fn cut_off(&mut self, worker: usize, time: Duration) {
        self.workers[worker].control.cut(true);
        self.workers[worker].control_cut_until = Some(Instant::now() + time);
    }

    /// Ends faults and starts processes again where it is time to. Returns whether the coordinator
    /// was started again.
    ///
    /// # Errors
    /// If a process cannot be started.
    pub(super) fn supervise(&mut self) -> anyhow::Result<bool> {
        for worker in &mut self.workers {
            worker.supervise(self.began)?;
        }
        self.bad_joiners.retain(|(_, until)| Instant::now() < *until);
        if self.disk_full_until.take_if(|until| Instant::now() >= *until).is_some() {
            self.coordinator.fill_disk(false);
        }
        self.coordinator.supervise()
    }

    /// Starts workers again that have ended by themselves. Returns their numbers.
    pub(super) fn restart_ended(&mut self) -> Vec<usize> {
        let mut ended = Vec::new();
        for (number, worker) in self.workers.iter_mut().enumerate() {
            if worker.program.ended().is_some() {
                worker.program.kill(RESTART_PAUSE);
                ended.push(number);
            }
        }
        ended
    }

    /// How the coordinator ended, if it ended by itself.
    pub(super) fn coordinator_ended(&mut self) -> Option<ExitStatus> {
        self.coordinator.ended()
    }

    /// True if every worker has ended by itself.
    pub(super) fn all_workers_ended(&mut self) -> bool {
        self.workers
            .iter_mut()
            .all(|worker| !worker.program.is_restarting() && worker.program.ended().is_some())
    }
}

/// A free address of this machine.
///
/// A process that is killed must find its port free when it is started again. Ports that the system
/// chooses may go to an outgoing connection meanwhile; the ports of [`PORTS`] are below that range.
fn free_address() -> anyhow::Result<SocketAddr> {
    // Begin anywhere: two chaos runs on one machine should not try the same ports.
    let offset = RandomState::new().hash_one(()) as u16;
    let count = PORTS.len() as u16;
    for i in 0..count {
        let port = PORTS.start + offset.wrapping_add(i) % count;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(listener.local_addr()?);
        }
    }
    anyhow::bail!("all ports from {} to {} are in use", PORTS.start, PORTS.end)
}
