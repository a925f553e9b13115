//! Actions: every message, computation, command and tick is one, and the order of the world decides
//! which of the possible ones is next.

use dcgan_core::objective::{Objective, Scratch, ShardTask};
use dcgan_core::protocol::coordinator::{self, ConnId, TICK};
use dcgan_core::protocol::worker::{self, ShardResult};

use super::{Link, Order, World};
use crate::bad::Bad;

/// Something that can happen next.
enum Action {
    CoordinatorCommand,
    /// The disk does the write that is on its way.
    Write,
    /// The coordinator hears that the write is done.
    Written,
    WorkerCommand(String),
    DeliverToCoordinator(ConnId),
    DeliverToWorker(ConnId),
    DeliverToPeer(Link),
    /// A worker computes a job: its name, and the index of the job.
    Compute(String, usize),
    /// A worker computes a part of an evaluation: its name, and the index of the part.
    Evaluate(String, usize),
    Connect(String),
    PassTime,
}

/// More actions than any run needs. A run that reaches it makes no progress.
const ACTIONS_MAX: usize = 200_000;

impl World {
    /// Chooses the next action, and executes it.
    pub(super) fn act(&mut self) {
        self.actions += 1;
        assert!(self.actions < ACTIONS_MAX, "no progress: {}", self.describe());
        let mut actions = self.possible_actions();
        let chosen = match self.order {
            Order::Drawn => {
                // Time passes rarely, so that most messages arrive before anybody loses patience.
                if actions.is_empty() || self.rng.one_in(40) {
                    actions = vec![Action::PassTime];
                }
                self.rng.below(actions.len())
            }
            Order::First { but: (at, place) } => {
                actions.push(Action::PassTime);
                if at == self.actions { place.min(actions.len() - 1) } else { 0 }
            }
        };
        self.execute(actions.swap_remove(chosen));
    }

    /// All actions that are possible now, except that time passes.
    ///
    /// A driver executes all commands of an event before it takes the next event. A process with
    /// commands left is therefore delivered nothing.
    fn possible_actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        let coordinator_is_idle = self.coordinator_is_idle();
        if self.coordinator.is_some() && !coordinator_is_idle {
            actions.push(Action::CoordinatorCommand);
        }
        if let Some(write) = self.coordinator.as_ref().and_then(|it| it.write.as_ref()) {
            if !write.is_done && write.not_before <= self.now {
                actions.push(Action::Write);
            } else if write.is_done && coordinator_is_idle {
                actions.push(Action::Written);
            }
        }
        for (name, worker) in &self.workers {
            if worker.stopped_until.is_some() {
                continue;
            }
            if !worker.commands.is_empty() {
                actions.push(Action::WorkerCommand(name.clone()));
                continue;
            }
            if self.may_compute(name) {
                let jobs = 0..worker.jobs.len();
                actions.extend(jobs.map(|job| Action::Compute(name.clone(), job)));
            }
            // Gradients are more urgent.
            if worker.jobs.is_empty() {
                let parts = 0..worker.evaluations.len();
                actions.extend(parts.map(|part| Action::Evaluate(name.clone(), part)));
            }
            let is_early = self.connects_at.get(name).is_some_and(|at| *at > self.now);
            if worker.conn.is_none() && self.coordinator.is_some() && !is_early {
                actions.push(Action::Connect(name.clone()));
            }
        }

