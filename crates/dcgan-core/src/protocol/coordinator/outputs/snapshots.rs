//! The snapshots that checkpoints and grids are made of, until they are on disk.
//!
//! Workers keep the snapshots that are due. The coordinator requests each from one of the workers
//! that hold it, and from the next one if that worker leaves, is too slow or does not hold it after
//! all. A snapshot that no worker holds is given up, and is due again if its step is computed
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::{Command, ConnId};
use super::step_reports::StepReports;
use super::{PersistedOutputs, Purposes};
use crate::ids::{Digest, Step, WorkerId};
use crate::metrics::LogWindow;
use crate::protocol::message::ToWorker;

/// A worker that takes longer than this to send a snapshot is given up, and another is asked. 6 MB
/// take this long at 1 Mbit/s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);

/// Requests that one worker may have open. More snapshots wait until it has answered. After a time
/// without a coordinator hundreds may be due at once, and as many messages would fill its stream.
const OPEN_REQUESTS_MAX: usize = 8;

/// A snapshot that is due.
#[derive(Debug)]
pub(super) struct DueSnapshot {
    /// The digest of its state.
    pub(super) digest: Digest,
    /// The open log window there.
    pub(super) window: LogWindow,
    /// True if the run ends with this state, whatever the schedule says.
    pub(super) ends_run: bool,
    pub(super) purposes: Purposes,
    request: Option<Request>,
    /// The number of requests so far. It selects the next worker to ask.
    attempts: usize,
    /// The workers that have said that they do not hold it.
    lacking: BTreeSet<WorkerId>,
}

/// A request that is not answered yet.
#[derive(Debug)]
struct Request {
    worker: WorkerId,
    since: Duration,
}

impl DueSnapshot {
    /// A snapshot that nobody was asked for yet.
    pub(super) fn new(
        digest: Digest,
        window: LogWindow,
        ends_run: bool,
        purposes: Purposes,
    ) -> Self {
        Self {
            digest,
            window,
            ends_run,
            purposes,
            request: None,
            attempts: 0,
            lacking: BTreeSet::new(),
        }
    }
}

/// The members of the plan and the workers at hand: a snapshot is given up when no member can
/// provide it any more.
pub(super) struct PlanView<'a> {
    /// The members. Empty in Saving, where nobody has to come by a step again.
    pub(super) members: &'a [WorkerId],
    /// The step that their plan starts after.
    pub(super) start: Step,
    /// All workers that can be asked now.
    pub(super) connected: &'a BTreeMap<WorkerId, ConnId>,
}

/// The snapshots that are due, by step.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    due: BTreeMap<Step, DueSnapshot>,
    /// Snapshots that were due and that no worker holds any more.
    given_up: BTreeMap<Step, DueSnapshot>,
}

impl Snapshots {
    /// Adds a snapshot that is due after `step`.
    pub(super) fn add(&mut self, step: Step, snapshot: DueSnapshot) {
        self.due.insert(step, snapshot);
    }

    /// The first step that has a snapshot due.
    pub(super) fn first_step(&self) -> Option<Step> {
        self.due.keys().next().copied()
    }

    /// Makes a checkpoint of the snapshot that is due after `step`; says whether there is one.
    pub(super) fn add_checkpoint(&mut self, step: Step) -> bool {
        match self.due.get_mut(&step) {
            Some(snapshot) => {
                snapshot.purposes.checkpoint = true;
                true
            }
            None => false,
        }
    }

    /// Notes that a worker has reported `step`, and so holds its snapshot (again).
    pub(super) fn on_report(&mut self, worker: &WorkerId, step: Step) {
        if let Some(snapshot) = self.due.get_mut(&step) {
            snapshot.lacking.remove(worker);
        }
    }

    /// Prepares for the steps after `step` being computed again: snapshots from `step` on that were
    /// given up become due again if they are still needed, and workers that lacked one may hold it
    /// soon. The snapshot of `step` itself belongs to them: members copy that very state.
    pub(super) fn restart_after(&mut self, step: Step, persisted: &PersistedOutputs) {
        for (missed, snapshot) in self.given_up.split_off(&step) {
            let DueSnapshot { digest, window, ends_run, purposes, .. } = snapshot;
            if (purposes.checkpoint && !persisted.has_checkpoint(missed)) || purposes.grid {
                self.due.insert(missed, DueSnapshot::new(digest, window, ends_run, purposes));
            }
        }
        for (_, snapshot) in self.due.range_mut(step..) {
            snapshot.lacking.clear();
        }
    }

    /// Requests every snapshot that is due and not requested, each from one worker. Returns the
    /// steps of those that are given up because no worker holds them. Checkpoints of steps after
    /// `hold` wait.
    pub(super) fn request(
        &mut self,
        now: Duration,
        reports: &StepReports,
        view: &PlanView<'_>,
        hold: Option<Step>,
        out: &mut Vec<Command>,
    ) -> Vec<Step> {
        let last_steps = reports.last_steps();
        let mut hopeless = Vec::new();
        let mut open = self.open_requests(now);
        for (&step, snapshot) in &mut self.due {
            if snapshot.purposes.checkpoint && hold.is_some_and(|hold| step > hold) {
                continue;
            }
            // Wait for an answer that may still come.
            snapshot.request.take_if(|request| now >= request.since + REQUEST_TIMEOUT);
            if snapshot.request.is_some() {
                continue;
            }

            // Ask the workers that may hold it one after the other.
            let reported_by = reports.holders(step, snapshot.digest);
            let mut candidates = snapshot.candidates(reported_by, view.connected);
            if candidates.is_empty() && view.start == step {
                // The members have copied this very state, if perhaps without a report.
                candidates = snapshot.candidates(None, view.connected);
            }
            let is_free =
                |worker: &WorkerId| open.get(worker).is_none_or(|&n| n < OPEN_REQUESTS_MAX);
            let free: Vec<_> = candidates.iter().filter(|(worker, _)| is_free(worker)).collect();
            if !free.is_empty() {
                let &&(worker, conn) = &free[snapshot.attempts % free.len()];
                *open.entry(worker.clone()).or_default() += 1;
                snapshot.attempts += 1;
                snapshot.request = Some(Request { worker: worker.clone(), since: now });
                out.push(Command::Send(conn, ToWorker::RequestSnapshot(step)));
            } else if candidates.is_empty() && view.have_passed(step, last_steps) {
                hopeless.push(step);
            }
        }

        for step in &hopeless {
            if let Some(snapshot) = self.due.remove(step) {
                self.given_up.insert(*step, snapshot);
            }
        }
        hopeless
    }

