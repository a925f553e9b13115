//! How fast each member computes. Shards move from one that is steadily slower: the bits do not care.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::WorkerId;
use crate::metrics::StepDone;
use crate::protocol::plan::Plan;

/// Steps of a generation that say nothing: they contain the fence, and what was computed before it.
const SKIPPED: u32 = 2;
/// Steps that must agree that a member is slow,
const STEPS_MIN: u32 = 6;
/// and the time that they must have taken.
const STEADY: Duration = Duration::from_secs(3);
/// Shards move if the longest of all members' phases would then take less than this part of what it takes now.
const WORTHWHILE: f64 = 0.8;
/// The weight of a new step in the mean.
const NEW: f64 = 0.2;
/// After shards have moved they stay for so long, then twice as long, and at most the second.
const RESTS: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(300)];

/// The members' stragglers in the present generation.
#[derive(Debug)]
pub(super) struct Stragglers {
    since: Duration,
    measured: BTreeMap<WorkerId, ShardTime>,
    /// Milliseconds a shard, as they were when shards moved last: later plans keep to them.
    weights: BTreeMap<WorkerId, f64>,
    rest: Duration,
    not_before: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct ShardTime {
    steps: u32,
    /// Milliseconds a step and shard.
    shard_ms: f64,
}

/// A move that is worthwhile.
#[derive(Debug, PartialEq)]
pub(super) struct Move {
    /// Who is slow.
    pub(super) name: String,
    /// How many times as long as the others it takes for a shard.
    pub(super) times: f64,
}

impl Stragglers {
    pub(super) fn new() -> Self {
        Self {
            since: Duration::ZERO,
            measured: BTreeMap::new(),
            weights: BTreeMap::new(),
            rest: RESTS[0],
            not_before: Duration::ZERO,
        }
    }

    /// A new generation begins.
    pub(super) fn restart(&mut self, now: Duration) {
        self.since = now;
        self.measured.clear();
    }

    /// A member has finished a step.
    pub(super) fn step(&mut self, plan: &Plan, id: &WorkerId, done: &StepDone) {
        let Some(rank) = plan.rank_of(id).filter(|_| done.generation == plan.generation) else {
            return;
        };
        let pace = self.measured.entry(id.clone()).or_default();
        pace.steps += 1;
        let shard_ms = f64::from((done.step_ms - done.allreduce_ms).max(0.0))
            / plan.shards_of(rank).count() as f64;
        match pace.steps {
            ..=SKIPPED => {}
            n if n == SKIPPED + 1 => pace.shard_ms = shard_ms,
            _ => pace.shard_ms += NEW * (shard_ms - pace.shard_ms),
        }
    }

    /// Milliseconds that a member takes for a shard, once that is known.
    pub(super) fn shard_ms(&self, id: &WorkerId) -> Option<f64> {
        self.measured.get(id).filter(|pace| pace.steps > SKIPPED).map(|pace| pace.shard_ms)
    }

    /// Whether shards are to move from a slow member, and then decides that they will.
    pub(super) fn decide(&mut self, now: Duration, plan: &Plan) -> Option<Move> {
        if now < self.since + STEADY || now < self.not_before {
            return None;
        }
        let steady = |id: &WorkerId| self.measured.get(id).filter(|pace| pace.steps >= STEPS_MIN);
        let times: Vec<f64> = plan
            .members
            .iter()
            .map(|member| Some(steady(&member.id)?.shard_ms.max(1e-3)))
            .collect::<Option<_>>()?;
        let loads: Vec<usize> = plan.ranks().map(|rank| plan.shards_of(rank).count()).collect();
        let longest = |loads: &[usize]| {
            loads.iter().zip(&times).map(|(&n, t)| n as f64 * t).fold(0.0, f64::max)
        };
        let better = spread(usize::from(plan.shards()), &times);
        if longest(&better) >= WORTHWHILE * longest(&loads) {
            return None;
        }
        let (slowest, &time) = times.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
        let others = (times.iter().sum::<f64>() - time) / (times.len() - 1).max(1) as f64;
        self.weights = plan
            .members
            .iter()
            .map(|member| member.id.clone())
            .zip(times.iter().copied())
            .collect();
        self.not_before = now + self.rest;
        self.rest = (2 * self.rest).min(RESTS[1]);
        Some(Move { name: plan.members[slowest].id.name.clone(), times: time / others })
    }

