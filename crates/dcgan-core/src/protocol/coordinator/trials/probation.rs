//! Members that do not keep up, and how much time a newcomer gets.
//!
//! A trial shows what a worker can do, not what it will do. One that has passed may copy for ever,
//! or become slow, and every member waits for the slowest. So a newcomer takes part for as long as
//! the steps with it take about what was to be expected. If one does not, the others go on without
//! it. A member that has become much slower later is found by its times.

use std::time::Duration;

use super::{CoordinatorMachine, Notice, PAUSE_MIN};
use crate::ids::WorkerId;
use crate::protocol::coordinator::FENCE_MAX;
use crate::protocol::coordinator::progress::{JOIN_MAX, JoinTimes};
use crate::protocol::coordinator::stragglers::{SlowMember, is_too_slow};
use crate::protocol::plan::Plan;
use crate::words::worker;

/// A member that is too slow for so many steps in a row is left out. One may be chance.
const SLOW_STEPS: u32 = 2;
/// One such step is enough if it takes this long: the others wait as long for an answer to a fence.
const SLOW_STEP_MS: f64 = 1e3 * FENCE_MAX.as_secs() as f64;

impl CoordinatorMachine {
    /// The newcomers of a plan, if the other members are enough to go on without them.
    pub(in crate::protocol::coordinator) fn dispensable_newcomers(
        &self,
        plan: &Plan,
    ) -> Vec<WorkerId> {
        let newcomers = self.progress.newcomers(plan);
        let others = plan.members().len() - newcomers.len();
        if others >= self.min_workers { newcomers } else { Vec::new() }
    }

    /// The times that these members of a plan are expected to take; `None` if there are none.
    pub(in crate::protocol::coordinator) fn join_times(
        &self,
        plan: &Plan,
        newcomers: &[WorkerId],
    ) -> Option<JoinTimes> {
        let mut slowest = JoinTimes::default();
        for id in newcomers {
            let Some(times) = self.trials.record(id).and_then(|record| record.times) else {
                // One of which nothing is known gets all the time that there is.
                return Some(JoinTimes { copy: JOIN_MAX, step: JOIN_MAX });
            };
            let shards = plan.rank_of(id).map_or(0, |rank| plan.shards_of(rank).len());
            slowest.copy = slowest.copy.max(from_ms(times.copy_ms));
            slowest.step = slowest.step.max(from_ms(times.shard_ms * shards as f64));
        }
        (!newcomers.is_empty()).then_some(slowest)
    }

    /// Those of the newcomers of a plan that take too long to copy its start state.
    pub(in crate::protocol::coordinator) fn late_copiers(
        &self,
        plan: &Plan,
        newcomers: &[WorkerId],
    ) -> Vec<WorkerId> {
        let mut copying = newcomers.to_vec();
        copying.retain(|id| self.progress.is_copying(id));
        let Some(times) = self.join_times(plan, &copying) else {
            return copying;
        };
        // The members that hold the state share the work.
        let holders = plan.members().iter().filter(|member| member.holds_start).count();
        let copies = copying.len().div_ceil(holders.max(1)) as u32;
        if !self.progress.is_copy_late(self.now, times.copy * copies) {
            copying.clear();
        }
        copying
    }

    /// Gives up a plan that takes too long. These newcomers, which do not do in time what `lacks`
    /// says, are not in the next one.
    pub(in crate::protocol::coordinator) fn give_up_plan(
        &mut self,
        newcomers: &[WorkerId],
        lacks: &str,
    ) {
        let seconds = self.progress.waited(self.now).as_secs_f64();
        for id in newcomers {
            self.leave_out(id, &format!("{lacks} in {seconds:.1} s"));
        }
        if newcomers.is_empty() {
            self.progress.add_stall();
            self.notify(Notice::Stalled(seconds as u64));
        }
        self.enter_fencing(&format!("no step was finished for {seconds:.0} s"));
    }

    /// Returns whether a worker may be in the plan after this one. Of those that have failed before
    /// one joins at a time, so that one that fails again takes no other down with it.
    pub(in crate::protocol::coordinator) fn may_join(&self, plan: &Plan, id: &WorkerId) -> bool {
        let has_shown_nothing =
            |id: &WorkerId| plan.rank_of(id).is_none() && !self.progress.core().contains(id);
        let Some(pause) = self.pause_of_repeater(id).filter(|_| has_shown_nothing(id)) else {
            return true;
        };
        if !self.is_core_enough() {
            return true;
        }
        // It is the turn of the one that has failed least.
        let mut others = self.fit_workers().filter(|other| {
            other.id != *id && has_shown_nothing(&other.id) && self.may_be_planned(other)
        });
        let is_first = others.all(|other| {
            let other_pause = self.pause_of_repeater(&other.id);
            other_pause.is_none_or(|other_pause| (pause, id) < (other_pause, &other.id))
        });
        is_first && !self.progress.has_newcomers()
    }

    /// The pause of a worker that has failed before.
    fn pause_of_repeater(&self, id: &WorkerId) -> Option<Duration> {
        self.trials.record(id).map(|record| record.pause).filter(|&pause| pause > PAUSE_MIN)
    }

    /// A member that is too slow to train with, if there are enough others.
    pub(in crate::protocol::coordinator) fn slow_member(&self, plan: &Plan) -> Option<SlowMember> {
        let are_enough = plan.members().len() > self.min_workers;
        are_enough.then(|| self.stragglers.slow_member()).flatten()
    }

    /// Goes on without a member that is too slow, unless it may be chance.
    pub(in crate::protocol::coordinator) fn leave_out_slow_member(&mut self, slow: &SlowMember) {
        if slow.steps >= SLOW_STEPS || slow.step_ms >= SLOW_STEP_MS {
            self.leave_out(&slow.id, &in_words(slow.shard_ms, slow.median_ms));
            self.enter_fencing(&format!("{} is too slow", worker(&slow.id.name)));
        }
    }
}

/// A time that a worker has stated, which counts up to [`JOIN_MAX`].
fn from_ms(ms: f64) -> Duration {
    Duration::try_from_secs_f64(1e-3 * ms).unwrap_or(JOIN_MAX).min(JOIN_MAX)
}

/// Why a worker that takes this time for a shard is too slow beside others, if it is.
pub(super) fn slowness(shard_ms: f64, median_ms: f64) -> Option<String> {
    is_too_slow(shard_ms, median_ms).then(|| in_words(shard_ms, median_ms))
}

fn in_words(shard_ms: f64, median_ms: f64) -> String {
    format!(
        "it takes {shard_ms:.0} ms for a shard, and the members take {median_ms:.0} ms: start it \
         with more --threads, with another --device, or on a machine that is less busy"
    )
}
