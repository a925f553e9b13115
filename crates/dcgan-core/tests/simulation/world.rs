//! The processes and what is between them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dcgan_core::ids::{Generation, Position, Rank, RunId, ShardId, Step, WorkerId};
use dcgan_core::membership::{self, ConnId, Membership, Note, Outcome, Settings, Stop, TICK, Terms};
use dcgan_core::message::{Finish, FromWorker, Hello, PROTOCOL, ToWorker};
use dcgan_core::objective::{Objective, Scratch, Task};
use dcgan_core::plan::{Plan, StateAt};
use dcgan_core::schedule::Schedule;
use dcgan_core::state::State;
use dcgan_core::step_machine::{self, Copy, Donor, Frame, StepMachine, Work};

use crate::disk::{Disk, decode, encode};
use crate::faults::{Faults, Pick};
use crate::reference::Reference;

#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) shards: u16,
    pub(crate) workers: usize,
    pub(crate) min_workers: usize,
    pub(crate) last_step: Step,
}

struct Coordinator {
    machine: Membership,
    commands: VecDeque<membership::Command>,
}

struct Worker {
    id: WorkerId,
    machine: StepMachine,
    conn: Option<ConnId>,
    /// Whether the hello is answered; reports are sent only then.
    welcomed: bool,
    commands: VecDeque<step_machine::Command>,
    jobs: Vec<(Work, Arc<State>, ShardId)>,
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
    Frame(Frame),
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

pub(crate) struct World {
    setup: Setup,
    reference: Reference,
    schedule: Schedule,
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
    flip_at: Option<Step>,
    actions: usize,
}

/// More actions than any run needs: reaching it means that nobody makes progress.
const ACTIONS_MAX: usize = 200_000;

impl World {
    pub(crate) fn new(setup: Setup, reference: Reference, seed: u64) -> Self {
        let schedule = Schedule { last_step: setup.last_step, log_every: 4, grid_every: 6, checkpoint_every: 5 };
        let mut world = Self {
            setup,
            reference,
            schedule,
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
            flip_at: None,
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
    pub(crate) fn run(&mut self, mut faults: Faults) -> Outcome {
        while self.outcome.is_none() {
            if faults.left() > 0 && self.pick.one_in(60) {
                self.fault(&mut faults);
            }
            self.act();
        }
        // The coordinator is done; workers that were told go as well.
        while self.workers.values().any(|worker| !worker.commands.is_empty())
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
        self.coordinator_event(membership::Event::Stop(stop));
        match self.run(Faults::default()) {
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
        let names: Vec<String> = self.workers.keys().cloned().collect();
        for name in names {
            self.remove_worker(&name);
        }
        self.setup.workers = workers;
        self.start_coordinator();
        for _ in 0..workers {
            self.start_new_worker();
        }
    }

    /// What must hold when a run is finished.
    pub(crate) fn check_the_end(&mut self) {
        let Setup { last_step, .. } = self.setup;
        let due: Vec<Step> = (1..=last_step).filter(|&step| self.schedule.line_due(step)).collect();
        let lines: Vec<Step> = self.disk.lines.iter().map(|line| line.step).collect();
        assert_eq!(lines, due, "every line is there once");
        for line in &self.disk.lines {
            assert_eq!(line.state_digest, self.reference.digests[&Position::after(line.step)]);
        }
        let (saved, bytes) = &self.disk.checkpoints[&last_step];
        let mut state = decode(self.reference.objective.layout(), bytes);
        assert_eq!((saved.digest, state.digest()), (self.reference.digests[&Position::after(last_step)], saved.digest));
        assert!(self.disk.grids.contains(&last_step));
        // Who was away just then hears it from a coordinator that is started once more.
        if !self.workers.is_empty() {
            self.setup.workers = 0;
            self.start_coordinator();
            assert_eq!(self.run(Faults::default()), Outcome::Finished);
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

    /// Flips a bit of one worker's state after that step.
    pub(crate) fn flip_a_bit_at(&mut self, step: Step) {
        self.flip_at = Some(step);
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
                .map(|(n, w)| (n.clone(), w.commands.len(), w.jobs.len(), w.conn, w.machine.waits_for()))
                .collect::<Vec<_>>(),
            self.coordinator.as_ref().map(|c| &c.machine)
        );
        // A driver executes all commands of an event before it takes the next one.
        let busy = |name: &String| self.workers.get(name).is_some_and(|worker| !worker.commands.is_empty());
        let coordinator_is_idle = self.coordinator.as_ref().is_some_and(|c| c.commands.is_empty());
        let mut actions = Vec::new();
        if self.coordinator.is_some() && !coordinator_is_idle {
            actions.push(Action::CoordinatorCommand);
        }
        for (name, worker) in &self.workers {
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
        let waiting = self.data.iter().filter(|((_, to, _), queue)| !queue.is_empty() && !busy(&to.name));
        actions.extend(waiting.map(|(link, _)| Action::Data(link.clone())));
        if actions.is_empty() || self.pick.one_in(40) {
            actions = vec![Action::Time];
        }
        let chosen = self.pick.below(actions.len());
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
                let (work, state, shard) = self.workers.get_mut(&name).unwrap().jobs.swap_remove(job);
                let task = Task { state: &state, at: work.at, shard, partition: &self.reference.partition };
                let vector = self.reference.objective.shard(&task, &mut Scratch::default());
                self.worker_event(&name, step_machine::Event::Computed(work, shard, vector));
            }
            Action::Connect(name) => self.connect(&name),
            Action::Time => self.pass_time(),
        }
    }

    fn pass_time(&mut self) {
        self.now += TICK;
        let conns: Vec<ConnId> = self.workers.values().filter_map(|worker| worker.conn).collect();
        for conn in conns {
            self.coordinator_event(membership::Event::Heartbeat(conn));
        }
        self.coordinator_event(membership::Event::Tick);
        let names: Vec<String> = self.workers.keys().cloned().collect();
        for name in names {
            self.worker_event(&name, step_machine::Event::Tick);
        }
        if self.coordinator.is_none() && self.outcome.is_none() && self.pick.one_in(5) {
            self.start_coordinator();
        }
        // Somebody brings workers back, so that every run can end.
        if self.workers.len() < self.setup.workers && self.outcome.is_none() && self.pick.one_in(5) {
            self.start_new_worker();
        }
    }

    fn connect(&mut self, name: &str) {
        self.next_id += 1;
        let conn = ConnId(self.next_id);
        let worker = self.workers.get_mut(name).unwrap();
        (worker.conn, worker.welcomed) = (Some(conn), false);
        let hello = Hello {
            run: worker.plan.as_ref().map(|_| RunId(1)),
            id: worker.id.clone(),
            protocol: PROTOCOL,
            fingerprint: "toy".to_owned(),
            address: format!("{name}:1"),
            plan: worker.machine.generation(),
            promised: worker.machine.promised(),
        };
        let up = VecDeque::from([Up::Hello(hello)]);
        self.control.insert(conn, Control { worker: name.to_owned(), up, down: VecDeque::new() });
    }

    // The coordinator.

    fn start_coordinator(&mut self) {
        assert!(self.coordinator.is_none());
        let terms = Terms {
            schedule: self.schedule,
            sharding: self.reference.recipe.check().unwrap(),
            batch_size: self.reference.recipe.batch_size,
            learning_rate: self.reference.recipe.learning_rate,
        };
        let settings = Settings {
            run: RunId(1),
            workers: self.setup.workers,
            min_workers: self.setup.min_workers,
            terms,
            fingerprint: self.disk.fingerprint.clone(),
            plan: self.disk.plan.as_deref().cloned(),
            recorded: self.disk.recorded(),
        };
        let machine = Membership::new(self.now, settings);
        self.coordinator = Some(Coordinator { machine, commands: VecDeque::new() });
        self.outcome = None;
        self.coordinator_event(membership::Event::DrawGrids(true));
    }

    fn coordinator_event(&mut self, event: membership::Event) {
        let Some(coordinator) = &mut self.coordinator else { return };
        let commands = coordinator.machine.handle(self.now, event);
        coordinator.commands.extend(commands);
    }

    fn coordinator_command(&mut self, command: membership::Command) {
        use membership::Command;
        match command {
            Command::Welcome(conn, shards) => {
                assert!(!shards.is_empty() || self.setup.shards == 0);
                self.send_down(conn, Down::Welcome);
            }
            Command::Refuse(conn, refusal) => {
                let Some(control) = self.control.get(&conn) else { return };
                let living = self.workers.get(&control.worker).is_some_and(|worker| worker.conn == Some(conn));
                assert!(!living, "nobody alive is to be refused: {refusal}");
            }
            Command::Send(conn, message) => self.send_down(conn, Down::Message(message)),
            Command::Close(conn) => self.send_down(conn, Down::Closed),
            Command::StorePlan(plan, fingerprint) => {
                assert!(plan.is_valid(), "{plan}");
                assert!(
                    self.disk.plan.as_ref().is_none_or(|old| old.generation < plan.generation),
                    "generations only grow"
                );
                assert_eq!(plan.start.digest, self.reference.digests[&plan.start.position]);
                self.disk.plan = Some(plan);
                self.disk.fingerprint = Some(fingerprint);
            }
            Command::AppendLine(line) => {
                assert!(
                    self.disk.lines.last().is_none_or(|last| last.step < line.step),
                    "line {} comes late",
                    line.step
                );
                self.disk.lines.push(line);
            }
            Command::SaveCheckpoint { saved, bytes } => {
                assert_eq!(saved.digest, self.reference.digests[&Position::after(saved.step)]);
                assert_eq!(saved.window.through, saved.step);
                self.disk.checkpoints.insert(saved.step, (saved, bytes));
            }
            Command::SaveGrid { step, .. } => {
                self.disk.grids.insert(step);
            }
            Command::Note(Note::Lost { why: membership::Loss::Stuck, name }) => panic!("{name} is honest"),
            Command::Note(_) => {}
            Command::Exit(outcome) => {
                self.coordinator = None;
                self.outcome = Some(outcome);
                for control in self.control.values_mut() {
                    control.up.clear();
                    control.down.push_back(Down::Closed);
                }
            }
        }
    }

    fn send_down(&mut self, conn: ConnId, message: Down) {
        if let Some(control) = self.control.get_mut(&conn) {
            control.down.push_back(message);
        }
    }

    fn deliver_up(&mut self, conn: ConnId) {
        let control = self.control.get_mut(&conn).unwrap();
        match control.up.pop_front().unwrap() {
            Up::Hello(hello) => self.coordinator_event(membership::Event::Hello(conn, hello)),
            Up::Message(message) => self.coordinator_event(membership::Event::Message(conn, message)),
            Up::Snapshot(step, state) => {
                let (digest, bytes) = encode(&state);
                self.coordinator_event(membership::Event::Snapshot { step, digest, bytes });
            }
            Up::Closed => {
                self.control.remove(&conn);
                self.coordinator_event(membership::Event::Closed(conn));
            }
        }
    }

    // Workers.

    fn start_new_worker(&mut self) {
        let name = format!("w{}", self.names);
        self.names += 1;
        self.start_worker(name);
    }

    fn start_worker(&mut self, name: String) {
        self.next_id += 1;
        let id = WorkerId { name: name.clone(), incarnation: self.next_id };
        let machine = StepMachine::new(self.now, id.clone(), self.reference.objective.clone());
        let worker = Worker {
            id,
            machine,
            conn: None,
            welcomed: false,
            commands: VecDeque::new(),
            jobs: Vec::new(),
            plan: None,
            copies: BTreeMap::new(),
        };
        self.workers.insert(name.clone(), worker);
        self.worker_event(&name, step_machine::Event::DataReady);
    }

    fn worker_event(&mut self, name: &str, event: step_machine::Event) {
        let Some(worker) = self.workers.get_mut(name) else { return };
        let commands = worker.machine.handle(self.now, event);
        worker.commands.extend(commands);
        let StateAt { position, digest, .. } = worker.machine.at();
        if self.flip_at.is_none() {
            assert_eq!(digest, self.reference.digests[&position], "{name} at {position}");
        }
    }

    fn worker_command(&mut self, name: &str, command: step_machine::Command) {
        use step_machine::Command;
        let worker = self.workers.get_mut(name).unwrap();
        let id = worker.id.clone();
        match command {
            Command::Report(message) => self.send_up(name, Up::Message(message)),
            Command::Upload(step, state) => self.send_up(name, Up::Snapshot(step, state)),
            Command::Compute(work, state, shards) => {
                let jobs = shards.into_iter().map(|shard| (work, Arc::clone(&state), shard));
                worker.jobs = jobs.collect();
            }
            Command::Connect(plan, rank) => {
                worker.plan = Some(Arc::clone(&plan));
                for other in plan.ranks().filter(|&other| other != rank) {
                    let peer = plan.member(other).unwrap().id.clone();
                    if self.is_alive(&peer) {
                        let link = (id.clone(), peer, plan.generation);
                        self.data.entry(link).or_default().push_back(Data::Plan(Arc::clone(&plan)));
                    } else {
                        self.worker_event(name, step_machine::Event::StreamBroken(plan.generation, other));
                    }
                }
            }
            Command::Send(rank, mut frame) => {
                let plan = worker.plan.clone().unwrap();
                let peer = plan.member(rank).unwrap().id.clone();
                if self.flip_at.is_some_and(|step| frame.position.step >= step) && name == "w0" {
                    frame.digest.0 ^= 1;
                }
                if let Some(queue) = self.data.get_mut(&(id, peer, frame.generation)) {
                    queue.push_back(Data::Frame(frame));
                }
            }
            Command::Copy(plan, donor) => self.copy(name, &plan, donor),
            Command::Serve(token, state, reports) => {
                let Some((asker, generation)) = worker.copies.remove(&token) else { return };
                let copy = state.map(|state| Copy { state: (*state).clone(), reports });
                if self.is_alive(&asker) {
                    self.worker_event(&asker.name, step_machine::Event::Copied(generation, copy));
                }
            }
            Command::Exit(finish) => {
                assert!(matches!(finish, Finish::Done) || self.flip_at.is_some(), "{finish:?}");
                self.remove_worker(name);
            }
        }
    }

    fn copy(&mut self, name: &str, plan: &Arc<Plan>, donor: Donor) {
        let nothing = step_machine::Event::Copied(plan.generation, None);
        match donor {
            Donor::Coordinator => {
                let saved = self.disk.checkpoints.get(&plan.start.position.step);
                let copy = saved.filter(|_| self.coordinator.is_some()).map(|(_, bytes)| Copy {
                    state: decode(self.reference.objective.layout(), bytes),
                    reports: Vec::new(),
                });
                self.worker_event(name, step_machine::Event::Copied(plan.generation, copy));
            }
            Donor::Member(rank) => {
                let holder = plan.member(rank).unwrap().id.clone();
                if !self.is_alive(&holder) {
                    return self.worker_event(name, nothing);
                }
                self.next_id += 1;
                let token = self.next_id;
                let asker = self.workers[name].id.clone();
                self.workers.get_mut(&holder.name).unwrap().copies.insert(token, (asker, plan.generation));
                self.worker_event(&holder.name, step_machine::Event::CopyAsked(plan.start, token));
            }
        }
    }

    fn send_up(&mut self, name: &str, message: Up) {
        let worker = &self.workers[name];
        if let Some(control) = worker.conn.filter(|_| worker.welcomed).and_then(|conn| self.control.get_mut(&conn)) {
            control.up.push_back(message);
        }
    }

    fn deliver_down(&mut self, conn: ConnId) {
        let control = self.control.get_mut(&conn).unwrap();
        let (name, message) = (control.worker.clone(), control.down.pop_front().unwrap());
        if self.workers.get(&name).is_none_or(|worker| worker.conn != Some(conn)) {
            control.down.clear();
            return;
        }
        match message {
            Down::Welcome => {
                self.workers.get_mut(&name).unwrap().welcomed = true;
                self.worker_event(&name, step_machine::Event::Welcome(self.schedule));
            }
            Down::Message(message) => self.worker_event(&name, step_machine::Event::Message(message)),
            Down::Closed => self.cut_control(&name),
        }
    }

    fn deliver_data(&mut self, link: Link) {
        let (from, to, generation) = link.clone();
        let message = self.data.get_mut(&link).unwrap().pop_front().unwrap();
        let Some(worker) = self.workers.get(&to.name).filter(|worker| worker.id == to) else { return };
        let rank_of = |plan: &Arc<Plan>| plan.rank_of(&from);
        let event = match message {
            Data::Plan(plan) => step_machine::Event::PeerPlan(plan),
            Data::Frame(frame) => {
                // The rank that the sender has in the frame's generation, as its stream's first frame said.
                let plan = worker.plan.iter().find(|plan| plan.generation == generation);
                let Some(rank) = plan.and_then(rank_of) else { return };
                step_machine::Event::Frame(rank, frame)
            }
            Data::Broken => {
                let Some(rank) = worker.plan.as_ref().and_then(rank_of) else { return };
                step_machine::Event::StreamBroken(generation, rank)
            }
        };
        self.worker_event(&to.name, event);
    }

    fn is_alive(&self, id: &WorkerId) -> bool {
        self.workers.get(&id.name).is_some_and(|worker| worker.id == *id)
    }

    /// A worker's process is gone: its streams break.
    fn remove_worker(&mut self, name: &str) {
        self.cut_control(name);
        let worker = self.workers.remove(name).unwrap();
        let links: Vec<Link> =
            self.data.keys().filter(|(from, to, _)| *from == worker.id || *to == worker.id).cloned().collect();
        for (from, to, generation) in links {
            self.break_link(&from, &to, generation);
        }
        for (asker, generation) in worker.copies.into_values() {
            self.worker_event(&asker.name, step_machine::Event::Copied(generation, None));
        }
    }

    /// Both ends see that a stream broke; what was on its way may still arrive, or not.
    fn break_link(&mut self, from: &WorkerId, to: &WorkerId, generation: Generation) {
        let lossy = self.pick.one_in(2);
        let queue = self.data.get_mut(&(from.clone(), to.clone(), generation)).unwrap();
        if lossy {
            queue.clear();
        }
        queue.push_back(Data::Broken);
        if let Some(worker) = self.workers.get(&from.name).filter(|worker| worker.id == *from) {
            let rank: Option<Rank> = worker.plan.as_ref().and_then(|plan| plan.rank_of(to));
            if let Some(rank) = rank {
                self.worker_event(&from.name, step_machine::Event::StreamBroken(generation, rank));
            }
        }
    }

    // Faults.

    fn fault(&mut self, faults: &mut Faults) {
        let kinds = [faults.kills, faults.coordinator_kills, faults.cuts, faults.joins];
        let mut pick = self.pick.below(faults.left());
        let kind = kinds
            .iter()
            .position(|&left| {
                pick < left || {
                    pick -= left;
                    false
                }
            })
            .unwrap();
        self.faults_done += 1;
        match kind {
            0 => {
                faults.kills -= 1;
                if let Some(name) = self.any_worker() {
                    self.remove_worker(&name);
                    if self.pick.one_in(2) {
                        self.start_worker(name);
                    }
                }
            }
            1 => {
                faults.coordinator_kills -= 1;
                self.coordinator = None;
                for control in self.control.values_mut() {
                    control.up.clear();
                    control.down.push_back(Down::Closed);
                }
            }
            2 => {
                faults.cuts -= 1;
                self.cut_something();
            }
            _ => {
                faults.joins -= 1;
                self.start_new_worker();
            }
        }
    }

    fn cut_something(&mut self) {
        let links: Vec<Link> =
            self.data.keys().filter(|(from, to, _)| self.is_alive(from) && self.is_alive(to)).cloned().collect();
        if links.is_empty() || self.pick.one_in(2) {
            if let Some(name) = self.any_worker() {
                self.cut_control(&name);
            }
        } else {
            let chosen = self.pick.below(links.len());
            let (from, to, generation) = links[chosen].clone();
            self.break_link(&from, &to, generation);
        }
    }

    fn any_worker(&mut self) -> Option<String> {
        let names: Vec<String> = self.workers.keys().cloned().collect();
        (!names.is_empty()).then(|| names[self.pick.below(names.len())].clone())
    }

    fn cut_control(&mut self, name: &str) {
        let Some(conn) = self.workers.get_mut(name).unwrap().conn.take() else { return };
        if let Some(control) = self.control.get_mut(&conn) {
            control.down.clear();
            control.up.push_back(Up::Closed);
        }
    }
}
