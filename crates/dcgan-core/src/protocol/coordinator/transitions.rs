//! What follows from what is known: from gathering over fences and plans to the end.

use std::sync::Arc;
use std::time::Duration;

use super::planner::{self, Candidate};
use super::registry::Worker;
use super::{
    ADOPT_MAX, CLOSED_MAX, COMPLAINT_PAUSE, Command, ConnId, CoordinatorMachine, Departure,
    ENDING_MAX, FENCE_MAX, Failure, Notice, Outcome, SILENCE_MAX, Stage, Stop,
};
use crate::ids::{Generation, Position, WorkerId};
use crate::protocol::message::{Finish, ToWorker};
use crate::protocol::plan::{Member, Plan, StateRef};

impl CoordinatorMachine {
    /// Goes on as far as possible with what is known.
    pub(super) fn advance_stage(&mut self) -> Result<(), Failure> {
        self.remove_unresponsive_workers();
        self.update_outputs()?;
        self.probe();
        loop {
            let before = self.stage.clone();
            match self.stage.clone() {
                Stage::Gathering { since } => self.on_gathering(since),
                Stage::Training { since, progress, complaint } => {
                    self.on_training(since, progress, complaint)
                }
                Stage::Fencing { generation, since } => self.on_fencing(generation, since)?,
                Stage::Stopping { generation, since } => self.on_stopping(generation, since)?,
                Stage::Finishing { since, until, outcome, .. } => {
                    self.on_finishing(since, until, outcome)
                }
                Stage::Done => {}
            }
            if self.stage == before {
                return Ok(());
            }
        }
    }

    fn may_be_planned(&self, worker: &Worker) -> bool {
        !self.reachability.is_outside(&worker.id)
            && (!self.suspects.is_suspect(&worker.id) || self.healthy_workers() < self.min_workers)
    }

    fn remove_unresponsive_workers(&mut self) {
        let now = self.now;
        let verdict = |worker: &Worker| match worker.closed_at {
            Some(_) if worker.data_closed => Some(Departure::Closed),
            Some(at) if now >= at + CLOSED_MAX => Some(Departure::Closed),
            None if now >= worker.heard + SILENCE_MAX => Some(Departure::Silent),
            _ => None,
        };
        let gone: Vec<(String, Departure)> = self
            .registry
            .workers
            .iter()
            .filter_map(|(name, worker)| Some((name.clone(), verdict(worker)?)))
            .collect();
        for (name, why) in gone {
            self.remove_worker(&name, why);
        }
    }

    fn update_outputs(&mut self) -> Result<(), Failure> {
        let members: Vec<WorkerId> = match (&self.stage, &self.plan) {
            // At an early end it is enough that somebody has reached it.
            (Stage::Stopping { .. }, _) | (_, None) => Vec::new(),
            (_, Some(plan)) => plan.members.iter().map(|member| member.id.clone()).collect(),
        };
        self.outputs.advance(&members, &mut self.out)?;
        let connected =
            self.registry.connected().map(|(worker, conn)| (worker.id.clone(), conn)).collect();
        let start = self.plan.as_ref().map_or(0, |plan| plan.start.position.step);
        self.outputs.request_snapshots(self.now, &members, start, &connected, &mut self.out);
        let persisted = self.outputs.persisted_through();
        if persisted > self.announced_persisted {
            self.announced_persisted = persisted;
            self.outputs.forget();
            self.tell_all(&ToWorker::Persisted(persisted));
        }
        if self.outputs.is_finished()
            && matches!(self.stage, Stage::Training { .. } | Stage::Fencing { .. })
        {
            self.end(Outcome::Finished, Finish::Done);
        }
        let keep = self.outputs.asked();
        if let Some(step) = keep.filter(|_| keep != self.announced_retained) {
            self.tell_all(&ToWorker::RetainSnapshot(step));
        }
        self.announced_retained = keep;
        Ok(())
    }

