//! The driver: it turns whatever happens into events of the state machine, in one order, and
//! executes the machine's commands in theirs. It decides nothing.

mod execute;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dcgan_collective::{Events, Membership, Offer, Streams};
use dcgan_core::ids::{RunId, ShardId, WorkerId};
use dcgan_core::objective::Objective;
use dcgan_core::protocol::worker::{Event, TICK, WorkerMachine};
use dcgan_core::spec::ObjectiveKind;
use dcgan_core::state::State;
use dcgan_core::toy::Toy;
use dcgan_model::Dcgan;
use dcgan_process::exit::status;
use dcgan_process::signals::{FirstSignal, Signal};
use dcgan_rpc::Welcome;
use dcgan_rpc::net::Pulse;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::span::EnteredSpan;

use crate::args::Args;
use crate::client::Client;
use crate::compute::{ComputePool, Computed};
use crate::input::{HelloState, Input, Report, SessionEvent};
use crate::partitions::PartitionCache;
use crate::progress::Progress;
use crate::waiting::Waiting;

/// A worker that is asked to end stays this long at most, until the coordinator releases it: what
/// it holds may be the only copy. Then it ends with status 1, and says so. Clusters kill a process
/// that has not ended 30 s after SIGTERM (Kubernetes and Slurm, by default).
const LEAVING_MAX: Duration = Duration::from_secs(20);

/// The driver of a worker's state machine.
pub(crate) struct Driver<'a> {
    args: &'a Args,
    id: WorkerId,
    client: Client,
    start: Instant,
    network: Handle,
    inputs_in: mpsc::Sender<Input>,
    events_in: Events,
    /// The run and the plan, for the worker's service.
    membership: Arc<Membership>,
    /// The run; `None` before the first welcome.
    joined: Option<JoinedRun>,
    /// Takes messages for the coordinator. After the connection has broken, they are dropped.
    reports: Option<mpsc::UnboundedSender<Report>>,
    /// The streams to the other members of the newest plan.
    streams: Option<Streams>,
    /// Requests for a copy of the state that the machine has not answered yet, by their token.
    copy_requests: BTreeMap<u64, oneshot::Sender<Offer>>,
    last_token: u64,
    /// The signal that asked the worker to end, and when.
    leaving: Option<(Signal, Instant)>,
    /// The thing that the machine waits for, and since when.
    waiting: Option<(String, Waiting)>,
    /// The span of the present plan: its log lines carry run, generation, rank, and the step of the
    /// plan's start state.
    span: Option<EnteredSpan>,
    progress: Progress,
    /// Tells health checks that the driver works, once the worker belongs to a run.
    pulse: Pulse,
}

/// The parts of a worker that exist once it belongs to a run.
struct JoinedRun {
    run: RunId,
    /// The client of this worker in the run.
    client: Client,
    machine: WorkerMachine,
    objective: Arc<dyn Objective>,
    /// The number of the objective's metrics.
    metrics: usize,
    /// The number of images in a step.
    batch_size: usize,
    compute: ComputePool,
    partitions: PartitionCache,
    /// The shard that a trial computes: its partition is here when the worker is ready.
    trial_shard: ShardId,
}

/// The result of handling something: the exit status if the program is to end, an error if it has
/// failed.
type Handled = anyhow::Result<Option<u8>>;

/// The causes for which the driver wakes up.
enum Wakeup {
    Input(Input),
    Member(dcgan_collective::Event),
    Signal(Signal),
    Tick,
}

impl<'a> Driver<'a> {
    pub(crate) fn new(
        args: &'a Args,
        id: WorkerId,
        client: Client,
        membership: Arc<Membership>,
        network: Handle,
        inputs_in: mpsc::Sender<Input>,
        events_in: Events,
    ) -> Self {
        Self {
            args,
            id,
            client,
            start: Instant::now(),
            network,
            inputs_in,
            events_in,
            membership,
            joined: None,
            reports: None,
            streams: None,
            copy_requests: BTreeMap::new(),
            last_token: 0,
            leaving: None,
            waiting: None,
            span: None,
            progress: Progress::default(),
            pulse: Pulse::default(),
        }
    }

    /// Makes the driver one that shows this pulse.
    pub(crate) fn with_pulse(self, pulse: Pulse) -> Self {
        Self { pulse, ..self }
    }

