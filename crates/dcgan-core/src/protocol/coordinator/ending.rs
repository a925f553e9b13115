//! The early end of a run: what it still waits for, and which steps it could not save.

use std::time::Duration;

use super::report::{LastSeen, LostSteps};
use super::{CoordinatorMachine, ENDING_MAX, FENCE_MAX, Stage, Stop};
use crate::ids::{Generation, Step};

/// An early end waits this long for members of the last plan that were here a moment ago, if steps
/// would be lost without them. A member counts that was heard of in the same time before the end
/// was asked for. Afterwards the run ends without them, and says which steps are lost. Slurm kills
/// a job 30 s after SIGTERM by default: this leaves time to save.
pub(super) const RETURN_MAX: Duration = Duration::from_secs(20);
/// A coordinator that hands over stays this long after it was asked to, and after the last hello of
/// a worker, while workers are here or may come back. A whole job is often told to stop at once,
/// and a worker that is told a moment later than the coordinator would find nobody to release it.
pub(super) const HAND_OVER_MIN: Duration = Duration::from_secs(1);

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
    pub(super) fn lost_steps(&self) -> Option<LostSteps> {
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
        let may_return = |id| self.registry.may_return(id, ending.since, self.now).is_some();
        let is_one_away = self.members().iter().any(|member| may_return(&member.id));
        if let Stage::Finishing { until, .. } = &mut self.stage
            && is_one_away
        {
            *until = self.now + HAND_OVER_MIN;
        }
    }

    /// Returns whether a coordinator that hands over stays a little longer, for workers that may be
    /// told to stop as well: those that are here, and members that may come back as others have a
    /// moment ago.
    pub(super) fn is_hand_over_too_early(&self) -> bool {
        let Some(ending) = self.ending else {
            return false;
        };
        let hellos = self.registry.connected().map(|(worker, _)| worker.hello_at);
        if self.now >= hellos.max().unwrap_or_default().max(ending.since) + HAND_OVER_MIN {
            return false;
        }
        let may_return = |id| self.registry.may_return(id, ending.since, self.now).is_some();
        self.registry.connected().any(|(worker, _)| worker.leaving.is_none())
            || self.members().iter().any(|member| may_return(&member.id))
    }
}
