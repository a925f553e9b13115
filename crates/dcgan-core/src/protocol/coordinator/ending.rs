//! The end of a run: the stages that lead there, what an early end still waits for, and which steps
//! it could not save.

use std::time::Duration;

use super::report::{LastSeen, LostSteps};
use super::{
    Command, CoordinatorMachine, ENDING_MAX, FENCE_MAX, Failure, Notice, Outcome, Stage, Stop,
};
use crate::ids::{Generation, Step, WorkerId};
use crate::protocol::message::{Finish, ToWorker};

/// An early end waits this long for members of the last plan that were here a moment ago, if steps
/// would be lost without them. A member counts that was heard of in the same time before the end
/// was asked for. Afterwards the run ends without them, and says which steps are lost. Slurm kills
/// a job 30 s after SIGTERM by default: this leaves time to save.
pub(super) const RETURN_MAX: Duration = Duration::from_secs(20);
/// A coordinator that hands over stays this long after it was asked to, and after the last hello of
/// a worker, while workers are here or may come back. A whole job is often told to stop at once,
/// and a worker that is told a moment later than the coordinator would find nobody to release it.
pub(super) const HAND_OVER_MIN: Duration = Duration::from_secs(1);

/// With nothing to lose, a coordinator that hands over stays this long for members that may come
/// back as others have a moment ago: machines that freeze together go on one after the other, and a
/// worker that was told to stop would find nobody to release it.
const STRAGGLING_MAX: Duration = Duration::from_secs(5);

/// An early end that was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) stop: Stop,
    /// The time at which it was asked for first.
    pub(super) since: Duration,
}

impl CoordinatorMachine {
    /// Notes that the run is to end early. A later request may change the way, and not the time.
    pub(super) fn request_stop(&mut self, stop: Stop) {
        let since = self.ending.map_or(self.now, |ending| ending.since);
        self.ending = Some(Ending { stop, since });
    }

    /// Returns whether an early end was asked for.
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Returns whether the workers train on after the early end that was asked for.
    pub fn hands_over(&self) -> bool {
        self.ending.is_some_and(|ending| ending.stop == Stop::HandOver)
    }

    /// The last step that is known to be finished, on the way that led to the present states.
    ///
    /// Steps that were reported and then lost with all workers that had finished them do not count:
    /// the run goes on before them.
    pub(super) fn finished(&self) -> Step {
        if let Some(step) = self.agreed_by_answers() {
            return step;
        }
        // The plan of an earlier coordinator may be long ago.
        let start = self.plan.as_ref().filter(|_| self.has_trained);
        let start = start.map_or(0, |plan| plan.start.position.step);
        // A worker that is back from an earlier plan speaks of steps that others compute again.
        let members = self.members().iter().map(|member| self.outputs.last_step_of(&member.id));
        members.max().unwrap_or(0).max(start)
    }

    /// The last finished step by the answers to the fence, if every member has answered: a report
    /// of a later step was not true.
    fn agreed_by_answers(&self) -> Option<Step> {
        let (Stage::Fencing { generation, .. } | Stage::Saving { generation, .. }) = self.stage
        else {
            return None;
        };
        let has_answered = |id| {
            self.registry.by_id(id).is_some_and(|worker| worker.fenced_state(generation).is_some())
        };
        let all_have = self.members().iter().all(|member| has_answered(&member.id));
        let furthest = self.furthest_answer(generation).filter(|_| all_have)?;
        Some(furthest.position.step)
    }

    /// The finished steps that are not saved, if there are any.
    pub fn unsaved_steps(&self) -> Option<LostSteps> {
        let saved = self.outputs.checkpoint().map_or(0, |saved| saved.step);
        let last = self.finished();
        (last > saved).then_some(LostSteps { first: saved + 1, last })
    }

    /// The members that an early end waits for: finished steps would be lost without them, and they
    /// were here a moment ago. `generation` is that of the open fence.
    pub(super) fn awaited_members(&self, generation: Generation) -> Vec<LastSeen> {
        let Some(ending) = self.ending.filter(|it| self.now < it.since + RETURN_MAX) else {
            return Vec::new();
        };
        if self.has_all_steps(generation) {
            return Vec::new();
        }
        let mut awaited = Vec::new();
        for member in self.members() {
            let seen = match self.registry.by_id(&member.id) {
                Some(worker) if worker.has_answered(generation) && worker.is_connected() => None,
                Some(worker) => Some(worker.last_seen(self.now)),
                None => self.registry.may_return(&member.id, ending.since, self.now),
            };
            awaited.extend(seen);
        }
        awaited
    }

