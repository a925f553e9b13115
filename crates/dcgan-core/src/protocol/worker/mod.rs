//! A worker's machine: compute, reduce, apply, report; promise, copy, go on.
//!
//! A worker needs nobody's leave to finish a step: it applies the reduced vector as soon as it has it, as every other
//! member does. What keeps members together is in the frames: each names the run, the generation, the position and the
//! digest of the state that it was computed from, so states that differ are never summed, and what an older generation
//! sent is dropped.
//!
//! The machine takes `(now, event)` and returns commands. It holds the state itself and applies updates to it (a few
//! milliseconds); gradients are computed elsewhere and come back as events.

mod plan;
mod retained;
mod step;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::{Digest, Generation, Position, Rank, ShardId, Step, WorkerId};
use crate::metrics::StepDone;
use crate::objective::Objective;
use crate::protocol::message::{Complaint, Finish, FromWorker, ToWorker};
use crate::protocol::plan::{Plan, StateRef};
use crate::reduction::{AllReduce, BucketSum};
use crate::spec::schedule::Schedule;
use crate::state::State;
use crate::state::values::SharedValues;
use retained::{Retained, StepTimer};

/// A piece of an all-reduce with its name: what it was computed from.
#[derive(Clone, Debug, PartialEq)]
pub struct ReduceFrame {
    /// The generation of the plan that it follows.
    pub generation: Generation,
    /// The position of the state that it was computed from.
    pub position: Position,
    /// That state's digest.
    pub digest: Digest,
    /// The piece.
    pub bucket_sum: BucketSum,
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
    /// A peer's stream verify_checksum with the peer's plan.
    PeerPlan(Arc<Plan>),
    /// A frame of a peer.
    ReduceFrame(Rank, ReduceFrame),
    /// A stream to or from a member of this generation broke.
    StreamBroken(Generation, Rank),
    /// A shard's vector is computed, or the computation panicked.
    Computed(GradientKey, ShardId, ShardResult),
    /// Somebody asks for a copy of this state; the token goes with the answer.
    CopyAsked(StateRef, u64),
    /// A copy came, or did not.
    Copied(Generation, Option<StateCopy>),
    /// Whether another worker answered a probe.
    ProbeResult(WorkerId, bool),
    /// The worker is told to stop.
    Leave,
    /// Time passed.
    Tick,
}

/// A shard's vector that can be summed, or why not.
#[derive(Clone, Debug)]
pub struct ShardResult(Result<SharedValues, String>);

impl ShardResult {
    /// What was computed, or with what words the computation panicked. Looks at every number: best called where it was
    /// computed, while it is in the cache.
    pub fn new(computed: Result<Vec<f32>, String>) -> Self {
        Self(computed.map_err(|panic| format!("computing it panicked: {panic}")).and_then(
            |vector| {
                let vector = SharedValues::from(vector);
                if vector.are_finite() {
                    Ok(vector)
                } else {
                    Err("it has numbers that are not finite".to_owned())
                }
            },
        ))
    }
}

/// A copied state, with the reports that go with it.
#[derive(Clone, Debug)]
pub struct StateCopy {
    /// The state.
    pub state: State,
    /// The steps that its holder has reported and that are not stored.
    pub reports: Vec<StepDone>,
}

/// Which vectors are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GradientKey {
    /// The position of the state that they are computed from.
    pub at: Position,
    /// That state's digest.
    pub digest: Digest,
    /// How often the worker's state was replaced: what was computed from one that turned out to be damaged is not used,
    /// nor what was computed ahead of it.
    pub state_version: u64,
}

/// Where a copy is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopySource {
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
    Send(Rank, ReduceFrame),
    /// Compute these shards' vectors, and nothing else that was asked for and is not begun.
    Compute(GradientKey, Arc<State>, Vec<ShardId>),
    /// Ask for a copy of the start state of that plan.
    Copy(Arc<Plan>, CopySource),
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
pub struct WorkerMachine {
    objective: Arc<dyn Objective>,
    id: WorkerId,
    schedule: Option<Schedule>,
    data_ready: bool,
    state: Arc<State>,
    at: StateRef,
    /// How often the state was replaced.
    state_version: u64,
    /// The newest fence that was answered.
    promised: Generation,
    plan: Option<(Arc<Plan>, Rank)>,
    reduction: Option<PhaseReduction>,
    /// The start state is being copied.
    copying: Option<CopyInProgress>,
    /// Vectors of this state that are computed, by shard.
    computed: BTreeMap<ShardId, SharedValues>,
    /// Vectors of this state that cannot be summed, and why.
    failed: BTreeMap<ShardId, String>,
    /// Frames of the next phase, from members that are ahead.
    early: Vec<(Rank, ReduceFrame)>,
    /// What keeps this generation from going on.
    complaint: Option<Complaint>,
    retained: Retained,
    timer: StepTimer,
    now: Duration,
    out: Vec<Command>,
}

