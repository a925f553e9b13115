//! The progress of the training, and the complaints of members while there is none.
//!
//! A member's report is a claim, so a step counts as finished when most members have reported it.
//! The members of a plan that finished a step are the *core*: what has worked once is what to go
//! back to. A plan that finishes no step is *fruitless*. One may be chance; after two in a row,
//! other workers are tried: see `search.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::search::Search;
use crate::ids::{Step, WorkerId};
use crate::protocol::plan::Plan;

/// After this many fruitless plans in a row, somebody is left out.
const FRUITLESS_MAX: usize = 2;
/// A complaint that was not made again in so many later plans is forgotten: its cause may be over.
const ACCUSATION_PLANS: u64 = 6;
/// The number of recent steps whose times are remembered.
const RECENT_STEPS: usize = 8;
/// A plan may take this many times the slowest recent step for a step.
const STALL_STEPS: u32 = 8;
/// A plan of members that have trained together may take at least this long for a step. Members
/// that wait for one of them have complained by then.
const STALL_MIN: Duration = Duration::from_secs(30);
/// A plan may take this long after the last step: there is nothing to compute.
const LAST_MAX: Duration = Duration::from_secs(10);
/// A worker that joins is a *newcomer* until it has finished this many steps with the others.
const PROBATION_STEPS: u32 = 8;
/// A plan with a newcomer may take this many times what a step is expected to take: by the slowest
/// recent step, and by what the newcomer has shown in its trial.
const JOIN_STEPS: u32 = 2;
/// A plan with a newcomer may take at least this long for a step: a busy machine may need it.
const JOIN_MIN: Duration = Duration::from_millis(500);
/// A newcomer may take this many times what it has taken for a copy in its trial.
const JOIN_COPIES: u32 = 3;
/// A newcomer may take at least this long for its copy.
const COPY_MIN: Duration = Duration::from_millis(250);
/// The slowness that a newcomer has shown gives it no more time than this.
pub(super) const JOIN_MAX: Duration = Duration::from_secs(10);
/// A plan may take this long for a step while it is not known how long steps take.
const STALL_FIRST: Duration = Duration::from_secs(150);
/// Each fruitless plan in a row doubles the time for the next one, this many times at most.
const DOUBLINGS_MAX: u32 = 4;

/// The progress of the training.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The members that last finished a step together.
    core: BTreeSet<WorkerId>,
    /// The newcomers of the present plan.
    newcomers: BTreeMap<WorkerId, Newcomer>,
    /// Plans since then that have finished no step.
    fruitless: usize,
    /// Plans since then that were given up because nothing happened.
    stalls: u32,
    /// Complaints since then: by whom, about whom, and what.
    accusations: BTreeMap<(WorkerId, WorkerId), Accusation>,
    /// The number of plans that this coordinator has begun.
    plans: u64,
    /// Members that others have waited for too long since then.
    late: BTreeSet<WorkerId>,
    /// Workers that were left out since then.
    blamed: BTreeSet<WorkerId>,
    /// The sets of workers that were tried since then.
    search: Search,
    /// The set that is tried now, if one was chosen since then.
    chosen: Option<BTreeSet<WorkerId>>,
    /// The last step that each member of the present plan has reported.
    reported: BTreeMap<WorkerId, Step>,
    /// The last step that most of them have reported.
    finished: Step,
    /// The time at which that was reported, or at which the plan began.
    since: Duration,
    /// The times of the last steps, oldest first.
    recent: VecDeque<Duration>,
}

/// The times that the newcomers of a plan are expected to take, as they say after their trials.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct JoinTimes {
    /// The time to copy a state.
    pub(super) copy: Duration,
    /// The time for the shards that the plan gives them in one step.
    pub(super) step: Duration,
}

/// A worker that has joined a moment ago.
#[derive(Debug)]
struct Newcomer {
    /// The steps after which it is a newcomer no more.
    steps: u32,
    /// True while it lacks the start state of the present plan.
    is_copying: bool,
}

/// A complaint of one worker about another.
#[derive(Debug)]
struct Accusation {
    why: String,
    /// The number of the plan in which it was made.
    plan: u64,
}

