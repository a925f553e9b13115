//! How fast each member computes, and when shards move from a slow member to faster ones.
//!
//! All members wait for the slowest in every phase. Moving shards shortens that wait, and it cannot
//! change the result: the reduction adds shards up in an order that does not depend on their
//! owners. But every move costs a fence, and the speed of a machine that has other work varies from
//! second to second. So speeds are averaged over some steps and seconds before a first decision,
//! the gain must be worth a move, and after each move shards rest for a time that doubles.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::ids::WorkerId;
use crate::metrics::StepDone;
use crate::protocol::plan::Plan;
use crate::words::worker;

/// The first steps of a generation are not measured: their times contain the fence, and lack what
/// was computed before it.
const UNMEASURED_STEPS: u32 = 2;
/// Every member must have finished this many steps of a generation before shards move.
const STEPS_MIN: u32 = 6;
/// A generation must have lasted this long before shards move.
const GENERATION_MIN: Duration = Duration::from_secs(3);
/// Shards move only if the slowest member's time then shrinks below this part of what it is now.
const WORTHWHILE_PART: f64 = 0.8;
/// The weight of a new step in the moving average of a member's time.
const NEW_STEP_WEIGHT: f64 = 0.2;
/// A member that takes a smaller percentage of the others' time for a shard is as fast as they.
const SLOWER_PERCENT_MIN: u32 = 110;
/// A worker that takes more than this many times the others' median for a shard is too slow: with a
/// single shard it would still keep all others waiting.
const SLOWER_MAX: f64 = 10.0;
/// A worker that takes less than this for a shard is never too slow. The times of quick shards vary
/// with everything else that a machine does.
const SLOW_MS_MIN: f64 = 250.0;
/// The smallest time for a shard that is reckoned with, in milliseconds: it keeps ratios finite.
const SHARD_MS_MIN: f64 = 1e-3;
/// Shards rest for this long after their first move. Each later rest is twice as long.
const REST_MIN: Duration = Duration::from_secs(10);
/// The longest time for which shards rest after a move.
const REST_MAX: Duration = Duration::from_secs(300);

/// The speed of the members in the present generation, and of all workers at the last move.
#[derive(Debug)]
pub(super) struct Stragglers {
    /// The beginning of the present generation.
    since: Duration,
    /// The times of the members in the present generation.
    measured: BTreeMap<WorkerId, ShardTime>,
    /// The last steps of the members.
    last: BTreeMap<WorkerId, LastStep>,
    /// Milliseconds for a shard, as they were when shards moved last: later plans keep to them.
    planned_ms: BTreeMap<WorkerId, f64>,
    /// The time for which shards rest after the next move.
    rest: Duration,
    /// The time before which shards do not move.
    not_before: Duration,
}

/// The time that one member takes for a shard.
#[derive(Clone, Copy, Debug, Default)]
struct ShardTime {
    /// Steps that the member has finished in this generation.
    steps: u32,
    /// The moving average of the milliseconds for one shard in one step.
    shard_ms: f64,
}

/// The last step of one member, in whichever generation.
#[derive(Clone, Copy, Debug, Default)]
struct LastStep {
    /// The milliseconds for one shard.
    shard_ms: f64,
    /// The milliseconds for all its shards.
    step_ms: f64,
    /// The last steps in a row in which it was too slow.
    slow_steps: u32,
}

/// A member that is too slow to train with.
#[derive(Debug, PartialEq)]
pub(super) struct SlowMember {
    pub(super) id: WorkerId,
    /// The last steps in a row in which it was too slow.
    pub(super) steps: u32,
    /// The milliseconds for all its shards in the last of them.
    pub(super) step_ms: f64,
    /// The milliseconds for one of them.
    pub(super) shard_ms: f64,
    /// The median of the other members' times.
    pub(super) median_ms: f64,
}

/// A move of shards that is worthwhile.
#[derive(Debug, PartialEq)]
pub(super) struct Move {
    /// The name of the member that loses shards.
    pub(super) name: String,
    /// The ratio of its time for a shard to the mean of the other members' times.
    pub(super) ratio: f64,
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if percent_is_slower(self.percent()) {
            write!(f, "shards move from {}", worker(&self.name))
        } else {
            f.write_str("shards are shared out anew")
        }
    }
}

impl Move {
    /// The ratio in percent.
    pub(super) fn percent(&self) -> u32 {
        (100.0 * self.ratio) as u32
    }
}

impl Stragglers {
    /// Nothing is measured yet.
    pub(super) fn new() -> Self {
        Self {
            since: Duration::ZERO,
            measured: BTreeMap::new(),
            last: BTreeMap::new(),
            planned_ms: BTreeMap::new(),
            rest: REST_MIN,
            not_before: Duration::ZERO,
        }
    }

    /// Begins to measure a new generation.
    pub(super) fn restart(&mut self, now: Duration, plan: &Plan) {
        self.since = now;
        self.measured.clear();
        self.last.retain(|id, _| plan.rank_of(id).is_some());
    }

