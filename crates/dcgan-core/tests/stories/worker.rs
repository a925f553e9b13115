//! A worker in a story: its machine, a clock, and the shards that it is to compute.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use dcgan_core::evaluation::EvaluationTask;
use dcgan_core::ids::{Digest, Generation, Position, Rank, ShardId, WorkerId};
use dcgan_core::objective::{Objective, Scratch, ShardTask};
use dcgan_core::protocol::message::{Complaint, FromWorker, ToWorker};
use dcgan_core::protocol::plan::{Member, Plan, StateRef};
use dcgan_core::protocol::worker::{
    Command, CopySource, Event, ReduceFrame, ShardResult, VectorKey, WorkerMachine,
};
use dcgan_core::spec::schedule::Schedule;
use dcgan_core::spec::sharding::Partition;
use dcgan_core::spec::{DatasetInfo, ObjectiveKind, RunSpec};
use dcgan_core::state::State;
use dcgan_core::toy::Toy;

use crate::coordinator::id;

/// Shards of the batch.
const SHARDS: u16 = 4;
/// The run's last step.
const LAST_STEP: u64 = 3;

/// A worker of a run of the toy with four shards and three steps.
pub(crate) struct Worker {
    pub(crate) machine: WorkerMachine,
    toy: Arc<Toy>,
    now: Duration,
    /// The shards that the machine wants computed.
    jobs: VecDeque<(VectorKey, Arc<State>, ShardId)>,
    /// The parts of evaluations that it wants computed.
    evaluations: VecDeque<(EvaluationTask, Arc<State>)>,
    /// The frames that it wants sent to other members.
    pub(crate) outbox: VecDeque<(Rank, ReduceFrame)>,
    /// The states that it gave to others, newest last.
    pub(crate) served: Vec<Option<Arc<State>>>,
}

impl Worker {
    /// A worker that has just been welcomed and has its data.
    pub(crate) fn new(name: char) -> Self {
        let data = DatasetInfo { images: 40, rows: 1, columns: 1, digest: Digest(0) };
        let builder = RunSpec::builder().objective(ObjectiveKind::Toy).shards(SHARDS);
        let builder = builder.batch_size(2 * usize::from(SHARDS)).learning_rate(0.1);
        let toy = Arc::new(Toy::new(builder.build(data).unwrap()));
        let now = Duration::from_secs(1);
        let objective = Arc::clone(&toy) as Arc<dyn Objective>;
        let mut worker = Self {
            machine: WorkerMachine::new(now, id(name), objective, SHARDS),
            toy,
            now,
            jobs: VecDeque::new(),
            outbox: VecDeque::new(),
            evaluations: VecDeque::new(),
            served: Vec::new(),
        };
        worker.is_welcomed();
        worker.handle(Event::DataReady);
        worker
    }

    /// Two workers that train generation 1 from the beginning: a owns shards 0 and 1, b 2 and 3.
    pub(crate) fn pair() -> [Self; 2] {
        let mut pair = [Self::new('a'), Self::new('b')];
        let plan = plan(1, "ab", "0011", pair[0].machine.at(), "ab");
        for worker in &mut pair {
            worker.hears(ToWorker::Fence(Generation(1)));
            worker.hears(ToWorker::Plan(Arc::clone(&plan)));
        }
        pair
    }

    /// The same pair in a run that ends early. Evaluations are due after each step.
    pub(crate) fn pair_with_early_stopping() -> [Self; 2] {
        let mut pair = Self::pair();
        for worker in &mut pair {
            let evaluate_every = NonZeroU64::new(1);
            let early_stopping = evaluate_every;
            let schedule = Schedule { evaluate_every, early_stopping, ..schedule() };
            worker.handle(Event::Welcome(schedule));
        }
        pair
    }

    /// Returns whether the worker has nothing to compute.
    pub(crate) fn jobs_are_done(&self) -> bool {
        self.jobs.is_empty()
    }

    /// The coordinator answers a hello.
    pub(crate) fn is_welcomed(&mut self) -> Vec<String> {
        self.handle(Event::Welcome(schedule()))
    }

    /// The coordinator says something.
    pub(crate) fn hears(&mut self, message: ToWorker) -> Vec<String> {
        self.handle(Event::Message(message))
    }

