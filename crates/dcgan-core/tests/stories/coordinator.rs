//! A coordinator in a story: its machine, a clock, and a disk that keeps what is stored.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use dcgan_core::evaluation::PartId;
use dcgan_core::ids::{Digest, Generation, Phase, Position, RunId, Step, WorkerId};
use dcgan_core::metrics::{NamedMetrics, StepDone};
use dcgan_core::protocol::coordinator::{
    Command, ConnId, CoordinatorConfig, CoordinatorMachine, Event, Notice, OutputConfig,
    PersistedOutputs, SavedCheckpoint, Status, Write,
};
use dcgan_core::protocol::message::{Complaint, FromWorker, Hello, PROTOCOL, ToWorker, TrialTimes};
use dcgan_core::protocol::plan::{Plan, StateRef};
use dcgan_core::spec::schedule::Schedule;
use dcgan_core::spec::{DatasetInfo, ObjectiveKind, RunSpec};

use crate::{digest, owners};

/// Rows, grids and checkpoints are due every ten steps.
const INTERVAL: u64 = 10;

/// A coordinator of a run with eight shards and a hundred steps. Workers are called by one letter.
pub(crate) struct Coordinator {
    machine: CoordinatorMachine,
    config: CoordinatorConfig,
    now: Duration,
    /// The notices, which are not among the commands that a story asserts.
    pub(crate) notices: Vec<Notice>,
    plan: Option<Plan>,
    rows: BTreeMap<Step, Digest>,
    checkpoint: Option<SavedCheckpoint>,
    evaluations: BTreeMap<Step, NamedMetrics>,
    disk_is_slow: bool,
    /// The write that was handed to the disk and is not done.
    on_its_way: Option<Write>,
    /// The generation of each worker's plan, and the newest fence that it has answered.
    standing: BTreeMap<char, (Generation, Generation)>,
    /// True if workers pass their trials at once, and a story does not tell of it.
    passes_trials: bool,
    /// The answers of workers to the questions of their trials, on their way.
    answers: VecDeque<(ConnId, FromWorker)>,
}

impl Coordinator {
    /// A new run that begins with `workers` workers and later goes on with `min_workers`.
    pub(crate) fn new(workers: usize, min_workers: usize) -> Self {
        let data = DatasetInfo { images: 100, rows: 1, columns: 1, digest: Digest(0) };
        let builder = RunSpec::builder().objective(ObjectiveKind::Toy).batch_size(16);
        let spec = builder.learning_rate(0.1).build(data).unwrap();
        let config = CoordinatorConfig {
            run: RunId(1),
            workers,
            min_workers,
            rebalance: true,
            output: OutputConfig {
                schedule: Schedule {
                    last_step: 100,
                    log_every: INTERVAL,
                    grid_every: INTERVAL,
                    checkpoint_every: INTERVAL,
                    evaluate_every: None,
                    early_stopping: None,
                },
                spec,
                checkpoint_interval: None,
                keep_checkpoints: 5,
            },
            fingerprint: None,
            plan: None,
            members_may_return: true,
            persisted: PersistedOutputs::default(),
        };
        let now = Duration::from_secs(1);
        Self {
            machine: CoordinatorMachine::new(now, config.clone()),
            config,
            now,
            notices: Vec::new(),
            plan: None,
            rows: BTreeMap::new(),
            checkpoint: None,
            evaluations: BTreeMap::new(),
            disk_is_slow: false,
            on_its_way: None,
            standing: BTreeMap::new(),
            passes_trials: true,
            answers: VecDeque::new(),
        }
    }

    /// The state after every tenth step is evaluated.
    pub(crate) fn with_evaluations(mut self) -> Self {
        self.config.output.schedule.evaluate_every = NonZeroU64::new(INTERVAL);
        self.machine = CoordinatorMachine::new(self.now, self.config.clone());
        self
    }

    /// The run ends when so many evaluations in a row are no better.
    pub(crate) fn with_early_stopping(mut self, patience: u64) -> Self {
        self.config.output.schedule.early_stopping = NonZeroU64::new(patience);
        self.with_evaluations()
    }

