//! The transitions from stage to stage. The documentation of `Stage` draws them.
//!
//! An `advance_` function looks at one stage and decides whether to leave it. An `enter_` function
//! makes the transition: it sends what the new stage begins with, and sets it.

use std::sync::Arc;
use std::time::Duration;

use super::planner::{self, Candidate};
use super::registry::WorkerEntry;
use super::{
    ADOPT_MAX, CLOSED_MAX, COMPLAINT_PAUSE, Command, CoordinatorMachine, Departure, FENCE_MAX,
    Failure, Notice, Outcome, SILENCE_MAX, Stage,
};
use crate::ids::{Generation, Position, WorkerId};
use crate::protocol::message::{Finish, ToWorker};
use crate::protocol::plan::{Plan, StateRef};
use crate::words::worker;

impl CoordinatorMachine {
    /// Goes from stage to stage as far as possible with what is known.
    ///
    /// # Errors
    /// If the run cannot go on.
    pub(super) fn advance_stage(&mut self) -> Result<(), Failure> {
        self.remove_unresponsive_workers();
        self.release_spares();
        self.update_outputs()?;
        self.advance_trials();
        loop {
            let before = self.stage.clone();
            match self.stage.clone() {
                Stage::Gathering { since } => self.advance_gathering(since),
                Stage::Fencing { generation, since } => self.advance_fencing(generation, since)?,
                // The disk's answer leads on.
                Stage::Storing { .. } => {}
                Stage::Training { since, has_progress, has_complaint } => {
                    self.advance_training(since, has_progress, has_complaint);
                }
                Stage::Saving { generation, since } => self.advance_saving(generation, since)?,
                Stage::Finishing { since, until, outcome, .. } => {
                    self.advance_finishing(since, until, outcome);
                }
                Stage::Done => {}
            }
            if self.stage == before {
                return Ok(());
            }
        }
    }

    /// Removes the workers that closed their streams or are silent.
    fn remove_unresponsive_workers(&mut self) {
        let mut gone = Vec::new();
        for (name, worker) in &self.registry.workers {
            if let Some(why) = self.departure(worker) {
                gone.push((name.clone(), why));
            }
        }
        for (name, why) in gone {
            self.remove_worker(&name, why);
        }
    }

    /// The cause for removing a worker now, if there is one.
    fn departure(&self, worker: &WorkerEntry) -> Option<Departure> {
        match worker.closed_at {
            // Its data streams closed as well: the process is dead, and will not reconnect.
            Some(_) if worker.data_closed => Some(Departure::Closed),
            Some(closed_at) if self.now >= closed_at + CLOSED_MAX => Some(Departure::Closed),
            None if self.now >= worker.heard_at + SILENCE_MAX => Some(Departure::Silent),
            _ => None,
        }
    }

    /// Returns whether a ready worker may be a member of the next plan.
    pub(super) fn may_be_planned(&self, worker: &WorkerEntry) -> bool {
        if !self.trials.is_fit(&worker.id) {
            return false;
        }
        if self.is_kept_as_suspect(&worker.id) {
            return false;
        }
        // Those that kept the members from going on may do so again, so the others go first.
        let is_free = |other: &&WorkerEntry| {
            !self.progress.is_passed_over(&other.id) && !self.is_kept_as_suspect(&other.id)
        };
        !self.progress.is_passed_over(&worker.id)
            || self.fit_workers().filter(is_free).count() < self.min_workers
    }

    /// Returns whether a worker is suspect, and there are enough others. With too few healthy
    /// workers a suspect is planned all the same: it may be innocent.
    pub(super) fn is_kept_as_suspect(&self, id: &WorkerId) -> bool {
        self.suspects.is_suspect(id) && self.healthy_workers() >= self.min_workers
    }

