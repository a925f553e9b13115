//! The processes and what is between them.

mod cuts;
mod processes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dcgan_core::ids::{Generation, Position, ShardId, Step, WorkerId};
use dcgan_core::objective::{Objective, Scratch, ShardTask};
use dcgan_core::protocol::coordinator::{self, ConnId, CoordinatorMachine, Outcome, Stop, TICK};
use dcgan_core::protocol::message::{FromWorker, Hello, ToWorker};
use dcgan_core::protocol::plan::Plan;
use dcgan_core::protocol::worker::{self, GradientKey, ReduceFrame, ShardResult, WorkerMachine};
use dcgan_core::spec::schedule::Schedule;
use dcgan_core::state::State;

use crate::disk::{Disk, decode};
use crate::faults::{Fault, Pick};
use crate::reference::Reference;
use crate::reference::{How, Spoiled};

#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) shards: u16,
    pub(crate) workers: usize,
    pub(crate) min_workers: usize,
    pub(crate) last_step: Step,
}

struct Coordinator {
    machine: CoordinatorMachine,
    commands: VecDeque<coordinator::Command>,
}

struct Worker {
    id: WorkerId,
    machine: WorkerMachine,
    conn: Option<ConnId>,
    /// Whether the hello is answered; reports are sent only then.
    welcomed: bool,
    commands: VecDeque<worker::Command>,
    jobs: Vec<(GradientKey, Arc<State>, ShardId)>,
    objective: Arc<Spoiled>,
    /// It does nothing until then.
    stopped: Option<Duration>,
    plan: Option<Arc<Plan>>,
    copies: BTreeMap<u64, (WorkerId, Generation)>,
}

/// A control stream: what is on its way in each direction.
#[derive(Default)]
struct Control {
    worker: String,
    up: VecDeque<Up>,
    down: VecDeque<Down>,
}

#[derive(Clone)]
enum Up {
    Hello(Hello),
    Message(FromWorker),
    Snapshot(Step, Arc<State>),
    Closed,
}

#[derive(Clone)]
enum Down {
    Welcome,
    Message(ToWorker),
    Closed,
}

/// What is on its way from one worker to another, in a generation.
enum Data {
    Plan(Arc<Plan>),
    ReduceFrame(ReduceFrame),
    Broken,
}

type Link = (WorkerId, WorkerId, Generation);

enum Action {
    CoordinatorCommand,
    WorkerCommand(String),
    Up(ConnId),
    Down(ConnId),
    Data(Link),
    Compute(String, usize),
    Connect(String),
    Time,
}

/// Which of the actions that are possible comes next.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    /// Any.
    Drawn,
    /// The first, but once, after so many actions, another: its place among them, or time passes.
    First { but: (usize, usize) },
}

pub(crate) struct World {
    setup: Setup,
    reference: Reference,
    schedule: Schedule,
    order: Order,
    pick: Pick,
    now: Duration,
    pub(crate) disk: Disk,
    coordinator: Option<Coordinator>,
    workers: BTreeMap<String, Worker>,
    control: BTreeMap<ConnId, Control>,
    data: BTreeMap<Link, VecDeque<Data>>,
    next_id: u64,
    names: usize,
    outcome: Option<Outcome>,
    faults_done: usize,
    /// Pairs of workers that do not reach each other until then.
    parted: BTreeMap<(String, String), Duration>,
    /// Whose machines are broken.
    spoiled: BTreeSet<String>,
    /// Who was ever stopped.
    stopped: BTreeSet<String>,
    /// Notes of the coordinators.
    pub(crate) notes: Vec<String>,
    actions: usize,
}

/// More actions than any run needs: reaching it means that nobody makes progress.
const ACTIONS_MAX: usize = 200_000;

impl World {
    pub(crate) fn new(setup: Setup, reference: Reference, seed: u64) -> Self {
        Self::in_order(setup, reference, seed, Order::Drawn)
    }

    pub(crate) fn in_order(setup: Setup, reference: Reference, seed: u64, order: Order) -> Self {
        let schedule = Schedule {
            last_step: setup.last_step,
            log_every: 4,
            grid_every: 6,
            checkpoint_every: 5,
        };
        let mut world = Self {
            setup,
            reference,
            schedule,
            order,
            pick: Pick::new(seed ^ 0xD1CE),
            now: Duration::from_secs(1),
            disk: Disk::default(),
            coordinator: None,
            workers: BTreeMap::new(),
            control: BTreeMap::new(),
            data: BTreeMap::new(),
            next_id: 0,
            names: 0,
            outcome: None,
            faults_done: 0,
            parted: BTreeMap::new(),
            spoiled: BTreeSet::new(),
            stopped: BTreeSet::new(),
            notes: Vec::new(),
            actions: 0,
        };
        world.start_coordinator();
        for _ in 0..setup.workers {
            world.start_new_worker();
        }
        world
    }