    /// Handles whatever happens until the program is to end, and returns its exit status.
    ///
    /// # Errors
    /// If the run has failed, or the worker cannot take part in it.
    pub(crate) fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        mut events: mpsc::Receiver<dcgan_collective::Event>,
        mut signal: FirstSignal,
    ) -> anyhow::Result<u8> {
        let network = self.network.clone();
        let mut ticks = start_ticks(&network);
        loop {
            let wakeup = network.block_on(async {
                tokio::select! {
                    Some(input) = inputs.recv() => Wakeup::Input(input),
                    Some(event) = events.recv() => Wakeup::Member(event),
                    signal = signal.take() => Wakeup::Signal(signal),
                    _ = ticks.tick() => Wakeup::Tick,
                }
            });
            let status = match wakeup {
                Wakeup::Input(input) => self.on_input(input)?,
                Wakeup::Member(event) => self.on_member_event(event)?,
                Wakeup::Signal(signal) => self.on_signal(signal)?,
                Wakeup::Tick => {
                    if self.joined.is_some() {
                        self.pulse.beat();
                    }
                    self.pass(Event::Tick)?
                }
            };
            if let Some(status) = status.or_else(|| self.status_if_leaving_took_too_long()) {
                return Ok(status);
            }
            self.report_wait();
            if let Some(JoinedRun { machine, batch_size, .. }) = &self.joined {
                let step = machine.at().position.step;
                self.progress.report(self.start.elapsed(), step, *batch_size);
            }
        }
    }

    /// Returns the exit status if the coordinator has not released the worker in time.
    fn status_if_leaving_took_too_long(&self) -> Option<u8> {
        let (_, since) = self.leaving?;
        if since.elapsed() < LEAVING_MAX {
            return None;
        }
        let seconds = LEAVING_MAX.as_secs();
        tracing::warn!(
            event = "not_released",
            seconds,
            "the coordinator has not released this worker within {seconds} s: it ends now, and \
             steps that only it holds are lost"
        );
        Some(status::FAILED)
    }

    /// Logs what the machine waits for, if it has waited for the same thing for long.
    fn report_wait(&mut self) {
        let waits_for = self.joined.as_ref().and_then(|joined| joined.machine.waits_for());
        match (&mut self.waiting, waits_for) {
            (Some((before, waiting)), Some(now)) if *before == now => waiting.report(|| now),
            (waiting, now) => *waiting = now.map(|now| (now, Waiting::default())),
        }
    }

    fn on_input(&mut self, input: Input) -> Handled {
        match input {
            Input::Session(event) => self.on_session_event(event),
            Input::DataReady => self.pass(Event::DataReady),
            Input::Computed(Computed::Part(id, result)) => self.pass(Event::Evaluated(id, result)),
            Input::Computed(Computed::Shard(key, shard, result)) => {
                self.pass(Event::Computed(key, shard, result))
            }
            Input::Copied(generation, copy) => self.pass(Event::Copied(generation, copy)),
            Input::ProbeResult(peer, result) => self.pass(Event::ProbeResult(peer, result)),
            Input::TrialResult(donor, result) => self.pass(Event::TrialResult(donor, result)),
        }
    }

    fn on_session_event(&mut self, event: SessionEvent) -> Handled {
        match event {
            SessionEvent::HelloNeeded(reply) => {
                // A session that is gone needs no answer.
                let _ = reply.send(self.hello_state());
                Ok(None)
            }
            SessionEvent::Welcomed { welcome, initial_weights, reports } => {
                self.reports = Some(reports);
                let schedule = welcome.schedule;
                if self.joined.is_none() {
                    self.join(*welcome, initial_weights)?;
                }
                self.pass(Event::Welcome(schedule))
            }
            SessionEvent::Message(message) => self.pass(Event::Message(message)),
            SessionEvent::Refused(why) => {
                anyhow::bail!("the coordinator refuses this worker: {why}")
            }
            SessionEvent::GaveUp(why) => anyhow::bail!(why),
        }
    }

    fn hello_state(&self) -> HelloState {
        match &self.joined {
            None => HelloState::default(),
            Some(JoinedRun { run, machine, .. }) => HelloState {
                run: Some(*run),
                plan: machine.generation(),
                promised: machine.promised(),
            },
        }
    }

    fn on_signal(&mut self, signal: Signal) -> Handled {
        // A worker outside of a run has nothing to leave.
        if self.joined.is_none() {
            return Ok(Some(signal.status()));
        }
        let seconds = LEAVING_MAX.as_secs();
        tracing::info!(
            event = "leaving",
            %signal,
            "told to stop by {signal}: waiting for the coordinator to release this worker, for up \
             to {seconds} s; a second signal ends it at once"
        );
        self.leaving = Some((signal, Instant::now()));
        self.pass(Event::Leave)
    }

    fn on_member_event(&mut self, event: dcgan_collective::Event) -> Handled {
        let machine_event = match event {
            dcgan_collective::Event::PeerPlan(plan) => Event::PeerPlan(plan),
            dcgan_collective::Event::ReduceFrame(from, frame) => Event::ReduceFrame(from, frame),
            dcgan_collective::Event::StreamBroken(generation, peer) => {
                Event::StreamBroken(generation, peer)
            }
            dcgan_collective::Event::CopyAsked(state, reply) => {
                // The machine has no channels: a number stands for the reply.
                self.last_token += 1;
                self.copy_requests.insert(self.last_token, reply);
                Event::CopyAsked(state, self.last_token)
            }
        };
        self.pass(machine_event)
    }

    /// Joins the run of the first welcome: starts the compute threads, begins to fetch the
    /// partitions, and creates the state machine.
    fn join(&mut self, welcome: Welcome, initial_weights: Option<State>) -> anyhow::Result<()> {
        let Welcome { run, spec, schedule: _, likely_shards } = welcome;
        let objective: Arc<dyn Objective> = match spec.objective() {
            ObjectiveKind::Dcgan => {
                let dcgan = Dcgan::new(spec.clone(), self.args.device)?;
                Arc::new(dcgan.with_initial_weights(initial_weights))
            }
            ObjectiveKind::Toy => Arc::new(Toy::new(spec.clone())),
        };
        tracing::info!(
            event = "run_joined",
            %run,
            "joined run {run}: {} on {}",
            spec.objective(),
            spec.data()
        );
        let _ = self.membership.run.set(run);

        // Start the compute threads. They wait for their partitions, and for the driver if it is
        // behind; when the driver is gone, results are of no use.
        let partitions = PartitionCache::new(&spec);
        let results = self.inputs_in.clone();
        let deliver = move |computed| drop(results.blocking_send(Input::Computed(computed)));
        let compute = ComputePool::start(
            self.args.threads.into(),
            &objective,
            &partitions,
            spec.sharding().shard_batch(),
            deliver,
        );

        // Fetch the partitions in the background.
        let client = self.client.in_run(run);
        let metrics = spec.objective().metric_names().len();
        let (shards, batch_size) = (spec.shards(), spec.batch_size());
        let inputs = self.inputs_in.clone();
        let trial_shard = likely_shards.first().copied().unwrap_or(ShardId(0));
        let fetch = partitions.clone().fetch(client.clone(), spec, likely_shards, move || {
            tokio::spawn(async move { inputs.send(Input::DataReady).await });
        });
        self.network.spawn(fetch);

        let machine = WorkerMachine::new(
            self.start.elapsed(),
            self.id.clone(),
            Arc::clone(&objective),
            shards,
        );
        self.joined = Some(JoinedRun {
            run,
            client,
            machine,
            objective,
            metrics,
            batch_size,
            compute,
            partitions,
            trial_shard,
        });
        Ok(())
    }

    /// Passes an event to the state machine, and executes the commands that it returns. Before the
    /// first welcome there is no machine, and no event matters.
    fn pass(&mut self, event: Event) -> Handled {
        let Some(joined) = &mut self.joined else {
            return Ok(None);
        };
        let commands = joined.machine.handle(self.start.elapsed(), event);
        for command in commands {
            if let Some(status) = self.execute(command)? {
                return Ok(Some(status));
            }
        }
        Ok(None)
    }
}

/// Starts the ticks of the state machine. A driver that was late for one does not hurry to make up
/// for it: the machine looks at the time, not at the number of ticks.
fn start_ticks(network: &Handle) -> Interval {
    let _entered = network.enter();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
