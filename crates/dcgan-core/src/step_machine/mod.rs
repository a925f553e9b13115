//! A worker's machine: compute, reduce, apply, report; promise, copy, go on.
//!
//! A worker needs nobody's leave to finish a step: it applies the reduced vector as soon as it has it, as every other
//! member does. What keeps members together is in the frames: each names the run, the generation, the position and the
//! digest of the state that it was computed from, so states that differ are never summed, and what an older generation
//! sent is dropped.
//!
//! The machine takes `(now, event)` and returns commands. It holds the state itself and applies updates to it (a few
//! milliseconds); gradients are computed elsewhere and come back as events.

mod memory;
mod plans;
mod round;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::{Digest, Generation, Position, Rank, ShardId, Step, WorkerId};
use crate::message::{Finish, FromWorker, ToWorker, Trouble};
use crate::metrics::StepDone;
use crate::objective::Objective;
use crate::plan::{Plan, StateAt};
use crate::reduction::{AllReduce, Piece};
use crate::schedule::Schedule;
use crate::state::State;
use crate::values::Values;
use memory::{Memory, Pace};

/// A piece of an all-reduce with its name: what it was computed from.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// The generation of the plan that it follows.
    pub generation: Generation,
    /// The position of the state that it was computed from.
    pub position: Position,
    /// That state's digest.
    pub digest: Digest,
    /// The piece.
    pub piece: Piece,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The coordinator answered the hello.
    Welcome(Schedule),
    /// The likely shards' partitions are held.
    DataReady,
    /// A message of the coordinator.
    Message(ToWorker),
    /// A peer's stream opened with the peer's plan.
    PeerPlan(Arc<Plan>),
    /// A frame of a peer.
    Frame(Rank, Frame),
    /// A stream to or from a member of this generation broke.
    StreamBroken(Generation, Rank),
    /// A shard's vector is computed, or the computation panicked.
    Computed(Work, ShardId, Vector),
    /// Somebody asks for a copy of this state; the token goes with the answer.
    CopyAsked(StateAt, u64),
    /// A copy came, or did not.
    Copied(Generation, Option<Copy>),
    /// Whether another worker answered a probe.
    Probed(WorkerId, bool),
    /// The worker is told to stop.
    Leave,
    /// Time passed.
    Tick,
}

/// A shard's vector that can be summed, or why not.
#[derive(Clone, Debug)]
pub struct Vector(Result<Values, String>);

impl Vector {
    /// What was computed, or with what words the computation panicked. Looks at every number: best called where it was
    /// computed, while it is in the cache.
    pub fn new(computed: Result<Vec<f32>, String>) -> Self {
        Self(computed.map_err(|panic| format!("computing it panicked: {panic}")).and_then(|vector| {
            let vector = Values::from(vector);
            if vector.are_finite() { Ok(vector) } else { Err("it has numbers that are not finite".to_owned()) }
        }))
    }
}

/// A copied state, with the reports that go with it.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The state.
    pub state: State,
    /// The steps that its holder has reported and that are not stored.
    pub reports: Vec<StepDone>,
}

/// Which vectors are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// The position of the state that they are computed from.
    pub at: Position,
    /// That state's digest.
    pub digest: Digest,
    /// How often the worker's state was replaced: what was computed from one that turned out to be damaged is not used,
    /// nor what was computed ahead of it.
    pub lineage: u64,
}

/// Where a copy is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Donor {
    /// A member of the plan.
    Member(Rank),
    /// The coordinator, from its checkpoint.
    Coordinator,
}

/// What the driver is to do, in order.
#[derive(Clone, Debug)]
pub enum Command {
    /// Tell the coordinator; dropped while it is away, since everything that matters is said again after a hello.
    Report(FromWorker),
    /// Open streams to the plan's other members, and close those of older plans.
    Connect(Arc<Plan>, Rank),
    /// Send a frame to a member of the newest plan.
    Send(Rank, Frame),
    /// Compute these shards' vectors, and nothing else that was asked for and is not begun.
    Compute(Work, Arc<State>, Vec<ShardId>),
    /// Ask for a copy of the start state of that plan.
    Copy(Arc<Plan>, Donor),
    /// Answer who asked for a copy; with none if there is no such state here.
    Serve(u64, Option<Arc<State>>, Vec<StepDone>),
    /// Send the snapshot of a step to the coordinator.
    Upload(Step, Arc<State>),
    /// Find out whether a worker can be reached, at this address.
    Probe(WorkerId, String),
    /// Nothing is left to do.
    Exit(Finish),
}