    /// Adds a step that a member has finished.
    pub(super) fn add_step(&mut self, plan: &Plan, id: &WorkerId, done: &StepDone) {
        if done.generation != plan.generation {
            return;
        }
        let Some(rank) = plan.rank_of(id) else {
            return;
        };
        // The wait for the all-reduce is mostly the wait for slower members: it is not counted.
        let compute_ms = f64::from((done.step_ms - done.allreduce_ms).max(0.0));
        let shard_ms = compute_ms / plan.shards_of(rank).len() as f64;
        // With thousands of members a median takes a while, so quick ones need none.
        let is_noticed = shard_ms > SLOW_MS_MIN;
        let is_slow = is_noticed
            && self.median_of_others(id).is_some_and(|median_ms| is_too_slow(shard_ms, median_ms));
        let last = self.last.entry(id.clone()).or_default();
        (last.shard_ms, last.step_ms) = (shard_ms, compute_ms);
        last.slow_steps = if is_slow { last.slow_steps + 1 } else { 0 };
        let time = self.measured.entry(id.clone()).or_default();
        time.steps += 1;
        if time.steps == UNMEASURED_STEPS + 1 {
            time.shard_ms = shard_ms;
        } else if time.steps > UNMEASURED_STEPS {
            time.shard_ms += NEW_STEP_WEIGHT * (shard_ms - time.shard_ms);
        }
    }

    /// The milliseconds that a member takes for a shard; `None` until enough steps are measured.
    pub(super) fn shard_ms(&self, id: &WorkerId) -> Option<f64> {
        let time = self.measured.get(id)?;
        (time.steps > UNMEASURED_STEPS).then_some(time.shard_ms)
    }

    /// The member that is too slow for the most steps in a row, if one is.
    pub(super) fn slow_member(&self) -> Option<SlowMember> {
        let slow = self.last.iter().filter(|(_, last)| last.slow_steps > 0);
        let (id, last) = slow.max_by_key(|(_, last)| last.slow_steps)?;
        let median_ms = self.median_of_others(id)?;
        let LastStep { shard_ms, step_ms, slow_steps: steps } = *last;
        Some(SlowMember { id: id.clone(), steps, step_ms, shard_ms, median_ms })
    }

    /// The median milliseconds for a shard of the members other than `id`, in their last steps. A
    /// pause of all members is in each of these times.
    fn median_of_others(&self, id: &WorkerId) -> Option<f64> {
        let others = self.last.iter().filter(|(other, _)| *other != id);
        median(others.map(|(_, last)| last.shard_ms).collect())
    }

    /// Decides whether shards are to move from a slow member. If so, later plans assign shards by
    /// the members' present speed.
    pub(super) fn decide(&mut self, now: Duration, plan: &Plan) -> Option<Move> {
        if now < self.since + GENERATION_MIN || now < self.not_before {
            return None;
        }

        // Compare the slowest member's time now with the time after the best move.
        let shard_ms = self.steady_shard_ms(plan)?;
        let loads: Vec<usize> = plan.ranks().map(|rank| plan.shards_of(rank).len()).collect();
        let longest_now = longest_ms(&loads, &shard_ms);
        // If shards could be divided, all members would be done at the same time. Not even that
        // would be worthwhile, most of the time, and it is quickly reckoned.
        let shards_a_ms: f64 = shard_ms.iter().map(|ms| 1.0 / ms).sum();
        if f64::from(plan.shards()) / shards_a_ms >= WORTHWHILE_PART * longest_now {
            return None;
        }
        let best_loads = spread(usize::from(plan.shards()), &shard_ms);
        let longest_then = longest_ms(&best_loads, &shard_ms);
        if longest_then >= WORTHWHILE_PART * longest_now {
            return None;
        }

        // Keep the speeds for the next plan, and let shards rest after it.
        let ids = plan.members().iter().map(|member| member.id.clone());
        self.planned_ms = ids.zip(shard_ms.iter().copied()).collect();
        self.not_before = now + self.rest;
        self.rest = (2 * self.rest).min(REST_MAX);

        let (slowest, &slowest_ms) =
            shard_ms.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
        let others = (shard_ms.len() - 1).max(1) as f64;
        let mean_of_others = (shard_ms.iter().sum::<f64>() - slowest_ms) / others;
        let name = plan.members()[slowest].id.name.clone();
        Some(Move { name, ratio: slowest_ms / mean_of_others })
    }

    /// The milliseconds that each member takes for a shard, by rank; `None` until every member has
    /// finished enough steps.
    fn steady_shard_ms(&self, plan: &Plan) -> Option<Vec<f64>> {
        let mut shard_ms = Vec::with_capacity(plan.members().len());
        for member in plan.members() {
            let time = self.measured.get(&member.id)?;
            if time.steps < STEPS_MIN {
                return None;
            }
            shard_ms.push(time.shard_ms.max(SHARD_MS_MIN));
        }
        Some(shard_ms)
    }

    /// How many of `shards` each of these workers gets; `None` if nothing is known about their
    /// speed.
    pub(super) fn loads(&self, shards: usize, members: &[WorkerId]) -> Option<Vec<usize>> {
        let known: Vec<f64> =
            members.iter().filter_map(|id| self.planned_ms.get(id).copied()).collect();
        if known.is_empty() {
            return None;
        }
        // A worker that has not been measured counts as an average one.
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        let shard_ms: Vec<f64> =
            members.iter().map(|id| self.planned_ms.get(id).copied().unwrap_or(mean)).collect();
        Some(spread(shards, &shard_ms))
    }
}

