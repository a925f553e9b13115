//! The events: each is recorded here. Most transitions that follow are decided afterwards, in
//! `transitions.rs`; an event that allows no other stage enters it here.

use super::complaints::Urgency;
use super::registry::FenceAnswer;
use super::{
    Command, ConnId, CoordinatorMachine, Departure, Event, Failure, Notice, SavedCheckpoint, Stage,
    Write,
};
use crate::ids::{Generation, Position, Step, WorkerId};
use crate::metrics::StepDone;
use crate::protocol::message::{FromWorker, ToWorker};
use crate::protocol::plan::StateRef;
use crate::words;

impl CoordinatorMachine {
    /// Takes an event.
    ///
    /// # Errors
    /// If the event shows that the run cannot go on.
    pub(super) fn on_event(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Hello(conn, hello) => self.on_hello(conn, hello),
            Event::Message(conn, message) => self.on_message(conn, message)?,
            Event::Heartbeat(conn) => self.on_heartbeat(conn),
            Event::Closed(conn) => self.on_closed(conn),
            Event::Written => self.on_written(),
            Event::WritePostponed => self.outputs.postpone_write(&mut self.out),
            Event::WriteFailed(error) => self.on_write_failed(error)?,
            Event::Snapshot { step, digest, bytes } => {
                self.outputs.on_snapshot(step, digest, &bytes, self.now, &mut self.out);
            }
            Event::Unreadable { step, newest } => self.on_unreadable_checkpoint(step, newest),
            Event::DrawGrids(draws) => self.outputs.set_draws_grids(draws),
            Event::Stop(stop) => self.request_stop(stop),
            Event::Checkpoint => self.outputs.request_checkpoint(),
            Event::Drain(name) => self.drain(&name),
            Event::ProcessEnded(name) => self.on_process_ended(&name, Departure::Ended),
            Event::ProcessGivenUp(name) => self.on_process_ended(&name, Departure::GivenUp),
            Event::Tick => {}
        }
        Ok(())
    }

    fn on_message(&mut self, conn: ConnId, message: FromWorker) -> Result<(), Failure> {
        // A worker that was removed may have had messages on their way.
        let Some(worker) = self.registry.by_conn(conn) else {
            return Ok(());
        };
        worker.heard_at = self.now;
        let id = worker.id.clone();
        let message = match self.hear(&id, message) {
            Ok(Some(message)) => message,
            // It is overtaken: nothing follows from it any more.
            Ok(None) => return Ok(()),
            Err(claim) => {
                self.expel(&id, claim);
                return Ok(());
            }
        };
        match message {
            FromWorker::Ready => self.on_ready(conn),
            FromWorker::FenceAck { generation, state } => {
                self.on_fence_ack(conn, generation, state);
            }
            FromWorker::StepDone(done) => self.on_step_done(&id, done),
            FromWorker::Complaint { generation, complaint } => {
                self.on_complaint(&id, generation, complaint)?;
            }
            FromWorker::SnapshotMissing(step) => self.outputs.on_snapshot_missing(&id, step),
            FromWorker::Copied(generation) if generation == self.generation() => {
                self.progress.note_copied(&id);
            }
            FromWorker::Copied(_) => {}
            FromWorker::StateDiffered { position, tensor } => {
                self.on_state_differed(id, position, tensor);
            }
            FromWorker::ProbeResult { peer, result } => self.on_probe_result(&id, &peer, result),
            FromWorker::TrialResult { donor, result } => {
                self.on_trial_result(&id, &donor, result);
            }
            FromWorker::Evaluated { id: part, result } => {
                self.outputs.on_evaluated(&id, part, result, &mut self.out);
            }
            FromWorker::Leave => self.on_leave(&id.name),
        }
        Ok(())
    }

    /// Says that a member's state was not the plan's. It copies that state for its plan, so it says
    /// so once in a plan.
    fn on_state_differed(&mut self, id: WorkerId, position: Position, tensor: String) {
        let generation = self.generation();
        let is_member = self.members().iter().any(|member| member.id == id);
        let Some(worker) = self.registry.workers.get_mut(&id.name) else {
            return;
        };
        if is_member && worker.differed_in.replace(generation) != Some(generation) {
            self.notify(Notice::StateDiffered { name: id.name, position, tensor });
        }
    }

    fn on_heartbeat(&mut self, conn: ConnId) {
        if let Some(worker) = self.registry.by_conn(conn) {
            worker.heard_at = self.now;
        }
    }

    fn on_ready(&mut self, conn: ConnId) {
        let Some(worker) = self.registry.by_conn(conn) else {
            return;
        };
        if !worker.ready {
            worker.ready = true;
            let id = worker.id.clone();
            self.notify(Notice::Ready(id.name.clone()));
            self.begin_trial(&id);
            self.send_open_fence(conn);
        }
    }

    fn on_fence_ack(&mut self, conn: ConnId, generation: Generation, state: Option<StateRef>) {
        let Some(worker) = self.registry.by_conn(conn) else {
            return;
        };
        let (id, was_ready) = (worker.id.clone(), worker.ready);
        worker.fence_answer = Some(FenceAnswer { generation, state });
        worker.ready = true;
        // A worker that was too late for its fence counts as ready again. A newer fence may be open
        // that it was not sent, so it is sent now.
        if !was_ready {
            self.begin_trial(&id);
            self.send_open_fence(conn);
        }
        if let Some(state) = state {
            self.resolve_suspects(state.position);
        }
    }

    /// Sends the open fence, if there is one, to a worker that has become ready.
    fn send_open_fence(&mut self, conn: ConnId) {
        if let Stage::Fencing { generation, .. } = self.stage {
            self.out.push(Command::Send(conn, ToWorker::Fence(generation)));
        }
    }

    fn on_step_done(&mut self, id: &WorkerId, done: StepDone) {
        let step = done.step;
        let Some(worker) = self.registry.workers.get_mut(&id.name) else {
            return;
        };
        let is_new = step > worker.last_step;
        worker.last_step = worker.last_step.max(step);

        // Steps up to the plan's start are reported again after every plan: they are no progress.
        if let Some(plan) = &self.plan
            && done.generation == plan.generation
            && let Stage::Training { has_progress, .. } = &mut self.stage
        {
            *has_progress |= self.progress.on_step(self.now, plan, id, step);
        }
        self.resolve_suspects(Position::after(step));
        self.recoveries.on_step_done(self.now, done.generation);
        if let Some(plan) = &self.plan
            && is_new
        {
            self.stragglers.add_step(plan, id, &done);
        }

        // Members that disagree find out at the next fence which of them is wrong.
        let members: Vec<WorkerId> =
            self.members().iter().map(|member| member.id.clone()).collect();
        if let Some(other) = self.outputs.on_step_done(id, done, &members)
            && members.contains(id)
        {
            let other = words::worker(&other.name);
            let about = format!("its state after step {step} differs from that of {other}");
            self.request_new_generation(&id.name, about, Urgency::AfterPause);
        }
    }

    /// Notes that a write is durable. A plan that was waited for goes to its members.
    fn on_written(&mut self) {
        let Some(Write::Plan { plan: stored, .. }) = self.outputs.finish_write(&mut self.out)
        else {
            return;
        };
        if let Stage::Storing { plan, outcome } = self.stage.clone()
            && plan.generation == stored.generation
        {
            self.enter_training(plan);
            if let Some(outcome) = outcome {
                self.enter_done(outcome);
            }
        }
    }

    /// Gives up a write that can never succeed.
    ///
    /// # Errors
    /// If the run cannot go on without it.
    fn on_write_failed(&mut self, error: String) -> Result<(), Failure> {
        let Some(write) = self.outputs.give_up_write() else {
            return Ok(());
        };
        let what = write.to_string();
        let is_last = self.ending.is_some() || write.step() == Some(self.outputs.last_step());
        match write {
            Write::Evaluation(_) if self.outputs.needs_evaluations() => {
                return Err(Failure::CannotWrite { what, error });
            }
            Write::PendingGrid { .. } | Write::Evaluation(_) => {}
            Write::Checkpoint { .. } if !is_last => {}
            // Nothing can be saved any more, so nothing else is waited for.
            Write::Plan { .. } | Write::Rows(_) | Write::Checkpoint { .. } => {
                self.outputs.drop_writes();
                return Err(Failure::CannotWrite { what, error });
            }
        }
        self.notify(Notice::WriteGivenUp { what, error });
        Ok(())
    }

    /// Removes a worker whose process is known to have ended. Nobody waits for it.
    fn on_process_ended(&mut self, name: &str, why: Departure) {
        self.draining.forget(name);
        if self.registry.by_name(name).is_some() {
            // A worker that was told that the run is over has ended as it should.
            if matches!(self.stage, Stage::Finishing { .. }) {
                self.outputs.on_closed(name);
                self.registry.remove(name, Departure::Left);
            } else {
                self.remove_worker(name, why);
            }
        } else {
            self.registry.note_end(name, why);
        }
    }

    /// Notes that the checkpoint of `step` cannot be read. If the members are about to start from
    /// it, a fence shows whether a worker has its state.
    fn on_unreadable_checkpoint(&mut self, step: Step, newest: Option<SavedCheckpoint>) {
        if !self.outputs.on_unreadable(step, newest) {
            return;
        }
        let starts_there =
            self.plan.as_ref().is_some_and(|plan| plan.start.position == Position::after(step));
        if starts_there && matches!(self.stage, Stage::Training { .. }) {
            self.enter_fencing(&format!("the checkpoint of step {step} cannot be read"));
        }
    }

    fn on_closed(&mut self, conn: ConnId) {
        let Some(name) = self.registry.close(self.now, conn) else {
            return;
        };
        self.outputs.on_closed(&name);
        // A worker that was told that the run is over will not come back.
        if matches!(self.stage, Stage::Finishing { .. }) {
            self.registry.remove(&name, Departure::Left);
        }
    }

    /// Removes a worker, closes its connection and says so.
    pub(super) fn remove_worker(&mut self, name: &str, why: Departure) {
        self.outputs.on_closed(name);
        self.note_removal(name, &why);
        if let Some(conn) = self.registry.remove(name, why.clone()) {
            self.out.push(Command::Close(conn));
        }
        // A process that has gone by itself has left, too. One that is silent may come back.
        if why != Departure::Silent {
            self.draining.forget(name);
        }
        // The fence of a worker that is released has been sent already.
        let is_released = matches!(why, Departure::Left | Departure::Drained);
        let notice = Notice::Lost { name: name.to_owned(), why };
        if !is_released && self.members().iter().any(|member| member.id.name == name) {
            self.recoveries.on_loss(notice.to_string());
        }
        self.notify(notice);
    }

    /// Restarts all clocks, after a time in which the coordinator did not run.
    pub(super) fn restart_clocks(&mut self) {
        self.registry.restart_clocks(self.now);
        if let Some(ending) = &mut self.ending {
            ending.since = self.now;
        }
        self.progress.restart_clock(self.now);
        self.outputs.restart_clock();
        match &mut self.stage {
            Stage::Gathering { since }
            | Stage::Fencing { since, .. }
            | Stage::Training { since, .. }
            | Stage::Saving { since, .. }
            | Stage::Finishing { since, .. } => *since = self.now,
            Stage::Storing { .. } | Stage::Done => {}
        }
    }
}