    /// Writes what is due, requests snapshots, and tells workers what they may forget and must
    /// keep. Leaves Training or Fencing for Finishing when the last step is on disk.
    pub(super) fn update_outputs(&mut self) -> Result<(), Failure> {
        // A step is logged when all members have reported it. Before an end it is enough that one
        // worker has: the others may be gone.
        let mut members: Vec<WorkerId> = Vec::new();
        let mut through = self.outputs.logs_through();
        if let Stage::Saving { generation, .. } = self.stage {
            // One report is enough only for what the answers to the fence vouch for.
            let vouched = self.furthest_answer(generation).map_or(0, |state| state.position.step);
            through = if self.ending.is_some() { vouched } else { vouched.min(through) };
        } else {
            members.extend(self.members().iter().map(|member| member.id.clone()));
        }
        // Before the first plan there are no members, and nobody has finished a step.
        if let Some(plan) = &self.plan {
            let mut liars = self.outputs.add_agreed_steps(&members, through, &mut self.out)?;
            if matches!(self.stage, Stage::Training { .. }) {
                let start = plan.start.position.step;
                liars.extend(self.outputs.withholders(self.now, &members, start));
            }
            for (id, claim) in liars {
                self.expel(&id, claim);
            }
        }

        // Request the snapshots that are due.
        let start = self.plan.as_ref().map_or(0, |plan| plan.start.position.step);
        let connected = self.registry.connected_ids();
        // The members may have to go back before an evaluation that is lost, and find a checkpoint
        // there: no later one takes its place before. At an end, the next start finds both.
        let hold = self.outputs.awaited_evaluation().filter(|_| self.ending.is_none());
        self.outputs.request_snapshots(self.now, &members, start, &connected, hold, &mut self.out);

        // Ask for the parts of evaluations that are due.
        let is_nobody_left = self.registry.workers.is_empty();
        self.outputs.assign_evaluations(
            self.now,
            &members,
            start,
            &connected,
            is_nobody_left,
            &mut self.out,
        );
        if matches!(self.stage, Stage::Training { .. }) && self.ending.is_none() {
            self.outputs.go_back_if_lost(&mut self.out);
        }
        if let Some(step) = self.outputs.lost_too_often() {
            return Err(Failure::NotEvaluated { step });
        }

        // Tell workers how far they may train.
        let horizon = self.outputs.horizon();
        if let Some(step) = horizon
            && horizon != self.announced_horizon
        {
            // That members have waited for it is nobody's fault.
            self.progress.restart_clock(self.now);
            self.announced_horizon = horizon;
            self.send_all(&ToWorker::TrainThrough(step));
        }

        // Tell workers what is on disk: they may forget it.
        let persisted = self.outputs.persisted_through();
        if persisted > self.announced_persisted {
            self.announced_persisted = persisted;
            self.outputs.forget_persisted();
            self.send_all(&ToWorker::Persisted(persisted));
        }

        // The last step is on disk: the run is over.
        if self.outputs.is_finished()
            && matches!(self.stage, Stage::Training { .. } | Stage::Fencing { .. })
        {
            self.enter_finishing(Outcome::Finished, Finish::Done);
        }

        if matches!(self.stage, Stage::Training { .. }) {
            self.outputs.request_timed_checkpoint(self.now);
        }
        // Tell workers to keep the snapshot of the checkpoint that a person has asked for, or that
        // is due by time.
        let retained = self.outputs.requested_checkpoint();
        if let Some(step) = retained
            && retained != self.announced_retained
        {
            self.send_all(&ToWorker::RetainSnapshot(step));
        }
        self.announced_retained = retained;
        Ok(())
    }

    /// Leaves Gathering for Fencing when enough workers are ready, or for Training when all members
    /// of the last plan are back and still train by it.
    fn advance_gathering(&mut self, since: Duration) {
        let ready = self.ready_workers();
        let are_enough =
            self.fit_workers().count() >= self.min_workers && !self.is_anybody_on_trial();
        let all_back = self.members_back() == self.members().len();

        // A stop, or a worker that leaves, waits for the members that may be about to reconnect:
        // one of them has the furthest state.
        if all_back || !self.may_still_adopt() {
            if self.ending.is_some() {
                return self.enter_fencing("a stop was asked for");
            }
            if let Some(leaves) = self.plan.as_ref().and_then(|plan| self.leaving_member(plan)) {
                return self.enter_fencing(&leaves.to_string());
            }
        }

        // The first plan of a run waits until `--workers` are ready and have been tried.
        let are_ready = ready >= self.workers && are_enough;
        let Some(plan) = self.plan.clone() else {
            if are_ready {
                self.enter_fencing("the first workers are ready");
            }
            return;
        };

        // Workers that train by the last plan need no fence: only the coordinator was away.
        if self.all_members_train(&plan) {
            self.notify(Notice::PlanAdopted(plan.generation));
            self.outputs.note_start(&plan.start);
            self.outputs.give_up_missing_evaluations(&mut self.out);
            self.stragglers.restart(self.now, &plan);
            self.has_trained = true;
            self.trials.trust(self.now, &plan);
            self.progress.adopt(self.now, &plan);
            self.stage =
                Stage::Training { since: self.now, has_progress: true, has_complaint: false };
            return;
        }
        // So does one for which nobody is left of the last plan.
        let is_complete = are_ready || (are_enough && all_back && self.members_may_return);
        let is_overdue = self.members_may_return
            && self.now >= since + ADOPT_MAX
            && self.fit_workers().count() >= self.min_workers;
        if is_complete || is_overdue {
            self.enter_fencing("the coordinator was started again");
        }
    }