impl Progress {
    /// Notes that a plan begins.
    pub(super) fn begin_plan(&mut self, now: Duration, plan: &Plan) {
        self.plans += 1;
        let oldest = self.plans.saturating_sub(ACCUSATION_PLANS);
        self.accusations.retain(|_, accusation| accusation.plan >= oldest);
        self.reported.clear();
        self.finished = plan.start.position.step;
        self.since = now;
        self.newcomers.retain(|id, _| plan.rank_of(id).is_some());
        for member in plan.members() {
            // Before a first step there are none: nobody has shown more than the others.
            let is_copying = !member.holds_start;
            if !self.core.is_empty() && !self.core.contains(&member.id) {
                let newcomer = Newcomer { steps: PROBATION_STEPS, is_copying };
                self.newcomers.insert(member.id.clone(), newcomer);
            } else if let Some(newcomer) = self.newcomers.get_mut(&member.id) {
                newcomer.is_copying = is_copying;
            }
        }
    }

    /// Notes that the members of a plan train since an earlier coordinator announced it.
    pub(super) fn adopt(&mut self, now: Duration, plan: &Plan) {
        self.begin_plan(now, plan);
        self.core = plan.members().iter().map(|member| member.id.clone()).collect();
        self.newcomers.clear();
    }

    /// Notes that a member of `plan` has reached a step. Returns whether most members have now
    /// finished a step that they had not.
    pub(super) fn on_step(
        &mut self,
        now: Duration,
        plan: &Plan,
        id: &WorkerId,
        step: Step,
    ) -> bool {
        if plan.rank_of(id).is_none() {
            return false;
        }
        let reported = self.reported.entry(id.clone()).or_default();
        *reported = step.max(*reported);
        let mut steps: Vec<Step> = self.reported.values().copied().collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        let Some(&finished) = steps.get(plan.members().len() / 2) else {
            return false;
        };
        if finished <= self.finished {
            return false;
        }
        self.finished = finished;
        self.recent.push_back(now.saturating_sub(self.since));
        if self.recent.len() > RECENT_STEPS {
            self.recent.pop_front();
        }
        self.since = now;
        self.core = plan.members().iter().map(|member| member.id.clone()).collect();
        self.newcomers.retain(|_, newcomer| {
            newcomer.steps -= 1;
            newcomer.is_copying = false;
            newcomer.steps > 0
        });
        (self.fruitless, self.stalls) = (0, 0);
        self.accusations.clear();
        self.late.clear();
        self.blamed.clear();
        self.search.clear();
        self.chosen = None;
        true
    }

    /// The last step that most members of the present plan have finished.
    pub(super) fn finished(&self) -> Step {
        self.finished
    }

    /// The members that last finished a step together.
    pub(super) fn core(&self) -> &BTreeSet<WorkerId> {
        &self.core
    }

    /// The newcomers of a plan, if all others that last finished a step together are its members:
    /// then it cannot be a loss that keeps them from finishing the next.
    pub(super) fn newcomers(&self, plan: &Plan) -> Vec<WorkerId> {
        // This is asked at every event, and mostly there are none.
        if self.newcomers.is_empty() || self.core.iter().any(|id| plan.rank_of(id).is_none()) {
            return Vec::new();
        }
        self.newcomers.keys().cloned().collect()
    }

    /// Returns whether the present plan has newcomers.
    pub(super) fn has_newcomers(&self) -> bool {
        !self.newcomers.is_empty()
    }

    /// Notes that a member holds the start state of the present plan.
    pub(super) fn note_copied(&mut self, id: &WorkerId) {
        if let Some(newcomer) = self.newcomers.get_mut(id) {
            newcomer.is_copying = false;
        }
    }

    /// Returns whether a newcomer lacks the start state of the present plan.
    pub(super) fn is_copying(&self, id: &WorkerId) -> bool {
        self.newcomers.get(id).is_some_and(|newcomer| newcomer.is_copying)
    }

    /// Returns whether the copy of a newcomer takes too long, if it is expected to take this time:
    /// the members cannot finish a step without it.
    pub(super) fn is_copy_late(&self, now: Duration, expected: Duration) -> bool {
        self.waited(now) >= (expected * JOIN_COPIES).max(COPY_MIN)
    }

    /// The time since the last finished step, or since the plan began.
    pub(super) fn waited(&self, now: Duration) -> Duration {
        now.saturating_sub(self.since)
    }

    /// Restarts the clock, after a time in which the coordinator could not hear.
    pub(super) fn restart_clock(&mut self, now: Duration) {
        self.since = now;
    }

    /// Records a complaint.
    pub(super) fn accuse(&mut self, by: &WorkerId, about: &WorkerId, why: &str) {
        let accusation = Accusation { why: why.to_owned(), plan: self.plans };
        self.accusations.insert((by.clone(), about.clone()), accusation);
    }

    /// Notes that others have waited too long for a member. There is no second attempt with it.
    pub(super) fn note_late(&mut self, id: &WorkerId) {
        self.fruitless = FRUITLESS_MAX;
        self.late.insert(id.clone());
    }

