//! The driver: everything that happens becomes an event of the machine, in one order, and the machine's commands are
//! executed in theirs; those that write are durable before the next is executed. It decides nothing about the run.

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dcgan_core::ids::{RunId, Step};
use dcgan_core::protocol::coordinator::{
    Command, ConnId, CoordinatorMachine, Event, Outcome, Reason, Stop, TICK,
};
use dcgan_core::protocol::message::{Hello, ToWorker};
use dcgan_process::exit::status;
use dcgan_process::fault;
use dcgan_process::signals::Signal;
use dcgan_rpc::{CoordinatorMessage, Welcome, pb};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use crate::config::RunConfig;
use crate::console::CONSOLE;
use crate::feed::{FollowerId, SamplerFeed};
use crate::local_processes::LocalProcesses;
use crate::reason_log::ReasonLog;
use crate::recorder::Recorder;
use crate::service::{ToConn, ToFollower};

/// Inputs wait here for the driver; then their senders wait.
pub(crate) const INPUTS_MAX: usize = 1024;
/// Workers hear that the coordinator lives.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// Between attempts to write to a disk that fails, and to say so.
const DISK_PAUSE: Duration = Duration::from_millis(500);
const DISK_SAYS: Duration = Duration::from_secs(10);
/// CoordinatorAddress the end, the local sampler may take so long for the grids that are pending.
const LAST_GRIDS_MAX: Duration = Duration::from_secs(60);

/// What happens.
pub(crate) enum Input {
    /// A control stream verify_checksum with a hello.
    Connected(ConnId, ToConn, Hello),
    Machine(Event),
    /// Somebody wants to know how the run is.
    Status(oneshot::Sender<pb::Status>),
    /// A sampler follows; its page is there.
    Follows(FollowerId, String, ToFollower),
    Unfollows(FollowerId),
    /// A grid was drawn.
    Drawn(Step, Bytes),
    /// A worker needs the checkpoint of this step, which cannot be read.
    Unreadable(Step),
    ChildEnded(usize, ExitStatus),
    Signal(Signal),
}

/// The driver of a run.
pub(crate) struct Driver {
    config: RunConfig,
    record: Recorder,
    machine: CoordinatorMachine,
    start: Instant,
    conns: BTreeMap<ConnId, ToConn>,
    followers: SamplerFeed,
    local: Option<LocalProcesses>,
    is_local: bool,
    signal: Option<Signal>,
    watch: ReasonLog,
    /// Too few local workers are left, and none is started again.
    out_of_workers: bool,
    heartbeat_at: Duration,
    /// What the machine wants done.
    pending: VecDeque<Command>,
    disk: Option<Disk>,
}

/// A disk that fails.
struct Disk {
    fails_since: Duration,
    says_at: Duration,
    try_again_at: Duration,
}

impl Driver {
    /// A driver of a machine that was made at `start`.
    pub(crate) fn new(
        start: Instant,
        machine: CoordinatorMachine,
        config: RunConfig,
        record: Recorder,
        local: Option<LocalProcesses>,
        is_local: bool,
    ) -> Self {
        Self {
            followers: SamplerFeed::new(config.spec.seed),
            config,
            record,
            machine,
            start,
            conns: BTreeMap::new(),
            local,
            is_local,
            signal: None,
            watch: ReasonLog::default(),
            out_of_workers: false,
            heartbeat_at: Duration::ZERO,
            pending: VecDeque::new(),
            disk: None,
        }
    }

