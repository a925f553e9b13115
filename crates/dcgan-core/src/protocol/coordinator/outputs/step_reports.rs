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
    /// The open log window with this step in it; `None` until the members agree on this state.
    window: Option<LogWindow>,
}

/// The reports by step and by the digest of the state: workers may disagree.
///
/// While a disk hangs they are many. So nothing that happens for every report looks at all of them.
#[derive(Debug, Default)]
pub(super) struct StepReports {
    steps: BTreeMap<Step, BTreeMap<Digest, StepReport>>,
    /// The greatest step that each worker has reported and not withdrawn.
    last_steps: BTreeMap<WorkerId, Step>,
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
                report.workers.remove(worker);
            }
            *other == digest || report.window.is_some() || !report.workers.is_empty()
        });
        reports
            .entry(digest)
            .or_insert_with(|| StepReport { done, workers: BTreeSet::new(), window: None })
            .workers
            .insert(worker.clone());
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

    /// A worker that has reported another state than `digest` for this step.
    pub(super) fn dissenter(&self, step: Step, digest: Digest) -> Option<WorkerId> {
        self.reports(step)
            .filter(|(other, _)| **other != digest)
            .find_map(|(_, report)| report.workers.first().cloned())
    }

    /// The report of the state that all of `members` have reported for this step, and the most
    /// workers altogether.
    pub(super) fn agreed(&self, step: Step, members: &[WorkerId]) -> Option<&StepDone> {
        self.reports(step)
            .map(|(_, report)| report)
            .filter(|report| members.iter().all(|member| report.workers.contains(member)))
            .max_by_key(|report| report.workers.len())
            .map(|report| &report.done)
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

    /// The greatest step that was reported.
    pub(super) fn last_step(&self) -> Option<Step> {
        self.steps.keys().next_back().copied()
    }

    /// The greatest step that each worker has reported.
    pub(super) fn last_steps(&self) -> &BTreeMap<WorkerId, Step> {
        &self.last_steps
    }

    /// Withdraws what `members` have reported of steps after `step`: they compute those again.
    pub(super) fn withdraw_after(&mut self, step: Step, members: &[WorkerId]) {
        // Only the members of the present plan are asked for.
        self.last_steps.retain(|worker, _| members.contains(worker));
        for last in self.last_steps.values_mut() {
            *last = step.min(*last);
        }
        for reports in self.steps.range_mut(step + 1..).map(|(_, reports)| reports) {
            for report in reports.values_mut() {
                report.workers.retain(|worker| !members.contains(worker));
            }
        }
    }

    /// Forgets the steps up to `step`, except the last two.
    pub(super) fn forget_through(&mut self, step: Step) {
        self.steps.retain(|&reported, _| reported.saturating_add(2) > step);
    }
}