/// A worker's machine.
pub struct StepMachine {
    objective: Arc<dyn Objective>,
    id: WorkerId,
    schedule: Option<Schedule>,
    data_ready: bool,
    state: Arc<State>,
    at: StateAt,
    /// How often the state was replaced.
    lineage: u64,
    /// The newest fence that was answered.
    promised: Generation,
    plan: Option<(Arc<Plan>, Rank)>,
    round: Option<Round>,
    /// The start state is being copied.
    copying: Option<Copying>,
    /// Vectors of this state that are computed, by shard.
    computed: BTreeMap<ShardId, Values>,
    /// Vectors of this state that cannot be summed, and why.
    unusable: BTreeMap<ShardId, String>,
    /// Frames of the next phase, from members that are ahead.
    early: Vec<(Rank, Frame)>,
    /// What keeps this generation from going on.
    trouble: Option<Trouble>,
    memory: Memory,
    pace: Pace,
    now: Duration,
    out: Vec<Command>,
}

/// A copy that is asked for, or will be.
struct Copying {
    donor: Donor,
    attempt: usize,
    /// When the donor will be asked; none once it is.
    asks_at: Option<Duration>,
}

/// After all holders have failed to give a copy, the next attempt comes this much later.
const COPY_PAUSE: Duration = Duration::from_millis(250);

/// The phase that is being computed and reduced.
struct Round {
    reduce: AllReduce,
    contributed_at: Option<Duration>,
    complained_at: Option<Duration>,
}

impl StepMachine {
    /// The machine of a worker that holds the initial state.
    pub fn new(now: Duration, id: WorkerId, objective: Arc<dyn Objective>) -> Self {
        let mut state = objective.initial();
        let at = StateAt { generation: Generation(0), position: Position::after(0), digest: state.digest() };
        Self {
            objective,
            id,
            schedule: None,
            data_ready: false,
            state: Arc::new(state),
            at,
            lineage: 0,
            promised: Generation(0),
            plan: None,
            round: None,
            copying: None,
            computed: BTreeMap::new(),
            unusable: BTreeMap::new(),
            early: Vec::new(),
            trouble: None,
            memory: Memory::default(),
            pace: Pace::new(now),
            now,
            out: Vec::new(),
        }
    }