    /// Returns whether others have waited too long for a worker since the last finished step.
    pub(super) fn is_late(&self, id: &WorkerId) -> bool {
        self.late.contains(id)
    }

    /// Notes that a worker is left out. While there are enough others, no plan counts on it before
    /// these have finished a step.
    pub(super) fn blame(&mut self, id: &WorkerId) {
        self.blamed.insert(id.clone());
    }

    /// Notes that a worker that was left out is tried again, with others.
    pub(super) fn absolve(&mut self, id: &WorkerId) {
        self.blamed.remove(id);
    }

    /// Returns whether a worker was left out since the last finished step.
    pub(super) fn is_blamed(&self, id: &WorkerId) -> bool {
        self.blamed.contains(id)
    }

    /// Returns whether a worker is not to be in the next plan while there are enough others: it was
    /// left out, or it has passed its trial since a set without it was chosen.
    pub(super) fn is_passed_over(&self, id: &WorkerId) -> bool {
        self.is_blamed(id) || self.chosen.as_ref().is_some_and(|chosen| !chosen.contains(id))
    }

    /// The complaints since the last finished step.
    pub(super) fn accusations(&self) -> impl Iterator<Item = (&WorkerId, &WorkerId, &str)> {
        self.accusations.iter().map(|((by, about), it)| (by, about, it.why.as_str()))
    }

    /// The number of workers that have complained about a worker or that it has complained about,
    /// and the number of the first alone.
    pub(super) fn quarrels(&self, id: &WorkerId) -> (usize, usize) {
        let (mut with, mut by) = (BTreeSet::new(), 0);
        for (accuser, accused) in self.accusations.keys() {
            if accused == id {
                with.insert(accuser);
                by += 1;
            } else if accuser == id {
                with.insert(accused);
            }
        }
        (with.len(), by)
    }

    /// Returns whether a plan takes so long for a step that it is to be given up. With newcomers
    /// that the others do not need, these take part for as long as they keep up: `join` is what
    /// they have shown. After the `last_step` there is nothing to compute, only to report and to
    /// send.
    pub(super) fn is_stalled(
        &self,
        now: Duration,
        plan: &Plan,
        last_step: Step,
        join: Option<JoinTimes>,
    ) -> bool {
        let start = plan.start.position.step;
        let patience = match (self.recent.iter().max(), join) {
            _ if start >= last_step => LAST_MAX,
            (None, _) => STALL_FIRST,
            (Some(&slowest), None) => (slowest * STALL_STEPS).max(STALL_MIN),
            (Some(&slowest), Some(join)) => {
                // A state is copied before the first step only.
                let copy = if self.finished == start { join.copy } else { Duration::ZERO };
                let shown = (join.step * JOIN_STEPS + copy).min(JOIN_MAX);
                shown.max(slowest * JOIN_STEPS + copy).max(JOIN_MIN)
            }
        };
        self.waited(now) >= patience * 2u32.pow(self.stalls.min(DOUBLINGS_MAX))
    }

    /// Returns whether plans have ended without a finished step since the last one.
    pub(super) fn is_fruitless(&self) -> bool {
        self.fruitless > 0
    }

    /// Counts a plan that has ended without a finished step, because nothing happened.
    pub(super) fn add_stall(&mut self) {
        self.stalls += 1;
        self.fruitless += 1;
    }

    /// Counts a plan that a complaint has ended before a step was finished.
    pub(super) fn add_fruitless(&mut self) {
        self.fruitless += 1;
    }

    /// Returns whether other workers are to be tried with the next plan.
    pub(super) fn is_search_due(&self) -> bool {
        self.fruitless >= FRUITLESS_MAX
    }

    /// Chooses the workers that are tried next, of which there are at least `min`, after a `plan`
    /// that has failed. If there are enough, the count of fruitless plans starts again.
    ///
    /// Of the `workers`, the one that is left out first comes first. The `outsiders` come last.
    pub(super) fn choose(
        &mut self,
        plan: &Plan,
        workers: &[WorkerId],
        outsiders: &[WorkerId],
        min: usize,
    ) -> Option<BTreeSet<WorkerId>> {
        self.search.note(plan.members().iter().map(|member| member.id.clone()).collect());
        let quarrels: Vec<_> = self.accusations.keys().cloned().collect();
        let chosen = self.search.choose(workers, outsiders, &self.core, &quarrels, min)?;
        self.fruitless = 0;
        self.chosen = Some(chosen.clone());
        Some(chosen)
    }
}