    fn on_gathering(&mut self, since: Duration) {
        let ready = self.registry.ready().count();
        let expected = self.may_still_adopt() && self.members_back() < self.member_names().len();
        if self.stop.is_some() && !expected {
            return self.fence("a stop was asked for");
        }
        let Some(plan) = self.plan.clone() else {
            if ready >= self.workers {
                self.fence("the first workers are ready");
            }
            return;
        };
        let back = |member: &Member| {
            self.registry
                .get(&member.id.name)
                .filter(|worker| worker.ready && worker.id == member.id)
        };
        let untouched =
            |worker: &Worker| worker.plan == plan.generation && worker.promised <= plan.generation;
        if plan.members.iter().all(|member| back(member).is_some_and(untouched)) {
            self.note(Notice::Adopted(plan.generation));
            self.stragglers.restart(self.now);
            self.stage = Stage::Training { since: self.now, progress: true, complaint: false };
            return;
        }
        let complete = self.members_back() == plan.members.len() || ready >= self.workers;
        if complete || (self.now >= since + ADOPT_MAX && ready >= self.min_workers) {
            self.fence("the coordinator was started again");
        }
    }

    fn on_training(&mut self, since: Duration, progress: bool, complaint: bool) {
        let Some(plan) = self.plan.clone() else {
            return;
        };
        let is_here = |member: &Member| {
            self.registry.get(&member.id.name).is_some_and(|worker| worker.id == member.id)
        };
        let lost = !plan.members.iter().all(is_here);
        let room = plan.members.len() < usize::from(self.shards);
        let is_new =
            |worker: &&Worker| plan.rank_of(&worker.id).is_none() && self.may_be_planned(worker);
        let newcomer = self
            .registry
            .ready()
            .find(is_new)
            .filter(|_| room)
            .map(|worker| worker.id.name.clone());
        let complaint = complaint && (progress || self.now >= since + COMPLAINT_PAUSE);
        if complaint && !progress && !lost {
            self.reachability.record_generation_without_progress();
        }
        if lost || complaint {
            self.fence("the members could not go on");
        } else if let Some(name) = newcomer {
            self.fence(&format!("worker {name} joins"));
        } else if self.stop.is_some() {
            self.fence("a stop was asked for");
        } else if let Some(slow) =
            self.stragglers.decide(self.now, &plan).filter(|_| self.rebalance)
        {
            self.fence(&format!("shards move from worker {}", slow.name));
            self.note(Notice::Slow { name: slow.name, percent: (100.0 * slow.times) as u32 });
        }
    }

    /// Asks every living worker to stop applying results of older generations, and where it is.
    pub(super) fn fence(&mut self, why: &str) {
        let generation = self.generation().next();
        if self.plan.is_some() {
            self.recoveries.fence(self.now, generation, why);
        }
        self.stage = Stage::Fencing { generation, since: self.now };
        let asked: Vec<ConnId> = self.registry.ready().filter_map(|worker| worker.conn).collect();
        self.out
            .extend(asked.into_iter().map(|conn| Command::Send(conn, ToWorker::Fence(generation))));
    }

    fn on_fencing(&mut self, generation: Generation, since: Duration) -> Result<(), Failure> {
        let overdue = self.now >= since + FENCE_MAX;
        let inside = || self.registry.ready().filter(|worker| self.may_be_planned(worker));
        let answered = inside().filter(|worker| worker.has_answered(generation)).count();
        let all = answered == inside().count();
        if !(all || overdue) || (answered < self.min_workers && self.stop.is_none()) {
            return Ok(());
        }
        // Who has not answered is not in the plan; its late answer counts as ready.
        for worker in
            self.registry.workers.values_mut().filter(|worker| !worker.has_answered(generation))
        {
            worker.ready = false;
        }
        if self.stop.is_some() {
            self.stage = Stage::Stopping { generation, since: self.now };
            // From now on a step counts if anybody has reached it. The reports of such steps are
            // taken into account first: one that only the furthest worker has finished becomes the
            // checkpoint, too.
            self.update_outputs()?;
            let answers = self.registry.ready().filter_map(|worker| worker.answer(generation));
            if let Some(furthest) = answers.max_by_key(|state| state.position) {
                self.outputs.want_checkpoint(furthest);
            }
            return self.update_outputs();
        }
        self.quarantine_unreachable();
        self.make_plan(generation)
    }

