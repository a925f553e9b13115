//! The driver: everything that happens becomes an event of the machine, in one order, and the machine's commands are
//! executed in theirs. It decides nothing.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use dcgan_collective::{EVENTS_MAX, Events, Offer, RunCell, Streams};
use dcgan_core::ids::{Generation, WorkerId};
use dcgan_core::objective::Objective;
use dcgan_core::protocol::coordinator::TICK;
use dcgan_core::protocol::message::{Finish, FromWorker, Hello, PROTOCOL};
use dcgan_core::protocol::worker::{Command, Event, StateCopy, WorkerMachine};
use dcgan_core::spec::ObjectiveKind;
use dcgan_core::toy::Toy;
use dcgan_model::Dcgan;
use dcgan_process::exit::{status, usage};
use dcgan_process::fault;
use dcgan_process::signals::Signal;
use dcgan_rpc::Welcome;
use dcgan_rpc::net::{self, Address};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tonic::service::Routes;
use tracing::span::EnteredSpan;

use crate::args::Args;
use crate::compute::{ComputePool, Computed};
use crate::partitions::Partitions;
use crate::session::{CoordinatorSession, HelloState, SessionEvent};
use crate::transfers;
use crate::waiting::Waiting;

/// Inputs wait here for the driver; then their senders wait.
const INPUTS_MAX: usize = 256;
/// How long a worker that is told to stop waits for the coordinator to agree.
const LEAVING_MAX: Duration = Duration::from_secs(2);
/// Between attempts to resolve the coordinator's name.
const RESOLVE_PAUSE: Duration = Duration::from_millis(250);

/// What happens, except on the streams between workers.
#[derive(Debug)]
pub(crate) enum Input {
    Session(SessionEvent),
    DataReady,
    Computed(Computed),
    Copied(Generation, Option<StateCopy>),
    ProbeResult(WorkerId, bool),
    Signal(Signal),
}

/// Trains until the coordinator says that the run is over; gives the exit status.
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    args.check_exposure()?;
    let fingerprint = dcgan_model::fingerprint(args.device).context("--device").map_err(usage)?;
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let id = WorkerId { name: args.name(), incarnation: started.as_micros() as u64 };

    let network = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("network")
        .enable_all()
        .build()?;
    let (inputs_in, inputs) = mpsc::channel(INPUTS_MAX);
    let (events_in, events) = mpsc::channel(EVENTS_MAX);
    let run = RunCell::new(OnceLock::new());

    let (listener, address) = network.block_on(listen(args))?;
    let routes = Routes::new(dcgan_collective::service(Arc::clone(&run), events_in.clone()));
    let listening = listener.local_addr()?;
    network.spawn(async move {
        net::serve(listener, routes, &["dcgan.v1.Collective"], pending()).await
    });
    let signals_in = inputs_in.clone();
    network.block_on(async {
        dcgan_process::signals::listen(move |signal| {
            // A driver that is behind hears the next one.
            let _ = signals_in.try_send(Input::Signal(signal));
        })
    })?;
    let (process, at, others) = (std::process::id(), listening.to_string(), address.authority());
    let elsewhere = if at == others { String::new() } else { format!(", for others at {others}") };
    tracing::info!(
        "worker {} (process {process}) at {at}{elsewhere}; arithmetic: {fingerprint}",
        id.name
    );

    let control = CoordinatorSession {
        coordinator: args.coordinator.clone(),
        hello: Hello {
            run: None,
            id: id.clone(),
            protocol: PROTOCOL,
            fingerprint,
            address: address.authority(),
            plan: Generation(0),
            promised: Generation(0),
        },
        give_up_after: args.coordinator_timeout,
        driver: inputs_in.clone(),
    };
    let control_runtime = Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || control_runtime.block_on(control.run()))?;

    let driver = Driver {
        network: network.handle().clone(),
        args,
        id,
        run,
        start: Instant::now(),
        inputs_in,
        events_in,
        reports: None,
        trainer: None,
        streams: None,
        copies: BTreeMap::new(),
        copies_asked: 0,
        leaving: None,
        waiting: None,
        span: None,
    };
    let outcome = driver.run(inputs, events);
    network.shutdown_background();
    outcome
}