    /// Returns whether a member has come back a moment ago and has not said yet what it has.
    pub(super) fn is_member_back(&self, generation: Generation) -> bool {
        self.ending.is_some()
            && self.members().iter().filter_map(|member| self.registry.by_id(&member.id)).any(
                |it| {
                    it.is_connected()
                        && !it.has_answered(generation)
                        && self.now < it.hello_at + FENCE_MAX
                },
            )
    }

    /// Returns whether every finished step is saved, on its way to the disk, or held by a worker
    /// that has answered the fence of `generation` and is still there.
    fn has_all_steps(&self, generation: Generation) -> bool {
        let finished = self.finished();
        if self.outputs.has_checkpoint(finished) {
            return true;
        }
        let here = self.registry.ready().filter(|worker| worker.is_connected());
        let states = here.filter_map(|worker| worker.fenced_state(generation));
        let furthest = states.map(|state| state.position.step).max();
        furthest.is_some_and(|step| step >= finished)
    }

    /// Returns whether a snapshot that is due may still come, in the stage Saving.
    pub(super) fn is_snapshot_coming(&self, generation: Generation, since: Duration) -> bool {
        if !self.outputs.awaits_snapshots() {
            return false;
        }
        let connected = self.registry.connected_ids();
        let is_overdue = self.now >= since + ENDING_MAX;
        let is_somebody_asked = !is_overdue && self.outputs.can_get_snapshot(&connected);
        is_somebody_asked || !self.awaited_members(generation).is_empty()
    }

    /// Lets the stage Finishing last a little longer, so that members that may come back as others
    /// have a moment ago hear that the run is over. What they have must be saved.
    pub(super) fn await_the_last(&mut self, is_all_saved: bool) {
        let Some(ending) = self.ending.filter(|_| is_all_saved) else {
            return;
        };
        let is_one_away = self.is_a_member_away(ending);
        if let Stage::Finishing { until, .. } = &mut self.stage
            && is_one_away
        {
            *until = self.now + HAND_OVER_MIN;
        }
    }

    /// Returns whether a member of the last plan is away and may come back.
    fn is_a_member_away(&self, ending: Ending) -> bool {
        let may_return = |id| self.registry.may_return(id, ending.since, self.now).is_some();
        self.members().iter().any(|member| may_return(&member.id))
    }

    /// Returns whether a coordinator that hands over stays a little longer, for workers that may be
    /// told to stop as well: those that are here, and members that may come back as others have a
    /// moment ago.
    pub(super) fn is_hand_over_too_early(&self) -> bool {
        let Some(ending) = self.ending else {
            return false;
        };
        let hellos = self.registry.connected().map(|(worker, _)| worker.hello_at);
        let since = hellos.max().unwrap_or_default().max(ending.since);
        if self.is_a_member_away(ending) {
            return self.now < since + STRAGGLING_MAX;
        }
        let is_one_training = self.registry.connected().any(|(worker, _)| worker.leaving.is_none());
        is_one_training && self.now < since + HAND_OVER_MIN
    }

    /// Enters Saving: what is due, and a checkpoint of the furthest state among the answers, is to
    /// be written before the end, or before workers leave.
    pub(super) fn enter_saving(&mut self, generation: Generation) -> Result<(), Failure> {
        // From now on one report of a step is enough. Those that have come are used first, so that
        // a step that only one worker has finished can become the checkpoint, too.
        self.stage = Stage::Saving { generation, since: self.now };
        self.outputs.leave_out_superseded_checkpoints(&mut self.out);
        self.update_outputs()?;

        if let Some(state) = self.furthest_answer(generation) {
            let holders: Vec<WorkerId> = self
                .registry
                .ready()
                .filter(|worker| worker.fenced_state(generation) == Some(state))
                .map(|worker| worker.id.clone())
                .collect();
            self.outputs.pass_gap(&holders);
            self.update_outputs()?;
            self.outputs.add_last_checkpoint(state);
        }
        // The requests for snapshots go out now: no other event may come for a while.
        self.update_outputs()
    }

