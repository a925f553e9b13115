//! Lies: messages that are valid on the wire and that no honest process has sent.
//!
//! All of them come from one liar: a stranger, or whoever speaks in the name of one worker. Frames
//! are real ones with one field changed: nothing proves who sends a frame, so one that has other
//! values and is right in everything else would be believed.

use std::collections::VecDeque;
use std::sync::Arc;

use dcgan_core::evaluation::{EvaluationTask, PartId};
use dcgan_core::ids::{Digest, Generation, Phase, Position, Rank, RunId, ShardId, WorkerId};
use dcgan_core::metrics::StepDone;
use dcgan_core::protocol::coordinator::ConnId;
use dcgan_core::protocol::message::{
    Complaint, FailedShards, FromWorker, Hello, PROTOCOL, ToWorker,
};
use dcgan_core::protocol::plan::{Member, Plan, StateRef};
use dcgan_core::protocol::worker::{Event, ReduceFrame};
use dcgan_core::reduction::Subtree;

use super::{Control, Upward, World};

/// The number of real messages of each kind that a liar remembers.
const OVERHEARD_MAX: usize = 32;

/// The liar, and what it has overheard.
pub(super) struct Liar {
    /// The worker in whose name it speaks; `None` if it is a stranger.
    victim: Option<String>,
    /// The stranger's process.
    id: WorkerId,
    conn: Option<ConnId>,
    up: VecDeque<FromWorker>,
    frames: VecDeque<ReduceFrame>,
}

impl Liar {
    /// A stranger, or the voice of one worker.
    pub(super) fn new(victim: Option<String>) -> Self {
        let id = WorkerId { name: "liar".to_owned(), incarnation: 1 };
        let (up, frames) = (VecDeque::new(), VecDeque::new());
        Self { victim, id, conn: None, up, frames }
    }

    /// Remembers a real message of a worker.
    pub(super) fn overhear(&mut self, message: &FromWorker) {
        remember(&mut self.up, message.clone());
    }

    /// Remembers a real frame.
    pub(super) fn overhear_frame(&mut self, frame: &ReduceFrame) {
        remember(&mut self.frames, frame.clone());
    }
}

fn remember<T>(seen: &mut VecDeque<T>, new: T) {
    seen.push_back(new);
    if seen.len() > OVERHEARD_MAX {
        seen.pop_front();
    }
}

impl World {
    /// Begins to listen for a liar: a stranger, or one who speaks in the name of the first worker.
    pub(crate) fn let_a_liar_in(&mut self, is_stranger: bool) {
        let victim = if is_stranger { None } else { self.workers.keys().next().cloned() };
        self.liars.insert(victim.clone().unwrap_or_else(|| "liar".to_owned()));
        self.liar = Some(Liar::new(victim));
    }

    /// Tells a lie to one of the machines.
    pub(crate) fn tell_a_lie(&mut self) {
        self.faults_done += 1;
        match self.rng.below(8) {
            0..4 => self.lie_to_the_coordinator(),
            4..7 => self.lie_as_a_peer(),
            _ => self.lie_as_the_coordinator(),
        }
    }

    /// Says something in the name of the victim, or as a stranger.
    fn lie_to_the_coordinator(&mut self) {
        let victim = self.liar.as_ref().unwrap().victim.clone();
        let conn = match &victim {
            Some(name) => self.workers.get(name).and_then(|it| it.conn.filter(|_| it.welcomed)),
            None => self.stranger_conn(),
        };
        let Some(conn) = conn else { return };
        let message = self.false_message();
        if let Some(control) = self.control.get_mut(&conn) {
            control.up.push_back(Upward::Message(message));
        }
    }

