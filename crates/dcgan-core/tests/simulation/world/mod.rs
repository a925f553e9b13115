//! The world of a simulation: one coordinator, its workers, and what is on its way between them.
//!
//! [`actions`] picks the next action and executes it, [`coordinator`] and [`worker`] deliver events
//! to the machines and execute their commands, [`faults`] breaks things, and [`runs`] drives whole
//! runs and checks how they end.

mod actions;
mod bad;
mod coordinator;
mod endings;
mod faults;
mod lies;
mod runs;
mod worker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use dcgan_core::evaluation::EvaluationTask;
use dcgan_core::ids::{Generation, ShardId, Step, WorkerId};
use dcgan_core::protocol::coordinator::{
    self as core, ConnId, CoordinatorMachine, Notice, Outcome,
};
use dcgan_core::protocol::message::{FromWorker, Hello, ToWorker};
use dcgan_core::protocol::plan::Plan;
use dcgan_core::protocol::worker::{Command, ReduceFrame, VectorKey, WorkerMachine};
use dcgan_core::spec::schedule::Schedule;
use dcgan_core::state::State;

pub(crate) use endings::ENDINGS;

use crate::bad::Bad;
use crate::disk::Disk;
use crate::faulty_toy::FaultyToy;
use crate::reference::Reference;
use crate::rng::Rng;

/// The steps between two evaluations.
pub(crate) const EVALUATE_EVERY: u64 = 3;

/// The settings of a run.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) shards: u16,
    pub(crate) workers: usize,
    pub(crate) min_workers: usize,
    pub(crate) last_step: Step,
    /// True if every fourth write to the disk takes up to two seconds, in which many steps pass.
    pub(crate) slow_disk: bool,
}

/// The process of the coordinator.
struct Coordinator {
    machine: CoordinatorMachine,
    /// Commands that are not executed yet.
    commands: VecDeque<core::Command>,
    /// The write that was handed to the disk and whose end it was not told yet.
    write: Option<DiskWrite>,
}

/// A write on its way to the disk.
struct DiskWrite {
    write: core::Write,
    /// The disk does nothing before this time.
    not_before: Duration,
    /// True once the disk has done it. The coordinator may die before it is told.
    is_done: bool,
}

/// The process of a worker.
struct Worker {
    id: WorkerId,
    machine: WorkerMachine,
    /// Its control stream, if it has one.
    conn: Option<ConnId>,
    /// Set when the coordinator has answered the hello. Reports are sent only then.
    welcomed: bool,
    /// Commands that are not executed yet.
    commands: VecDeque<Command>,
    /// Shards that are not computed yet.
    jobs: Vec<(VectorKey, Arc<State>, ShardId)>,
    /// Parts of evaluations that are not computed yet.
    evaluations: Vec<(EvaluationTask, Arc<State>)>,
    objective: Arc<FaultyToy>,
    /// A stopped process does nothing until this time.
    stopped_until: Option<Duration>,
    plan: Option<Arc<Plan>>,
    /// Copies of its state that others wait for, by token.
    copies: BTreeMap<u64, (WorkerId, Wanted)>,
}

/// The purpose of a copy of a state.
#[derive(Clone, Copy)]
enum Wanted {
    /// The plan of this generation.
    Plan(Generation),
    /// A trial.
    Trial,
}

/// A control stream: what is on its way in each direction.
#[derive(Default)]
struct Control {
    worker: String,
    up: VecDeque<Upward>,
    down: VecDeque<Downward>,
}

/// A message from a worker to the coordinator.
#[derive(Clone)]
enum Upward {
    Hello(Hello),
    Message(FromWorker),
    Snapshot(Step, Arc<State>),
    Closed,
}

/// A message from the coordinator to a worker.
#[derive(Clone)]
enum Downward {
    Welcome,
    Message(ToWorker),
    Closed,
}

/// A message from one worker to another.
enum PeerMessage {
    Plan(Arc<Plan>),
    ReduceFrame(ReduceFrame),
    Broken,
}

/// A stream between two workers: from, to, and the generation that it belongs to.
type Link = (WorkerId, WorkerId, Generation);

/// The rule by which the next of the possible actions is chosen.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    /// Any action, drawn at random.
    Drawn,
    /// Always the first action, except once. After `but.0` actions, the one at place `but.1` is
    /// chosen; the place after the last one means that time passes.
    First { but: (usize, usize) },
}

