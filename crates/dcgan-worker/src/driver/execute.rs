//! Executes the commands of the state machine. Long work runs in the background, on
//! the network's runtime and on blocking threads, and its result comes back as an input.

use std::sync::Arc;

use dcgan_collective::Streams;
use dcgan_core::evaluation::EvaluationTask;
use dcgan_core::ids::{Rank, RunId, Step, WorkerId};
use dcgan_core::metrics::StepDone;
use dcgan_core::protocol::FalseClaim;
use dcgan_core::protocol::message::{Finish, FromWorker};
use dcgan_core::protocol::plan::{Plan, StateRef};
use dcgan_core::protocol::worker::{Command, CopySource, ReduceFrame};
use dcgan_core::state::{Layout, State};
use dcgan_process::exit::status;
use dcgan_process::fault;
use dcgan_process::logging::RESULT;

use super::{Driver, Handled, JoinedRun};
use crate::client::Client;
use crate::input::Input;
use crate::progress::Progress;
use crate::transfers;
use crate::trial::Trial;

/// Returns the name of the point that the driver passes when it executes a command: `--fault`
/// refers to it.
fn fault_point(command: &Command) -> &'static str {
    match command {
        Command::Report(FromWorker::Ready) => "ready",
        Command::Report(FromWorker::FenceAck { .. }) => "promise",
        Command::Report(FromWorker::StepDone(_)) => "step-done",
        Command::Report(_) => "report",
        Command::Connect(..) => "connect",
        Command::Send(_, frame) if frame.bucket_sum.subtree.is_some() => "send-subtree",
        Command::Send(..) => "send-sum",
        Command::Compute(..) => "compute",
        Command::Evaluate(..) => "evaluate",
        Command::Copy(..) => "copy",
        Command::Serve(..) => "serve",
        Command::Upload(..) => "upload",
        Command::Probe(..) => "probe",
        Command::Trial(..) => "trial",
        Command::CloseSession(_) => "close-session",
        Command::Exit(_) => "exit",
    }
}

