//! Members that do not keep up, and how much time a newcomer gets.
//!
//! A trial shows what a worker can do, not what it will do. One that has passed may copy for ever,
//! or become slow, and every member waits for the slowest. So a newcomer takes part for as long as
//! the steps with it take about what was to be expected. If one does not, the others go on without
//! it. A member that has become much slower later is found by its times.

use std::time::Duration;

use super::{CoordinatorMachine, PAUSE_MIN};
use crate::ids::WorkerId;
use crate::protocol::coordinator::FENCE_MAX;
use crate::protocol::coordinator::progress::{JOIN_MAX, JoinTimes};
use crate::protocol::coordinator::stragglers::{SlowMember, is_too_slow};
use crate::protocol::plan::Plan;

/// A member that is too slow for so many steps in a row is left out. One may be chance.
const SLOW_STEPS: u32 = 2;
/// One such step is enough if it takes this long: the others wait as long for an answer to a fence.
const SLOW_STEP_MS: f64 = 1e3 * FENCE_MAX.as_secs() as f64;
/// A worker computes this many shards in a trial. The rest of the time it copies.
const TRIAL_SHARDS: usize = 2;

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
            let shown = self.trials.record(id).and_then(|record| record.shown);
            // One of which nothing is known gets all the time that there is.
            let (trial, shard_ms) =
                shown.map_or((JOIN_MAX, 0.0), |shown| (shown.trial, shown.shard_ms));
            let shards = plan.rank_of(id).map_or(0, |rank| plan.shards_of(rank).len());
            let time_of = |shards: usize| {
                let time = Duration::try_from_secs_f64(1e-3 * shard_ms * shards as f64);
                time.unwrap_or(JOIN_MAX).min(JOIN_MAX)
            };
            let copy = trial.min(JOIN_MAX).saturating_sub(time_of(TRIAL_SHARDS));
            slowest.copy = slowest.copy.max(copy);
            slowest.step = slowest.step.max(time_of(shards));
        }
        (!newcomers.is_empty()).then_some(slowest)
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
            self.enter_fencing(&format!("worker {} is too slow", slow.id));
        }
    }
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