    /// The stranger's control stream. Sometimes it opens another one.
    fn stranger_conn(&mut self) -> Option<ConnId> {
        let liar = self.liar.as_ref().unwrap();
        let open = liar.conn.filter(|conn| self.control.contains_key(conn));
        if let Some(conn) = open.filter(|_| !self.rng.one_in(4)) {
            return Some(conn);
        }
        if self.rng.one_in(2) {
            let id = self.new_id();
            self.liar.as_mut().unwrap().id.incarnation = id;
        }
        let hello = self.false_hello();
        let conn = ConnId(self.new_id());
        let up = VecDeque::from([Upward::Hello(hello)]);
        let control = Control { worker: "liar".to_owned(), up, down: VecDeque::new() };
        self.control.insert(conn, control);
        self.liar.as_mut().unwrap().conn = Some(conn);
        if self.rng.one_in(2) {
            self.control.get_mut(&conn).unwrap().up.push_back(Upward::Message(FromWorker::Ready));
        }
        Some(conn)
    }

    fn false_hello(&mut self) -> Hello {
        let mut hello = Hello {
            run: None,
            id: self.liar.as_ref().unwrap().id.clone(),
            protocol: PROTOCOL,
            fingerprint: "toy".to_owned(),
            address: "liar:1".to_owned(),
            plan: Generation(0),
            promised: Generation(0),
        };
        match self.rng.below(8) {
            0 => hello.run = Some(RunId(self.number())),
            1 => {
                // The name of a worker that is here, and a process that was started later.
                let names: Vec<String> = self.workers.keys().cloned().collect();
                if !names.is_empty() {
                    let name = names[self.rng.below(names.len())].clone();
                    hello.id = WorkerId { name, incarnation: u64::MAX };
                }
            }
            2 => hello.fingerprint = "nonsense".to_owned(),
            3 => hello.plan = Generation(self.number()),
            4 => hello.promised = Generation(self.number()),
            _ => {}
        }
        hello
    }

    /// A number that may do harm: an extreme one, or one near those that the run has now.
    fn number(&mut self) -> u64 {
        let generation = self.disk.plan.as_ref().map_or(0, |plan| plan.generation.0);
        let near = [generation, self.reached(), self.setup.last_step][self.rng.below(3)];
        match self.rng.below(8) {
            0 => u64::MAX - self.rng.below(2) as u64,
            1 => 1 << 32,
            2 => self.rng.next(),
            3 => self.rng.below(20) as u64,
            _ => near.saturating_add(self.rng.below(5) as u64).saturating_sub(2),
        }
    }

    fn any_rank(&mut self) -> Rank {
        Rank([0, 1, 2, 3, 4, u16::MAX][self.rng.below(6)])
    }

    fn any_position(&mut self) -> Position {
        let phase = Phase::ALL[self.rng.below(3)];
        Position { step: self.number(), phase }
    }

    fn any_digest(&mut self, position: Position) -> Digest {
        match self.reference.digests.get(&position) {
            Some(&digest) if self.rng.one_in(2) => digest,
            _ => Digest(self.rng.next()),
        }
    }

    fn any_state(&mut self) -> StateRef {
        let position = self.any_position();
        let digest = self.any_digest(position);
        StateRef { generation: Generation(self.number()), position, digest }
    }

    fn any_worker_id(&mut self) -> WorkerId {
        let ids: Vec<WorkerId> = self.workers.values().map(|worker| worker.id.clone()).collect();
        match ids.len() {
            0 => WorkerId { name: "nobody".to_owned(), incarnation: self.number() },
            count => ids[self.rng.below(count)].clone(),
        }
    }

    fn any_ms(&mut self) -> f32 {
        [0.0, 1.0, -1.0, f32::NAN, f32::INFINITY, f32::MAX][self.rng.below(6)]
    }