    /// A checkpoint is due so many seconds after the one before, and after every hundredth step.
    pub(crate) fn with_checkpoints_every(mut self, seconds: u64) -> Self {
        self.config.output.schedule.checkpoint_every = 100;
        self.config.output.checkpoint_interval = Some(Duration::from_secs(seconds));
        self.machine = CoordinatorMachine::new(self.now, self.config.clone());
        self
    }

    /// Never moves shards away from a worker that is slow.
    pub(crate) fn with_fixed_shards(mut self) -> Self {
        self.config.rebalance = false;
        self.machine = CoordinatorMachine::new(self.now, self.config.clone());
        self
    }

    /// A run whose workers, one for each letter, train generation 1 from the beginning.
    pub(crate) fn training(workers: &str) -> Self {
        Self::new(workers.len(), 1).with_plan_of(workers)
    }

    /// The same workers train under the first plan.
    pub(crate) fn with_plan_of(mut self, workers: &str) -> Self {
        for name in workers.chars() {
            self.joins(name);
        }
        for name in workers.chars() {
            self.acknowledges(name, 1, 0);
        }
        assert_eq!(self.generation(), 1);
        self
    }

    /// The run has this number of steps.
    pub(crate) fn with_steps(mut self, last_step: Step) -> Self {
        self.config.output.schedule.last_step = last_step;
        self.machine = CoordinatorMachine::new(self.now, self.config.clone());
        self
    }

    /// The coordinator and all workers end, and another coordinator starts on the run directory.
    pub(crate) fn starts_again_without_workers(&mut self) {
        self.config.members_may_return = false;
        self.standing.clear();
        self.restarts();
    }

    /// The coordinator dies, and another one starts on its run directory.
    pub(crate) fn restarts(&mut self) {
        self.now += Duration::from_secs(1);
        let persisted = PersistedOutputs {
            rows: self.rows.clone(),
            checkpoint: self.checkpoint.clone(),
            evaluations: self.evaluations.clone(),
            ..PersistedOutputs::default()
        };
        let plan = self.plan.clone();
        let config = CoordinatorConfig { plan, persisted, ..self.config.clone() };
        self.machine = CoordinatorMachine::new(self.now, config);
        self.on_its_way = None;
        self.notices.clear();
    }

    /// A person asks for a checkpoint.
    pub(crate) fn with_checkpoint_requested(mut self) -> Self {
        self.report_steps("a", 0, 9);
        self.handle(Event::Checkpoint);
        self
    }

    /// The run at this moment.
    pub(crate) fn status(&self) -> Status {
        self.machine.status(self.now)
    }

    /// The position at which the newest plan starts.
    pub(crate) fn start(&self) -> Position {
        self.plan.as_ref().unwrap().start.position
    }

    /// The newest generation that is stored.
    pub(crate) fn generation(&self) -> u64 {
        self.plan.as_ref().map_or(0, |plan| plan.generation.0)
    }