    /// Returns whether a worker of `connected` was asked for a snapshot, or can be.
    pub(super) fn can_get_one(
        &self,
        reports: &StepReports,
        connected: &BTreeMap<WorkerId, ConnId>,
    ) -> bool {
        self.due.iter().any(|(&step, snapshot)| {
            let reported_by = reports.holders(step, snapshot.digest);
            snapshot.request.is_some() || !snapshot.candidates(reported_by, connected).is_empty()
        })
    }

    /// The number of requests that each worker has not answered, and may still.
    fn open_requests(&self, now: Duration) -> BTreeMap<WorkerId, usize> {
        let mut open = BTreeMap::new();
        for request in self.due.values().filter_map(|snapshot| snapshot.request.as_ref()) {
            if now < request.since + REQUEST_TIMEOUT {
                *open.entry(request.worker.clone()).or_default() += 1;
            }
        }
        open
    }

    /// Notes that a worker does not hold the snapshot of `step`.
    pub(super) fn on_missing(&mut self, worker: &WorkerId, step: Step) {
        if let Some(snapshot) = self.due.get_mut(&step) {
            snapshot.lacking.insert(worker.clone());
            // Nobody speaks for another worker, which may be sending it.
            snapshot.request.take_if(|request| request.worker == *worker);
        }
    }

    /// Drops the requests to a worker whose connection closed: another worker is asked.
    pub(super) fn on_closed(&mut self, name: &str) {
        for snapshot in self.due.values_mut() {
            snapshot.request.take_if(|request| request.worker.name == name);
        }
    }

    /// Takes the snapshot of `step` from the list, because it came. `None` if it is not due, or if
    /// the worker sent another state: then another worker is asked.
    pub(super) fn take(&mut self, step: Step, digest: Digest) -> Option<DueSnapshot> {
        let snapshot = self.due.get_mut(&step)?;
        if snapshot.digest == digest {
            return self.due.remove(&step);
        }
        if let Some(request) = snapshot.request.take() {
            snapshot.lacking.insert(request.worker);
        }
        None
    }
}

impl DueSnapshot {
    /// The connected workers that may hold it. Without a report (an early end right after a restart
    /// of the coordinator) any worker may.
    fn candidates<'a>(
        &self,
        reported_by: Option<&BTreeSet<WorkerId>>,
        connected: &'a BTreeMap<WorkerId, ConnId>,
    ) -> Vec<(&'a WorkerId, ConnId)> {
        let mut candidates = Vec::new();
        for (worker, &conn) in connected {
            let has_reported = reported_by.is_none_or(|workers| workers.contains(worker));
            if has_reported && !self.lacking.contains(worker) {
                candidates.push((worker, conn));
            }
        }
        candidates
    }
}

impl PlanView<'_> {
    /// Returns whether all members are here and beyond the state after `step`: none of them comes
    /// by it again.
    pub(super) fn are_beyond(&self, step: Step, last_steps: &BTreeMap<WorkerId, Step>) -> bool {
        !self.members.is_empty()
            && self.members.iter().all(|member| {
                let has_reported = last_steps.get(member).is_some_and(|&reported| reported > step);
                self.connected.contains_key(member) && (self.start > step || has_reported)
            })
    }

    /// Returns whether all members are here and beyond `step`, so that none can still reach it.
    pub(super) fn have_passed(&self, step: Step, last_steps: &BTreeMap<WorkerId, Step>) -> bool {
        if self.members.is_empty() {
            return false;
        }
        let all_connected = self.members.iter().all(|member| self.connected.contains_key(member));
        let all_reported = self
            .members
            .iter()
            .all(|member| last_steps.get(member).is_some_and(|&reported| reported >= step));
        all_connected && (self.start >= step || all_reported)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_asked_for_a_few_snapshots_at_a_time_however_many_are_due() {
        let mut snapshots = Snapshots::default();
        for step in 1..=100 {
            let purposes = Purposes { checkpoint: true, grid: false };
            let window = LogWindow::after(step, 1);
            snapshots.add(step, DueSnapshot::new(Digest(step), window, false, purposes));
        }
        let worker = WorkerId { name: "a".to_owned(), incarnation: 1 };
        let connected = BTreeMap::from([(worker.clone(), ConnId(1))]);
        let view = PlanView { members: &[], start: 0, connected: &connected };
        let ask = |snapshots: &mut Snapshots| {
            let mut out = Vec::new();
            snapshots.request(Duration::ZERO, &StepReports::default(), &view, None, &mut out);
            out.len()
        };
        assert_eq!(ask(&mut snapshots), OPEN_REQUESTS_MAX);
        assert_eq!(ask(&mut snapshots), 0);
        // The first comes, and the second is missing: two more are asked for.
        assert!(snapshots.take(1, Digest(1)).is_some());
        snapshots.on_missing(&worker, 2);
        assert_eq!(ask(&mut snapshots), 2);
    }
}