    /// A message of a worker that may be false: a real one with one field changed, or any.
    fn false_message(&mut self) -> FromWorker {
        let overheard = &self.liar.as_ref().unwrap().up;
        if !overheard.is_empty() && self.rng.one_in(2) {
            let message = overheard[self.rng.below(overheard.len())].clone();
            return self.with_one_change(message);
        }
        let position = self.any_position();
        match self.rng.below(10) {
            0 => FromWorker::Ready,
            1 => {
                let state = Some(self.any_state()).filter(|_| !self.rng.one_in(8));
                FromWorker::FenceAck { generation: Generation(self.number()), state }
            }
            2 => FromWorker::StepDone(StepDone {
                step: self.number(),
                generation: Generation(self.number()),
                world_size: self.number() as u16,
                digest: self.any_digest(position),
                ends_run: self.rng.one_in(2),
                metrics: vec![self.any_ms(); if self.rng.one_in(8) { 0 } else { 6 }],
                step_ms: self.any_ms(),
                allreduce_ms: self.any_ms(),
            }),
            3 | 4 => {
                let complaint = self.false_complaint();
                FromWorker::Complaint { generation: Generation(self.number()), complaint }
            }
            5 => FromWorker::SnapshotMissing(self.number()),
            6 => FromWorker::StateDiffered { position, tensor: "x".repeat(256) },
            7 => FromWorker::Copied(Generation(self.number())),
            8 => FromWorker::ProbeResult { peer: self.any_worker_id(), result: Ok(()) },
            _ => {
                let part = self.number() as u16;
                let id = PartId { step: position.step, digest: self.any_digest(position), part };
                let values = vec![f64::from(self.any_ms()); self.rng.below(4)];
                FromWorker::Evaluated { id, result: Ok(values) }
            }
        }
    }

    fn false_complaint(&mut self) -> Complaint {
        let position = self.any_position();
        match self.rng.below(6) {
            0 => Complaint::StreamBroken(self.any_rank()),
            1 => Complaint::Timeout(self.any_rank()),
            2 => Complaint::StateMismatch {
                peer: self.any_rank(),
                position,
                mine: self.any_digest(position),
                theirs: self.any_digest(position),
            },
            3 => Complaint::CopyFailed,
            4 => Complaint::StateCorrupted("parameters".to_owned()),
            _ => {
                let shards = (0..self.rng.below(4)).map(|_| ShardId(self.number() as u16));
                let shards = shards.collect();
                Complaint::ShardsFailed(FailedShards { position, shards, what: "no".to_owned() })
            }
        }
    }

    fn with_one_change(&mut self, message: FromWorker) -> FromWorker {
        match message {
            FromWorker::FenceAck { mut generation, mut state } => {
                match (self.rng.below(3), &mut state) {
                    (0, Some(state)) => state.position = self.any_position(),
                    (1, Some(state)) => state.digest = Digest(self.rng.next()),
                    (2, Some(state)) => state.generation = Generation(self.number()),
                    _ => generation = Generation(self.number()),
                }
                FromWorker::FenceAck { generation, state }
            }
            FromWorker::StepDone(mut done) => {
                match self.rng.below(7) {
                    0 => done.step = self.number(),
                    1 => done.generation = Generation(self.number()),
                    2 => done.world_size = self.number() as u16,
                    3 => done.digest = Digest(self.rng.next()),
                    4 => done.ends_run = !done.ends_run,
                    5 => done.metrics.fill(self.any_ms()),
                    _ => done.step_ms = self.any_ms(),
                }
                FromWorker::StepDone(done)
            }
            FromWorker::Complaint { generation, .. } => {
                FromWorker::Complaint { generation, complaint: self.false_complaint() }
            }
            FromWorker::SnapshotMissing(_) => FromWorker::SnapshotMissing(self.number()),
            FromWorker::Evaluated { mut id, result } => {
                id.step = self.number();
                FromWorker::Evaluated { id, result }
            }
            other => other,
        }
    }

