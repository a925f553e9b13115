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
    /// A shard's vector is computed.
    Computed(Work, ShardId, Vec<f32>),
    /// Somebody asks for a copy of this state; the token goes with the answer.
    CopyAsked(StateAt, u64),
    /// A copy came, or did not.
    Copied(Generation, Option<Copy>),
    /// The worker is told to stop.
    Leave,
    /// Time passed.
    Tick,
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
    /// The newest fence that was answered.
    promised: Generation,
    plan: Option<(Arc<Plan>, Rank)>,
    round: Option<Round>,
    /// The start state is being copied.
    copying: Option<Copying>,
    /// Vectors of this state that are computed, by shard.
    computed: BTreeMap<ShardId, Vec<f32>>,
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
            promised: Generation(0),
            plan: None,
            round: None,
            copying: None,
            computed: BTreeMap::new(),
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
        let reports = self.memory.reports();
        self.out.extend(reports.into_iter().map(|done| Command::Report(FromWorker::StepDone(done))));
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
                self.report(FromWorker::Fenced { generation, state: Some(self.at) });
            }
            ToWorker::Plan(plan) if plan.generation >= self.promised => self.take_plan(plan),
            ToWorker::Plan(_) => {}
            ToWorker::Stored(step) => self.memory.stored(step),
            ToWorker::Fetch(step) => match self.memory.snapshot(step) {
                Some(state) => self.out.push(Command::Upload(step, state)),
                None => self.report(FromWorker::Lacks(step)),
            },
            ToWorker::Finish(finish) => self.out.push(Command::Exit(finish)),
        }
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

    // Plans and copies.

    fn take_plan(&mut self, plan: Arc<Plan>) {
        if plan.generation <= self.generation() {
            return;
        }
        self.promised = self.promised.max(plan.generation);
        (self.round, self.copying, self.trouble) = (None, None, None);
        self.early.clear();
        self.pace.restart(self.now);
        let Some(rank) = plan.rank_of(&self.id) else {
            self.plan = None;
            return;
        };
        self.out.push(Command::Connect(Arc::clone(&plan), rank));
        self.plan = Some((Arc::clone(&plan), rank));
        if (self.at.position, self.at.digest) == (plan.start.position, plan.start.digest) {
            self.at.generation = plan.generation;
            self.begin_round();
        } else {
            self.copy_from(plan, rank, 0);
        }
    }

    /// Asks the next donor for the start state; its own state is kept until a copy is verified.
    fn copy_from(&mut self, plan: Arc<Plan>, rank: Rank, attempt: usize) {
        let holds = |&r: &Rank| r != rank && plan.member(r).is_some_and(|member| member.holds_start);
        let holders: Vec<Rank> = plan.ranks().filter(holds).collect();
        // Newcomers begin at different holders.
        let donor = match holders.len() {
            0 => Donor::Coordinator,
            n => Donor::Member(holders[(usize::from(rank.0) + attempt) % n]),
        };
        let pause = attempt > 0 && attempt.is_multiple_of(holders.len().max(1));
        let asks_at = pause.then_some(self.now + COPY_PAUSE);
        self.copying = Some(Copying { donor, attempt, asks_at });
        if pause {
            self.complain(Trouble::CannotCopy);
        } else {
            self.out.push(Command::Copy(plan, donor));
        }
    }

    fn take_copy(&mut self, generation: Generation, copy: Option<Copy>) {
        let (Some((plan, rank)), Some(copying)) = (self.plan.clone(), &self.copying) else { return };
        if generation != plan.generation {
            return;
        }
        let intact = copy.and_then(|mut copy| (copy.state.digest() == plan.start.digest).then_some(copy));
        let Some(Copy { state, reports }) = intact else {
            let attempt = copying.attempt + 1;
            return self.copy_from(plan, rank, attempt);
        };
        (self.copying, self.trouble) = (None, None);
        self.state = Arc::new(state);
        self.at = StateAt { generation, ..plan.start };
        self.computed.clear();
        for done in reports {
            if self.memory.remember(done.clone()) {
                self.report(FromWorker::StepDone(done));
            }
        }
        if self.at.position.is_step_boundary() {
            self.keep_snapshot();
        }
        self.begin_round();
    }

    fn serve(&mut self, wanted: StateAt, token: u64) {
        let have = (self.at.position, self.at.digest) == (wanted.position, wanted.digest);
        let state = have.then(|| Arc::clone(&self.state));
        let reports = if have { self.memory.reports() } else { Vec::new() };
        self.out.push(Command::Serve(token, state, reports));
    }

    // The step: compute, reduce, apply.

    /// Begins the phase that follows the state, if it is to be trained.
    fn begin_round(&mut self) {
        let (Some((plan, rank)), Some(schedule)) = (self.plan.clone(), self.schedule) else { return };
        let finished = self.at.position >= Position::after(schedule.last_step);
        if finished || self.round.is_some() || self.copying.is_some() {
            return;
        }
        let len = self.objective.vector_len(self.at.position.phase);
        let reduce = AllReduce::new(Arc::clone(&plan), rank, len);
        self.round = Some(Round { reduce, contributed_at: None, complained_at: None });
        let (kept, missing): (Vec<ShardId>, Vec<ShardId>) =
            plan.shards_of(rank).partition(|shard| self.computed.contains_key(shard));
        if !missing.is_empty() {
            self.out.push(Command::Compute(self.work(), Arc::clone(&self.state), missing));
        }
        for shard in kept {
            self.contribute(shard);
        }
        for (from, frame) in std::mem::take(&mut self.early) {
            self.frame(from, frame);
        }
    }

    fn work(&self) -> Work {
        Work { at: self.at.position, digest: self.at.digest }
    }

    /// Whether results of the newest plan may be applied.
    fn may_apply(&self) -> bool {
        self.promised == self.generation()
    }

    fn take_vector(&mut self, work: Work, shard: ShardId, vector: Vec<f32>) {
        if work != self.work() || vector.len() != self.objective.vector_len(work.at.phase) {
            return;
        }
        // It is kept until the state changes: after a fence only what was lost is computed again.
        self.computed.insert(shard, vector);
        self.contribute(shard);
    }

    fn contribute(&mut self, shard: ShardId) {
        let (Some((plan, rank)), Some(round)) = (&self.plan, &mut self.round) else { return };
        if plan.owner(shard) != *rank {
            return;
        }
        let pieces = round.reduce.contribute(shard, self.computed[&shard].clone());
        if round.reduce.contributed() {
            round.contributed_at.get_or_insert(self.now);
        }
        self.send(pieces);
        self.apply_if_reduced();
    }

    fn send(&mut self, pieces: Vec<(Rank, Piece)>) {
        let StateAt { position, digest, .. } = self.at;
        let generation = self.generation();
        let frames = pieces.into_iter().map(|(to, piece)| (to, Frame { generation, position, digest, piece }));
        self.out.extend(frames.map(|(to, frame)| Command::Send(to, frame)));
    }

    fn frame(&mut self, from: Rank, frame: Frame) {
        let Some((plan, _)) = &self.plan else { return };
        if frame.generation != plan.generation || !self.may_apply() {
            return;
        }
        let position = if self.copying.is_some() { plan.start.position } else { self.at.position };
        if frame.position == position.next(self.objective.phases())
            || (self.round.is_none() && frame.position == position)
        {
            // Bounded: a peer is at most one phase ahead, and sends each of its pieces once.
            self.early.push((from, frame));
            return;
        }
        if frame.position != position {
            return;
        }
        if frame.digest != self.at.digest {
            let (mine, theirs) = (self.at.digest, frame.digest);
            self.complain(Trouble::Differs { peer: from, position, mine, theirs });
            return;
        }
        let Some(round) = &mut self.round else { return };
        match round.reduce.receive(from, frame.piece) {
            Ok(pieces) => self.send(pieces),
            // A peer of another mind about the plan: as good as a broken stream.
            Err(_) => self.complain(Trouble::StreamBroken(from)),
        }
        self.apply_if_reduced();
    }

    fn apply_if_reduced(&mut self) {
        if !self.may_apply() {
            return;
        }
        let Some(round) = self.round.take_if(|round| round.reduce.finished().is_some()) else { return };
        let Some(sum) = round.reduce.finished() else { return };
        let (generation, at) = (self.generation(), self.at.position);
        let state = Arc::make_mut(&mut self.state);
        self.objective.apply(state, at, sum);
        self.at = StateAt { generation, position: at.next(self.objective.phases()), digest: state.digest() };
        self.computed.clear();
        self.pace.reduced(self.now.saturating_sub(round.contributed_at.unwrap_or(self.now)));
        if self.at.position.is_step_boundary() {
            self.finish_step();
        }
        self.begin_round();
    }

    fn finish_step(&mut self) {
        let (step_ms, allreduce_ms) = self.pace.step(self.now);
        let done = StepDone {
            step: self.at.position.step,
            generation: self.generation(),
            world_size: self.plan.as_ref().map_or(0, |(plan, _)| plan.members.len() as u16),
            digest: self.at.digest,
            metrics: self.objective.metrics(&self.state),
            step_ms,
            allreduce_ms,
        };
        self.memory.remember(done.clone());
        self.keep_snapshot();
        self.report(FromWorker::StepDone(done));
    }

    fn keep_snapshot(&mut self) {
        let step = self.at.position.step;
        let due = self.schedule.is_some_and(|schedule| schedule.checkpoint_due(step) || schedule.grid_due(step));
        self.memory.keep(step, Arc::clone(&self.state), due);
    }

    // Noticing.

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