    /// The number of ready workers. Before the first plan only those count that compute alike.
    pub(super) fn ready_workers(&self) -> usize {
        if self.fingerprint.is_some() {
            return self.registry.ready().count();
        }
        let most = self.registry.most_frequent_fingerprint(|worker| worker.ready);
        most.map_or(0, |(_, count)| count)
    }

    /// Returns whether all members of the plan are ready, are the same processes, and have answered
    /// no later fence.
    fn all_members_train(&self, plan: &Plan) -> bool {
        plan.members().iter().all(|member| match self.registry.by_id(&member.id) {
            Some(worker) => worker.ready && worker.was_training_in(plan.generation),
            None => false,
        })
    }

    /// Leaves Training for Fencing when the membership has to change: a member is lost or
    /// complains, a worker joins, a stop was asked for, or shards are to move.
    fn advance_training(&mut self, since: Duration, has_progress: bool, has_complaint: bool) {
        let Some(plan) = self.plan.clone() else {
            return;
        };
        let is_lost =
            !plan.members().iter().all(|member| self.registry.by_id(&member.id).is_some());
        let last_step = self.outputs.train_through();
        let is_behind = self.outputs.reached() < last_step.min(self.outputs.logs_through())
            || self.is_short_of_horizon();
        let newcomers = self.dispensable_newcomers(&plan);
        let join = self.join_times(&plan, &newcomers);
        let late_copiers = self.late_copiers(&plan, &newcomers);
        // Without progress a complaint waits: see `COMPLAINT_PAUSE`.
        let is_complaint_due =
            has_complaint && (has_progress || self.now >= since + COMPLAINT_PAUSE);
        if is_complaint_due && !has_progress && !is_lost {
            self.progress.add_fruitless();
        }

        if is_lost || is_complaint_due {
            self.enter_fencing("the members could not go on");
        } else if self.ending.is_some() {
            self.enter_fencing("a stop was asked for");
        } else if let Some(leaves) = self.leaving_member(&plan) {
            self.enter_fencing(&leaves.to_string());
        } else if self.outputs.lost_evaluation().is_some() {
            self.enter_fencing("an evaluation is lost on which the end of the run depends");
        } else if (is_behind || self.outputs.lacks_last_checkpoint())
            && self.progress.is_stalled(self.now, &plan, last_step, join)
        {
            self.give_up_plan(&newcomers, "the members finished no step with it");
        } else if !late_copiers.is_empty() {
            self.give_up_plan(&late_copiers, "it copied no state");
        } else if let Some(slow) = self.slow_member(&plan) {
            // No shards move meanwhile: after a move all would be measured anew.
            self.leave_out_slow_member(&slow);
        } else if let Some(name) = self.newcomer(&plan) {
            self.enter_fencing(&format!("{} joins", worker(&name)));
        } else if self.rebalance
            && let Some(slow) = self.stragglers.decide(self.now, &plan)
        {
            self.enter_fencing(&slow.to_string());
            let percent = slow.percent();
            self.notify(Notice::ShardsMoved { name: slow.name, percent });
        }
    }

    /// Returns whether members have not finished the step yet at which they wait for an evaluation.
    fn is_short_of_horizon(&self) -> bool {
        self.outputs.horizon().is_some_and(|horizon| self.progress.finished() < horizon)
    }

    /// The name of a worker that may join the members, if there is a shard for it.
    fn newcomer(&self, plan: &Plan) -> Option<String> {
        if plan.members().len() >= usize::from(self.shards) {
            return None;
        }
        self.registry
            .ready()
            .filter(|worker| worker.leaving.is_none() && self.may_be_planned(worker))
            .find(|worker| plan.rank_of(&worker.id).is_none() && self.may_join(plan, &worker.id))
            .map(|worker| worker.id.name.clone())
    }