    /// The worker computes the next of its shards.
    pub(crate) fn computes_a_shard(&mut self) -> Vec<String> {
        let (key, state, shard) = self.jobs.pop_front().expect("there is a shard to compute");
        let partition = Partition::new(1, (0..10).collect());
        let task = ShardTask { state: &state, at: key.at, shard, partition: &partition };
        let vector = self.toy.shard_vector(&task, &mut Scratch::default());
        self.handle(Event::Computed(key, shard, ShardResult::new(Ok(vector))))
    }

    /// The worker computes all shards that it was asked for.
    pub(crate) fn computes(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while !self.jobs.is_empty() {
            lines.extend(self.computes_a_shard());
        }
        lines
    }

    /// All of its shards give vectors that are not finite.
    pub(crate) fn computes_nonsense(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some((key, _, shard)) = self.jobs.pop_front() {
            let result = ShardResult::new(Ok(vec![f32::NAN; 25]));
            lines.extend(self.handle(Event::Computed(key, shard, result)));
        }
        lines
    }

    /// The worker computes the next part of an evaluation.
    pub(crate) fn evaluates(&mut self) -> Vec<String> {
        let (task, state) = self.evaluations.pop_front().expect("there is a part to compute");
        let values = task.compute(&*self.toy, &state);
        self.handle(Event::Evaluated(task.id, Ok(values)))
    }

    /// A frame of another member arrives.
    pub(crate) fn receives(&mut self, from: u16, frame: ReduceFrame) -> Vec<String> {
        self.handle(Event::ReduceFrame(Rank(from), frame))
    }

    /// Time passes.
    pub(crate) fn waits(&mut self, seconds: u64) -> Vec<String> {
        self.now += Duration::from_secs(seconds);
        self.handle(Event::Tick)
    }

    /// Lets the machine handle an event, and gives its commands as lines.
    pub(crate) fn handle(&mut self, event: Event) -> Vec<String> {
        let commands = self.machine.handle(self.now, event);
        commands.into_iter().map(|command| self.execute(command)).collect()
    }

    fn execute(&mut self, command: Command) -> String {
        match command {
            Command::Report(message) => format!("report: {}", describe(&message)),
            Command::Connect(plan, rank) => {
                format!("connect to the members of plan {} as rank {rank}", plan.generation)
            }
            Command::Send(to, frame) => {
                let sum = &frame.bucket_sum;
                let line = match sum.subtree {
                    Some(subtree) => {
                        format!("send to rank {to}: subtree {subtree} of bucket {}", sum.bucket)
                    }
                    None => format!("send to rank {to}: the sum of bucket {}", sum.bucket),
                };
                self.outbox.push_back((to, frame));
                line
            }
            Command::Compute(key, state, shards) => {
                let list: String = shards.iter().map(ToString::to_string).collect();
                // A new request replaces what has not begun.
                self.jobs = shards.iter().map(|&shard| (key, Arc::clone(&state), shard)).collect();
                format!("compute shards {list} at {}", key.at)
            }
            Command::Copy(_, CopySource::Member(rank)) => format!("copy the state of rank {rank}"),
            Command::Copy(_, CopySource::Coordinator) => {
                "copy the state of the checkpoint".to_owned()
            }
            Command::Serve(_, state, _) => {
                let what = if state.is_some() { "the state" } else { "nothing" };
                self.served.push(state.map(|(_, state)| state));
                format!("serve {what}")
            }
            Command::Upload(step, _) => format!("upload the snapshot of step {step}"),
            Command::Probe(peer, _) => format!("probe {peer}"),
            Command::Trial(donor, _) => format!("trial with {donor}"),
            Command::Evaluate(task, state) => {
                let line = format!("evaluate part {} of step {}", task.id.part, task.id.step);
                self.evaluations.push_back((task, state));
                line
            }
            Command::CloseSession(claim) => format!("close the session: {claim}"),
            Command::Exit(finish) => format!("exit: {finish:?}"),
        }
    }
}

/// The schedule of a run whose steps are all logged, drawn and saved.
fn schedule() -> Schedule {
    Schedule {
        last_step: LAST_STEP,
        log_every: 1,
        grid_every: 1,
        checkpoint_every: 1,
        evaluate_every: None,
        early_stopping: None,
    }
}