/// Returns whether a member that takes so many percent of the others' time for a shard is called
/// slower. If none is, shards move because a member that was slow is so no more.
pub(super) fn percent_is_slower(percent: u32) -> bool {
    percent >= SLOWER_PERCENT_MIN
}

/// Returns whether a worker that takes this time for a shard is too slow beside others. A time that
/// is no number is none that a worker measures.
pub(super) fn is_too_slow(shard_ms: f64, median_ms: f64) -> bool {
    let is_quick = shard_ms <= (SLOWER_MAX * median_ms).max(SLOW_MS_MIN);
    !is_quick
}

/// The median of some times, or the greater one of two in the middle; `None` if there are none.
pub(super) fn median(mut times: Vec<f64>) -> Option<f64> {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

/// The milliseconds that the slowest member takes for all its shards.
fn longest_ms(loads: &[usize], shard_ms: &[f64]) -> f64 {
    loads.iter().zip(shard_ms).map(|(&shards, ms)| shards as f64 * ms).fold(0.0, f64::max)
}

/// Spreads shards over members that take these times for one, so that the slowest member finishes
/// as early as possible. Each member gets at least one shard.
///
/// # Panics
/// If there are shards but no members.
fn spread(shards: usize, shard_ms: &[f64]) -> Vec<usize> {
    let mut loads = vec![1; shard_ms.len()];
    // Give each further shard to the member that would finish it first.
    for _ in shard_ms.len()..shards {
        let mut best = 0;
        for rank in 1..loads.len() {
            if finish_ms(&loads, shard_ms, rank) < finish_ms(&loads, shard_ms, best) {
                best = rank;
            }
        }
        loads[best] += 1;
    }
    loads
}

/// The milliseconds that a member would take for one shard more than it has.
fn finish_ms(loads: &[usize], shard_ms: &[f64], rank: usize) -> f64 {
    (loads[rank] + 1) as f64 * shard_ms[rank]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Digest;
    use crate::protocol::coordinator::Notice;
    use crate::protocol::plan::fixture;

    /// Steps of a plan in which worker `n` takes `times[n]` milliseconds a shard.
    fn observe(stragglers: &mut Stragglers, plan: &Plan, times: &[f32]) {
        for step in 1..=20 {
            for (member, (rank, time)) in plan.members().iter().zip(plan.ranks().zip(times)) {
                let compute = time * plan.shards_of(rank).len() as f32;
                let done = StepDone {
                    step,
                    generation: plan.generation,
                    world_size: 2,
                    digest: Digest(0),
                    ends_run: false,
                    metrics: Vec::new(),
                    step_ms: compute + 7.0,
                    allreduce_ms: 7.0,
                };
                stragglers.add_step(plan, &member.id, &done);
            }
        }
    }

    #[test]
    fn shards_are_spread_by_speed() {
        assert_eq!(spread(8, &[1.0, 1.0]), [4, 4]);
        assert_eq!(spread(8, &[1.0, 3.0]), [6, 2]);
        assert_eq!(spread(8, &[1.0, 100.0, 1.0]), [4, 1, 3]);
        assert_eq!(spread(3, &[1.0, 100.0, 1.0]), [1, 1, 1]);
    }

    #[test]
    fn a_member_that_is_as_fast_as_the_others_is_not_called_slow() {
        let cause = |ratio| Move { name: "worker-1".to_owned(), ratio }.to_string();
        assert_eq!(cause(1.04), "shards are shared out anew");
        assert_eq!(cause(3.0), "shards move from worker-1");
        let notice = |percent| Notice::ShardsMoved { name: "a".to_owned(), percent }.to_string();
        assert!(!notice(104).contains("worker a"), "{}", notice(104));
        assert!(notice(300).starts_with("worker a takes 3.0 times as long as the others"));
    }

    #[test]
    fn shards_move_from_a_steadily_slower_member_and_then_rest() {
        let plan = fixture::plan(8, &[0, 0, 0, 0, 1, 1, 1, 1]);
        let later = Duration::from_secs(4);
        let mut stragglers = Stragglers::new();
        observe(&mut stragglers, &plan, &[10.0, 12.0]);
        assert_eq!(stragglers.decide(later, &plan), None, "noise");
        stragglers.restart(Duration::ZERO, &plan);
        observe(&mut stragglers, &plan, &[10.0, 30.0]);
        assert_eq!(stragglers.decide(Duration::from_secs(2), &plan), None, "too early");
        assert_eq!(
            stragglers.decide(later, &plan),
            Some(Move { name: "worker-1".to_owned(), ratio: 3.0 })
        );
        let ids: Vec<WorkerId> = plan.members().iter().map(|member| member.id.clone()).collect();
        assert_eq!(stragglers.loads(8, &ids), Some(vec![6, 2]));
        assert_eq!(stragglers.decide(later, &plan), None, "they rest");
    }
}