    // Whole runs.

    /// Runs to an outcome under faults.
    pub(crate) fn run(&mut self, mut faults: Vec<Fault>) -> Outcome {
        while self.outcome.is_none() {
            if self.pick.one_in(60)
                && let Some(fault) = faults.pop()
            {
                self.fault(fault);
            }
            self.act();
        }
        self.let_them_leave()
    }

    /// Runs to an outcome, with these faults after so many actions.
    pub(crate) fn run_with(&mut self, faults: &[(usize, Fault)]) -> Outcome {
        while self.outcome.is_none() {
            let now = self.actions;
            for (_, fault) in faults.iter().filter(|(at, _)| *at == now) {
                self.fault(*fault);
            }
            self.act();
        }
        self.let_them_leave()
    }

    fn let_them_leave(&mut self) -> Outcome {
        // The coordinator is done; workers that were told go as well.
        while self
            .workers
            .values()
            .any(|worker| !worker.commands.is_empty() || worker.stopped.is_some())
            || self.control.values().any(|c| !c.down.is_empty())
        {
            self.act();
        }
        self.outcome.clone().unwrap()
    }

    /// Runs for some actions, then asks for an early end; gives the step that the coordinator says is on disk.
    pub(crate) fn run_and_stop(&mut self, stop: Stop, actions: usize) -> Step {
        for _ in 0..actions {
            self.act();
        }
        self.coordinator_event(coordinator::Event::Stop(stop));
        match self.run(Vec::new()) {
            Outcome::Stopped(step) => {
                let newest = self.disk.checkpoints.keys().next_back().copied().unwrap_or(0);
                assert_eq!(step, newest);
                if stop == Stop::HandOver {
                    self.start_coordinator();
                }
                step
            }
            outcome => panic!("{outcome:?}"),
        }
    }

    /// Starts a new coordinator and `workers` new workers on the old disk.
    pub(crate) fn restart_all(&mut self, workers: usize) {
        // Who was just starting when the others were told to finish.
        self.kill_all_workers();
        self.setup.workers = workers;
        self.start_coordinator();
        for _ in 0..workers {
            self.start_new_worker();
        }
    }

    pub(crate) fn kill_all_workers(&mut self) {
        let names: Vec<String> = self.workers.keys().cloned().collect();
        for name in names {
            self.remove_worker(&name);
        }
    }

    /// What must hold when a run is finished.
    pub(crate) fn check_the_end(&mut self) {
        let Setup { last_step, .. } = self.setup;
        let due: Vec<Step> = (1..=last_step).filter(|&step| self.schedule.row_due(step)).collect();
        let lines: Vec<Step> = self.disk.lines.iter().map(|line| line.step).collect();
        assert_eq!(lines, due, "every line is there once");
        for line in &self.disk.lines {
            assert_eq!(line.state_digest, self.reference.digests[&Position::after(line.step)]);
        }
        let (saved, bytes) = &self.disk.checkpoints[&last_step];
        let mut state = decode(self.reference.objective.layout(), bytes);
        assert_eq!(
            (saved.digest, state.digest()),
            (self.reference.digests[&Position::after(last_step)], saved.digest)
        );
        assert!(self.disk.grids.contains(&last_step));
        // Who was away just then hears it from a coordinator that is started once more.
        if !self.workers.is_empty() {
            self.setup.workers = 0;
            self.start_coordinator();
            assert_eq!(self.run(Vec::new()), Outcome::Finished);
        }
        assert!(self.workers.is_empty(), "{:?} are left behind", self.workers.keys());
    }

    pub(crate) fn faults_done(&self) -> usize {
        self.faults_done
    }

    /// What two equal runs have in common.
    pub(crate) fn fingerprint(&self) -> (usize, Duration, u64) {
        (self.actions, self.now, self.pick.clone().next())
    }