    /// Makes the plan that follows from the answers; none while nobody has a state to go on from.
    fn make_plan(&mut self, generation: Generation) -> Result<(), Failure> {
        let inside = self.registry.ready().filter(|worker| self.may_be_planned(worker));
        let answered = inside.filter(|worker| worker.has_answered(generation));
        let candidates: Vec<Candidate> = answered
            .map(|worker| Candidate {
                id: worker.id.clone(),
                address: worker.address.clone(),
                state: worker.answer(generation),
                joined: worker.joined,
            })
            .collect();
        if candidates.len() < self.min_workers {
            return Ok(());
        }
        if let Some(start) = self.start(generation, &candidates)? {
            let mut plan = planner::make_plan(
                self.plan.as_deref(),
                candidates,
                start,
                self.shards,
                &self.stragglers,
            );
            self.suspects.reassign_failed_shards(&mut plan);
            self.announce(Arc::new(plan));
        }
        Ok(())
    }

    /// Where the next plan starts: at a state that a candidate has, or else at a checkpoint that can be read.
    fn start(
        &mut self,
        generation: Generation,
        candidates: &[Candidate],
    ) -> Result<Option<StateRef>, Failure> {
        let saved =
            self.outputs.checkpoint().map(|saved| (Position::after(saved.step), saved.digest));
        let start = planner::choose_start(generation, candidates, saved)?;
        let is_held = |start: &StateRef| candidates.iter().any(|candidate| candidate.holds(start));
        if start.as_ref().is_none_or(is_held) {
            return Ok(start);
        }
        let Some((from, to)) = self.outputs.fall_back() else {
            return Ok(start);
        };
        self.note(Notice::FellBack { from, to });
        self.start(generation, candidates)
    }

    /// Stores a plan, then tells its members.
    fn announce(&mut self, plan: Arc<Plan>) {
        let fingerprint = self.fingerprint.clone().unwrap_or_default();
        self.out.push(Command::StorePlan(Arc::clone(&plan), fingerprint));
        for member in &plan.members {
            let Some(worker) = self.registry.workers.get_mut(&member.id.name) else {
                continue;
            };
            worker.data_closed = false;
            if let Some(conn) = worker.conn {
                self.out.push(Command::Send(conn, ToWorker::Plan(Arc::clone(&plan))));
            }
        }
        let members = plan.members.iter().map(|member| member.id.name.clone()).collect();
        self.stragglers.restart(self.now);
        self.note(Notice::Planned {
            generation: plan.generation,
            members,
            start: plan.start.position,
        });
        let ids: Vec<WorkerId> = plan.members.iter().map(|member| member.id.clone()).collect();
        self.outputs.go_on_after(plan.start.position.step, &ids);
        self.announced_persisted = self.announced_persisted.min(self.outputs.persisted_through());
        self.plan = Some(plan);
        self.stage = Stage::Training { since: self.now, progress: false, complaint: false };
    }

    /// Before an early end: waits until everything due is on disk.
    fn on_stopping(&mut self, generation: Generation, since: Duration) -> Result<(), Failure> {
        let nobody = self.registry.connected().next().is_none();
        if !(self.outputs.is_settled() || nobody || self.now >= since + ENDING_MAX) {
            return Ok(());
        }
        let outcome = Outcome::Stopped(self.outputs.checkpoint().map_or(0, |saved| saved.step));
        if self.stop == Some(Stop::HandOver) {
            self.make_plan(generation)?;
            self.exit(outcome);
        } else {
            self.end(outcome, Finish::Done);
        }
        Ok(())
    }

    fn on_finishing(&mut self, since: Duration, until: Duration, outcome: Outcome) {
        let gone = self.registry.workers.is_empty() && self.now >= until;
        if gone || self.now >= since + ENDING_MAX {
            self.exit(outcome);
        }
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        if matches!(self.stage, Stage::Finishing { .. } | Stage::Done) {
            return;
        }
        let finish = Finish::Failed(failure.to_string());
        self.end(Outcome::Failed(failure), finish);
    }

    /// Tells every worker that the run is over.
    fn end(&mut self, outcome: Outcome, finish: Finish) {
        self.tell_all(&ToWorker::Finish(finish.clone()));
        self.stage = Stage::Finishing { since: self.now, until: self.now, finish, outcome };
    }

    fn exit(&mut self, outcome: Outcome) {
        self.out.push(Command::Exit(outcome));
        self.stage = Stage::Done;
    }
}