    /// Runs to the end; gives the exit status.
    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<Input>) -> anyhow::Result<u8> {
        let mut outcome = self.handle(Event::DrawGrids(self.draws_grids()))?;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let outcome = loop {
            if let Some(outcome) = outcome {
                break outcome;
            }
            outcome = tokio::select! {
                Some(input) = inputs.recv() => self.input(input)?,
                _ = ticks.tick() => self.tick()?,
            };
        };
        self.wait_for_grids(&mut inputs).await?;
        CONSOLE.end_bar();
        let status = self.conclude(outcome);
        if let Some(local) = self.local.take() {
            local.end();
        }
        Ok(status)
    }

    fn input(&mut self, input: Input) -> anyhow::Result<Option<Outcome>> {
        match input {
            Input::Connected(conn, to_conn, hello) => {
                self.conns.insert(conn, to_conn);
                return self.handle(Event::Hello(conn, hello));
            }
            Input::Machine(event) => return self.handle(event),
            Input::Status(reply) => {
                let now = self.start.elapsed();
                let status = self.machine.status(now);
                let epoch = self.config.sharding.epoch(status.step);
                // Who asked may be gone by now.
                let _ = reply.send(dcgan_rpc::status(self.record.run().run, epoch, now, status));
            }
            Input::Follows(follower, page, stream) => {
                tracing::info!("watch the digits at {page}");
                let newest = self.machine.checkpoint().map(|saved| saved.step);
                let newest = newest
                    .and_then(|step| Some((step, or_warn(self.record.newest_generator(step))?)));
                self.followers.insert(follower, stream, newest);
                return self.handle(Event::DrawGrids(true));
            }
            Input::Unfollows(follower) => {
                self.followers.remove(follower);
                return self.handle(Event::DrawGrids(self.draws_grids()));
            }
            // Only the newest leads a plan; while the disk fails, it may not be there yet.
            Input::Unreadable(step)
                if self.disk.is_some()
                    || self.machine.checkpoint().is_none_or(|saved| saved.step != step) => {}
            Input::Unreadable(step) => match self.record.newest_checkpoint() {
                Ok(newest) => return self.handle(Event::Unreadable { step, newest }),
                // Whoever needs it asks again.
                Err(error) => {
                    tracing::warn!("the checkpoint of step {step} cannot be read: {error:#}")
                }
            },
            Input::Drawn(step, png) => drop(or_warn(self.record.save_grid(step, &png))),
            Input::ChildEnded(index, status) => return self.child_ended(index, status),
            Input::Signal(signal) => {
                if self.signal.replace(signal).is_some() {
                    // The second: at once. LocalProcesses processes see their standard input close.
                    std::process::exit(signal.status().into());
                }
                tracing::info!(
                    "stopping after the step that is being finished; once more to stop at once"
                );
                let stop = match signal {
                    Signal::Terminate if !self.is_local => Stop::HandOver,
                    _ => Stop::Finish,
                };
                return self.handle(Event::Stop(stop));
            }
        }
        Ok(None)
    }

    fn draws_grids(&self) -> bool {
        !self.followers.is_empty() || self.local.as_ref().is_some_and(LocalProcesses::has_sampler)
    }

    fn child_ended(&mut self, index: usize, status: ExitStatus) -> anyhow::Result<Option<Outcome>> {
        let is_over = self.machine.reason() == Reason::Finishing;
        let Some(local) = &mut self.local else {
            return Ok(None);
        };
        // Workers that were told that the run is over end, as they should; so do those that were drained.
        if (is_over || status.success()) && !local.is_sampler(index) {
            local.left(index);
        } else {
            local.ended(index, status);
        }
        let needed = if self.machine.plan().is_none() {
            self.config.workers
        } else {
            self.config.min_workers
        };
        if local.workers() < needed && !self.out_of_workers && !is_over {
            self.out_of_workers = true;
            return self.handle(Event::Stop(Stop::Finish));
        }
        Ok(None)
    }

    fn tick(&mut self) -> anyhow::Result<Option<Outcome>> {
        let now = self.start.elapsed();
        if now >= self.heartbeat_at {
            self.heartbeat_at = now + HEARTBEAT_INTERVAL;
            let conns: Vec<ConnId> = self.conns.keys().copied().collect();
            conns.into_iter().for_each(|conn| self.send(conn, CoordinatorMessage::Heartbeat));
        }
        let waits = self.watch.look(&self.machine.reason());
        CONSOLE.waits(waits.as_deref().unwrap_or_default());
        CONSOLE.reached(self.machine.reached());
        self.ask_for_grids();
        if self.disk.as_ref().is_some_and(|disk| disk.try_again_at <= now) {
            let outcome = self.execute_pending();
            return if outcome.is_some() { Ok(outcome) } else { self.handle(Event::Tick) };
        }
        self.handle(Event::Tick)
    }

    fn ask_for_grids(&mut self) {
        self.followers
            .ask(self.record.pending_grids(), |step| or_warn(self.record.pending_generator(step)));
    }

    fn handle(&mut self, event: Event) -> anyhow::Result<Option<Outcome>> {
        if let Event::Closed(conn) = &event {
            self.conns.remove(conn);
        }
        self.pending.extend(self.machine.handle(self.start.elapsed(), event));
        Ok(if self.disk.is_none() { self.execute_pending() } else { None })
    }

    /// Executes commands in their order. If the disk fails, those that are left wait for it: workers train on.
    fn execute_pending(&mut self) -> Option<Outcome> {
        while let Some(command) = self.pending.pop_front() {
            if let Command::Exit(outcome) = command {
                return Some(outcome);
            }
            if let Err(error) = self.execute(&command) {
                self.pending.push_front(command);
                let now = self.start.elapsed();
                let disk = self.disk.get_or_insert(Disk {
                    fails_since: now,
                    says_at: now,
                    try_again_at: now,
                });
                disk.try_again_at = now + DISK_PAUSE;
                if now >= disk.says_at {
                    disk.says_at = now + DISK_SAYS;
                    let seconds = (now - disk.fails_since).as_secs();
                    tracing::error!(
                        "waiting for {seconds} s for the disk, workers train on: {error:#}"
                    );
                }
                return None;
            }
        }
        if let Some(Disk { fails_since, .. }) = self.disk.take() {
            tracing::info!(
                "the disk works again after {} s",
                (self.start.elapsed() - fails_since).as_secs()
            );
        }
        None
    }

    fn execute(&mut self, command: &Command) -> anyhow::Result<()> {
        if fault::pass(point(command)) {
            self.execute_once(command)?;
        }
        self.execute_once(command)
    }

    fn execute_once(&mut self, command: &Command) -> anyhow::Result<()> {
        match command.clone() {
            Command::Welcome(conn, likely_shards) => {
                let run: RunId = self.record.run().run;
                let (spec, schedule) = (self.config.spec.clone(), self.config.schedule);
                self.send(
                    conn,
                    CoordinatorMessage::Welcome(Welcome { run, spec, schedule, likely_shards }),
                );
            }
            Command::Refuse(conn, refusal) => {
                tracing::warn!("refused: {refusal}");
                self.send(conn, CoordinatorMessage::Refused(refusal.to_string()));
                self.conns.remove(&conn);
            }
            Command::Send(conn, message) => {
                if let ToWorker::Plan(plan) = &message {
                    tracing::debug!("{plan}");
                }
                self.send(conn, CoordinatorMessage::Message(message));
            }
            Command::Close(conn) => drop(self.conns.remove(&conn)),
            Command::StorePlan(plan, fingerprint) => {
                self.record.store_plan((*plan).clone(), fingerprint)?
            }
            Command::AppendRow(line) => {
                self.record.append_line(&line)?;
                let last_step = self.config.schedule.last_step;
                CONSOLE.line(&line, self.config.sharding.epoch(last_step), last_step);
            }
            Command::SaveCheckpoint { saved, bytes } => {
                let (step, digest) = (saved.step, saved.digest);
                self.record.save_checkpoint(saved, &bytes)?;
                tracing::info!("checkpoint of step {step}, digest {digest}");
            }
            Command::SaveGrid { step, bytes } => {
                self.record.save_pending_grid(step, &bytes)?;
                self.ask_for_grids();
            }
            Command::Notice(note) => tracing::info!("{note}"),
            Command::Exit(_) => {}
        }
        Ok(())
    }

    fn send(&mut self, conn: ConnId, message: CoordinatorMessage) {
        // Who does not read is gone, and hears it by the end of its stream.
        if self
            .conns
            .get(&conn)
            .is_some_and(|to_conn| to_conn.try_send(Ok(message.into())).is_err())
        {
            self.conns.remove(&conn);
        }
    }

    /// The local sampler draws the grids that are pending.
    async fn wait_for_grids(&mut self, inputs: &mut mpsc::Receiver<Input>) -> anyhow::Result<()> {
        let since = Instant::now();
        while self.local.as_ref().is_some_and(LocalProcesses::has_sampler)
            && !self.record.pending_grids().is_empty()
        {
            CONSOLE.waits("waiting for the last grid");
            self.ask_for_grids();
            if since.elapsed() >= LAST_GRIDS_MAX {
                let count = self.record.pending_grids().len();
                tracing::warn!("{count} grids are not drawn: the sampler did not answer in time");
                break;
            }
            if let Ok(Some(input)) = tokio::time::timeout(TICK, inputs.recv()).await {
                self.input(input)?;
            }
        }
        Ok(())
    }

    /// Says how it ended; gives the exit status.
    fn conclude(&self, outcome: Outcome) -> u8 {
        let root = self.record.root().display();
        match outcome {
            Outcome::Failed(failure) => {
                self.say_block(&failure.to_string());
                status::FAILED
            }
            _ if self.out_of_workers => {
                self.say_block("too few workers are left, and none is started again");
                status::FAILED
            }
            Outcome::Finished => {
                tracing::info!(
                    "finished: {} steps; everything is in {root}",
                    self.machine.reached()
                );
                status::FINISHED
            }
            Outcome::Stopped(step) => {
                tracing::info!("stopped after step {step}; go on with: {}", self.resume());
                self.signal.map_or(status::FINISHED, Signal::status)
            }
        }
    }

    /// One block, the last thing on the screen.
    fn say_block(&self, what: &str) {
        eprintln!("\nthe run has failed: {what}");
        if let Some(death) = self.local.as_ref().and_then(LocalProcesses::first_death) {
            eprintln!("  first:   {} ended with {}", death.name, death.status);
            eprintln!("  log:     {}", death.log.display());
        } else if self.is_local {
            eprintln!("  logs:    {}", self.record.logs().display());
        }
        match self.machine.checkpoint() {
            Some(saved) => eprintln!("  saved:   checkpoint of step {}", saved.step),
            None => eprintln!("  saved:   no checkpoint"),
        }
        eprintln!("  resume:  {}", self.resume());
    }

    fn resume(&self) -> String {
        let local = if self.is_local { " --local" } else { "" };
        format!("dcgan-coord --out {}{local}", self.record.root().display())
    }
}

/// What a test calls the place at which a command is executed.
fn point(command: &Command) -> &'static str {
    match command {
        Command::Welcome(..) => "welcome",
        Command::Send(_, ToWorker::Fence(_)) => "send-fence",
        Command::Send(_, ToWorker::Plan(_)) => "send-plan",
        Command::Send(_, ToWorker::Persisted(_)) => "send-stored",
        Command::Send(_, ToWorker::RequestSnapshot(_)) => "send-fetch",
        Command::StorePlan(..) => "store-plan",
        Command::AppendRow(_) => "append-line",
        Command::SaveCheckpoint { .. } => "save-checkpoint",
        _ => "other",
    }
}

/// A picture less is no reason to end a training.
fn or_warn<T>(result: anyhow::Result<T>) -> Option<T> {
    result.inspect_err(|error| tracing::warn!("a picture is left out: {error:#}")).ok()
}
