//! The driver of a run: the one task that owns the coordinator's machine, its run directory and its
//! streams.
//!
//! Workers, samplers, child processes, signals and people all act at the same time. State shared
//! behind locks would let each of them see a run that is half changed. Here everything arrives as
//! an [`Input`] in one order, becomes an event of the machine, and the machine's commands are
//! executed in theirs. The driver waits for nothing else: files are written by the
//! [`writer`](crate::writer) and read by threads of the runtime. So heartbeats, signals and answers
//! to people never wait for a disk. The driver decides nothing about the run.

mod commands;
mod disk;
mod disk_watch;
mod ending;
mod unsaved;
mod watchers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dcgan_core::ids::RunId;
use dcgan_core::metrics::MetricsRow;
use dcgan_core::protocol::coordinator::{
    ConnId, CoordinatorMachine, Event, Outcome, Reason, Stop, TICK,
};
use dcgan_core::protocol::message::Hello;
use dcgan_core::words::{counted, worker};
use dcgan_process::settings::Time;
use dcgan_process::signals::{FirstSignal, Signal};
use dcgan_rpc::net::Pulse;
use dcgan_rpc::{CoordinatorMessage, pb};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use crate::config::RunConfig;
use crate::console::CONSOLE;
use crate::feed::{STALLED_MAX, SamplerFeed};
use crate::input::{Input, SamplerId, SamplerSender, WorkerSender};
use crate::local_processes::{ChildEnd, LocalProcesses};
use crate::reason_log::ReasonLog;
use crate::service::Workers;
use crate::sinks::Sinks;
use crate::writer::Job;
pub(crate) use disk::Disk;
pub(crate) use ending::describe_early_end;
pub(crate) use unsaved::Unsaved;
use watchers::StopWatchers;

/// The coordinator sends a heartbeat to every worker this often.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);
/// The disk gets this time to record how the run has ended.
const END_MAX: Duration = Duration::from_secs(5);
/// At the end of the run, the local sampler gets this time to draw the grids that are pending.
const LAST_GRIDS_MAX: Duration = Duration::from_secs(60);
/// Whoever waits for the end of the run hears so often for how long the disk is waited for.
const TELL_SECONDS: u64 = 10;

/// The driver of a run.
pub(crate) struct Driver {
    config: RunConfig,
    run: RunId,
    disk: Disk,
    /// The consumers of rows of metrics that are on disk.
    sinks: Sinks,
    /// The newest row, for people who ask for the status.
    newest_row: Option<MetricsRow>,
    machine: CoordinatorMachine,
    /// The zero of the machine's clock.
    start: Instant,
    workers: BTreeMap<ConnId, WorkerSender>,
    /// The services' view of the same workers.
    served_workers: Arc<Workers>,
    feed: SamplerFeed,
    /// The processes of `--local`, as long as they run.
    local: Option<LocalProcesses>,
    is_local: bool,
    /// The command that goes on with the run.
    resume_command: String,
    /// The signal that asked for a stop.
    signal: Option<Signal>,
    /// The signal or the person that asked first.
    stopped_by: Option<String>,
    reason_log: ReasonLog,
    /// The people who have asked for the end.
    watchers: StopWatchers,
    /// Why the run was stopped, if too few local workers are left.
    out_of_workers: Option<String>,
    /// The run ends when no worker has been connected for this long.
    workers_timeout: Duration,
    /// Since when no worker is connected, after one was.
    deserted_since: Option<Duration>,
    /// When the next heartbeats are due, on the machine's clock.
    next_heartbeat: Duration,
    /// How the run ended, once the machine has said so.
    outcome: Option<Outcome>,
    /// Tells health checks that the driver works.
    pulse: Pulse,
    unsaved: Unsaved,
}

impl Driver {
    /// Makes the driver of a machine whose clock began at `start`.
    pub(crate) fn new(
        start: Instant,
        machine: CoordinatorMachine,
        config: RunConfig,
        run: RunId,
        disk: Disk,
        local: Option<LocalProcesses>,
        is_local: bool,
    ) -> Self {
        Self {
            feed: SamplerFeed::new(config.spec.seed()),
            sinks: Sinks::new(&config),
            newest_row: None,
            config,
            run,
            disk,
            machine,
            start,
            workers: BTreeMap::new(),
            served_workers: Arc::new(Workers::new()),
            local,
            is_local,
            resume_command: String::new(),
            signal: None,
            stopped_by: None,
            reason_log: ReasonLog::default(),
            watchers: StopWatchers::default(),
            out_of_workers: None,
            workers_timeout: Duration::MAX,
            deserted_since: None,
            next_heartbeat: Duration::ZERO,
            outcome: None,
            pulse: Pulse::default(),
            unsaved: Unsaved::default(),
        }
    }