    /// The code of what the coordinator does or waits for.
    pub(crate) fn waits_for(&self) -> &'static str {
        self.machine.reason().code()
    }

    // What workers do.

    /// A worker says hello, with the plan and the promise that it has.
    pub(crate) fn hello(&mut self, name: char) -> Vec<String> {
        let hello = self.hello_of(name);
        self.handle(Event::Hello(conn(name), hello))
    }

    /// A process says hello under the name of another one.
    pub(crate) fn hello_as(&mut self, name: char, other: char, incarnation: u64) -> Vec<String> {
        let id = WorkerId { incarnation, ..id(other) };
        let hello = Hello { id, ..self.hello_of(name) };
        self.handle(Event::Hello(conn(name), hello))
    }

    /// A worker with another arithmetic says hello.
    pub(crate) fn hello_with(&mut self, name: char, fingerprint: &str) -> Vec<String> {
        let hello = Hello { fingerprint: fingerprint.to_owned(), ..self.hello_of(name) };
        self.handle(Event::Hello(conn(name), hello))
    }

    /// A worker says hello that follows the plan of this generation.
    pub(crate) fn hello_in(&mut self, name: char, generation: u64) -> Vec<String> {
        let generation = Generation(generation);
        let hello = Hello { plan: generation, promised: generation, ..self.hello_of(name) };
        self.handle(Event::Hello(conn(name), hello))
    }

    fn hello_of(&self, name: char) -> Hello {
        let (plan, promised) = self.standing.get(&name).copied().unwrap_or_default();
        Hello {
            run: None,
            id: id(name),
            protocol: PROTOCOL,
            fingerprint: "toy".to_owned(),
            address: format!("{name}:1"),
            plan,
            promised,
        }
    }

    /// The thing that the coordinator waits for, in words.
    pub(crate) fn reason(&self) -> String {
        self.machine.reason().to_string()
    }

    /// A worker says hello and that it has its data.
    pub(crate) fn joins(&mut self, name: char) -> Vec<String> {
        let mut lines = self.hello(name);
        lines.extend(self.says(name, FromWorker::Ready));
        lines
    }

    /// A worker answers a fence with the state that it has after a step.
    pub(crate) fn acknowledges(&mut self, name: char, fence: u64, step: Step) -> Vec<String> {
        let reached_in = if step == 0 { 0 } else { self.generation() };
        self.acknowledges_with(name, fence, state(reached_in, step, digest(step)))
    }

    /// A worker answers a fence with any state.
    pub(crate) fn acknowledges_with(
        &mut self,
        name: char,
        fence: u64,
        state: StateRef,
    ) -> Vec<String> {
        let generation = Generation(fence);
        self.standing.entry(name).or_default().1 = generation;
        self.says(name, FromWorker::FenceAck { generation, state: Some(state) })
    }

    /// A worker reports that it has finished a step, in the newest generation.
    pub(crate) fn reports(&mut self, name: char, step: Step) -> Vec<String> {
        self.reports_with(name, step, digest(step))
    }

    /// A worker reports a step after which its state has any digest.
    pub(crate) fn reports_with(&mut self, name: char, step: Step, digest: Digest) -> Vec<String> {
        self.says(name, FromWorker::StepDone(self.step_done(step, digest)))
    }

    /// A worker reports a step again that was finished in an earlier generation.
    pub(crate) fn repeats(&mut self, name: char, generation: u64, step: Step) -> Vec<String> {
        let generation = Generation(generation);
        let done = StepDone { generation, ..self.step_done(step, digest(step)) };
        self.says(name, FromWorker::StepDone(done))
    }

    /// A worker reports a step whose state ends the run.
    pub(crate) fn reports_the_end(&mut self, name: char, step: Step) -> Vec<String> {
        let done = StepDone { ends_run: true, ..self.step_done(step, digest(step)) };
        self.says(name, FromWorker::StepDone(done))
    }

    /// A worker reports a step that took it so many milliseconds.
    pub(crate) fn reports_after(&mut self, name: char, step: Step, step_ms: f32) -> Vec<String> {
        let done = StepDone { step_ms, ..self.step_done(step, digest(step)) };
        self.says(name, FromWorker::StepDone(done))
    }

    fn step_done(&self, step: Step, digest: Digest) -> StepDone {
        StepDone {
            step,
            generation: Generation(self.generation()),
            world_size: self.plan.as_ref().map_or(1, |plan| plan.members().len() as u16),
            digest,
            ends_run: false,
            metrics: vec![0.5; 6],
            step_ms: 100.0,
            allreduce_ms: 1.0,
        }
    }

    /// The workers report the steps after `first` up to `last`, step by step.
    pub(crate) fn report_steps(&mut self, names: &str, first: Step, last: Step) -> Vec<String> {
        let mut lines = Vec::new();
        for step in first + 1..=last {
            for name in names.chars() {
                lines.extend(self.reports(name, step));
            }
        }
        lines
    }

    /// A worker says what keeps it from going on.
    pub(crate) fn complains(&mut self, name: char, complaint: Complaint) -> Vec<String> {
        let generation = Generation(self.generation());
        self.says(name, FromWorker::Complaint { generation, complaint })
    }

    /// A worker sends the snapshot of a step.
    pub(crate) fn uploads(&mut self, step: Step) -> Vec<String> {
        let bytes = Arc::new(Vec::new());
        self.handle(Event::Snapshot { step, digest: digest(step), bytes })
    }

    /// The number of things that begin like this in what the machine has in mind.
    pub(crate) fn in_mind(&self, thing: &str) -> usize {
        format!("{:?}", self.machine).matches(thing).count()
    }

    /// Any message of a worker.
    pub(crate) fn says(&mut self, name: char, message: FromWorker) -> Vec<String> {
        self.handle(Event::Message(conn(name), message))
    }

    /// A worker's control stream closes.
    pub(crate) fn loses_stream_of(&mut self, name: char) -> Vec<String> {
        self.handle(Event::Closed(conn(name)))
    }

    /// Time passes, while the coordinator hears these workers' heartbeats.
    pub(crate) fn passes(&mut self, seconds: f64, alive: &str) -> Vec<String> {
        let until = self.now + Duration::from_secs_f64(seconds);
        let mut lines = Vec::new();
        while self.now < until {
            self.now += Duration::from_millis(100);
            for name in alive.chars() {
                lines.extend(self.handle(Event::Heartbeat(conn(name))));
            }
            lines.extend(self.handle(Event::Tick));
        }
        lines
    }

    /// Lets the machine handle an event, executes what it commands, and gives the commands as
    /// lines. Notices go to [`Coordinator::notices`] instead.
    pub(crate) fn handle(&mut self, event: Event) -> Vec<String> {
        let commands = self.machine.handle(self.now, event);
        let mut lines: Vec<String> =
            commands.into_iter().filter_map(|command| self.execute(command)).collect();
        while let Some((conn, answer)) = self.answers.pop_front() {
            lines.extend(self.handle(Event::Message(conn, answer)));
        }
        // The disk takes no time, except in a story about that.
        if !self.disk_is_slow && self.on_its_way.is_some() {
            lines.extend(self.writes());
        }
        lines
    }

    /// From now on the disk does a write when the story says so.
    pub(crate) fn with_slow_disk(mut self) -> Self {
        self.disk_is_slow = true;
        self
    }

    /// From now on the story says how workers do in their trials.
    pub(crate) fn with_trials(mut self) -> Self {
        self.passes_trials = false;
        self
    }

    /// The disk does the write that is on its way, and the coordinator hears of it.
    pub(crate) fn writes(&mut self) -> Vec<String> {
        let write = self.on_its_way.take().expect("a write is on its way");
        let mut lines = vec![self.store(write)];
        lines.extend(self.handle(Event::Written));
        lines
    }

    /// An attempt at the write that is on its way fails. Returns what is commanded instead.
    pub(crate) fn write_fails_once(&mut self) -> Vec<String> {
        self.on_its_way.take().expect("a write is on its way");
        self.handle(Event::WritePostponed)
    }

    /// The write that is on its way can never succeed.
    pub(crate) fn cannot_write(&mut self, error: &str) -> Vec<String> {
        self.on_its_way.take().expect("a write is on its way");
        self.handle(Event::WriteFailed(error.to_owned()))
    }

    fn execute(&mut self, command: Command) -> Option<String> {
        match command {
            Command::Notice(notice) => {
                self.notices.push(notice);
                None
            }
            Command::Welcome(conn, shards) => {
                let shards: String = shards.iter().map(ToString::to_string).collect();
                Some(format!("{}: welcome, likely shards {shards}", name(conn)))
            }
            Command::Refuse(conn, _) => Some(format!("{}: refuse", name(conn))),
            Command::TurnAway(conn, _) => Some(format!("{}: turn away", name(conn))),
            Command::Close(conn) => Some(format!("{}: close", name(conn))),
            Command::Send(conn, ToWorker::Probe(peer, _)) if self.passes_trials => {
                self.answers.push_back((conn, FromWorker::ProbeResult { peer, result: Ok(()) }));
                None
            }
            Command::Send(conn, ToWorker::Trial(donor, _)) if self.passes_trials => {
                let result = Ok(TrialTimes { copy_ms: 1.0, shard_ms: 1.0 });
                self.answers.push_back((conn, FromWorker::TrialResult { donor, result }));
                None
            }
            Command::Send(conn, message) => {
                if let ToWorker::Plan(plan) = &message {
                    let standing = (plan.generation, plan.generation);
                    self.standing.insert(name(conn), standing);
                }
                Some(format!("{}: {}", name(conn), describe(&message)))
            }
            Command::Write(write) => {
                assert!(self.on_its_way.is_none(), "one write at a time");
                self.on_its_way = Some(write);
                None
            }
            Command::Exit(outcome) => Some(format!("exit: {outcome:?}")),
        }
    }

    /// Puts on the disk what is written, and describes it.
    fn store(&mut self, write: Write) -> String {
        match write {
            Write::Plan { plan, .. } => {
                let (generation, start) = (plan.generation, plan.start.position);
                let line = format!("store plan {generation}: {}, from {start}", owners(&plan));
                self.plan = Some(Plan::clone(&plan));
                line
            }
            Write::Rows(rows) => {
                let steps: Vec<String> = rows.iter().map(|row| row.step.to_string()).collect();
                self.rows.extend(rows.iter().map(|row| (row.step, row.state_digest)));
                let plural = if rows.len() == 1 { "" } else { "s" };
                format!("append the row{plural} of step{plural} {}", steps.join(", "))
            }
            Write::Checkpoint { saved, .. } => {
                let line = format!("save the checkpoint of step {}", saved.step);
                if self.checkpoint.as_ref().is_none_or(|newest| newest.step < saved.step) {
                    self.checkpoint = Some(saved);
                }
                line
            }
            Write::Evaluation(row) => {
                self.evaluations.insert(row.step, row.values.clone());
                let values: Vec<f64> = row.values.iter().map(|(_, value)| value).collect();
                format!("append the evaluation of step {}: {values:?}", row.step)
            }
            Write::PendingGrid { step, .. } => format!("save the grid of step {step}"),
        }
    }
}

