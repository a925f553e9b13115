//! The reports of finished steps, until everything due at those steps is on disk.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Digest, Step, WorkerId};
use crate::metrics::{LogWindow, StepDone};

/// A state that at least one worker has reported for a step.
#[derive(Debug)]
struct StepReport {
    /// The first report of this state.
    done: StepDone,
    /// The workers that have reported this state and no other since.
    workers: BTreeSet<WorkerId>,
    /// The reports of those workers whose numbers of this state are others than in `done`.
    contradictions: BTreeMap<WorkerId, StepDone>,
    /// The open log window with this step in it; `None` until the members agree on this state.
    window: Option<LogWindow>,
}

/// A report on which all members agree.
#[derive(Debug)]
pub(super) struct Agreed {
    /// The report with the numbers that most members have reported.
    pub(super) done: StepDone,
    /// The members that have reported other numbers of the same state, if they are fewer.
    pub(super) contradicted_by: Vec<WorkerId>,
}

impl StepReport {
    fn new(done: StepDone) -> Self {
        let (workers, contradictions) = (BTreeSet::new(), BTreeMap::new());
        Self { done, workers, contradictions, window: None }
    }

    /// Enters the report of a worker.
    fn add(&mut self, worker: &WorkerId, done: StepDone) {
        self.workers.insert(worker.clone());
        if has_same_numbers(&self.done, &done) {
            self.contradictions.remove(worker);
        } else {
            self.contradictions.insert(worker.clone(), done);
        }
    }

    /// Forgets the report of a worker.
    fn remove(&mut self, worker: &WorkerId) {
        self.workers.remove(worker);
        self.contradictions.remove(worker);
    }

    /// The numbers that most of these workers have reported. On a tie, finite numbers count more,
    /// and then the first report; but `None` if the tie is about the end of the run.
    fn settle(&self, workers: &[WorkerId]) -> Option<Agreed> {
        if self.contradictions.is_empty() {
            return Some(Agreed { done: self.done.clone(), contradicted_by: Vec::new() });
        }
        let version = |worker: &WorkerId| self.contradictions.get(worker).unwrap_or(&self.done);
        let votes = |done: &StepDone| {
            workers.iter().filter(|worker| has_same_numbers(version(worker), done)).count()
        };
        let weight = |done: &StepDone| {
            let is_finite = done.metrics.iter().all(|value| value.is_finite());
            (votes(done), is_finite, std::ptr::eq(done, &self.done))
        };
        let versions = || self.contradictions.values().chain([&self.done]);
        let done = versions().max_by_key(|done| weight(done))?;
        let is_rival = |it: &StepDone| it.ends_run != done.ends_run && votes(it) == votes(done);
        if versions().any(is_rival) {
            return None;
        }
        let is_minority = |worker: &&WorkerId| 2 * votes(version(worker)) < workers.len();
        let others = workers.iter().filter(|worker| !has_same_numbers(version(worker), done));
        let contradicted_by = others.filter(is_minority).cloned().collect();
        Some(Agreed { done: done.clone(), contradicted_by })
    }
}

/// Returns whether two reports have the same numbers, which are a function of the state. Times are
/// the worker's own.
fn has_same_numbers(one: &StepDone, other: &StepDone) -> bool {
    let bits = |done: &StepDone| -> Vec<u32> {
        done.metrics.iter().map(|value| value.to_bits()).collect()
    };
    one.ends_run == other.ends_run && bits(one) == bits(other)
}

/// The reports by step and by the digest of the state: workers may disagree.
///
/// While a disk hangs they are many. So nothing that happens for every report looks at all of them.
#[derive(Debug, Default)]
pub(super) struct StepReports {
    steps: BTreeMap<Step, BTreeMap<Digest, StepReport>>,
    /// The greatest step that each worker has reported and not withdrawn.
    last_steps: BTreeMap<WorkerId, Step>,
    /// The step after which the members of the present plan compute.
    start: Step,
}

impl StepReports {
    /// Enters a worker's report. It replaces what the worker has reported for this step before,
    /// because a worker that has copied another state since speaks for that one.
    pub(super) fn add(&mut self, worker: &WorkerId, done: StepDone) {
        let (step, digest) = (done.step, done.digest);
        let last_step = self.last_steps.entry(worker.clone()).or_default();
        *last_step = step.max(*last_step);
        let reports = self.steps.entry(step).or_default();
        // A state that no worker speaks for any more is forgotten, unless it was agreed on.
        reports.retain(|other, report| {
            if *other != digest {
                report.remove(worker);
            }
            *other == digest || report.window.is_some() || !report.workers.is_empty()
        });
        let report = reports.entry(digest).or_insert_with(|| StepReport::new(done.clone()));
        report.add(worker, done);
    }

    /// The number of different reports. For tests.
    pub(super) fn len(&self) -> usize {
        self.steps.values().map(BTreeMap::len).sum()
    }

    fn reports(&self, step: Step) -> impl Iterator<Item = (&Digest, &StepReport)> {
        self.steps.get(&step).into_iter().flatten()
    }

