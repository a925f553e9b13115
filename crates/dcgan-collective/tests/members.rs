//! Members of a plan on real sockets: each is a worker's state machine, whose frames travel through
//! this crate.
#![expect(clippy::unwrap_used, reason = "a test that is wrong should stop")]

use std::collections::VecDeque;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dcgan_collective::{
    Copied, CopyError, CopyLimits, EVENTS_MAX, Event, Events, Membership, Offer, Streams,
    copy_state, probe, service,
};
use dcgan_core::ids::{Digest, Generation, Phase, Position, Rank, RunId, ShardId, WorkerId};
use dcgan_core::metrics::{Metrics, StepDone};
use dcgan_core::objective::{Objective, Scratch, ShardTask};
use dcgan_core::protocol::message::{Complaint, FromWorker, ToWorker};
use dcgan_core::protocol::plan::{Member, Plan, StateRef, assign, even_loads};
use dcgan_core::protocol::worker::{self, Command, ShardResult, VectorKey, WorkerMachine};
use dcgan_core::random::{Purpose, RandomStream};
use dcgan_core::spec::schedule::Schedule;
use dcgan_core::spec::sharding::Partition;
use dcgan_core::state::{Layout, State};
use dcgan_rpc::net::{self, Connector, Places, Pulse};
use dcgan_rpc::pb::collective_client::CollectiveClient;
use dcgan_rpc::services::Program;
use dcgan_rpc::{Caller, ExchangeMessage, Opening, pb};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::StreamExt;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::Channel;

const SHARDS: u16 = 5;
const NOBODY: [Option<Rank>; SHARDS as usize] = [None; SHARDS as usize];
const STEPS: u64 = 4;
/// Values in the vector. With two or three members, every slice has several buckets.
const LEN: usize = 300_000;
const RUN: RunId = RunId(7);

/// An objective whose gradients are noise. Nearly every addition rounds, so that sums in another
/// order have other bits.
struct Noise {
    layout: Arc<Layout>,
    /// The first value of the initial state.
    first: f32,
}

impl Noise {
    fn new(first: f32) -> Self {
        Self { layout: Arc::new(Layout::new([("w".to_owned(), vec![LEN])])), first }
    }
}

impl Objective for Noise {
    fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }
    fn initial_state(&self) -> State {
        let mut state = State::zeros(Arc::clone(&self.layout));
        state.tensor_mut(0)[0] = self.first;
        state
    }
    fn tensors_read(&self, _: Phase) -> &[usize] {
        &[0]
    }

    fn phase_vector_len(&self, _phase: Phase) -> usize {
        LEN
    }
    fn shard_vector(&self, task: &ShardTask<'_>, _scratch: &mut Scratch) -> Vec<f32> {
        let time = 3 * task.at.step + task.at.phase.index() as u64;
        let noise = RandomStream::new(1, Purpose::Toy, task.shard.0.into(), time).uniforms(LEN);
        noise.zip(task.state.tensor(0)).map(|(noise, w)| noise * (1.0 + w)).collect()
    }
    fn optimizer_step(&self, state: &mut State, _at: Position, sum: &[f32]) {
        for (w, sum) in state.tensor_mut(0).iter_mut().zip(sum) {
            *w += 1e-3 * sum;
        }
    }
    fn metrics(&self, _state: &State) -> Metrics {
        Metrics::default()
    }
}

