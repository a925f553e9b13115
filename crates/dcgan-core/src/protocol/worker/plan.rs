//! Plans, and copies of the state that they start from.

use std::sync::Arc;

use super::{COPY_PAUSE, Command, CopyInProgress, CopySource, StateCopy, WorkerMachine};
use crate::ids::{Generation, Rank};
use crate::protocol::message::{Complaint, FromWorker};
use crate::protocol::plan::{Plan, StateRef};

impl WorkerMachine {
    pub(super) fn adopt_plan(&mut self, plan: Arc<Plan>) {
        if plan.generation <= self.generation() {
            return;
        }
        self.promised = self.promised.max(plan.generation);
        (self.reduction, self.copying, self.complaint) = (None, None, None);
        self.early.clear();
        // Whoever owns their shards now computes them once more.
        self.failed.clear();
        self.timer.restart(self.now);
        let Some(rank) = plan.rank_of(&self.id) else {
            self.plan = None;
            return;
        };
        self.out.push(Command::Connect(Arc::clone(&plan), rank));
        self.plan = Some((Arc::clone(&plan), rank));
        if (self.at.position, self.at.digest) == (plan.start.position, plan.start.digest) {
            self.at.generation = plan.generation;
            self.report_all();
            self.begin_phase();
        } else {
            self.request_copy(plan, rank, 0);
        }
    }

    /// Asks the next donor for the start state; its own state is kept until a copy is verified.
    pub(super) fn request_copy(&mut self, plan: Arc<Plan>, rank: Rank, attempt: usize) {
        let holds =
            |&r: &Rank| r != rank && plan.member(r).is_some_and(|member| member.holds_start);
        let holders: Vec<Rank> = plan.ranks().filter(holds).collect();
        // Newcomers begin at different holders.
        let donor = match holders.len() {
            0 => CopySource::Coordinator,
            n => CopySource::Member(holders[(usize::from(rank.0) + attempt) % n]),
        };
        let pause = attempt > 0 && attempt.is_multiple_of(holders.len().max(1));
        let asks_at = pause.then_some(self.now + COPY_PAUSE);
        self.copying = Some(CopyInProgress { donor, attempt, asks_at });
        if pause {
            self.complain(Complaint::CopyFailed);
        } else {
            self.out.push(Command::Copy(plan, donor));
        }
    }

    pub(super) fn on_copy(&mut self, generation: Generation, copy: Option<StateCopy>) {
        let (Some((plan, rank)), Some(copying)) = (self.plan.clone(), &self.copying) else {
            return;
        };
        if generation != plan.generation {
            return;
        }
        let intact =
            copy.and_then(|mut copy| (copy.state.digest() == plan.start.digest).then_some(copy));
        let Some(StateCopy { state, reports }) = intact else {
            let attempt = copying.attempt + 1;
            return self.request_copy(plan, rank, attempt);
        };
        self.copying = None;
        // Another complaint, such as a broken stream, lasts.
        self.complaint.take_if(|complaint| *complaint == Complaint::CopyFailed);
        if self.at.position == plan.start.position
            && let Some(tensor) = self.state.first_difference(&state)
        {
            let (position, tensor) = (self.at.position, tensor.to_owned());
            self.report(FromWorker::StateDiffered { position, tensor });
        }
        self.replace(state, StateRef { generation, ..plan.start });
        reports.into_iter().for_each(|done| self.retained.remember(done));
        self.report_all();
        if self.at.position.is_step_boundary() {
            self.keep_snapshot();
        }
        self.begin_phase();
    }

    pub(super) fn serve(&mut self, wanted: StateRef, token: u64) {
        let named = (self.at.position, self.at.digest) == (wanted.position, wanted.digest);
        let have = named && self.verify_state(self.state.all());
        let state = have.then(|| Arc::clone(&self.state));
        let reports = if have { self.retained.reports() } else { Vec::new() };
        self.out.push(Command::Serve(token, state, reports));
    }
}
