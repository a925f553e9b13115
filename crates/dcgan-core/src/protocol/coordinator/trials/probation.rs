//! Members that do not keep up, and how much time a newcomer gets.
//!
//! A trial shows what a worker can do, not what it will do. One that has passed may copy for ever,
//! or become slow, and every member waits for the slowest. So a newcomer takes part for as long as
//! the steps with it take about what was to be expected. If one does not, the others go on without
//! it. A member that has become much slower later is found by its times.

use std::time::Duration;

use super::{CoordinatorMachine, PAUSE_MIN};
use crate::ids::WorkerId;
use crate::protocol::coordinator::planner::Candidate;
use crate::protocol::coordinator::progress::{JOIN_MAX, JoinTimes};
use crate::protocol::plan::Plan;

/// A worker that takes more than this many times the others' median for a shard waits outside: with
/// a single shard it would still keep all others waiting.
const SLOWER_MAX: f64 = 10.0;
/// A worker that takes less than this for a shard is never too slow. The times of quick shards vary
/// with everything else that a machine does.
const SLOW_MS_MIN: f64 = 250.0;

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
            let step = Duration::try_from_secs_f64(1e-3 * shard_ms * shards as f64);
            slowest.trial = slowest.trial.max(trial).min(JOIN_MAX);
            slowest.step = slowest.step.max(step.unwrap_or(JOIN_MAX)).min(JOIN_MAX);
        }
        (!newcomers.is_empty()).then_some(slowest)
    }

    /// Returns whether a worker may join the members of a plan now. Of those that have failed
    /// before one joins at a time, so that one that fails again takes no other down with it.
    pub(in crate::protocol::coordinator) fn may_join(&self, plan: &Plan, id: &WorkerId) -> bool {
        !self.has_failed_before(id) || self.progress.newcomers(plan).is_empty()
    }

    /// Leaves one candidate of those that have failed before, if there are enough others.
    pub(in crate::protocol::coordinator) fn admit_one_by_one(
        &self,
        candidates: &mut Vec<Candidate>,
    ) {
        if !self.is_core_enough() {
            return;
        }
        let is_repeater = |candidate: &Candidate| {
            !self.progress.core().contains(&candidate.id) && self.has_failed_before(&candidate.id)
        };
        let repeaters = candidates.iter().filter(|candidate| is_repeater(candidate));
        let pause = |id: &WorkerId| self.trials.record(id).map(|record| record.pause);
        let first = repeaters.min_by_key(|it| (pause(&it.id), it.arrival)).map(|it| it.id.clone());
        candidates.retain(|it| !is_repeater(it) || first.as_ref() == Some(&it.id));
    }

    fn has_failed_before(&self, id: &WorkerId) -> bool {
        self.trials.record(id).is_some_and(|record| record.pause > PAUSE_MIN)
    }

    /// A member that is too slow to train with, if there are enough others, and why.
    pub(in crate::protocol::coordinator) fn slow_member(
        &self,
        plan: &Plan,
    ) -> Option<(WorkerId, String)> {
        if plan.members().len() <= self.min_workers {
            return None;
        }
        let (id, shard_ms) = self.stragglers.slowest()?;
        let median_ms = self.stragglers.median_of_others(id)?;
        Some((id.clone(), slowness(shard_ms, median_ms)?))
    }
}

/// Why a worker that takes this time for a shard is too slow beside others, if it is.
pub(super) fn slowness(shard_ms: f64, median_ms: f64) -> Option<String> {
    // A time that is no number is none that a worker measures.
    let is_quick = shard_ms <= (SLOWER_MAX * median_ms).max(SLOW_MS_MIN);
    (!is_quick).then(|| {
        format!(
            "it takes {shard_ms:.0} ms for a shard, and the members take {median_ms:.0} ms: start \
             it with more --threads, with another --device, or on a machine that is less busy"
        )
    })
}