/// Listens where other workers will connect, as soon as it is known where that is.
async fn listen(args: &Args) -> anyhow::Result<(tokio::net::TcpListener, Address)> {
    let mut waiting = Waiting::default();
    loop {
        let attempt = || {
            let listener = net::listen(args.listen_address()?)?;
            let address = args.advertised(listener.local_addr()?)?;
            anyhow::Ok((listener, address))
        };
        match attempt() {
            Err(error)
                if error.is::<std::io::Error>() && waiting.elapsed() < args.coordinator_timeout =>
            {
                waiting.say(|| format!("the address of {}: {error}", args.coordinator.authority()));
                tokio::time::sleep(RESOLVE_PAUSE).await;
            }
            Err(error) if error.is::<std::io::Error>() => {
                return Err(error.context(format!("cannot find {}", args.coordinator.authority())));
            }
            done => return done,
        }
    }
}

struct Driver<'a> {
    network: Handle,
    args: &'a Args,
    id: WorkerId,
    run: RunCell,
    start: Instant,
    inputs_in: mpsc::Sender<Input>,
    events_in: Events,
    /// To the coordinator, while it is there.
    reports: Option<mpsc::UnboundedSender<FromWorker>>,
    /// From the first welcome on.
    trainer: Option<Trainer>,
    streams: Option<Streams>,
    /// Who asked for copies that the machine is about to answer.
    copies: BTreeMap<u64, oneshot::Sender<Offer>>,
    copies_asked: u64,
    leaving: Option<(Signal, Instant)>,
    /// What the machine waits for.
    waiting: Option<(String, Waiting)>,
    /// What log lines carry: run, generation, rank and the step that the generation began after.
    span: Option<EnteredSpan>,
}

/// What a test calls the place at which a command is executed.
fn point(command: &Command) -> &'static str {
    match command {
        Command::Report(FromWorker::Ready) => "ready",
        Command::Report(FromWorker::FenceAck { .. }) => "promise",
        Command::Report(FromWorker::StepDone(_)) => "step-done",
        Command::Report(_) => "report",
        Command::Connect(..) => "connect",
        Command::Send(_, frame) if frame.bucket_sum.subtree.is_some() => "send-part",
        Command::Send(..) => "send-sum",
        Command::Compute(..) => "compute",
        Command::Copy(..) => "copy",
        Command::Serve(..) => "serve",
        Command::Upload(..) => "upload",
        Command::Probe(..) => "probe",
        Command::Exit(_) => "exit",
    }
}

struct Trainer {
    machine: WorkerMachine,
    objective: Arc<dyn Objective>,
    compute: ComputePool,
}

/// What to do after an input.
type Next = anyhow::Result<Option<u8>>;