    /// Opens a stream to a worker, or says something on one, as if a member did.
    fn lie_as_a_peer(&mut self) {
        let names: Vec<String> = self.workers.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = names[self.rng.below(names.len())].clone();
        // A driver takes an event when it has executed the commands of the one before.
        let worker = &self.workers[&name];
        if worker.stopped_until.is_some() || !worker.commands.is_empty() {
            return;
        }
        let event = match self.rng.below(4) {
            0 => Event::StreamBroken(Generation(self.number()), self.any_rank()),
            1 => {
                let state = self.any_state();
                // The token belongs to no request, so that the answer goes nowhere.
                Event::CopyAsked(Some(state).filter(|_| !self.rng.one_in(4)), u64::MAX)
            }
            2 => match self.false_plan() {
                Some(plan) => {
                    // Between a fence and its plan, a worker takes the plan that a peer opens a
                    // stream with. Until it hears the coordinator's, it may say what follows from a
                    // wrong one.
                    self.liars.insert(name.clone());
                    Event::PeerPlan(Arc::new(plan))
                }
                None => return,
            },
            _ => match self.false_frame() {
                Some((from, frame)) => Event::ReduceFrame(from, frame),
                None => return,
            },
        };
        self.worker_event(&name, event);
    }

    /// A real frame with one field changed, but not its values.
    fn false_frame(&mut self) -> Option<(Rank, ReduceFrame)> {
        let frames = &self.liar.as_ref().unwrap().frames;
        if frames.is_empty() {
            return None;
        }
        let mut frame = frames[self.rng.below(frames.len())].clone();
        match self.rng.below(6) {
            0 => frame.generation = Generation(self.number()),
            1 => frame.position = frame.position.next(),
            2 => frame.position = self.any_position(),
            3 => frame.digest = Digest(self.rng.next()),
            4 => frame.bucket_sum.bucket = u32::MAX - self.rng.below(3) as u32,
            _ => frame.bucket_sum.subtree = Some(Subtree { lo: u16::MAX - 2, hi: u16::MAX }),
        }
        Some((self.any_rank(), frame))
    }

    /// The newest plan with one thing changed.
    fn false_plan(&mut self) -> Option<Plan> {
        let plan = self.disk.plan.clone()?;
        let mut members: Vec<Member> = plan.members().to_vec();
        let mut owners = plan.owners().to_vec();
        let (mut generation, mut start) = (plan.generation, plan.start);
        match self.rng.below(5) {
            0 => generation = Generation(self.number()),
            1 => start = self.any_state(),
            2 => owners.push(Rank(0)),
            3 => members.iter_mut().for_each(|member| member.holds_start = true),
            _ => {
                members.truncate(1);
                owners.fill(Rank(0));
            }
        }
        Plan::new(generation, members, owners, start).ok()
    }

    /// Says something to a worker that no coordinator says, or that does no harm.
    fn lie_as_the_coordinator(&mut self) {
        let Some(conn) = self.workers.values().find_map(|it| it.conn.filter(|_| it.welcomed))
        else {
            return;
        };
        let message = match self.rng.below(6) {
            0 => ToWorker::Fence(Generation(u64::MAX - self.rng.below(2) as u64)),
            1 => ToWorker::Fence(Generation(0)),
            2 => ToWorker::Persisted(self.setup.last_step + 1 + self.number() / 2),
            3 => ToWorker::RetainSnapshot(self.number()),
            4 => {
                let position = self.any_position();
                let digest = self.any_digest(position);
                let part = self.number() as u16;
                let pieces = Arc::new(Vec::new());
                let id = PartId { step: position.step, digest, part: part % 2 };
                ToWorker::Evaluate(EvaluationTask { id, pieces })
            }
            _ => match self.false_plan() {
                Some(plan) if plan.shards() != self.setup.shards => ToWorker::Plan(Arc::new(plan)),
                _ => ToWorker::Fence(Generation(0)),
            },
        };
        if let Some(control) = self.control.get_mut(&conn) {
            control.down.push_back(super::Downward::Message(message));
        }
    }

    /// Asserts that what the machines keep for others is bounded.
    pub(crate) fn check_memory(&self) {
        for (name, worker) in &self.workers {
            let kept = worker.machine.kept_for_others();
            assert!(kept <= 200, "{name} keeps {kept} things");
        }
        let kept = self.coordinator.as_ref().map_or(0, |it| it.machine.kept_for_others());
        assert!(kept <= 600, "the coordinator keeps {kept} things");
    }
}