/// A worker process: its server, its state machine and its events.
struct Process {
    machine: WorkerMachine,
    id: WorkerId,
    address: SocketAddr,
    objective: Arc<Noise>,
    events: Events,
    received: mpsc::Receiver<Event>,
    membership: Arc<Membership>,
    streams: Option<Streams>,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Process {
    fn start(rank: u16, objective: Noise) -> Self {
        let listener = net::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let (events, received) = mpsc::channel(EVENTS_MAX);
        let membership = Arc::new(Membership { run: OnceLock::from(RUN), ..Default::default() });
        let id = WorkerId { name: format!("worker-{rank}"), incarnation: 1 };
        let routes = Routes::new(service(id.clone(), Arc::clone(&membership), events.clone()));
        let server = tokio::spawn(async move {
            let (places, pulse) = (Places::new(1024), Pulse::default());
            net::serve(listener, routes, Program::Worker, &places, pulse, pending()).await
        });
        let objective = Arc::new(objective);
        let mut machine = WorkerMachine::new(
            Duration::ZERO,
            id.clone(),
            Arc::clone(&objective) as Arc<dyn Objective>,
            SHARDS,
        );
        let schedule = Schedule {
            last_step: STEPS,
            log_every: 1,
            grid_every: 1,
            checkpoint_every: 1,
            evaluate_every: None,
            early_stopping: None,
        };
        machine.handle(Duration::ZERO, worker::Event::Welcome(schedule));
        machine.handle(Duration::ZERO, worker::Event::Message(ToWorker::Fence(Generation(1))));
        Self {
            machine,
            id,
            address,
            objective,
            events,
            received,
            membership,
            streams: None,
            server,
        }
    }

    /// Trains by the plan until the last step or a complaint. Returns the digest of the final
    /// state, or the complaint, and the process: dropping it would close its streams.
    async fn train(mut self, plan: Arc<Plan>) -> (Result<Digest, Complaint>, Self) {
        let mut own_events = VecDeque::from([worker::Event::Message(ToWorker::Plan(plan))]);
        loop {
            let event = match own_events.pop_front() {
                Some(event) => event,
                None => machine_event(self.received.recv().await.unwrap()),
            };
            for command in self.machine.handle(Duration::ZERO, event) {
                match command {
                    Command::Connect(plan, me) => {
                        self.membership.plan.send_replace(Some(Arc::clone(&plan)));
                        self.streams = Some(open_streams(RUN, &plan, me, &self.events));
                    }
                    Command::Send(to, frame) => self.streams.as_ref().unwrap().send(to, frame),
                    Command::Compute(key, state, shards) => {
                        for shard in shards {
                            own_events.push_back(self.compute(key, &state, shard));
                        }
                    }
                    Command::Report(FromWorker::StepDone(done)) if done.step == STEPS => {
                        return (Ok(done.digest), self);
                    }
                    Command::Report(FromWorker::Complaint { complaint, .. }) => {
                        return (Err(complaint), self);
                    }
                    _ => {}
                }
            }
        }
    }
}

impl Process {
    /// Computes a shard's vector, at once and on this thread.
    fn compute(&self, key: VectorKey, state: &State, shard: ShardId) -> worker::Event {
        let partition = Partition::new(1, vec![0]);
        let task = ShardTask { state, at: key.at, shard, partition: &partition };
        let vector = self.objective.shard_vector(&task, &mut Scratch::default());
        worker::Event::Computed(key, shard, ShardResult::new(Ok(vector)))
    }

