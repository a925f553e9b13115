//! The worker's side of the control stream: greetings, fences, plans, reports and complaints.

use std::sync::Arc;

use super::{Command, WorkerMachine};
use crate::ids::{Generation, Position, Rank, Step};
use crate::protocol::message::{Complaint, FromWorker, ToWorker};
use crate::protocol::plan::Plan;
use crate::spec::schedule::Schedule;

impl WorkerMachine {
    /// Repeats everything that the coordinator may have missed, after it has accepted a hello.
    pub(super) fn on_welcome(&mut self, schedule: Schedule) {
        // How far the evaluations allow to train follows from the schedule, too.
        if self.schedule.replace(schedule) != Some(schedule) {
            self.train_through = schedule.first_horizon();
        }
        // Reports come first: once the coordinator hears that this worker is ready, it knows
        // everything that the worker knows.
        self.report_retained_steps();
        if self.data_ready {
            self.report(FromWorker::Ready);
        }
        if let Some((plan, rank)) = &self.plan
            && self.copying.is_none()
            && !plan.members()[usize::from(rank.0)].holds_start
        {
            self.report(FromWorker::Copied(plan.generation));
        }
        if let Some(complaint) = self.complaint.clone() {
            self.report(FromWorker::Complaint { generation: self.generation(), complaint });
        }
        if self.leaving {
            self.report(FromWorker::Leave);
        }
        // The first schedule, or one with a greater last step, may allow the next phase.
        self.begin_phase();
    }

    /// Says that this worker wants to leave. It remains what it is until the coordinator releases
    /// it: it may hold the only copy of the newest state.
    pub(super) fn on_leave(&mut self) {
        self.leaving = true;
        self.report(FromWorker::Leave);
    }

    pub(super) fn on_data_ready(&mut self) {
        self.data_ready = true;
        self.report(FromWorker::Ready);
    }

    pub(super) fn on_message(&mut self, message: ToWorker) {
        if let Err(claim) = self.check_message(&message) {
            self.commands.push(Command::CloseSession(claim));
            return;
        }
        match message {
            ToWorker::Fence(generation) => self.on_fence(generation),
            ToWorker::Plan(plan) => {
                // A plan that is older than the newest fence has been given up.
                if plan.generation >= self.promised {
                    self.leave_forged_plan(&plan);
                    self.adopt_plan(plan);
                }
            }
            ToWorker::Persisted(step) => self.retained.drop_persisted(step),
            ToWorker::TrainThrough(step) => self.on_train_through(step),
            ToWorker::RequestSnapshot(step) => self.upload_snapshot(step),
            ToWorker::RetainSnapshot(step) => self.retained.retain_snapshot(step),
            ToWorker::Evaluate(task) => self.on_evaluate(task),
            ToWorker::Probe(peer, address) => self.commands.push(Command::Probe(peer, address)),
            ToWorker::Trial(donor, address) => self.commands.push(Command::Trial(donor, address)),
            ToWorker::Finish(finish) => self.commands.push(Command::Exit(finish)),
        }
    }

    /// Trains through a step. A state after it is of no use: an evaluation before it is lost, and
    /// the members compute its state again.
    fn on_train_through(&mut self, step: Step) {
        self.train_through = Some(step);
        if self.at.position > Position::after(step) {
            self.go_back(step);
        }
        self.begin_phase();
    }

    /// Promises to apply no result of a generation before this one, and answers with the state.
    fn on_fence(&mut self, generation: Generation) {
        self.promised = self.promised.max(generation);
        if let Some(step) = self.train_through
            && self.at.position > Position::after(step)
        {
            self.go_back(step);
        }
        // The next plan may start from this state, so it must not be offered if it is damaged.
        self.verify_or_discard_state(self.state.all());
        self.report(FromWorker::FenceAck { generation, state: Some(self.at) });
    }

    /// Sends the snapshot of `step` to the coordinator, or reports that it is not here.
    fn upload_snapshot(&mut self, step: Step) {
        // A snapshot shares the memory of the tensors that have not changed since. If the state is
        // damaged, all snapshots are dropped.
        self.verify_or_discard_state(self.state.all());
        match self.retained.snapshot(step) {
            Some(state) if state.first_damaged(state.all()).is_none() => {
                self.commands.push(Command::Upload(step, state));
            }
            _ => self.report(FromWorker::SnapshotMissing(step)),
        }
    }

    /// Takes the plan with which another member has opened a stream.
    ///
    /// The coordinator may have died after it has sent the plan to some of the members only. The
    /// others take the plan from a peer. This is safe for a worker whose newest fence is the one of
    /// this plan: the coordinator would have sent it the same plan.
    pub(super) fn on_peer_plan(&mut self, plan: Arc<Plan>) {
        if plan.generation == self.promised && self.is_possible_peer_plan(&plan) {
            self.adopt_plan(plan);
        }
    }

    /// Leaves a plan that has the generation of the coordinator's, and is another one: a peer made
    /// it up.
    fn leave_forged_plan(&mut self, plan: &Plan) {
        self.plan.take_if(|(own, _)| own.generation == plan.generation && **own != *plan);
    }

    /// Complains about a broken stream, unless it belongs to an older plan.
    pub(super) fn on_stream_broken(&mut self, generation: Generation, peer: Rank) {
        if generation == self.generation() && self.is_other_member(peer) {
            self.complain(Complaint::StreamBroken(peer));
        }
    }

    /// Leaves the old plan for a newer one, and trains from its start state, if need be after
    /// copying it.
    fn adopt_plan(&mut self, plan: Arc<Plan>) {
        if plan.generation <= self.generation() {
            return;
        }

        // Drop everything that belongs to the old plan.
        self.promised = self.promised.max(plan.generation);
        self.reduction = None;
        self.copying = None;
        self.complaint = None;
        self.early_frames.clear();
        // The owners of failed shards compute them again, to find out whether the fault lies with
        // the worker or with the state. Vectors that are computed stay valid while the state does.
        self.failed.clear();
        self.timer.begin_plan(self.now);

        // A worker without a rank is a spare: it waits for the next plan.
        let Some(rank) = plan.rank_of(&self.id) else {
            self.plan = None;
            return;
        };
        self.commands.push(Command::Connect(Arc::clone(&plan), rank));
        self.plan = Some((Arc::clone(&plan), rank));

        if self.at.is_same_state(&plan.start) {
            self.at.generation = plan.generation;
            self.report_retained_steps();
            self.begin_phase();
        } else {
            self.request_copy(plan, rank, 0);
        }
    }

    /// Reports every step that led to the state and may not be on disk yet.
    pub(super) fn report_retained_steps(&mut self) {
        for done in self.retained.reports() {
            self.report(FromWorker::StepDone(done));
        }
    }

    pub(super) fn report(&mut self, message: FromWorker) {
        self.commands.push(Command::Report(message));
    }

    /// Asks the coordinator for a new generation, once for each different complaint.
    pub(super) fn complain(&mut self, complaint: Complaint) {
        // After a newer fence the generation is being replaced anyway.
        let is_repetition = self.complaint.as_ref() == Some(&complaint);
        if is_repetition || !self.may_apply() {
            return;
        }
        self.complaint = Some(complaint.clone());
        self.report(FromWorker::Complaint { generation: self.generation(), complaint });
    }
}