/// A copy that is asked for, or will be.
struct CopyInProgress {
    donor: CopySource,
    attempt: usize,
    /// When the donor will be asked; none once it is.
    asks_at: Option<Duration>,
}

/// How often the driver passes [`Event::Tick`] to the machine: deadlines are noticed this late at most.
pub const TICK: Duration = Duration::from_millis(50);
/// After all holders have failed to give a copy, the next attempt comes this much later.
const COPY_PAUSE: Duration = Duration::from_millis(250);

/// The phase that is being computed and reduced.
struct PhaseReduction {
    reduce: AllReduce,
    contributed_at: Option<Duration>,
    complained_at: Option<Duration>,
}

impl WorkerMachine {
    /// The machine of a worker that holds the initial state.
    pub fn new(now: Duration, id: WorkerId, objective: Arc<dyn Objective>) -> Self {
        let mut state = objective.initial_state();
        let at = StateRef {
            generation: Generation(0),
            position: Position::after(0),
            digest: state.digest(),
        };
        Self {
            objective,
            id,
            schedule: None,
            data_ready: false,
            state: Arc::new(state),
            at,
            state_version: 0,
            promised: Generation(0),
            plan: None,
            reduction: None,
            copying: None,
            computed: BTreeMap::new(),
            failed: BTreeMap::new(),
            early: Vec::new(),
            complaint: None,
            retained: Retained::default(),
            timer: StepTimer::new(now),
            now,
            out: Vec::new(),
        }
    }

