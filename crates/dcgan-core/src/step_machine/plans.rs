//! Plans, and copies of the state that they start from.

use std::sync::Arc;

use super::{COPY_PAUSE, Command, Copy, Copying, Donor, StepMachine};
use crate::ids::{Generation, Rank};
use crate::message::{FromWorker, Trouble};
use crate::plan::{Plan, StateAt};

impl StepMachine {
    pub(super) fn take_plan(&mut self, plan: Arc<Plan>) {
        if plan.generation <= self.generation() {
            return;
        }
        self.promised = self.promised.max(plan.generation);
        (self.round, self.copying, self.trouble) = (None, None, None);
        self.early.clear();
        // Whoever owns their shards now computes them once more.
        self.unusable.clear();
        self.pace.restart(self.now);
        let Some(rank) = plan.rank_of(&self.id) else {
            self.plan = None;
            return;
        };
        self.out.push(Command::Connect(Arc::clone(&plan), rank));
        self.plan = Some((Arc::clone(&plan), rank));
        if (self.at.position, self.at.digest) == (plan.start.position, plan.start.digest) {
            self.at.generation = plan.generation;
            self.report_all();
            self.begin_round();
        } else {
            self.copy_from(plan, rank, 0);
        }
    }

    /// Asks the next donor for the start state; its own state is kept until a copy is verified.
    pub(super) fn copy_from(&mut self, plan: Arc<Plan>, rank: Rank, attempt: usize) {
        let holds = |&r: &Rank| r != rank && plan.member(r).is_some_and(|member| member.holds_start);
        let holders: Vec<Rank> = plan.ranks().filter(holds).collect();
        // Newcomers begin at different holders.
        let donor = match holders.len() {
            0 => Donor::Coordinator,
            n => Donor::Member(holders[(usize::from(rank.0) + attempt) % n]),
        };
        let pause = attempt > 0 && attempt.is_multiple_of(holders.len().max(1));
        let asks_at = pause.then_some(self.now + COPY_PAUSE);
        self.copying = Some(Copying { donor, attempt, asks_at });
        if pause {
            self.complain(Trouble::CannotCopy);
        } else {
            self.out.push(Command::Copy(plan, donor));
        }
    }

    pub(super) fn take_copy(&mut self, generation: Generation, copy: Option<Copy>) {
        let (Some((plan, rank)), Some(copying)) = (self.plan.clone(), &self.copying) else { return };
        if generation != plan.generation {
            return;
        }
        let intact = copy.and_then(|mut copy| (copy.state.digest() == plan.start.digest).then_some(copy));
        let Some(Copy { state, reports }) = intact else {
            let attempt = copying.attempt + 1;
            return self.copy_from(plan, rank, attempt);
        };
        self.copying = None;
        // Another trouble, such as a broken stream, lasts.
        self.trouble.take_if(|trouble| *trouble == Trouble::CannotCopy);
        if self.at.position == plan.start.position
            && let Some(tensor) = self.state.first_difference(&state)
        {
            let (position, tensor) = (self.at.position, tensor.to_owned());
            self.report(FromWorker::Differed { position, tensor });
        }
        self.replace(state, StateAt { generation, ..plan.start });
        reports.into_iter().for_each(|done| self.memory.remember(done));
        self.report_all();
        if self.at.position.is_step_boundary() {
            self.keep_snapshot();
        }
        self.begin_round();
    }

    pub(super) fn serve(&mut self, wanted: StateAt, token: u64) {
        let named = (self.at.position, self.at.digest) == (wanted.position, wanted.digest);
        let have = named && self.check(self.state.all());
        let state = have.then(|| Arc::clone(&self.state));
        let reports = if have { self.memory.reports() } else { Vec::new() };
        self.out.push(Command::Serve(token, state, reports));
    }
}