/// A state after a step, as a worker describes it.
pub(crate) fn state(generation: u64, step: Step, digest: Digest) -> StateRef {
    StateRef { generation: Generation(generation), position: Position::after(step), digest }
}

/// A state in the middle of a step.
pub(crate) fn state_before(generation: u64, step: Step, phase: Phase) -> StateRef {
    let position = Position { step: step - 1, phase };
    StateRef { generation: Generation(generation), position, digest: digest(1000 + step) }
}

/// A worker's identity.
pub(crate) fn id(name: char) -> WorkerId {
    WorkerId { name: name.into(), incarnation: 1 }
}

/// A worker's control stream.
pub(crate) fn conn(name: char) -> ConnId {
    ConnId(name.into())
}

fn name(conn: ConnId) -> char {
    char::from(u8::try_from(conn.0).unwrap())
}

fn describe(message: &ToWorker) -> String {
    match message {
        ToWorker::Fence(generation) => format!("fence {generation}"),
        ToWorker::Plan(plan) => format!("plan {}", plan.generation),
        ToWorker::Persisted(step) => format!("persisted {step}"),
        ToWorker::TrainThrough(step) => format!("train through {step}"),
        ToWorker::RequestSnapshot(step) => format!("request the snapshot of step {step}"),
        ToWorker::RetainSnapshot(step) => format!("retain the snapshot of step {step}"),
        ToWorker::Probe(peer, _) => format!("probe {peer}"),
        ToWorker::Trial(donor, _) => format!("trial with {donor}"),
        ToWorker::Evaluate(task) => {
            let PartId { step, part, .. } = task.id;
            let kind = if task.is_combination() { "combination" } else { "piece" };
            format!("evaluate {kind} {part} of step {step}")
        }
        ToWorker::Finish(_) => "finish".to_owned(),
    }
}