    /// Takes an event; gives what is to be done, in order.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Command> {
        self.now = now;
        match event {
            Event::Welcome(schedule) => self.welcome(schedule),
            Event::DataReady => {
                self.data_ready = true;
                self.report(FromWorker::Ready);
            }
            Event::Message(message) => self.message(message),
            // A listed member that has answered the plan's fence takes it from a peer: the coordinator may have died
            // between two announcements.
            Event::PeerPlan(plan) if plan.generation == self.promised => self.take_plan(plan),
            Event::PeerPlan(_) => {}
            Event::Frame(from, frame) => self.frame(from, frame),
            Event::StreamBroken(generation, peer) if generation == self.generation() => {
                self.complain(Trouble::StreamBroken(peer));
            }
            Event::StreamBroken(..) => {}
            Event::Computed(work, shard, vector) => self.take_vector(work, shard, vector),
            Event::CopyAsked(wanted, token) => self.serve(wanted, token),
            Event::Copied(generation, copy) => self.take_copy(generation, copy),
            Event::Probed(peer, reached) => self.report(FromWorker::Probed { peer, reached }),
            Event::Leave => self.report(FromWorker::Leave),
            Event::Tick => self.watch(),
        }
        std::mem::take(&mut self.out)
    }

    /// The generation of the worker's plan; 0 without one.
    pub fn generation(&self) -> Generation {
        self.plan.as_ref().map_or(Generation(0), |(plan, _)| plan.generation)
    }

    /// The newest fence that was answered.
    pub fn promised(&self) -> Generation {
        self.promised
    }

    /// The state as it is.
    pub fn at(&self) -> StateAt {
        self.at
    }

    /// What the worker waits for, for people; none while it computes.
    pub fn waits_for(&self) -> Option<String> {
        let Some((plan, _)) = &self.plan else { return Some("a plan of the coordinator".to_owned()) };
        if self.promised > plan.generation {
            return Some(format!("the plan of generation {}", self.promised));
        }
        let name = |rank: Rank| plan.member(rank).map_or_else(String::new, |member| member.id.name.clone());
        match (&self.round, self.copying.as_ref().map(|copying| copying.donor)) {
            (_, Some(Donor::Member(rank))) => Some(format!("a copy of the state from {}", name(rank))),
            (_, Some(Donor::Coordinator)) => Some("a copy of the state from the coordinator".to_owned()),
            (Some(round), None) if round.reduce.contributed() => {
                let names: Vec<String> = round.reduce.owed_by().into_iter().map(name).collect();
                Some(format!("the vectors of {}", names.join(", ")))
            }
            (Some(_), None) => None,
            (None, None) => Some("the end of the run".to_owned()),
        }
    }

    // The coordinator.

    fn welcome(&mut self, schedule: Schedule) {
        self.schedule = Some(schedule);
        // Reports first: who hears that this worker is ready has then heard everything that it knows.
        self.report_all();
        if self.data_ready {
            self.report(FromWorker::Ready);
        }
        if let Some(trouble) = self.trouble.clone() {
            self.report(FromWorker::Trouble { generation: self.generation(), trouble });
        }
        self.begin_round();
    }

    fn message(&mut self, message: ToWorker) {
        match message {
            ToWorker::Fence(generation) => {
                self.promised = self.promised.max(generation);
                self.check(self.state.all());
                self.report(FromWorker::Fenced { generation, state: Some(self.at) });
            }
            ToWorker::Plan(plan) if plan.generation >= self.promised => self.take_plan(plan),
            ToWorker::Plan(_) => {}
            ToWorker::Stored(step) => self.memory.stored(step),
            ToWorker::Fetch(step) => {
                // A copy shares its bytes with the state: what has changed there has changed here.
                self.check(self.state.all());
                match self.memory.snapshot(step).filter(|state| state.first_damaged(state.all()).is_none()) {
                    Some(state) => self.out.push(Command::Upload(step, state)),
                    None => self.report(FromWorker::Lacks(step)),
                }
            }
            ToWorker::Keep(step) => self.memory.keep_too(step),
            ToWorker::Probe(peer, address) => self.out.push(Command::Probe(peer, address)),
            ToWorker::Finish(finish) => self.out.push(Command::Exit(finish)),
        }
    }

    /// Reports every step that led to the state and is not stored.
    fn report_all(&mut self) {
        let reports = self.memory.reports();
        self.out.extend(reports.into_iter().map(|done| Command::Report(FromWorker::StepDone(done))));
    }

    fn report(&mut self, message: FromWorker) {
        self.out.push(Command::Report(message));
    }

    fn complain(&mut self, trouble: Trouble) {
        if self.trouble.as_ref() != Some(&trouble) && self.promised == self.generation() {
            self.trouble = Some(trouble.clone());
            self.report(FromWorker::Trouble { generation: self.generation(), trouble });
        }
    }

    // Noticing.

    /// Hashes these tensors of the state again. If they are not what they were, the worker is left with the initial
    /// state, which everybody has; says whether they are.
    fn check(&mut self, tensors: impl IntoIterator<Item = usize>) -> bool {
        let Some(tensor) = self.state.first_damaged(tensors).map(str::to_owned) else { return true };
        self.lose_state(&tensor);
        false
    }

    fn lose_state(&mut self, damaged: &str) {
        let mut initial = self.objective.initial();
        let at = StateAt { generation: Generation(0), position: Position::after(0), digest: initial.digest() };
        self.replace(initial, at);
        self.round = None;
        self.memory.drop_snapshots();
        self.complain(Trouble::Damaged(damaged.to_owned()));
    }

    /// Goes on with another state, and drops everything that was computed from the one before.
    fn replace(&mut self, state: State, at: StateAt) {
        (self.state, self.at) = (Arc::new(state), at);
        self.memory.go_back_to(at.position.step);
        self.computed.clear();
        self.unusable.clear();
        self.lineage += 1;
    }

    /// Changes a bit of the state and says nothing, as bad memory does. For tests of who notices.
    #[doc(hidden)]
    pub fn flip_a_bit(&mut self, place: usize) {
        Arc::make_mut(&mut self.state).flip_a_bit(place);
    }

    /// Complains about who owes something for too long, and again while the lack lasts.
    fn watch(&mut self) {
        let deadline = self.pace.deadline();
        if let (Some((plan, _)), Some(copying)) = (&self.plan, &mut self.copying)
            && copying.asks_at.take_if(|at| self.now >= *at).is_some()
        {
            self.out.push(Command::Copy(Arc::clone(plan), copying.donor));
        }
        if !self.may_apply() {
            return;
        }
        let Some(round) = &mut self.round else { return };
        let waiting_since = round.complained_at.or(round.contributed_at);
        if waiting_since.is_none_or(|since| self.now < since + deadline) {
            return;
        }
        let owing = round.reduce.owed_by();
        round.complained_at = Some(self.now);
        if let Some(&peer) = owing.first() {
            self.trouble = None;
            self.complain(Trouble::Owes(peer));
        }
    }
}