    fn as_member(&self) -> Member {
        Member { id: self.id.clone(), address: self.address.to_string(), holds_start: true }
    }
}

fn open_streams(run: RunId, plan: &Arc<Plan>, me: Rank, events: &Events) -> Streams {
    Streams::open(&Handle::current(), &Connector::new(false), run, plan, me, events)
}

/// Converts an event of this crate to one of the state machine.
fn machine_event(event: Event) -> worker::Event {
    match event {
        Event::PeerPlan(plan) => worker::Event::PeerPlan(plan),
        Event::ReduceFrame(from, frame) => worker::Event::ReduceFrame(from, frame),
        Event::StreamBroken(generation, peer) => worker::Event::StreamBroken(generation, peer),
        Event::CopyAsked(..) => panic!("every member holds the start state"),
    }
}

/// Makes the plan of generation 1, with all processes as members, in their order.
fn plan(processes: &[Process]) -> Arc<Plan> {
    let start = StateRef { generation: Generation(1), ..processes[0].machine.at() };
    let members = processes.iter().map(Process::as_member).collect();
    let owners = assign(&NOBODY, even_loads(&NOBODY, processes.len()));
    Arc::new(Plan::new(Generation(1), members, owners, start).unwrap())
}

/// Trains all processes by one plan.
async fn train(processes: Vec<Process>) -> Vec<(Result<Digest, Complaint>, Process)> {
    let plan = plan(&processes);
    let mut members = JoinSet::new();
    for process in processes {
        members.spawn(process.train(Arc::clone(&plan)));
    }
    members.join_all().await
}

/// Starts processes with the same initial state.
fn start_processes(count: u16) -> Vec<Process> {
    (0..count).map(|rank| Process::start(rank, Noise::new(0.0))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_number_of_members_gives_the_bits_of_one_member() {
    let alone = train(start_processes(1)).await.remove(0).0.unwrap();
    for members in [2, 3, 5] {
        for (digest, _) in train(start_processes(members)).await {
            assert_eq!(digest, Ok(alone), "{members} members");
        }
    }
}

#[tokio::test]
async fn vectors_of_different_states_are_never_summed() {
    let processes = vec![Process::start(0, Noise::new(0.0)), Process::start(1, Noise::new(1.0))];
    let theirs = processes[1].machine.at().digest;
    let plan = plan(&processes);
    let mine = plan.start.digest;
    let mut processes = processes.into_iter();
    let honest = tokio::spawn(processes.next().unwrap().train(Arc::clone(&plan)));
    // The other member believes that its state is the plan's, as after a flipped bit that nothing
    // has noticed.
    let mut differing = Plan::clone(&plan);
    differing.start.digest = theirs;
    let differing = tokio::spawn(processes.next().unwrap().train(Arc::new(differing)));
    let complaint = honest.await.unwrap().0.unwrap_err();
    assert_eq!(
        complaint,
        Complaint::StateMismatch { peer: Rank(1), position: Position::after(0), mine, theirs }
    );
    assert!(matches!(
        differing.await.unwrap().0,
        Err(Complaint::StateMismatch { peer: Rank(0), .. })
    ));
}

#[tokio::test]
async fn a_dead_member_is_noticed_by_its_streams() {
    let mut processes = start_processes(3);
    let plan = plan(&processes);
    let dead = processes.pop().unwrap();
    // The listener closes with the server.
    dead.server.abort();
    assert!(dead.server.await.unwrap_err().is_cancelled());
    let mut survivors = JoinSet::new();
    for process in processes {
        survivors.spawn(process.train(Arc::clone(&plan)));
    }
    for (result, _) in survivors.join_all().await {
        assert_eq!(result, Err(Complaint::StreamBroken(Rank(2))));
    }
}

#[tokio::test]
async fn a_superseded_stream_is_not_reported_as_broken() {
    let mut processes = start_processes(2);
    let plan = plan(&processes);
    let streams = open_streams(RUN, &plan, Rank(0), &processes[0].events);
    drop(streams);
    assert!(matches!(processes[1].received.recv().await, Some(Event::PeerPlan(_))));
    let other = open_streams(RunId(8), &plan, Rank(0), &processes[0].events);
    let refused = processes[0].received.recv().await;
    assert!(
        matches!(refused, Some(Event::StreamBroken(Generation(1), Rank(1)))),
        "a member of another run is refused: {refused:?}"
    );
    drop(other);
    assert!(processes[1].received.try_recv().is_err(), "neither stream is reported as broken");
}

/// Opens a stream from rank 0 to rank 1 of a plan, which ends when the task is aborted.
fn open_stream(plan: &Arc<Plan>) -> JoinHandle<Result<(), Status>> {
    let Member { id, address, .. } = plan.member(Rank(1)).unwrap().clone();
    let opening = Opening { run: RUN, plan: Arc::clone(plan), from: Rank(0), to: id };
    let opening = pb::ExchangeMessage::from(&ExchangeMessage::Opening(opening));
    tokio::spawn(async move {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap();
        let mut client = CollectiveClient::new(channel.connect().await.unwrap());
        let messages = tokio_stream::once(opening).chain(tokio_stream::pending());
        client.exchange(messages).await.map(|_| ())
    })
}

#[tokio::test]
async fn a_stream_matters_only_while_its_plan_is_followed() {
    let mut processes = start_processes(2);
    let plan = plan(&processes);
    let mut invented = Plan::clone(&plan);
    invented.start.digest = Digest(7);
    let mut newer = Plan::clone(&plan);
    newer.generation = Generation(2);
    let process = &mut processes[1];

    // Of two streams that are cut, one is that of a plan which is followed.
    process.membership.plan.send_replace(Some(Arc::clone(&plan)));
    for opened in [Arc::new(invented), Arc::clone(&plan)] {
        let stream = open_stream(&opened);
        let event = process.received.recv().await;
        assert!(matches!(event, Some(Event::PeerPlan(plan)) if plan == opened));
        stream.abort();
    }
    let broken = process.received.recv().await;
    assert!(matches!(broken, Some(Event::StreamBroken(Generation(1), Rank(0)))), "{broken:?}");

    // One of an older plan is over, and nobody has to say so.
    let stream = open_stream(&plan);
    assert!(matches!(process.received.recv().await, Some(Event::PeerPlan(_))));
    process.membership.plan.send_replace(Some(Arc::new(newer)));
    assert!(stream.await.unwrap().is_ok());
    assert!(process.received.try_recv().is_err(), "neither is reported as broken");
}

/// Asks a process for a copy of its state, for a worker of `run`.
async fn ask_for_copy(
    address: String,
    run: RunId,
    state: StateRef,
    bytes_max: usize,
) -> Result<Copied, CopyError> {
    let id = |name: &str| WorkerId { name: name.to_owned(), incarnation: 1 };
    let limits = CopyLimits { bytes_max, metrics: 2 };
    let caller = Caller::worker(id("asking"), run);
    let wanted = Some(state);
    copy_state(&Connector::new(false), caller, &id("worker-0"), &address, wanted, limits).await
}

/// Answers the next request for a copy.
async fn offer(process: &mut Process, state: &[u8], reports: &[StepDone]) {
    let Some(Event::CopyAsked(asked, reply)) = process.received.recv().await else {
        panic!("expected a request for a copy")
    };
    let at = process.machine.at();
    assert_eq!(asked, Some(at));
    reply.send(Offer { at, state: state.to_vec().into(), reports: reports.to_vec() }).unwrap();
}

/// A report with this number of metrics.
fn report(metrics: usize) -> StepDone {
    StepDone {
        step: 1,
        generation: Generation(1),
        world_size: 1,
        digest: Digest(1),
        ends_run: false,
        metrics: vec![0.5; metrics],
        step_ms: 1.0,
        allreduce_ms: 0.0,
    }
}

#[tokio::test]
async fn a_state_is_copied_with_its_reports() {
    let mut process = Process::start(0, Noise::new(0.0));
    let address = process.address.to_string();
    let wanted = process.machine.at();
    let state: Vec<u8> = (0..1_000_000u32).map(|i| (i / 3) as u8).collect();
    let ask = |bytes_max| tokio::spawn(ask_for_copy(address.clone(), RUN, wanted, bytes_max));

    let asking = ask(2_000_000);
    offer(&mut process, &state, &[report(2)]).await;
    let copied = Copied { state: wanted, file: state.clone(), reports: vec![report(2)] };
    assert_eq!(asking.await.unwrap().unwrap(), copied);

    let asking = ask(10);
    offer(&mut process, &state, &[]).await;
    let too_long = asking.await.unwrap().unwrap_err();
    assert_eq!(too_long.to_string(), "expected at most 10 bytes, found 1000000");

    let asking = ask(2_000_000);
    offer(&mut process, &state, &[report(3)]).await;
    let malformed = asking.await.unwrap().unwrap_err();
    assert_eq!(malformed.to_string(), "malformed message: a step with another number of metrics");

    let asking = ask(10);
    let Some(Event::CopyAsked(_, reply)) = process.received.recv().await else {
        panic!("expected a request for a copy")
    };
    // Dropping the reply says that this worker does not hold the state.
    drop(reply);
    let refused = asking.await.unwrap().unwrap_err();
    assert!(matches!(refused, CopyError::Refused(_)));
    assert_eq!(refused.to_string(), "the worker does not hold this state");

    let refused = ask_for_copy(address, RunId(8), wanted, 10).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the request of worker asking is for run 0000000000000008, and this is run \
         0000000000000007"
    );
}

#[tokio::test]
async fn a_worker_is_reached_only_where_it_answers_itself() {
    let process = Process::start(0, Noise::new(0.0));
    let address = process.address.to_string();
    let id = |name: &str, incarnation| WorkerId { name: name.to_owned(), incarnation };
    let ask = async |meant: WorkerId, run| {
        let caller = Caller::worker(id("asking", 1), run);
        let answer = probe(&Connector::new(false), caller, &meant, &address).await;
        answer.map_err(|error| error.to_string())
    };
    assert_eq!(ask(id("worker-0", 1), RUN).await, Ok(()));
    let words = |text: &str| Err(text.to_owned());
    assert_eq!(ask(id("worker-1", 1), RUN).await, words("worker-0 answers there"));
    let another = words("another process of that name answers there");
    assert_eq!(ask(id("worker-0", 2), RUN).await, another);
    let refused = ask(id("worker-0", 1), RunId(8)).await.unwrap_err();
    assert!(refused.starts_with("what answers there is no worker of this run: "), "{refused}");
}

#[tokio::test]
async fn a_request_that_means_another_worker_is_refused() {
    let mut processes = start_processes(2);
    let plan = plan(&processes);
    // Worker 1 says that it is at the address of worker 0.
    let mut members = plan.members().to_vec();
    members[1].address = members[0].address.clone();
    let owners = plan.owners().to_vec();
    let confused = Arc::new(Plan::new(plan.generation, members, owners, plan.start).unwrap());
    let streams = open_streams(RUN, &confused, Rank(0), &processes[0].events);
    let broken = processes[0].received.recv().await;
    assert!(matches!(broken, Some(Event::StreamBroken(_, Rank(1)))), "{broken:?}");
    assert!(processes[0].received.try_recv().is_err(), "it does not take its own frames");
    drop(streams);

    let address = processes[0].address.to_string();
    let limits = CopyLimits { bytes_max: 10, metrics: 2 };
    let (asking, meant) = (processes[0].id.clone(), processes[1].id.clone());
    let caller = Caller::worker(asking, RUN);
    let copy = copy_state(&Connector::new(false), caller, &meant, &address, None, limits).await;
    let refused = copy.unwrap_err().to_string();
    assert_eq!(refused, "worker-1 is meant, and this is worker-0");
}