        // Deliver what is on its way to a process that can take it.
        for (&conn, control) in &self.control {
            if !control.up.is_empty() && coordinator_is_idle {
                actions.push(Action::DeliverToCoordinator(conn));
            }
            if !control.down.is_empty() && !self.is_busy(&control.worker) {
                actions.push(Action::DeliverToWorker(conn));
            }
        }
        for (link, queue) in &self.data {
            let (_, to, _) = link;
            if !queue.is_empty() && !self.is_busy(&to.name) {
                actions.push(Action::DeliverToPeer(link.clone()));
            }
        }
        actions
    }

    /// Tells if the coordinator runs and has executed all commands.
    pub(super) fn coordinator_is_idle(&self) -> bool {
        self.coordinator.as_ref().is_some_and(|coordinator| coordinator.commands.is_empty())
    }

    /// Tells if a worker cannot take a message now. What is sent to a dead one can always be taken:
    /// it is dropped.
    fn is_busy(&self, name: &str) -> bool {
        let worker = self.workers.get(name);
        worker.is_some_and(|worker| worker.stopped_until.is_some() || !worker.commands.is_empty())
    }

    /// Draws whether an attempt to write fails, on a disk that may fail.
    fn write_fails(&mut self) -> bool {
        self.setup.slow_disk && self.coordinator_is_idle() && self.rng.one_in(4)
    }

    /// The state of all processes, for a run that makes no progress.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("{:?} {:?}", self.now, self.outcome);
        for (name, worker) in &self.workers {
            let (commands, jobs) = (worker.commands.len(), worker.jobs.len());
            let waits_for = worker.machine.waits_for();
            text += &format!(
                "\n{name}: {commands} commands, {jobs} jobs, {:?}, waits for {waits_for:?}",
                worker.conn
            );
        }
        text += &format!("\nbad: {:?}\nnotices:", self.bad);
        for notice in self.notices.iter().rev().take(40).rev() {
            text += &format!("\n{notice}");
        }
        let machine = self.coordinator.as_ref().map(|coordinator| &coordinator.machine);
        text + &format!("\n{machine:?}")
    }

    /// Executes an action.
    fn execute(&mut self, action: Action) {
        match action {
            Action::CoordinatorCommand => {
                let command = self.coordinator.as_mut().unwrap().commands.pop_front().unwrap();
                self.coordinator_command(command);
            }
            Action::Write if self.write_fails() => {
                self.end_write(coordinator::Event::WritePostponed);
            }
            Action::Write => self.write(),
            Action::Written => self.end_write(coordinator::Event::Written),
            Action::WorkerCommand(name) => {
                let command = self.workers.get_mut(&name).unwrap().commands.pop_front().unwrap();
                self.worker_command(&name, command);
            }
            Action::DeliverToCoordinator(conn) => self.deliver_up(conn),
            Action::DeliverToWorker(conn) => self.deliver_down(conn),
            Action::DeliverToPeer(link) => self.deliver_data(link),
            Action::Compute(name, job) => self.compute(&name, job),
            Action::Evaluate(name, part) => self.evaluate(&name, part),
            Action::Connect(name) => self.connect(&name),
            Action::PassTime => self.pass_time(),
        }
    }

    /// Computes a job of a worker, and hands the result to its machine.
    fn compute(&mut self, name: &str, job: usize) {
        let worker = self.workers.get_mut(name).unwrap();
        let (key, state, shard) = worker.jobs.swap_remove(job);
        let partition = &self.reference.partition;
        let task = ShardTask { state: &state, at: key.at, shard, partition };
        let vector = worker.objective.shard_vector(&task, &mut Scratch::default());
        // The driver of a real worker turns a panic into such an error.
        let result =
            if worker.objective.panics() { Err("a defect".to_owned()) } else { Ok(vector) };
        let event = worker::Event::Computed(key, shard, ShardResult::new(result));
        self.note_computed(name);
        self.worker_event(name, event);
    }

    /// Computes a part of an evaluation, and hands the result to the worker's machine.
    fn evaluate(&mut self, name: &str, part: usize) {
        let worker = self.workers.get_mut(name).unwrap();
        let (task, state) = worker.evaluations.swap_remove(part);
        let result = if worker.objective.panics() {
            Err("a defect".to_owned())
        } else {
            Ok(task.compute(worker.objective.evaluation().unwrap(), &state))
        };
        self.worker_event(name, worker::Event::Evaluated(task.id, result));
    }

    /// Lets a tick pass: faults end, processes that run send their heartbeats, and processes that
    /// are missing may be started.
    fn pass_time(&mut self) {
        self.now += TICK;
        let now = self.now;
        self.separated.retain(|_, until| *until > now);
        for worker in self.workers.values_mut() {
            worker.stopped_until.take_if(|until| *until <= now);
        }

        // Collect them first: an event can remove a worker.
        let mut conns = Vec::new();
        let mut names = Vec::new();
        for worker in self.workers.values().filter(|worker| worker.stopped_until.is_none()) {
            conns.extend(worker.conn);
            names.push(worker.id.name.clone());
        }
        for conn in conns {
            self.coordinator_event(coordinator::Event::Heartbeat(conn));
        }
        self.coordinator_event(coordinator::Event::Tick);
        for name in names {
            self.worker_event(&name, worker::Event::Tick);
            if self.bad(&name) == Some(Bad::Accuses) && self.workers.contains_key(&name) {
                self.accuse(&name);
            }
        }
        self.check_progress();

        // A coordinator that died is started again, and so are workers: every run can end.
        if self.coordinator.is_none() && self.outcome.is_none() && self.rng.one_in(5) {
            self.start_coordinator();
        }
        if self.honest_workers() < self.setup.workers
            && self.outcome.is_none()
            && self.rng.one_in(5)
        {
            self.start_new_worker();
        }
    }
}
