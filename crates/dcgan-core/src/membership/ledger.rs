//! Effects outside, idempotent by step: which lines, checkpoints and grids are due, who is asked for a snapshot, and
//! up to which step workers may forget.
//!
//! Every worker reports every step until it is stored, so reports come several times, from several workers, again after
//! each reconnection, and again when steps are recomputed. Each line and each checkpoint is made once all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Command, ConnId, Failure, Note};
use crate::ids::{Digest, Position, Step, WorkerId};
use crate::message::ToWorker;
use crate::metrics::{METRIC_NAMES, StepDone, Window};
use crate::plan::StateAt;
use crate::schedule::Schedule;
use crate::sharding::Sharding;

/// How long a worker may take to send a snapshot before another is asked: 5 MB at 1 Mbit/s.
const FETCH_TIMEOUT: Duration = Duration::from_secs(40);

/// What lines are made with.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// What is due when.
    pub schedule: Schedule,
    /// Which epoch a step belongs to.
    pub sharding: Sharding,
    /// Images a step.
    pub batch_size: usize,
    /// Adam's step size.
    pub learning_rate: f64,
}

/// What a run directory holds of earlier times.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// The steps that have a line, with the state's digest there.
    pub lines: BTreeMap<Step, Digest>,
    /// The newest intact checkpoint.
    pub checkpoint: Option<Saved>,
    /// The steps that have a grid, or the snapshot for one.
    pub grids: BTreeSet<Step>,
}

/// A checkpoint on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// The step after which it was taken.
    pub step: Step,
    /// The digest of its state.
    pub digest: Digest,
    /// The open log window there.
    pub window: Window,
}

/// A snapshot that is due.
#[derive(Debug)]
struct Due {
    digest: Digest,
    window: Window,
    checkpoint: bool,
    grid: bool,
    asked: Option<(WorkerId, Duration)>,
    attempts: usize,
    lacking: BTreeSet<WorkerId>,
}

#[derive(Debug)]
struct Report {
    done: StepDone,
    by: BTreeSet<WorkerId>,
    /// The open log window with this step in it.
    window: Option<Window>,
}

#[derive(Debug)]
pub(super) struct Ledger {
    terms: Terms,
    recorded: Recorded,
    /// Whether somebody draws grids.
    grids: bool,
    window: Window,
    /// The last step that a line on disk averages.
    lined: Step,
    reports: BTreeMap<Step, Report>,
    due: BTreeMap<Step, Due>,
}

impl Ledger {
    pub(super) fn new(terms: Terms, recorded: Recorded) -> Self {
        let window = recorded.checkpoint.as_ref().map_or_else(|| Window::after(0), |saved| saved.window.clone());
        let lined = window.through - window.steps;
        Self { terms, recorded, grids: false, window, lined, reports: BTreeMap::new(), due: BTreeMap::new() }
    }

    pub(super) fn draw_grids(&mut self, grids: bool) {
        self.grids = grids;
    }

    pub(super) fn checkpoint(&self) -> Option<&Saved> {
        self.recorded.checkpoint.as_ref()
    }

    /// Takes a worker's report of a step.
    pub(super) fn report(&mut self, worker: &WorkerId, done: StepDone) -> Result<(), Failure> {
        if let Some(&recorded) = self.recorded.lines.get(&done.step)
            && recorded != done.digest
        {
            return Err(Failure::Unrepeatable { step: done.step, recorded, computed: done.digest });
        }
        if done.step <= self.stored() {
            return Ok(());
        }
        if let Some(i) = done.metrics.iter().position(|value| !value.is_finite()) {
            return Err(Failure::NotFinite { step: done.step, metric: METRIC_NAMES[i] });
        }
        let first = || Report { done: done.clone(), by: BTreeSet::new(), window: None };
        let report = self.reports.entry(done.step).or_insert_with(first);
        if report.done.digest != done.digest {
            let other = report.by.first().map(|other| other.name.clone()).unwrap_or_default();
            let states = vec![(other, report.done.digest), (worker.name.clone(), done.digest)];
            return Err(Failure::Differ { position: Position::after(done.step), states });
        }
        report.by.insert(worker.clone());
        if let Some(due) = self.due.get_mut(&done.step) {
            due.lacking.remove(worker);
        }
        // A worker reports consecutive steps and forgets only what is stored: what it skips, an earlier coordinator
        // has written.
        let skipped = done.step - 1;
        if skipped > self.window.through && !self.reports.get(&skipped).is_some_and(|r| r.by.contains(worker)) {
            self.window = Window::after(skipped);
            self.lined = skipped;
        }
        Ok(())
    }

    /// Turns the reports that follow on each other into lines, and notes the snapshots that are due.
    pub(super) fn advance(&mut self, out: &mut Vec<Command>) {
        let Terms { schedule, sharding, batch_size, learning_rate } = self.terms;
        while let Some(report) = self.reports.get_mut(&(self.window.through + 1)) {
            let done = &report.done;
            let step = done.step;
            self.window.add(done);
            if schedule.line_due(step) {
                if self.recorded.lines.insert(step, done.digest).is_some() {
                    out.push(Command::Note(Note::Repeated(step)));
                } else {
                    let line = self.window.line(done, sharding.epoch(step), batch_size, learning_rate);
                    out.push(Command::AppendLine(line));
                }
                self.lined = step;
                if schedule.window_ends(step) {
                    self.window = Window::after(step);
                }
            }
            report.window = Some(self.window.clone());
            let digest = done.digest;
            let checkpoint = schedule.checkpoint_due(step) && !self.has_checkpoint(step);
            let grid = schedule.grid_due(step) && self.grids && !self.recorded.grids.contains(&step);
            if checkpoint || grid {
                self.want(step, digest, self.window.clone(), checkpoint, grid);
            }
        }
    }