    /// Runs until something holds.
    pub(crate) fn act_until(&mut self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            self.act();
        }
    }

    /// The last step on which the members agree.
    pub(crate) fn reached(&self) -> Step {
        self.coordinator.as_ref().map_or(0, |coordinator| coordinator.machine.reached())
    }

    pub(crate) fn actions(&self) -> usize {
        self.actions
    }

    /// Breaks the machine of a worker.
    pub(crate) fn spoil(&mut self, name: &str, how: How) {
        self.workers[name].objective.spoil(how);
        self.spoiled.insert(name.to_owned());
    }

    // Actions.

    fn act(&mut self) {
        self.actions += 1;
        assert!(
            self.actions < ACTIONS_MAX,
            "no progress: {:?} {:?} {:?} {:?}",
            self.now,
            self.outcome,
            self.workers
                .iter()
                .map(|(n, w)| (
                    n.clone(),
                    w.commands.len(),
                    w.jobs.len(),
                    w.conn,
                    w.machine.waits_for()
                ))
                .collect::<Vec<_>>(),
            self.coordinator.as_ref().map(|c| &c.machine)
        );
        // A driver executes all commands of an event before it takes the next one.
        let stopped =
            |name: &String| self.workers.get(name).is_some_and(|worker| worker.stopped.is_some());
        let working = |name: &String| {
            self.workers.get(name).is_some_and(|worker| !worker.commands.is_empty())
        };
        let busy = |name: &String| working(name) || stopped(name);
        let coordinator_is_idle = self.coordinator.as_ref().is_some_and(|c| c.commands.is_empty());
        let mut actions = Vec::new();
        if self.coordinator.is_some() && !coordinator_is_idle {
            actions.push(Action::CoordinatorCommand);
        }
        for (name, worker) in &self.workers {
            if stopped(name) {
                continue;
            }
            if busy(name) {
                actions.push(Action::WorkerCommand(name.clone()));
                continue;
            }
            actions.extend((0..worker.jobs.len()).map(|job| Action::Compute(name.clone(), job)));
            if worker.conn.is_none() && self.coordinator.is_some() {
                actions.push(Action::Connect(name.clone()));
            }
        }
        for (&conn, control) in &self.control {
            if !control.up.is_empty() && coordinator_is_idle {
                actions.push(Action::Up(conn));
            }
            if !control.down.is_empty() && !busy(&control.worker) {
                actions.push(Action::Down(conn));
            }
        }
        let waiting =
            self.data.iter().filter(|((_, to, _), queue)| !queue.is_empty() && !busy(&to.name));
        actions.extend(waiting.map(|(link, _)| Action::Data(link.clone())));
        let chosen = match self.order {
            Order::Drawn => {
                if actions.is_empty() || self.pick.one_in(40) {
                    actions = vec![Action::Time];
                }
                self.pick.below(actions.len())
            }
            Order::First { but: (at, place) } => {
                actions.push(Action::Time);
                if at == self.actions { place.min(actions.len() - 1) } else { 0 }
            }
        };
        self.execute(actions.swap_remove(chosen));
    }

    fn execute(&mut self, action: Action) {
        match action {
            Action::CoordinatorCommand => {
                let command = self.coordinator.as_mut().unwrap().commands.pop_front().unwrap();
                self.coordinator_command(command);
            }
            Action::WorkerCommand(name) => {
                let command = self.workers.get_mut(&name).unwrap().commands.pop_front().unwrap();
                self.worker_command(&name, command);
            }
            Action::Up(conn) => self.deliver_up(conn),
            Action::Down(conn) => self.deliver_down(conn),
            Action::Data(link) => self.deliver_data(link),
            Action::Compute(name, job) => {
                let (work, state, shard) =
                    self.workers.get_mut(&name).unwrap().jobs.swap_remove(job);
                let task = ShardTask {
                    state: &state,
                    at: work.at,
                    shard,
                    partition: &self.reference.partition,
                };
                let objective = &self.workers[&name].objective;
                let vector = objective.shard_gradients(&task, &mut Scratch::default());
                let result =
                    if objective.panics() { Err("spoiled".to_owned()) } else { Ok(vector) };
                self.worker_event(
                    &name,
                    worker::Event::Computed(work, shard, ShardResult::new(result)),
                );
            }
            Action::Connect(name) => self.connect(&name),
            Action::Time => self.pass_time(),
        }
    }

    fn pass_time(&mut self) {
        self.now += TICK;
        let now = self.now;
        self.parted.retain(|_, until| *until > now);
        for worker in self.workers.values_mut() {
            worker.stopped.take_if(|until| *until <= now);
        }
        let running = || self.workers.values().filter(|worker| worker.stopped.is_none());
        let conns: Vec<ConnId> = running().filter_map(|worker| worker.conn).collect();
        let names: Vec<String> = running().map(|worker| worker.id.name.clone()).collect();
        for conn in conns {
            self.coordinator_event(coordinator::Event::Heartbeat(conn));
        }
        self.coordinator_event(coordinator::Event::Tick);
        for name in names {
            self.worker_event(&name, worker::Event::Tick);
        }
        if self.coordinator.is_none() && self.outcome.is_none() && self.pick.one_in(5) {
            self.start_coordinator();
        }
        // Somebody brings workers back, so that every run can end.
        if self.workers.len() < self.setup.workers && self.outcome.is_none() && self.pick.one_in(5)
        {
            self.start_new_worker();
        }
    }
}