    /// Enters Fencing: asks every ready worker to apply no more results of older generations, and
    /// to say which state it has. `why` is for people.
    pub(super) fn enter_fencing(&mut self, why: &str) {
        let generation = self.newest_generation().next();
        self.remember_shard_times();
        // Before members train there is nothing to interrupt: a start is no interruption.
        if self.has_trained {
            self.recoveries.on_fence(self.now, generation, why);
        } else {
            self.recoveries.on_first_fence();
        }
        self.stage = Stage::Fencing { generation, since: self.now };
        for conn in self.registry.ready().filter_map(|worker| worker.conn) {
            self.out.push(Command::Send(conn, ToWorker::Fence(generation)));
        }
    }

    /// Leaves Fencing when all answers are in, or when enough are and the others are late: for
    /// Storing with a new plan, or for Saving before a stop, or before those leave that hold the
    /// newest state.
    fn advance_fencing(&mut self, generation: Generation, since: Duration) -> Result<(), Failure> {
        // Count the answers.
        let (mut asked, mut answered) = (0, 0);
        // The last checkpoint may be the state of any worker, and a search is among all.
        let are_all_counted = self.ending.is_some() || self.progress.is_search_due();
        let is_counted = |worker: &&WorkerEntry| are_all_counted || self.may_be_planned(worker);
        for worker in self.registry.ready().filter(is_counted) {
            asked += 1;
            answered += usize::from(worker.has_answered(generation));
        }
        let is_overdue = self.now >= since + FENCE_MAX;
        if answered < asked && !is_overdue {
            return Ok(());
        }
        // A stop and workers that leave need no minimum: what there is, is saved.
        let leavers = self.leavers(generation);
        if answered < self.min_workers && self.ending.is_none() && leavers.is_empty() {
            return Ok(());
        }
        if self.is_member_back(generation) || !self.awaited_members(generation).is_empty() {
            return Ok(());
        }

        // A worker that has not answered is left out of the plan. Its late answer makes it ready
        // again.
        let mut late = Vec::new();
        for worker in self.registry.workers.values_mut() {
            if worker.ready && !worker.has_answered(generation) {
                worker.ready = false;
                late.push(worker.id.clone());
            }
        }
        // Every plan would wait for it again.
        late.retain(|id| self.trials.is_fit(id));
        for id in &late {
            let seconds = FENCE_MAX.as_secs();
            self.leave_out(id, &format!("it did not answer a fence in {seconds} s"));
        }
        let before = self.registry.workers.len();
        self.expel_impossible_answers(generation);
        self.expel_silent_answers(generation);
        // Without those that are expelled there may be too few.
        if self.registry.workers.len() < before && self.ending.is_none() {
            return Ok(());
        }
        let leavers = self.leavers(generation);
        if self.ending.is_some() || !(leavers.is_empty() || self.do_others_hold_all(generation)) {
            return self.enter_saving(generation);
        }
        if !leavers.is_empty() {
            self.release(&leavers);
            return self.advance_fencing(generation, since);
        }
        self.search_for_members();
        if let Some(plan) = self.make_plan(generation)? {
            self.enter_storing(plan, None);
        }
        Ok(())
    }

    /// The furthest state among the answers to a fence that others vouch for.
    pub(super) fn furthest_answer(&self, generation: Generation) -> Option<StateRef> {
        let vouched = self.vouched_position(generation);
        let states = self.registry.ready();
        let states = states.filter_map(|worker| self.vouched_state(worker, generation, vouched));
        states.max_by_key(|state| state.position)
    }

    /// A worker's answer to a fence, unless it is further than what is `vouched` for in the newest
    /// generation.
    fn vouched_state(
        &self,
        worker: &WorkerEntry,
        generation: Generation,
        vouched: Option<Position>,
    ) -> Option<StateRef> {
        let state = worker.fenced_state(generation)?;
        let is_too_far = state.generation == self.generation() && Some(state.position) > vouched;
        // Nothing goes on from behind an evaluation that has to be known.
        let horizon = self.outputs.horizon().map(Position::after);
        let is_beyond = horizon.is_some_and(|horizon| state.position > horizon);
        (!is_too_far && !is_beyond).then_some(state)
    }