    /// Asks for a checkpoint of the last step that `reached` has finished, outside the schedule.
    pub(super) fn want_checkpoint(&mut self, reached: StateAt) {
        let step = reached.position.step;
        if let Some(due) = self.due.get_mut(&step) {
            due.checkpoint = true;
        } else if let Some(Report { done, window: Some(window), .. }) = self.reports.get(&step) {
            let (digest, window) = (done.digest, window.clone());
            self.want(step, digest, window, true, false);
        } else if self.window.through == step && reached.position.is_step_boundary() {
            self.want(step, reached.digest, self.window.clone(), true, false);
        }
    }

    pub(super) fn has_checkpoint(&self, step: Step) -> bool {
        self.recorded.checkpoint.as_ref().is_some_and(|saved| saved.step >= step)
    }

    fn want(&mut self, step: Step, digest: Digest, window: Window, checkpoint: bool, grid: bool) {
        let due = Due { digest, window, checkpoint, grid, asked: None, attempts: 0, lacking: BTreeSet::new() };
        self.due.insert(step, due);
    }

    /// Asks for snapshots that are due: of a connected worker, once all of `members` agree on the step.
    pub(super) fn fetch(
        &mut self,
        now: Duration,
        members: &[WorkerId],
        connected: &BTreeMap<WorkerId, ConnId>,
        out: &mut Vec<Command>,
    ) {
        let mut given_up = Vec::new();
        for (&step, due) in &mut self.due {
            due.asked.take_if(|(_, since)| now >= *since + FETCH_TIMEOUT);
            let by = self.reports.get(&step).map(|report| &report.by);
            let agrees = |worker: &WorkerId| by.is_some_and(|by| by.contains(worker));
            if due.asked.is_some() || !members.iter().all(agrees) {
                continue;
            }
            // Without a report (an early end right after a restart) anybody may hold it.
            let may_hold = |worker: &WorkerId| !due.lacking.contains(worker) && by.is_none_or(|by| by.contains(worker));
            let holders: Vec<_> = connected.iter().filter(|(worker, _)| may_hold(worker)).collect();
            if let Some((worker, conn)) = holders.get(due.attempts % holders.len().max(1)) {
                let (worker, conn) = (*worker, **conn);
                due.attempts += 1;
                due.asked = Some((worker.clone(), now));
                out.push(Command::Send(conn, ToWorker::Fetch(step)));
            } else if !members.is_empty() && members.iter().all(|worker| connected.contains_key(worker)) {
                given_up.push(step);
            }
        }
        for step in given_up {
            self.due.remove(&step);
            out.push(Command::Note(Note::GivenUp(step)));
        }
    }

    /// A worker does not hold the snapshot of `step`, or not the right one.
    pub(super) fn lacks(&mut self, worker: &WorkerId, step: Step) {
        if let Some(due) = self.due.get_mut(&step) {
            due.lacking.insert(worker.clone());
            due.asked = None;
        }
    }

    /// A worker's connection closed: what it was asked for is asked of another.
    pub(super) fn closed(&mut self, name: &str) {
        for due in self.due.values_mut() {
            if due.asked.as_ref().is_some_and(|(asked, _)| asked.name == name) {
                due.asked = None;
            }
        }
    }

    /// A snapshot came.
    pub(super) fn snapshot(&mut self, step: Step, digest: Digest, bytes: &Arc<Vec<u8>>, out: &mut Vec<Command>) {
        let Some(due) = self.due.get_mut(&step) else { return };
        if due.digest != digest {
            if let Some((worker, _)) = due.asked.take() {
                due.lacking.insert(worker);
            }
            return;
        }
        let due = self.due.remove(&step).expect("it was just there");
        if due.grid {
            out.push(Command::SaveGrid { step, bytes: Arc::clone(bytes) });
            self.recorded.grids.insert(step);
        }
        if due.checkpoint {
            let saved = Saved { step, digest, window: due.window };
            out.push(Command::SaveCheckpoint { saved: saved.clone(), bytes: Arc::clone(bytes) });
            // Snapshots may overtake each other on their way.
            if !self.has_checkpoint(step) {
                self.recorded.checkpoint = Some(saved);
            }
        }
    }

    /// The last step up to which everything due is on disk.
    pub(super) fn stored(&self) -> Step {
        self.due.keys().next().map_or(self.lined, |&first| self.lined.min(first - 1))
    }

    /// Forgets the reports of what is stored. The last two stay: an early end may make a checkpoint there, since a
    /// worker whose reports made the last line may be gone, and others be a step behind.
    pub(super) fn forget(&mut self) {
        let stored = self.stored();
        self.reports.retain(|&step, _| step + 2 > stored);
    }

    /// Whether nothing that is due is missing on disk.
    pub(super) fn is_settled(&self) -> bool {
        self.due.is_empty()
    }

    /// Whether the run's last step is reached, and everything due is on disk.
    pub(super) fn is_finished(&self) -> bool {
        self.has_checkpoint(self.terms.schedule.last_step) && self.is_settled()
    }

    /// The last step that workers have reported without a gap.
    pub(super) fn reached(&self) -> Step {
        self.window.through
    }
}