/// A plan in which `members` have the shards whose ranks `owners` names, and `holders` have the
/// start state.
pub(crate) fn plan(
    generation: u64,
    members: &str,
    owners: &str,
    start: StateRef,
    holders: &str,
) -> Arc<Plan> {
    let generation = Generation(generation);
    let member = |name: char| Member {
        id: WorkerId { ..id(name) },
        address: format!("{name}:1"),
        holds_start: holders.contains(name),
    };
    let rank = |digit: char| Rank(digit.to_digit(10).unwrap() as u16);
    let members = members.chars().map(member).collect();
    let owners = owners.chars().map(rank).collect();
    let start = StateRef { generation, ..start };
    Arc::new(Plan::new(generation, members, owners, start).unwrap())
}

/// Two workers that have finished a step, and a third one that has answered the fence of a plan in
/// which it takes the place of b, and must copy the state of a.
pub(crate) fn pair_and_successor() -> ([Worker; 2], Worker, Arc<Plan>) {
    let mut pair = Worker::pair();
    train_until(&mut pair, Position::after(1));
    let plan = plan(2, "ac", "0011", pair[0].machine.at(), "a");
    let mut c = Worker::new('c');
    c.hears(ToWorker::Fence(Generation(2)));
    (pair, c, plan)
}

/// Delivers all frames between two workers, and lets them compute, until both have reached a
/// position or wait for something else.
pub(crate) fn train_until(pair: &mut [Worker; 2], position: Position) {
    let is_there = |worker: &Worker| worker.machine.at().position >= position;
    while !pair.iter().all(is_there) {
        let mut is_idle = true;
        for rank in 0..2 {
            if !pair[rank].jobs.is_empty() && !is_there(&pair[rank]) {
                pair[rank].computes_a_shard();
                is_idle = false;
            }
            while let Some((to, frame)) = pair[rank].outbox.pop_front() {
                pair[usize::from(to.0)].receives(rank as u16, frame);
                is_idle = false;
            }
        }
        assert!(!is_idle, "the two workers wait for something else");
    }
}

fn describe(message: &FromWorker) -> String {
    match message {
        FromWorker::Ready => "ready".to_owned(),
        FromWorker::FenceAck { generation, state } => {
            let position = state.map(|state| state.position.to_string());
            let position = position.unwrap_or_else(|| "no state".to_owned());
            format!("acknowledge fence {generation} with {position}")
        }
        FromWorker::StepDone(done) => format!("step {} done", done.step),
        FromWorker::Complaint { generation, complaint } => {
            format!("generation {generation} cannot go on: {}", reason(complaint))
        }
        FromWorker::SnapshotMissing(step) => format!("no snapshot of step {step}"),
        FromWorker::Copied(generation) => format!("copied the state of plan {generation}"),
        FromWorker::StateDiffered { position, tensor } => {
            format!("another state before at {position}, first in {tensor}")
        }
        FromWorker::ProbeResult { peer, result } => format!("probe of {peer}: {result:?}"),
        FromWorker::TrialResult { donor, result } => format!("trial with {donor}: {result:?}"),
        FromWorker::Evaluated { id, result: Ok(_) } => {
            format!("part {} of the evaluation of step {}", id.part, id.step)
        }
        FromWorker::Evaluated { id, result: Err(why) } => {
            format!("no part {} of the evaluation of step {}: {why}", id.part, id.step)
        }
        FromWorker::Leave => "leave".to_owned(),
    }
}

fn reason(complaint: &Complaint) -> String {
    match complaint {
        Complaint::StreamBroken(peer) => format!("the stream of rank {peer} broke"),
        Complaint::Timeout(peer) => format!("rank {peer} is late"),
        Complaint::StateMismatch { peer, .. } => format!("the state of rank {peer} is another"),
        Complaint::CopyFailed => "no copy of the start state".to_owned(),
        Complaint::StateCorrupted(tensor) => format!("{tensor} has changed in memory"),
        Complaint::ShardsFailed(failed) => format!("{} shards failed", failed.shards.len()),
    }
}