    /// Makes the driver that of services which know these workers and show this pulse.
    pub(crate) fn with_services(self, served_workers: Arc<Workers>, pulse: Pulse) -> Self {
        Self { served_workers, pulse, ..self }
    }

    /// Makes the driver one that tells this command to people, for going on with the run.
    pub(crate) fn with_resume_command(self, resume_command: String) -> Self {
        Self { resume_command, ..self }
    }

    /// Makes the driver one that ends the run when no worker has been connected for so long.
    pub(crate) fn with_workers_timeout(self, workers_timeout: Duration) -> Self {
        Self { workers_timeout, ..self }
    }

    /// Makes the driver one that keeps this up to date.
    pub(crate) fn with_unsaved(self, unsaved: Unsaved) -> Self {
        Self { unsaved, ..self }
    }

    /// Runs the training to its end. Returns the exit status of the program.
    pub(crate) async fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        mut signal: FirstSignal,
    ) -> u8 {
        let outcome = self.run_machine(&mut inputs, &mut signal).await;
        // Whoever waits for the result of a run that has failed need not wait for pictures.
        if !matches!(outcome, Outcome::Failed(_)) {
            self.wait_for_grids(&mut inputs).await;
        }
        self.record_end(&outcome, &mut inputs).await;
        // The last lines stand where the bar was.
        CONSOLE.end_bar();
        let status = self.conclude(&outcome);
        if let Some(local) = self.local.take() {
            local.end();
        }
        status
    }

    /// Passes inputs and ticks to the machine until it ends the run.
    async fn run_machine(
        &mut self,
        inputs: &mut mpsc::Receiver<Input>,
        signal: &mut FirstSignal,
    ) -> Outcome {
        let mut ticks = interval(TICK);
        // After a pause of this process one tick is enough: a burst of them would tell the machine
        // nothing new.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.update_draw_grids();
        loop {
            if let Some(outcome) = self.outcome.take() {
                return outcome;
            }
            tokio::select! {
                Some(input) = inputs.recv() => self.on_input(input),
                signal = signal.take() => self.on_signal(signal),
                _ = ticks.tick() => self.on_tick(),
            }
        }
    }

    fn on_input(&mut self, input: Input) {
        match input {
            Input::WorkerConnected { conn, sender, hello } => {
                self.on_worker_connected(conn, sender, hello)
            }
            Input::Machine(event) => self.handle(event),
            Input::StatusRequested(reply) => self.send_status(reply),
            Input::DrainRequested { by, name, reply } => {
                // The client may have gone away without waiting for the answer.
                let _ = reply.send(self.drain(&by, name));
            }
            Input::StopRequested { by, watcher } => {
                self.stopped_by.get_or_insert(by);
                self.watchers.add(watcher);
                self.handle(Event::Stop(Stop::Finish));
            }
            Input::SamplerConnected { sampler, page, sender } => {
                self.on_sampler_connected(sampler, &page, sender)
            }
            Input::SamplerClosed(sampler) => self.on_sampler_closed(sampler),
            Input::GridDrawn { step, png, room: _room } => self.save_grid(step, png),
            Input::GridNotDrawn { step, why } => self.leave_out_grid(step, &why),
            Input::SnapshotArrived { step, digest, bytes, room: _room } => {
                self.handle(Event::Snapshot { step, digest, bytes });
            }
            Input::Writer(news) => self.on_writer_news(news),
            Input::PendingGridRead { step, generator } => self.on_grid_read(step, generator),
            Input::NewestGeneratorRead { sampler, step, generator } => {
                self.feed.send_newest(sampler, step, generator);
            }
            Input::CheckpointUnreadable(step) => self.on_checkpoint_unreadable(step),
            Input::ChildEnded(index, end) => self.on_child_ended(index, end),
        }
    }

    fn on_worker_connected(&mut self, conn: ConnId, sender: WorkerSender, hello: Hello) {
        self.workers.insert(conn, sender);
        self.handle(Event::Hello(conn, hello));
    }

    fn send_status(&self, reply: oneshot::Sender<pb::Status>) {
        let now = self.start.elapsed();
        let status = self.machine.status(now);
        let RunConfig { spec, .. } = &self.config;
        let (step, last_step) = (status.step, status.last_step);
        let mut status = dcgan_rpc::status(self.run, spec.sharding().epoch(step), now, status);
        status.reason = self.reason_in_words();
        status.newest_row = self
            .newest_row
            .as_ref()
            .map(|row| dcgan_rpc::newest_row(row, spec.batch_size(), step, last_step));
        // A path says more to whoever is in another folder.
        let root = self.disk.files.root();
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        status.directory = root.to_string_lossy().into_owned();
        // The client may have gone away without waiting for the answer.
        let _ = reply.send(status);
    }

    fn on_sampler_connected(&mut self, sampler: SamplerId, page: &str, sender: SamplerSender) {
        tracing::info!(event = "sampler_page", url = page, "watch the digits at {page}");
        self.feed.insert(sampler, sender);
        self.read_newest_generator(sampler);
        self.update_draw_grids();
    }

    fn on_sampler_closed(&mut self, sampler: SamplerId) {
        self.feed.remove(sampler);
        self.update_draw_grids();
    }

    /// Drops samplers that do not read what they are sent.
    fn drop_stalled_samplers(&mut self, now: Duration) {
        let count = self.feed.drop_stalled(now);
        if count > 0 {
            let seconds = STALLED_MAX.as_secs();
            tracing::warn!(
                event = "sampler_stalled",
                count,
                seconds,
                "dropping {} that read nothing for {seconds} s",
                counted(count, "sampler")
            );
            self.update_draw_grids();
        }
    }

    /// Tells the machine whether a sampler draws grids.
    fn update_draw_grids(&mut self) {
        let draws = !self.feed.is_empty() || self.has_local_sampler();
        self.handle(Event::DrawGrids(draws));
    }

    fn has_local_sampler(&self) -> bool {
        self.local.as_ref().is_some_and(LocalProcesses::has_sampler)
    }

    fn on_child_ended(&mut self, index: usize, end: ChildEnd) {
        let is_over = self.machine.is_ending() || self.machine.reason() == Reason::Finishing;
        let now = self.start.elapsed();
        let Some(local) = &mut self.local else {
            return;
        };
        // A worker ends by itself when the run is over, and when a person drained it.
        let is_success = end.as_ref().is_ok_and(|exit| exit.status.success());
        if (is_over || is_success) && !local.is_sampler(index) {
            local.mark_ended(index);
        } else {
            local.restart_later(now, index, end);
        }
        let (name, workers) = (local.name(index).to_owned(), local.workers().count());
        let is_given_up = !is_over && !local.is_alive(index);
        // Nobody waits for a worker whose process has ended.
        self.handle(if is_given_up {
            Event::ProcessGivenUp(name)
        } else {
            Event::ProcessEnded(name)
        });
        self.stop_without_workers(workers, is_over);
    }

    /// Asks a worker to leave.
    ///
    /// # Errors
    /// In words, if the run would fail without it: nobody would start another local worker.
    fn drain(&mut self, by: &str, name: String) -> Result<(), String> {
        if let Some(local) = &self.local
            && local.workers().any(|worker| worker == name)
        {
            let stays = |worker: &&str| *worker != name && !self.machine.leaves_for_good(worker);
            let (staying, (needed, flag)) =
                (local.workers().filter(stays).count(), self.workers_needed());
            let stop = "`dcgan-coord stop` ends the run with a checkpoint";
            let name = worker(&name);
            if staying == 0 {
                return Err(format!("{name} is the last worker: {stop}"));
            }
            if staying < needed {
                let left = counted(staying, "worker");
                return Err(format!(
                    "{name} cannot leave: {left} would be left, and {flag} is {needed}; {stop}"
                ));
            }
        }
        tracing::info!(
            event = "drain_requested",
            by,
            worker = name,
            "{by} asks {} to leave",
            worker(&name)
        );
        self.handle(Event::Drain(name));
        Ok(())
    }

    /// The number of workers that the run needs now, and the flag that says so.
    fn workers_needed(&self) -> (usize, &'static str) {
        if self.machine.plan().is_none() || self.machine.begins_anew() {
            (self.config.workers, "--workers")
        } else {
            (self.config.min_workers, "--min-workers")
        }
    }

    /// Stops the run when fewer local workers are left than it needs. Nobody would start others.
    fn stop_without_workers(&mut self, workers: usize, is_over: bool) {
        let (needed, flag) = self.workers_needed();
        if workers >= needed || self.out_of_workers.is_some() || is_over {
            return;
        }
        self.out_of_workers = Some(format!(
            "too few workers are left: {workers} can still run, and {flag} is {needed}"
        ));
        self.handle(Event::Stop(Stop::Finish));
    }

    /// Ends the run if all its workers have been away for too long: nobody pays for a machine that
    /// waits for ever.
    fn stop_if_deserted(&mut self, now: Duration) {
        if !self.workers.is_empty() || self.machine.plan().is_none() || self.machine.is_ending() {
            self.deserted_since = None;
            return;
        }
        let since = *self.deserted_since.get_or_insert(now);
        if now - since >= self.workers_timeout && self.out_of_workers.is_none() {
            let time = Time(self.workers_timeout);
            self.out_of_workers =
                Some(format!("no worker was connected for {time} (--workers-timeout)"));
            self.handle(Event::Stop(Stop::Finish));
        }
    }

    fn on_signal(&mut self, signal: Signal) {
        // A second one ends the program at once, without the driver. Local processes end then
        // because their standard input closes.
        self.signal = Some(signal);
        self.stopped_by.get_or_insert(signal.to_string());
        tracing::info!(
            event = "stop_requested",
            %signal,
            "saving a checkpoint of this step; a second signal quits now, without saving"
        );
        // A cluster sends SIGTERM to move the coordinator: its workers wait for the next one. Local
        // workers cannot wait, because they end with this process.
        let stop = match signal {
            Signal::Terminate | Signal::HangUp if !self.is_local => Stop::HandOver,
            _ => Stop::Finish,
        };
        self.handle(Event::Stop(stop));
    }

    fn on_tick(&mut self) {
        self.pulse.beat();
        let now = self.start.elapsed();
        self.send_heartbeats(now);
        self.show_progress();
        self.ask_for_grids();
        self.unsaved.set(self.machine.unsaved_steps());
        self.watch_disk(now);
        self.retry_grids(now);
        if let Some(local) = &mut self.local {
            local.on_tick(now);
        }
        self.drop_stalled_samplers(now);
        self.stop_if_deserted(now);
        self.handle(Event::Tick);
    }

    fn send_heartbeats(&mut self, now: Duration) {
        if now < self.next_heartbeat {
            return;
        }
        self.next_heartbeat = now + HEARTBEAT_INTERVAL;
        let conns: Vec<ConnId> = self.workers.keys().copied().collect();
        for conn in conns {
            self.send(conn, CoordinatorMessage::Heartbeat);
        }
    }

    /// Shows on the console and in the log where the run is and what it waits for.
    fn show_progress(&mut self) {
        let reason = self.machine.reason();
        self.reason_log.observe(&reason);
        // One who waits for the disk is told so again from time to time.
        let disk = self.disk.watch.waiting(self.start.elapsed());
        let text = self.reason_in_words();
        self.watchers.tell((reason.code(), disk.as_ref().map(|(s, _)| s / TELL_SECONDS)), &text);
        let waiting = match (reason, disk) {
            (Reason::Training { .. }, None) => String::new(),
            _ => text,
        };
        CONSOLE.show_message(&waiting);
        CONSOLE.show_step(self.machine.reached());
    }

    /// Passes an event to the machine, and executes the commands that follow.
    fn handle(&mut self, event: Event) {
        if let Event::Closed(conn) = &event {
            self.workers.remove(conn);
        }
        for command in self.machine.handle(self.start.elapsed(), event) {
            self.execute(command);
        }
    }

    /// Waits until the local sampler has drawn the grids that are pending, and all grids that were
    /// drawn are on disk.
    async fn wait_for_grids(&mut self, inputs: &mut mpsc::Receiver<Input>) {
        let since = Instant::now();
        self.retry_grids_at_the_end();
        loop {
            let pending = if self.has_local_sampler() { self.disk.pending_grids.len() } else { 0 };
            if pending == 0 && !self.disk.watch.is_busy() {
                self.leave_out_postponed_grids();
                return;
            }
            let waits_for = if pending > 0 { "the last grid" } else { "the disk" };
            CONSOLE.show_message(&format!("waiting for {waits_for}"));
            self.ask_for_grids();
            let now = self.start.elapsed();
            self.watch_disk(now);
            if let Some(local) = &mut self.local {
                // The sampler may have to be started again.
                local.on_tick(now);
            }
            if since.elapsed() >= LAST_GRIDS_MAX {
                let seconds = LAST_GRIDS_MAX.as_secs();
                tracing::warn!(
                    event = "grids_left_out",
                    count = pending,
                    "not drawn: {}; waited {seconds} s for {waits_for}",
                    counted(pending, "grid")
                );
                return;
            }
            // The sampler's and the writer's answers arrive as inputs.
            if let Ok(Some(input)) = tokio::time::timeout(TICK, inputs.recv()).await {
                self.on_input(input);
            }
        }
    }

    /// Records in the run directory how the run has ended. A disk that takes long is not waited
    /// for.
    async fn record_end(&mut self, outcome: &Outcome, inputs: &mut mpsc::Receiver<Input>) {
        let since = Instant::now();
        self.submit(Job::End(self.ended(outcome)));
        while self.disk.watch.is_busy() && since.elapsed() < END_MAX {
            if let Ok(Some(input)) = tokio::time::timeout(TICK, inputs.recv()).await {
                self.on_input(input);
            }
        }
    }
}