    /// How many of `shards` each of these workers gets; none if all are alike.
    pub(super) fn loads(&self, shards: usize, members: &[WorkerId]) -> Option<Vec<usize>> {
        let known: Vec<f64> =
            members.iter().filter_map(|id| self.weights.get(id).copied()).collect();
        if known.is_empty() {
            return None;
        }
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        let times: Vec<f64> =
            members.iter().map(|id| self.weights.get(id).copied().unwrap_or(mean)).collect();
        Some(spread(shards, &times))
    }
}

/// Spreads shards over workers that take these times for one, so that the longest takes as little as can be. Each gets
/// at least one.
fn spread(shards: usize, times: &[f64]) -> Vec<usize> {
    let mut loads = vec![1; times.len()];
    for _ in times.len()..shards {
        let next = |&rank: &usize| (loads[rank] + 1) as f64 * times[rank];
        let best = (0..times.len()).min_by(|a, b| next(a).total_cmp(&next(b)));
        loads[best.expect("a plan has members")] += 1;
    }
    loads
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use crate::metrics::METRIC_COUNT;
    use crate::protocol::plan::fixture;

    /// Steps of a plan in which worker `n` takes `times[n]` milliseconds a shard.
    fn observe(stragglers: &mut Stragglers, plan: &Plan, times: &[f32]) {
        for step in 1..=20 {
            for (member, (rank, time)) in plan.members.iter().zip(plan.ranks().zip(times)) {
                let compute = time * plan.shards_of(rank).count() as f32;
                let done = StepDone {
                    step,
                    generation: plan.generation,
                    world_size: 2,
                    digest: Digest(0),
                    metrics: [0.0; METRIC_COUNT],
                    step_ms: compute + 7.0,
                    allreduce_ms: 7.0,
                };
                stragglers.step(plan, &member.id, &done);
            }
        }
    }

    #[test]
    fn shards_are_spread_by_pace() {
        assert_eq!(spread(8, &[1.0, 1.0]), [4, 4]);
        assert_eq!(spread(8, &[1.0, 3.0]), [6, 2]);
        assert_eq!(spread(8, &[1.0, 100.0, 1.0]), [4, 1, 3]);
        assert_eq!(spread(3, &[1.0, 100.0, 1.0]), [1, 1, 1]);
    }

    #[test]
    fn shards_move_from_who_is_steadily_slower_and_not_at_once_again() {
        let plan = fixture::plan(8, &[0, 0, 0, 0, 1, 1, 1, 1]);
        let later = Duration::from_secs(4);
        let mut stragglers = Stragglers::new();
        observe(&mut stragglers, &plan, &[10.0, 12.0]);
        assert_eq!(stragglers.decide(later, &plan), None, "noise");
        stragglers.restart(Duration::ZERO);
        observe(&mut stragglers, &plan, &[10.0, 30.0]);
        assert_eq!(stragglers.decide(Duration::from_secs(2), &plan), None, "too early");
        assert_eq!(
            stragglers.decide(later, &plan),
            Some(Move { name: "worker-1".to_owned(), times: 3.0 })
        );
        let ids: Vec<WorkerId> = plan.members.iter().map(|member| member.id.clone()).collect();
        assert_eq!(stragglers.loads(8, &ids), Some(vec![6, 2]));
        assert_eq!(stragglers.decide(later, &plan), None, "they rest");
    }
}