/// All processes, the streams between them, and the disk.
pub(crate) struct World {
    setup: Setup,
    reference: Reference,
    schedule: Schedule,
    /// In some runs checkpoints are due by time as well.
    checkpoint_interval: Option<Duration>,
    order: Order,
    rng: Rng,
    now: Duration,
    pub(crate) disk: Disk,
    coordinator: Option<Coordinator>,
    workers: BTreeMap<String, Worker>,
    control: BTreeMap<ConnId, Control>,
    data: BTreeMap<Link, VecDeque<PeerMessage>>,
    /// The last number given to a connection, an incarnation or a copy.
    last_id: u64,
    /// How many workers have got a name of their own.
    names: usize,
    /// The outcome of the run, when it has one.
    outcome: Option<Outcome>,
    /// Notices of all coordinators, in order.
    pub(crate) notices: Vec<Notice>,
    /// How many actions were executed.
    actions: usize,
    /// How many faults were injected.
    faults_done: usize,
    /// Pairs of workers that cannot reach each other until a time.
    separated: BTreeMap<(String, String), Duration>,
    /// The one who lies, in a run with lies.
    liar: Option<lies::Liar>,
    /// Workers in whose name something was said that they did not say.
    liars: BTreeSet<String>,
    /// The bad workers, by name.
    bad: BTreeMap<String, Bad>,
    /// The time before which each slow worker computes no other shard.
    slow_until: BTreeMap<String, Duration>,
    /// The time before which a worker that was turned away does not connect again.
    connects_at: BTreeMap<String, Duration>,
    /// The time of the last change that honest workers may need time for: a fault, a step.
    changed_at: Duration,
    /// The longest time that they have needed.
    longest_wait: Duration,
    /// Workers that were given a defect.
    defective: BTreeSet<String>,
    /// Workers that were stopped at any time.
    ever_stopped: BTreeSet<String>,
    /// Workers that were told to stop by an ending.
    leaving: BTreeSet<String>,
    /// The last step that a member of the newest plan has reported in it.
    finished: Step,
}

impl World {
    /// Starts a coordinator and workers. Every choice is drawn from the seed.
    pub(crate) fn new(setup: Setup, reference: Reference, seed: u64) -> Self {
        Self::in_order(setup, reference, seed, Order::Drawn)
    }

    /// Starts a coordinator and workers whose actions happen in this order.
    pub(crate) fn in_order(setup: Setup, reference: Reference, seed: u64, order: Order) -> Self {
        let schedule = Schedule {
            last_step: setup.last_step,
            log_every: 4,
            grid_every: 6,
            checkpoint_every: 5,
            evaluate_every: NonZeroU64::new(EVALUATE_EVERY),
            early_stopping: reference.early_stopping,
        };
        let mut world = Self {
            setup,
            reference,
            schedule,
            checkpoint_interval: (seed % 3 == 1).then_some(Duration::from_millis(700)),
            order,
            // Faults are drawn from the seed itself: the two must not be the same numbers.
            rng: Rng::new(seed ^ 0xD1CE),
            now: Duration::from_secs(1),
            disk: Disk::default(),
            coordinator: None,
            workers: BTreeMap::new(),
            control: BTreeMap::new(),
            data: BTreeMap::new(),
            last_id: 0,
            names: 0,
            outcome: None,
            notices: Vec::new(),
            actions: 0,
            faults_done: 0,
            separated: BTreeMap::new(),
            liar: None,
            liars: BTreeSet::new(),
            bad: BTreeMap::new(),
            slow_until: BTreeMap::new(),
            connects_at: BTreeMap::new(),
            changed_at: Duration::from_secs(1),
            longest_wait: Duration::ZERO,
            defective: BTreeSet::new(),
            ever_stopped: BTreeSet::new(),
            leaving: BTreeSet::new(),
            finished: 0,
        };
        world.start_coordinator();
        for _ in 0..setup.workers {
            world.start_new_worker();
        }
        world
    }

    /// A number that was not given before.
    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Tells if two workers cannot reach each other now.
    fn are_separated(&self, one: &str, other: &str) -> bool {
        self.separated.contains_key(&unordered(one, other))
    }

    /// Tells if this very process runs, and not a later one of its name.
    fn is_alive(&self, id: &WorkerId) -> bool {
        self.workers.get(&id.name).is_some_and(|worker| worker.id == *id)
    }
}

/// A pair of names that is the same in either order.
fn unordered(one: &str, other: &str) -> (String, String) {
    (one.min(other).to_owned(), one.max(other).to_owned())
}