    /// Leaves Saving when everything due is on disk: for Finishing, or for Storing and Done if
    /// another coordinator takes over; without a stop for Fencing, after the workers that leave are
    /// released. Workers get 10 s to send what is due. The disk gets all the time that it takes:
    /// people are told, and may end the program with a second signal.
    pub(super) fn advance_saving(
        &mut self,
        generation: Generation,
        since: Duration,
    ) -> Result<(), Failure> {
        // A checkpoint before workers leave waits for an evaluation that must come before it.
        let waits_for_evaluation = self.ending.is_none()
            && self.outputs.awaits_due_evaluation()
            && self.now < since + ENDING_MAX;
        if waits_for_evaluation
            || self.is_snapshot_coming(generation, since)
            || self.outputs.is_writing()
        {
            return Ok(());
        }
        let lost = self.unsaved_steps();
        let Some(Ending { stop, .. }) = self.ending else {
            if let Some(lost) = lost {
                self.notify(Notice::StepsLost(lost));
            }
            let leavers = self.leavers(generation);
            self.release(&leavers);
            self.reopen_fence(generation);
            return Ok(());
        };
        // A member that was away may have more than is saved.
        let is_somebody_awaited = lost.is_some() && !self.awaited_members(generation).is_empty();
        if is_somebody_awaited || self.is_member_back(generation) {
            self.reopen_fence(generation);
            return Ok(());
        }
        let saved = self.outputs.checkpoint().map_or(0, |saved| saved.step);
        let outcome = Outcome::Stopped { saved, lost };
        if stop == Stop::Finish {
            // A coordinator that takes over finds the evaluations again, because the workers hold
            // what they need. Here the workers end, too.
            self.outputs.give_up_evaluations(&mut self.out);
            let is_all_saved = lost.is_none();
            self.enter_finishing(outcome, Finish::Done);
            self.await_the_last(is_all_saved);
            return Ok(());
        }
        if self.is_hand_over_too_early() {
            return Ok(());
        }
        // What those hold that leave is saved. With a plan the others train on until the next
        // coordinator adopts it.
        let leavers = self.leavers(generation);
        self.release(&leavers);
        match self.make_plan(generation)? {
            Some(plan) => self.enter_storing(plan, Some(outcome)),
            None => self.enter_done(outcome),
        }
        Ok(())
    }

    /// Enters Fencing once more with the same fence, for those who have not answered it.
    fn reopen_fence(&mut self, generation: Generation) {
        self.stage = Stage::Fencing { generation, since: self.now };
        for worker in self.registry.ready().filter(|worker| !worker.has_answered(generation)) {
            if let Some(conn) = worker.conn {
                self.out.push(Command::Send(conn, ToWorker::Fence(generation)));
            }
        }
    }

    /// Leaves Finishing for Done when all workers have left, or after 10 s, and nothing is on its
    /// way to the disk. A run that has failed waits no longer than that for a disk: people are to
    /// hear of the failure.
    pub(super) fn advance_finishing(&mut self, since: Duration, until: Duration, outcome: Outcome) {
        let all_left = self.registry.workers.is_empty() && self.now >= until;
        let is_overdue = self.now >= since + ENDING_MAX;
        let has_failed = matches!(outcome, Outcome::Failed(_));
        let waits_for_disk = self.outputs.is_writing() && !(has_failed && is_overdue);
        if (all_left || is_overdue) && !waits_for_disk {
            self.enter_done(outcome);
        }
    }

    /// Enters Finishing from any stage, because the run cannot go on.
    pub(super) fn fail(&mut self, failure: Failure) {
        // The first outcome counts.
        if matches!(self.stage, Stage::Finishing { .. } | Stage::Done) {
            return;
        }
        let finish = Finish::Failed(failure.to_string());
        self.enter_finishing(Outcome::Failed(failure), finish);
    }

    /// Enters Finishing: tells every worker that the run is over.
    pub(super) fn enter_finishing(&mut self, outcome: Outcome, finish: Finish) {
        self.send_all(&ToWorker::Finish(finish.clone()));
        self.stage = Stage::Finishing { since: self.now, until: self.now, finish, outcome };
    }

    /// Enters Done: tells the driver to exit.
    pub(super) fn enter_done(&mut self, outcome: Outcome) {
        self.out.push(Command::Exit(outcome));
        self.stage = Stage::Done;
    }
}