impl Driver<'_> {
    fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        mut events: mpsc::Receiver<dcgan_collective::Event>,
    ) -> anyhow::Result<u8> {
        let network = self.network.clone();
        let mut ticks = {
            let _inside = network.enter();
            tokio::time::interval(TICK)
        };
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = network.block_on(async {
                tokio::select! {
                    Some(input) = inputs.recv() => Happened::Input(input),
                    Some(event) = events.recv() => Happened::Event(event),
                    _ = ticks.tick() => Happened::Nothing,
                }
            });
            let status = match next {
                Happened::Input(input) => self.input(input)?,
                Happened::Event(event) => self.event(event)?,
                Happened::Nothing => self.handle(Event::Tick)?,
            };
            if let Some(status) = status.or_else(|| self.left_without_a_word()) {
                return Ok(status);
            }
            self.say_what_it_waits_for();
        }
    }

    fn left_without_a_word(&self) -> Option<u8> {
        let (signal, since) = self.leaving?;
        (since.elapsed() >= LEAVING_MAX).then(|| signal.status())
    }

    fn say_what_it_waits_for(&mut self) {
        let waits_for = self.trainer.as_ref().and_then(|trainer| trainer.machine.waits_for());
        match (&mut self.waiting, waits_for) {
            (Some((before, waiting)), Some(now)) if *before == now => waiting.say(|| now),
            (waiting, now) => *waiting = now.map(|now| (now, Waiting::default())),
        }
    }

    fn input(&mut self, input: Input) -> Next {
        match input {
            Input::Session(SessionEvent::AskHelloState(ask)) => {
                let machine = self.trainer.as_ref().map(|trainer| &trainer.machine);
                let _ = ask.send(HelloState {
                    run: self.run.get().copied(),
                    plan: machine.map_or(Generation(0), WorkerMachine::generation),
                    promised: machine.map_or(Generation(0), WorkerMachine::promised),
                });
                Ok(None)
            }
            Input::Session(SessionEvent::Welcomed(welcome, reports)) => {
                self.reports = Some(reports);
                let schedule = welcome.schedule;
                if self.trainer.is_none() {
                    self.enter(*welcome)?;
                }
                self.handle(Event::Welcome(schedule))
            }
            Input::Session(SessionEvent::Message(message)) => self.handle(Event::Message(message)),
            Input::Session(SessionEvent::Refused(why)) => {
                anyhow::bail!("the coordinator refuses: {why}")
            }
            Input::Session(SessionEvent::GaveUp(why)) => anyhow::bail!(why),
            Input::DataReady => self.handle(Event::DataReady),
            Input::Computed((work, shard, vector)) => {
                self.handle(Event::Computed(work, shard, vector))
            }
            Input::Copied(generation, copy) => self.handle(Event::Copied(generation, copy)),
            Input::ProbeResult(peer, reached) => self.handle(Event::ProbeResult(peer, reached)),
            Input::Signal(signal) if self.trainer.is_none() || self.leaving.is_some() => {
                Ok(Some(signal.status()))
            }
            Input::Signal(signal) => {
                tracing::info!("told to stop: leaving the run");
                self.leaving = Some((signal, Instant::now()));
                self.handle(Event::Leave)
            }
        }
    }

    fn event(&mut self, event: dcgan_collective::Event) -> Next {
        match event {
            dcgan_collective::Event::PeerPlan(plan) => self.handle(Event::PeerPlan(plan)),
            dcgan_collective::Event::ReduceFrame(from, frame) => {
                self.handle(Event::ReduceFrame(from, frame))
            }
            dcgan_collective::Event::StreamBroken(generation, peer) => {
                self.handle(Event::StreamBroken(generation, peer))
            }
            dcgan_collective::Event::CopyAsked(state, asked) => {
                self.copies_asked += 1;
                self.copies.insert(self.copies_asked, asked);
                self.handle(Event::CopyAsked(state, self.copies_asked))
            }
        }
    }

    /// Enters the run that the coordinator told of.
    fn enter(&mut self, welcome: Welcome) -> anyhow::Result<()> {
        let Welcome { run, spec, likely_shards, .. } = welcome;
        let sharding = spec.check()?;
        let objective: Arc<dyn Objective> = match spec.objective {
            ObjectiveKind::Dcgan => Arc::new(Dcgan::new(spec.clone(), self.args.device)?),
            ObjectiveKind::Toy => Arc::new(Toy::new(spec.clone())?),
        };
        tracing::info!("joined run {run}: {} on {}", spec.objective, spec.data);
        let _ = self.run.set(run);
        let partitions = Partitions::default();
        let results = self.inputs_in.clone();
        // Whoever computes waits while the driver is behind. A driver that is gone needs no results.
        let done = move |computed| drop(results.blocking_send(Input::Computed(computed)));
        let compute = ComputePool::start(self.args.threads.into(), &objective, &partitions, done);
        let ready = self.inputs_in.clone();
        let fetching = partitions.fetch(
            self.args.coordinator.clone(),
            spec,
            sharding,
            likely_shards,
            move || {
                tokio::spawn(async move { drop(ready.send(Input::DataReady).await) });
            },
        );
        self.network.spawn(fetching);
        let machine =
            WorkerMachine::new(self.start.elapsed(), self.id.clone(), Arc::clone(&objective));
        self.trainer = Some(Trainer { machine, objective, compute });
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Next {
        let Some(trainer) = &mut self.trainer else {
            return Ok(None);
        };
        let commands = trainer.machine.handle(self.start.elapsed(), event);
        for command in commands {
            if let Some(status) = self.execute(command)? {
                return Ok(Some(status));
            }
        }
        Ok(None)
    }

    fn execute(&mut self, command: Command) -> Next {
        if fault::pass(point(&command)) {
            self.execute_once(command.clone())?;
        }
        self.execute_once(command)
    }

    fn execute_once(&mut self, command: Command) -> Next {
        let (Some(trainer), Some(&run)) = (&self.trainer, self.run.get()) else {
            return Ok(None);
        };
        match command {
            Command::Report(report) => {
                // Dropped while the coordinator is away: what matters is said again after a hello.
                if let Some(reports) = &self.reports {
                    let _ = reports.send(report);
                }
            }
            Command::Connect(plan, me) => {
                tracing::info!("rank {me} of {}", *plan);
                let (generation, step) = (plan.generation.0, plan.start.position.step);
                drop(self.span.take());
                self.span = Some(
                    tracing::info_span!("training", %run, generation, rank = me.0, step).entered(),
                );
                // The older streams are superseded before the new ones open.
                self.streams = None;
                self.streams = Some(Streams::open(&self.network, run, &plan, me, &self.events_in));
            }
            Command::Send(to, frame) => {
                if let Some(streams) = &self.streams {
                    streams.send(to, frame);
                }
            }
            Command::Compute(work, state, shards) => trainer.compute.replace(work, &state, &shards),
            Command::Copy(plan, donor) => {
                let (coordinator, layout) =
                    (self.args.coordinator.clone(), Arc::clone(trainer.objective.layout()));
                let inputs = self.inputs_in.clone();
                self.network.spawn(async move {
                    let copied =
                        transfers::fetch_start(&coordinator, run, &plan, donor, &layout).await;
                    let copy = copied
                        .inspect_err(|error| tracing::warn!("no copy of the state: {error:#}"))
                        .ok();
                    let _ = inputs.send(Input::Copied(plan.generation, copy)).await;
                });
            }
            Command::Serve(token, state, reports) => {
                // Dropping who asked says that the state is not here.
                if let (Some(asked), Some(state)) = (self.copies.remove(&token), state) {
                    self.network.spawn(transfers::serve(state, reports, asked));
                }
            }
            Command::Upload(step, state) => {
                let coordinator = self.args.coordinator.clone();
                self.network.spawn(async move {
                    // The coordinator asks again.
                    if let Err(error) = transfers::upload(&coordinator, step, state).await {
                        tracing::warn!(
                            "the snapshot of step {step} did not reach the coordinator: {error:#}"
                        );
                    }
                });
            }
            Command::Probe(peer, address) => {
                let inputs = self.inputs_in.clone();
                self.network.spawn(async move {
                    let reached = transfers::reaches(&address, run).await;
                    let _ = inputs.send(Input::ProbeResult(peer, reached)).await;
                });
            }
            Command::Exit(finish) => {
                return match (finish, self.leaving) {
                    (Finish::Failed(why), _) => anyhow::bail!("the run has failed: {why}"),
                    (Finish::Done, Some((signal, _))) => Ok(Some(signal.status())),
                    (Finish::Done, None) => {
                        tracing::info!("the run is over");
                        Ok(Some(status::FINISHED))
                    }
                };
            }
        }
        Ok(None)
    }
}

enum Happened {
    Input(Input),
    Event(dcgan_collective::Event),
    Nothing,
}