    /// Takes an event; gives what is to be done, in order.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Command> {
        self.now = now;
        match event {
            Event::Welcome(schedule) => self.on_welcome(schedule),
            Event::DataReady => {
                self.data_ready = true;
                self.report(FromWorker::Ready);
            }
            Event::Message(message) => self.on_message(message),
            // A listed member that has answered the plan's fence takes it from a peer: the coordinator may have died
            // between two announcements.
            Event::PeerPlan(plan) if plan.generation == self.promised => self.adopt_plan(plan),
            Event::PeerPlan(_) => {}
            Event::ReduceFrame(from, frame) => self.on_frame(from, frame),
            Event::StreamBroken(generation, peer) if generation == self.generation() => {
                self.complain(Complaint::StreamBroken(peer));
            }
            Event::StreamBroken(..) => {}
            Event::Computed(work, shard, vector) => self.on_shard_result(work, shard, vector),
            Event::CopyAsked(wanted, token) => self.serve(wanted, token),
            Event::Copied(generation, copy) => self.on_copy(generation, copy),
            Event::ProbeResult(peer, reached) => {
                self.report(FromWorker::ProbeResult { peer, reached })
            }
            Event::Leave => self.report(FromWorker::Leave),
            Event::Tick => self.on_tick(),
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
    pub fn at(&self) -> StateRef {
        self.at
    }

    /// What the worker waits for, for people; none while it computes.
    pub fn waits_for(&self) -> Option<String> {
        let Some((plan, _)) = &self.plan else {
            return Some("a plan of the coordinator".to_owned());
        };
        if self.promised > plan.generation {
            return Some(format!("the plan of generation {}", self.promised));
        }
        let name = |rank: Rank| {
            plan.member(rank).map_or_else(String::new, |member| member.id.name.clone())
        };
        match (&self.reduction, self.copying.as_ref().map(|copying| copying.donor)) {
            (_, Some(CopySource::Member(rank))) => {
                Some(format!("a copy of the state from {}", name(rank)))
            }
            (_, Some(CopySource::Coordinator)) => {
                Some("a copy of the state from the coordinator".to_owned())
            }
            (Some(reduction), None) if reduction.reduce.contributed() => {
                let names: Vec<String> = reduction.reduce.owed_by().into_iter().map(name).collect();
                Some(format!("the vectors of {}", names.join(", ")))
            }
            (Some(_), None) => None,
            (None, None) => Some("the end of the run".to_owned()),
        }
    }

    // The coordinator.

    fn on_welcome(&mut self, schedule: Schedule) {
        self.schedule = Some(schedule);
        // Reports first: who hears that this worker is ready has then heard everything that it knows.
        self.report_all();
        if self.data_ready {
            self.report(FromWorker::Ready);
        }
        if let Some(complaint) = self.complaint.clone() {
            self.report(FromWorker::Complaint { generation: self.generation(), complaint });
        }
        self.begin_phase();
    }

    fn on_message(&mut self, message: ToWorker) {
        match message {
            ToWorker::Fence(generation) => {
                self.promised = self.promised.max(generation);
                self.verify_state(self.state.all());
                self.report(FromWorker::FenceAck { generation, state: Some(self.at) });
            }
            ToWorker::Plan(plan) if plan.generation >= self.promised => self.adopt_plan(plan),
            ToWorker::Plan(_) => {}
            ToWorker::Persisted(step) => self.retained.stored(step),
            ToWorker::RequestSnapshot(step) => {
                // A copy shares its bytes with the state: what has changed there has changed here.
                self.verify_state(self.state.all());
                match self
                    .retained
                    .snapshot(step)
                    .filter(|state| state.first_damaged(state.all()).is_none())
                {
                    Some(state) => self.out.push(Command::Upload(step, state)),
                    None => self.report(FromWorker::SnapshotMissing(step)),
                }
            }
            ToWorker::RetainSnapshot(step) => self.retained.keep_too(step),
            ToWorker::Probe(peer, address) => self.out.push(Command::Probe(peer, address)),
            ToWorker::Finish(finish) => self.out.push(Command::Exit(finish)),
        }
    }

    /// Reports every step that led to the state and is not stored.
    fn report_all(&mut self) {
        let reports = self.retained.reports();
        self.out
            .extend(reports.into_iter().map(|done| Command::Report(FromWorker::StepDone(done))));
    }

    fn report(&mut self, message: FromWorker) {
        self.out.push(Command::Report(message));
    }

    fn complain(&mut self, complaint: Complaint) {
        if self.complaint.as_ref() != Some(&complaint) && self.promised == self.generation() {
            self.complaint = Some(complaint.clone());
            self.report(FromWorker::Complaint { generation: self.generation(), complaint });
        }
    }

    // Noticing.

    /// Hashes these tensors of the state again. If they are not what they were, the worker is left with the initial
    /// state, which everybody has; says whether they are.
    fn verify_state(&mut self, tensors: impl IntoIterator<Item = usize>) -> bool {
        let Some(tensor) = self.state.first_damaged(tensors).map(str::to_owned) else {
            return true;
        };
        self.discard_state(&tensor);
        false
    }

    fn discard_state(&mut self, damaged: &str) {
        let mut initial = self.objective.initial_state();
        let at = StateRef {
            generation: Generation(0),
            position: Position::after(0),
            digest: initial.digest(),
        };
        self.replace(initial, at);
        self.reduction = None;
        self.retained.drop_snapshots();
        self.complain(Complaint::StateCorrupted(damaged.to_owned()));
    }

    /// Goes on with another state, and drops everything that was computed from the one before.
    fn replace(&mut self, state: State, at: StateRef) {
        (self.state, self.at) = (Arc::new(state), at);
        self.retained.go_back_to(at.position.step);
        self.computed.clear();
        self.failed.clear();
        self.state_version += 1;
    }

    /// Changes a bit of the state and says nothing, as bad retained does. For tests of who notices.
    #[doc(hidden)]
    pub fn flip_a_bit(&mut self, place: usize) {
        Arc::make_mut(&mut self.state).flip_a_bit(place);
    }

    /// Complains about who owes something for too long, and again while the lack lasts.
    fn on_tick(&mut self) {
        let deadline = self.timer.deadline();
        if let (Some((plan, _)), Some(copying)) = (&self.plan, &mut self.copying)
            && copying.asks_at.take_if(|at| self.now >= *at).is_some()
        {
            self.out.push(Command::Copy(Arc::clone(plan), copying.donor));
        }
        if !self.may_apply() {
            return;
        }
        let Some(reduction) = &mut self.reduction else {
            return;
        };
        let waiting_since = reduction.complained_at.or(reduction.contributed_at);
        if waiting_since.is_none_or(|since| self.now < since + deadline) {
            return;
        }
        let owing = reduction.reduce.owed_by();
        reduction.complained_at = Some(self.now);
        if let Some(&peer) = owing.first() {
            self.complaint = None;
            self.complain(Complaint::Timeout(peer));
        }
    }
}