impl Driver<'_> {
    /// Executes a command; twice, if a test wants to see that this does no harm.
    pub(super) fn execute(&mut self, command: Command) -> Handled {
        if fault::pass(fault_point(&command)) {
            self.execute_once(command.clone())?;
        }
        self.execute_once(command)
    }

    fn execute_once(&mut self, command: Command) -> Handled {
        // Commands come from the machine, which exists in a run only.
        let Some(joined) = &self.joined else {
            return Ok(None);
        };
        let JoinedRun { run, client, objective, metrics, compute, .. } = joined;
        let run = *run;
        match command {
            Command::Report(message) => self.report(message),
            Command::Connect(plan, me) => self.connect(run, &plan, me),
            Command::Send(to, frame) => self.send(to, frame),
            Command::Compute(key, state, shards) => compute.replace(key, &state, &shards),
            Command::Evaluate(task, state) => self.evaluate(joined, task, state),
            Command::Copy(plan, source) => {
                self.copy(client, plan, source, Arc::clone(objective.layout()), *metrics);
            }
            Command::Serve(token, state, reports) => self.serve_copy(token, state, reports),
            Command::Upload(step, state) => self.upload(client, step, state),
            Command::Probe(peer, address) => self.probe(client, peer, address),
            Command::Trial(donor, address) => self.try_out(joined, donor, address),
            Command::CloseSession(claim) => self.close_session(&claim),
            Command::Exit(finish) => return self.exit(finish),
        }
        Ok(None)
    }

    /// Sends a message to the coordinator. While the coordinator is away the message is dropped:
    /// the machine repeats everything that matters after the next welcome.
    fn report(&self, message: FromWorker) {
        if let Some(reports) = &self.reports {
            let _ = reports.send(Ok(message));
        }
    }

    /// Closes the control stream, because the coordinator said what cannot be true. The session
    /// says why, and opens it again.
    fn close_session(&mut self, claim: &FalseClaim) {
        if let Some(reports) = self.reports.take() {
            let _ = reports.send(Err(claim.to_string()));
        }
    }

    /// Opens streams to the other members of a new plan, in place of those of the older plan.
    fn connect(&mut self, run: RunId, plan: &Arc<Plan>, me: Rank) {
        let generation = plan.generation.0;
        tracing::info!(
            event = "plan_received",
            generation,
            rank = me.0,
            "this worker is rank {me} of {}",
            plan.summary()
        );
        tracing::debug!(event = "plan_shards", generation, "the plan: {plan}");
        if let Some(joined) = &self.joined {
            joined.partitions.follow(plan, me);
        }
        // A span must be left before another one is entered, or it would stay around it.
        drop(self.span.take());
        let step = plan.start.position.step;
        let span = tracing::info_span!("training", %run, generation, rank = me.0, step);
        self.span = Some(span.entered());
        self.progress = Progress::start(self.start.elapsed(), step);
        // The older streams are superseded first. An assignment alone would drop them only after
        // the new ones have opened.
        self.streams = None;
        self.membership.plan.send_replace(Some(Arc::clone(plan)));
        self.streams = Some(Streams::open(
            &self.network,
            &self.client.connector,
            run,
            plan,
            me,
            &self.events_in,
        ));
    }

    fn send(&self, to: Rank, frame: ReduceFrame) {
        if let Some(streams) = &self.streams {
            streams.send(to, frame);
        }
    }

    /// Gives a part of an evaluation to the compute threads, when the evaluator is here: none of
    /// them waits for it.
    fn evaluate(&self, joined: &JoinedRun, task: EvaluationTask, state: Arc<State>) {
        let Some(evaluator) = joined.evaluator.clone() else {
            return joined.compute.evaluate(task, state);
        };
        let compute = joined.compute.clone();
        self.network.spawn(async move {
            evaluator.ready().await;
            compute.evaluate(task, state);
        });
    }

    /// Copies the start state of a plan in the background.
    fn copy(
        &self,
        client: &Client,
        plan: Arc<Plan>,
        source: CopySource,
        layout: Arc<Layout>,
        metrics: usize,
    ) {
        let client = client.clone();
        let inputs = self.inputs_in.clone();
        self.network.spawn(async move {
            let copied = transfers::fetch_start(&client, &plan, source, &layout, metrics).await;
            if let Err(error) = &copied {
                tracing::warn!(
                    event = "copy_failed",
                    "could not copy the state that the plan starts from: {error:#}"
                );
            }
            let _ = inputs.send(Input::Copied(plan.generation, copied.ok())).await;
        });
    }

    /// Answers a request for a copy. Without a state, dropping the request answers that the state
    /// is not here.
    fn serve_copy(
        &mut self,
        token: u64,
        offered: Option<(StateRef, Arc<State>)>,
        reports: Vec<StepDone>,
    ) {
        if let (Some(request), Some((at, state))) = (self.copy_requests.remove(&token), offered) {
            self.network.spawn(transfers::serve(at, state, reports, request));
        }
    }

    /// Uploads a snapshot to the coordinator in the background. There is no second attempt: a
    /// coordinator that still wants the snapshot asks again.
    fn upload(&self, client: &Client, step: Step, state: Arc<State>) {
        let client = client.clone();
        self.network.spawn(async move {
            if let Err(error) = transfers::upload(&client, step, state).await {
                tracing::warn!(
                    event = "upload_failed",
                    step,
                    "could not send the snapshot of step {step} to the coordinator: {error:#}"
                );
            }
        });
    }

    /// Finds out in the background whether another worker can be reached.
    fn probe(&self, client: &Client, peer: WorkerId, address: String) {
        let client = client.clone();
        let inputs = self.inputs_in.clone();
        self.network.spawn(async move {
            let result = transfers::probe(&client, &peer, &address).await;
            let _ = inputs.send(Input::ProbeResult(peer, result)).await;
        });
    }

    /// Shows in the background that this worker can do a member's work.
    fn try_out(&self, joined: &JoinedRun, donor: WorkerId, address: String) {
        let trial = Trial {
            client: joined.client.clone(),
            objective: Arc::clone(&joined.objective),
            metrics: joined.metrics,
            partitions: joined.partitions.clone(),
            shard: joined.trial_shard,
            threads: self.args.threads,
        };
        let inputs = self.inputs_in.clone();
        self.network.spawn(async move {
            let result = trial.run(&donor, &address).await;
            let _ = inputs.send(Input::TrialResult(donor, result)).await;
        });
    }

    /// Ends the program as the run has ended, or as the signal says that asked it to leave.
    fn exit(&self, finish: Finish) -> Handled {
        match (finish, self.leaving) {
            (Finish::Failed(why), _) => anyhow::bail!("the run has failed: {why}"),
            (Finish::Done | Finish::Released, Some((signal, _))) => {
                tracing::info!(
                    target: RESULT,
                    event = "released",
                    %signal,
                    "the coordinator has released this worker, which ends because of {signal}"
                );
                Ok(Some(signal.status()))
            }
            (Finish::Done, None) => {
                let joined = self.joined.as_ref();
                let step = joined.map_or(0, |joined| joined.machine.at().position.step);
                tracing::info!(
                    target: RESULT,
                    event = "run_over",
                    step,
                    "the run is over; this worker has finished step {step}"
                );
                Ok(Some(status::FINISHED))
            }
            (Finish::Released, None) => {
                tracing::info!(
                    target: RESULT,
                    event = "drained",
                    "this worker was drained, and the run goes on without it"
                );
                Ok(Some(status::FINISHED))
            }
        }
    }
}
