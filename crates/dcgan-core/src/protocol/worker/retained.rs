//! The reports and snapshots that a worker keeps until the coordinator has persisted them.
//!
//! Training goes on while the coordinator is away. Every worker keeps what is due, so that the
//! coordinator finds it when it returns, as long as one worker lives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::evaluation::PartId;
use crate::ids::Step;
use crate::metrics::StepDone;
use crate::state::State;

/// The largest number of snapshots that are kept while the coordinator is away, about 6 MB each.
/// Any further one replaces the oldest.
const SNAPSHOTS_MAX: usize = 16;

/// The reports and snapshots that may not be on disk yet.
#[derive(Debug, Default)]
pub(super) struct Retained {
    reports: BTreeMap<Step, StepDone>,
    /// The snapshots of the last finished step and of the steps that are due.
    snapshots: BTreeMap<Step, Snapshot>,
    /// Future steps whose snapshots the coordinator wants besides those in the schedule.
    retain_at: BTreeSet<Step>,
    /// The results of parts of evaluations.
    evaluated: BTreeMap<PartId, Vec<f64>>,
}

#[derive(Debug)]
struct Snapshot {
    state: Arc<State>,
    kept: Kept,
}

/// How long a snapshot is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// Until the next step is finished.
    UntilNext,
    /// Until it is persisted, or replaced by a newer one of too many.
    UntilPersisted,
    /// Until it is persisted: its evaluation decides whether the run goes on. There are two at
    /// most, because nobody trains beyond the second before the first is evaluated.
    ForVerdict,
}

impl Retained {
    /// The reports of all steps that may not be on disk yet, in order.
    pub(super) fn reports(&self) -> Vec<StepDone> {
        self.reports.values().cloned().collect()
    }

    /// Keeps a report.
    pub(super) fn keep_report(&mut self, done: StepDone) {
        self.reports.insert(done.step, done);
    }

    /// Drops the reports of the steps after `step`. Called when the state after `step` replaces the
    /// worker's state: later reports belong to the state that was left.
    pub(super) fn drop_reports_after(&mut self, step: Step) {
        self.reports.retain(|&reported, _| reported <= step);
    }

    /// Treats the snapshot of `step`, which may be still to come, as if the schedule asked for it.
    pub(super) fn retain_snapshot(&mut self, step: Step) {
        if let Some(snapshot) = self.snapshots.get_mut(&step) {
            if snapshot.kept == Kept::UntilNext {
                snapshot.kept = Kept::UntilPersisted;
            }
        } else {
            self.retain_at.insert(step);
            if self.retain_at.len() > SNAPSHOTS_MAX {
                self.retain_at.pop_first();
            }
        }
    }

    /// Keeps the state after `step`, the last finished one. Earlier snapshots are dropped, unless
    /// they are due.
    pub(super) fn keep_snapshot(&mut self, step: Step, state: Arc<State>, kept: Kept) {
        let is_retained = kept == Kept::UntilNext && self.retain_at.contains(&step);
        let kept = if is_retained { Kept::UntilPersisted } else { kept };
        self.retain_at.retain(|&retain_at| retain_at > step);
        self.snapshots.retain(|_, snapshot| snapshot.kept != Kept::UntilNext);
        self.snapshots.insert(step, Snapshot { state, kept });
        while self.snapshots.len() > SNAPSHOTS_MAX
            && let Some(oldest) = self.oldest_replaceable()
        {
            self.snapshots.remove(&oldest);
        }
    }

    /// The first step whose snapshot gives way to a newer one.
    fn oldest_replaceable(&self) -> Option<Step> {
        let mut snapshots = self.snapshots.iter();
        snapshots.find(|(_, it)| it.kept != Kept::ForVerdict).map(|(&step, _)| step)
    }

    /// Drops the snapshots after `step`: their steps are computed again.
    pub(super) fn drop_snapshots_after(&mut self, step: Step) {
        self.snapshots.retain(|&kept, _| kept <= step);
    }

    /// The snapshot of `step`, if it is kept.
    pub(super) fn snapshot(&self, step: Step) -> Option<Arc<State>> {
        self.snapshots.get(&step).map(|snapshot| Arc::clone(&snapshot.state))
    }

    /// Keeps the result of a part of an evaluation.
    pub(super) fn keep_evaluated(&mut self, id: PartId, values: Vec<f64>) {
        self.evaluated.insert(id, values);
    }

    /// The result of a part of an evaluation, if it is kept.
    pub(super) fn evaluated(&self, id: &PartId) -> Option<&[f64]> {
        self.evaluated.get(id).map(Vec::as_slice)
    }

    /// The number of things that are kept. For tests.
    pub(super) fn len(&self) -> usize {
        let Self { reports, snapshots, retain_at, evaluated } = self;
        reports.len() + snapshots.len() + retain_at.len() + evaluated.len()
    }

    /// Drops all snapshots.
    pub(super) fn drop_snapshots(&mut self) {
        self.snapshots.clear();
    }

    /// Drops the reports, results and snapshots up to `step`, because they are on disk.
    ///
    /// The newest snapshot stays: when a run is stopped early, the coordinator asks for a step that
    /// was not due.
    pub(super) fn drop_persisted(&mut self, step: Step) {
        self.reports.retain(|&reported, _| reported > step);
        self.evaluated.retain(|id, _| id.step > step);
        let newest = self.snapshots.keys().next_back().copied();
        self.snapshots.retain(|&kept, _| kept > step || Some(kept) == newest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Layout;

    fn held(retained: &Retained) -> Vec<Step> {
        (1..=50).filter(|&step| retained.snapshot(step).is_some()).collect()
    }

    #[test]
    fn snapshots_that_are_due_and_the_newest_one_are_kept() {
        let mut retained = Retained::default();
        let state = Arc::new(State::zeros(Arc::new(Layout::new([]))));
        for step in 1..=45 {
            retained.keep_snapshot(
                step,
                Arc::clone(&state),
                if step % 20 == 0 { Kept::UntilPersisted } else { Kept::UntilNext },
            );
        }
        assert_eq!(held(&retained), [20, 40, 45]);
        retained.drop_persisted(20);
        assert_eq!(held(&retained), [40, 45]);
        retained.drop_persisted(45);
        assert_eq!(held(&retained), [45]);
    }
    #[test]
    fn a_requested_snapshot_is_kept_like_one_that_is_due() {
        let mut retained = Retained::default();
        let state = Arc::new(State::zeros(Arc::new(Layout::new([]))));
        retained.keep_snapshot(1, Arc::clone(&state), Kept::UntilNext);
        retained.retain_snapshot(1);
        retained.retain_snapshot(3);
        for step in 2..=5 {
            retained.keep_snapshot(step, Arc::clone(&state), Kept::UntilNext);
        }
        assert_eq!(held(&retained), [1, 3, 5]);
    }

    #[test]
    fn a_snapshot_that_decides_whether_the_run_goes_on_gives_way_to_no_other() {
        let mut retained = Retained::default();
        let state = Arc::new(State::zeros(Arc::new(Layout::new([]))));
        for step in 1..=40 {
            let kept = if step == 3 { Kept::ForVerdict } else { Kept::UntilPersisted };
            retained.keep_snapshot(step, Arc::clone(&state), kept);
        }
        assert_eq!(held(&retained), [&[3][..], &(26..=40).collect::<Vec<_>>()].concat());
    }
}