    /// Makes the plan that follows from the answers. Makes none while answers are too few, or no
    /// state is known to go on from.
    pub(super) fn make_plan(
        &mut self,
        generation: Generation,
    ) -> Result<Option<Arc<Plan>>, Failure> {
        let vouched = self.vouched_position(generation);
        let mut candidates = Vec::new();
        for worker in self.registry.ready() {
            let may_join = self.plan.as_ref().is_none_or(|plan| self.may_join(plan, &worker.id));
            let stays = worker.leaving.is_none() && self.may_be_planned(worker);
            if stays && may_join && worker.has_answered(generation) {
                candidates.push(Candidate {
                    id: worker.id.clone(),
                    address: worker.address.clone(),
                    state: self.vouched_state(worker, generation, vouched),
                    arrival: worker.arrival,
                });
            }
        }
        let fingerprint = self.choose_fingerprint(&candidates);
        candidates.retain(|candidate| {
            let worker = self.registry.by_id(&candidate.id);
            worker.is_some_and(|worker| fingerprint.as_ref() == Some(&worker.fingerprint))
        });
        // One may have been left out just now, for what it did or for its fingerprint.
        if candidates.len() < self.min_workers {
            return Ok(None);
        }
        let Some(start) = self.choose_start(generation, &candidates)? else {
            return Ok(None);
        };
        let previous = self.plan.as_deref();
        let mut plan =
            planner::make_plan(previous, candidates, start, self.shards, &self.stragglers);
        self.suspects.reassign_failed_shards(&mut plan);
        if let Some(fingerprint) = fingerprint {
            self.refuse_other_fingerprints(&fingerprint);
            self.fingerprint = Some(fingerprint);
        }
        Ok(Some(Arc::new(plan)))
    }

    /// The fingerprint of the workers that the next plan takes. The first plan decides it: it is
    /// the most frequent one among the candidates.
    fn choose_fingerprint(&self, candidates: &[Candidate]) -> Option<String> {
        let is_candidate =
            |worker: &WorkerEntry| candidates.iter().any(|candidate| candidate.id == worker.id);
        let most = || self.registry.most_frequent_fingerprint(is_candidate);
        self.fingerprint.clone().or_else(|| most().map(|(fingerprint, _)| fingerprint))
    }

    /// The state that the next plan starts from: one that a candidate has, or else a checkpoint
    /// that can be read.
    fn choose_start(
        &mut self,
        generation: Generation,
        candidates: &[Candidate],
    ) -> Result<Option<StateRef>, Failure> {
        loop {
            let saved =
                self.outputs.checkpoint().map(|saved| (Position::after(saved.step), saved.digest));
            let Some(start) = planner::choose_start(generation, candidates, saved)? else {
                return Ok(None);
            };
            // A checkpoint of a later step is on its way to the disk, and no worker is left that
            // has come that far. The plan waits for it.
            if self.outputs.writes_checkpoint_after(start.position.step) {
                return Ok(None);
            }
            // The members copy the state from a worker that holds it: no checkpoint is read.
            if candidates.iter().any(|candidate| candidate.holds(&start)) {
                return Ok(Some(start));
            }
            // Only the checkpoint has the state. If it is known to be unreadable, choose again.
            let Some((from, to)) = self.outputs.fall_back() else {
                return Ok(Some(start));
            };
            self.notify(Notice::CheckpointFellBack { from, to });
        }
    }

    /// Enters Storing: the plan goes to the disk. A coordinator that hands over with it ends with
    /// this outcome afterwards.
    pub(super) fn enter_storing(&mut self, plan: Arc<Plan>, outcome: Option<Outcome>) {
        let fingerprint = self.fingerprint.clone().unwrap_or_default();
        self.outputs.store_plan(Arc::clone(&plan), fingerprint);
        self.stage = Stage::Storing { plan, outcome };
    }

    /// Enters Training: sends the plan, which is on disk, to its members.
    pub(super) fn enter_training(&mut self, plan: Arc<Plan>) {
        for member in plan.members() {
            if let Some(worker) = self.registry.workers.get_mut(&member.id.name) {
                worker.data_closed = false;
                if let Some(conn) = worker.conn {
                    self.out.push(Command::Send(conn, ToWorker::Plan(Arc::clone(&plan))));
                }
            }
        }
        self.notify(Notice::Planned {
            generation: plan.generation,
            members: plan.members().iter().map(|member| member.id.name.clone()).collect(),
            start: plan.start.position,
        });

        self.outputs.give_up_missing_evaluations(&mut self.out);

        // The members compute the steps after the start, some of them perhaps once more.
        let ids: Vec<WorkerId> = plan.members().iter().map(|member| member.id.clone()).collect();
        self.outputs.restart_after(plan.start.position.step, &ids);
        self.outputs.note_start(&plan.start);
        self.announced_persisted = self.announced_persisted.min(self.outputs.persisted_through());
        self.stragglers.restart(self.now, &plan);
        self.progress.begin_plan(self.now, &plan);
        self.plan = Some(plan);
        self.has_trained = true;
        self.stage = Stage::Training { since: self.now, has_progress: false, has_complaint: false };
    }
}
