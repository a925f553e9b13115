//! The members of one plan in one process, which train the toy. Messages arrive at once, and what
//! the members do is counted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use dcgan_core::ids::{Digest, Generation, Position, Rank, ShardId, Step, WorkerId};
use dcgan_core::objective::{Objective, Scratch, ShardTask};
use dcgan_core::protocol::message::ToWorker;
use dcgan_core::protocol::plan::{Member, Plan, StateRef, assign, even_loads};
use dcgan_core::protocol::worker::{Command, Event, ShardResult, VectorKey, WorkerMachine};
use dcgan_core::spec::schedule::Schedule;
use dcgan_core::spec::sharding::Partition;
use dcgan_core::spec::{DatasetInfo, ObjectiveKind, RunSpec};
use dcgan_core::state::State;
use dcgan_core::toy::Toy;

/// The toy with this many shards.
pub(crate) fn toy(shards: u16) -> Toy {
    let images = 10 * usize::from(shards);
    let data = DatasetInfo { images, rows: 1, columns: 1, digest: Digest(0) };
    let builder = RunSpec::builder().objective(ObjectiveKind::Toy).shards(shards);
    let builder = builder.batch_size(2 * usize::from(shards)).learning_rate(0.1);
    Toy::new(builder.build(data).expect("the batch fits the data"))
}

/// Ten images of one pixel, which stand for the partition of any shard.
pub(crate) fn partition() -> Partition {
    Partition::new(1, (0..10).collect())
}

/// The members, and what is on its way to them.
pub(crate) struct Members {
    toy: Arc<Toy>,
    partition: Partition,
    pub(crate) machines: Vec<WorkerMachine>,
    plan: Arc<Plan>,
    /// Shards that are not computed yet, each with the index of its machine.
    jobs: VecDeque<(usize, VectorKey, Arc<State>, ShardId)>,
    /// Frames that have not arrived yet, each with the index of its receiver.
    frames: VecDeque<(usize, Event)>,
    /// The number of vectors that were computed, by the position of the state.
    pub(crate) computed: BTreeMap<Position, usize>,
    /// The number of frames that were sent.
    pub(crate) frames_sent: usize,
}

impl Members {
    /// Begins a training until `last_step`, and the first phase. `adapt` sees every machine first.
    pub(crate) fn new(
        shards: u16,
        members: u16,
        last_step: Step,
        adapt: impl Fn(&mut WorkerMachine),
    ) -> Self {
        let toy = Arc::new(toy(shards));
        let schedule = Schedule {
            last_step,
            log_every: 1,
            grid_every: 1_000,
            checkpoint_every: 1_000,
            evaluate_every: None,
            early_stopping: None,
        };
        let mut machines = Vec::new();
        for number in 0..members {
            let id = WorkerId { name: format!("w{number}"), incarnation: 1 };
            let objective: Arc<dyn Objective> = Arc::clone(&toy) as _;
            let mut machine = WorkerMachine::new(Duration::ZERO, id, objective, shards);
            adapt(&mut machine);
            machine.handle(Duration::ZERO, Event::Welcome(schedule));
            machines.push(machine);
        }
        let plan = plan(1, members, &vec![None; usize::from(shards)], machines[0].at());
        let mut world = Self {
            toy,
            partition: partition(),
            machines,
            plan: Arc::clone(&plan),
            jobs: VecDeque::new(),
            frames: VecDeque::new(),
            computed: BTreeMap::new(),
            frames_sent: 0,
        };
        world.tell_all(&ToWorker::Plan(plan));
        world
    }

    /// Loses the last member with everything that is on its way. The others go on by a new plan.
    pub(crate) fn lose_the_last(&mut self) {
        self.machines.pop();
        (self.jobs, self.frames) = (VecDeque::new(), VecDeque::new());
        let members = self.machines.len() as u16;
        let before: Vec<Option<Rank>> =
            self.plan.owners().iter().map(|&rank| (rank.0 < members).then_some(rank)).collect();
        let generation = self.plan.generation.next();
        self.tell_all(&ToWorker::Fence(generation));
        self.plan = plan(generation.0, members, &before, self.machines[0].at());
        self.tell_all(&ToWorker::Plan(Arc::clone(&self.plan)));
    }

    /// Computes all shards that were asked for, and delivers no frame.
    pub(crate) fn compute(&mut self) {
        while let Some((index, key, state, shard)) = self.jobs.pop_front() {
            let task = ShardTask { state: &state, at: key.at, shard, partition: &self.partition };
            let vector = self.toy.shard_vector(&task, &mut Scratch::default());
            *self.computed.entry(key.at).or_default() += 1;
            self.pass(index, Event::Computed(key, shard, ShardResult::new(Ok(vector))));
        }
    }

    /// Trains until nothing is left to do.
    pub(crate) fn train(&mut self) {
        loop {
            self.compute();
            let Some((index, frame)) = self.frames.pop_front() else {
                return;
            };
            self.pass(index, frame);
        }
    }

    fn tell_all(&mut self, message: &ToWorker) {
        for index in 0..self.machines.len() {
            self.pass(index, Event::Message(message.clone()));
        }
    }

    fn pass(&mut self, index: usize, event: Event) {
        for command in self.machines[index].handle(Duration::ZERO, event) {
            match command {
                Command::Compute(key, state, shards) => {
                    let job = |shard| (index, key, Arc::clone(&state), shard);
                    self.jobs.extend(shards.into_iter().map(job));
                }
                Command::Send(to, frame) => {
                    self.frames_sent += 1;
                    let from = Rank(index as u16);
                    self.frames.push_back((usize::from(to.0), Event::ReduceFrame(from, frame)));
                }
                // Nothing else matters to members that all hold the start state.
                _ => {}
            }
        }
    }
}

/// The plan of a generation, with shards spread evenly.
fn plan(generation: u64, members: u16, before: &[Option<Rank>], start: StateRef) -> Arc<Plan> {
    let generation = Generation(generation);
    let member = |number| Member {
        id: WorkerId { name: format!("w{number}"), incarnation: 1 },
        address: format!("w{number}:1"),
        holds_start: true,
    };
    let owners = assign(before, even_loads(before, members.into()));
    let start = StateRef { generation, ..start };
    let plan = Plan::new(generation, (0..members).map(member).collect(), owners, start);
    Arc::new(plan.expect("every member has a shard"))
}