    fn report(&self, step: Step, digest: Digest) -> Option<&StepReport> {
        self.steps.get(&step)?.get(&digest)
    }

    /// Returns whether this worker has reported this step.
    pub(super) fn has_reported(&self, worker: &WorkerId, step: Step) -> bool {
        self.reports(step).any(|(_, report)| report.workers.contains(worker))
    }

    /// One of `members` that has reported another state than `digest` for this step.
    pub(super) fn dissenter(
        &self,
        step: Step,
        digest: Digest,
        members: &[WorkerId],
    ) -> Option<WorkerId> {
        self.reports(step)
            .filter(|(other, _)| **other != digest)
            .find_map(|(_, report)| members.iter().find(|it| report.workers.contains(*it)))
            .cloned()
    }

    /// Returns whether a worker other than this one has reported this step.
    pub(super) fn has_another_reported(&self, worker: &WorkerId, step: Step) -> bool {
        let mut reporters = self.reports(step).flat_map(|(_, report)| &report.workers);
        reporters.any(|other| other != worker)
    }

    /// Returns whether this member has passed a step without a report of it. It reports steps in
    /// order, and those before the start of its plan before it gets that, so none will come.
    fn has_passed(&self, worker: &WorkerId, step: Step) -> bool {
        let has_reported_later = self.last_steps.get(worker).is_some_and(|&last| last > step);
        (has_reported_later || step <= self.start) && !self.has_reported(worker, step)
    }

    /// The number of `members` that have passed a step without a report of it.
    pub(super) fn passed(&self, step: Step, members: &[WorkerId]) -> usize {
        members.iter().filter(|member| self.has_passed(member, step)).count()
    }

    /// The report of the state that all of `members` have reported for this step, and the most
    /// workers altogether. Members that have passed the step do not count, if they are at most
    /// `passed_max`.
    pub(super) fn agreed(
        &self,
        step: Step,
        members: &[WorkerId],
        passed_max: usize,
    ) -> Option<Agreed> {
        let do_all_count = self.passed(step, members) > passed_max;
        let counts = |member: &&WorkerId| do_all_count || !self.has_passed(member, step);
        let counted = members.iter().filter(counts);
        let report = self
            .reports(step)
            .map(|(_, report)| report)
            .filter(|report| counted.clone().all(|member| report.workers.contains(member)))
            .max_by_key(|report| report.workers.len())?;
        if members.is_empty() {
            let workers: Vec<WorkerId> = report.workers.iter().cloned().collect();
            return report.settle(&workers);
        }
        report.settle(members)
    }

    /// The first step from `step` on that all of `members` have reported with the same state, but
    /// for fewer than half that have passed it.
    pub(super) fn first_agreed(&self, step: Step, members: &[WorkerId]) -> Option<Step> {
        let passed_max = members.len().saturating_sub(1) / 2;
        let mut steps = self.steps.range(step..).map(|(&step, _)| step);
        steps.find(|&step| self.agreed(step, members, passed_max).is_some())
    }

    /// Keeps the log window with this step in it: a checkpoint there needs it.
    pub(super) fn set_window(&mut self, step: Step, digest: Digest, window: LogWindow) {
        let reports = self.steps.get_mut(&step);
        if let Some(report) = reports.and_then(|reports| reports.get_mut(&digest)) {
            report.window = Some(window);
        }
    }

    /// The state that was agreed on for this step, and the open log window there.
    pub(super) fn window(&self, step: Step) -> Option<(Digest, LogWindow)> {
        self.reports(step).find_map(|(&digest, report)| Some((digest, report.window.clone()?)))
    }

    /// The workers that have reported this state for this step; `None` if nobody ever has.
    pub(super) fn holders(&self, step: Step, digest: Digest) -> Option<&BTreeSet<WorkerId>> {
        self.report(step, digest).map(|report| &report.workers)
    }

    /// The greatest step that each worker has reported.
    pub(super) fn last_steps(&self) -> &BTreeMap<WorkerId, Step> {
        &self.last_steps
    }

    /// Withdraws what `members` have reported of steps after `step`: they compute those again.
    pub(super) fn withdraw_after(&mut self, step: Step, members: &[WorkerId]) {
        self.start = step;
        // Only the members of the present plan are asked for.
        self.last_steps.retain(|worker, _| members.contains(worker));
        self.last_steps.values_mut().for_each(|last| *last = step.min(*last));
        for reports in self.steps.range_mut(step + 1..).map(|(_, reports)| reports) {
            for report in reports.values_mut() {
                for member in members {
                    report.remove(member);
                }
            }
        }
    }

    /// Forgets the steps before `step`.
    pub(super) fn forget_before(&mut self, step: Step) {
        while self.steps.first_key_value().is_some_and(|(&first, _)| first < step) {
            self.steps.pop_first();
        }
    }

    /// Forgets the steps up to `step`, except the last two.
    pub(super) fn forget_through(&mut self, step: Step) {
        self.steps.retain(|&reported, _| reported.saturating_add(2) > step);
    }
}
