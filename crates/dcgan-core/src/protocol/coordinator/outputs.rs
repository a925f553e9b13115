//! Effects outside, idempotent by step: which lines, checkpoints and grids are due, who is asked for a snapshot, and
//! up to which step workers may forget.
//!
//! Every worker reports every step until it is persisted, so reports come several times, from several workers, again after
//! each reconnection, and again when steps are recomputed. Each line and each checkpoint is made once all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Command, ConnId, Failure, Notice};
use crate::ids::{Digest, Step, WorkerId};
use crate::metrics::{LogWindow, METRIC_NAMES, StepDone};
use crate::protocol::message::ToWorker;
use crate::protocol::plan::StateRef;
use crate::spec::schedule::Schedule;
use crate::spec::sharding::Sharding;

/// How long a worker may take to send a snapshot before another is asked: 5 MB at 1 Mbit/s.
const FETCH_TIMEOUT: Duration = Duration::from_secs(40);

/// What lines are made with.
#[derive(Clone, Copy, Debug)]
pub struct OutputConfig {
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
pub struct PersistedOutputs {
    /// The steps that have a line, with the state's digest there.
    pub lines: BTreeMap<Step, Digest>,
    /// The newest intact checkpoint.
    pub checkpoint: Option<SavedCheckpoint>,
    /// The steps that have a grid, or the snapshot for one.
    pub grids: BTreeSet<Step>,
}

/// A checkpoint on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedCheckpoint {
    /// The step after which it was taken.
    pub step: Step,
    /// The digest of its state.
    pub digest: Digest,
    /// The open log window there.
    pub window: LogWindow,
}

/// A snapshot that is due.
#[derive(Debug)]
struct DueSnapshot {
    digest: Digest,
    window: LogWindow,
    checkpoint: bool,
    grid: bool,
    asked: Option<(WorkerId, Duration)>,
    attempts: usize,
    lacking: BTreeSet<WorkerId>,
}

#[derive(Debug)]
struct StepReport {
    done: StepDone,
    by: BTreeSet<WorkerId>,
    /// The open log window with this step in it.
    window: Option<LogWindow>,
}

#[derive(Debug)]
pub(super) struct Outputs {
    output: OutputConfig,
    persisted: PersistedOutputs,
    /// The step of a checkpoint that cannot be read, and the newest that can be.
    unreadable: Option<(Step, Option<SavedCheckpoint>)>,
    /// Whether somebody draws grids.
    grids: bool,
    window: LogWindow,
    /// The last step that a line on disk averages.
    last_logged_step: Step,
    /// By step and digest: workers may disagree.
    reports: BTreeMap<(Step, Digest), StepReport>,
    due: BTreeMap<Step, DueSnapshot>,
    /// Snapshots that were due, and that nobody held any more.
    missed: BTreeMap<Step, DueSnapshot>,
    /// A checkpoint that a person asked for.
    asked: Option<RequestedCheckpoint>,
}

/// A checkpoint outside the schedule, a few steps ahead: no worker stops for it.
#[derive(Clone, Copy, Debug)]
struct RequestedCheckpoint {
    step: Step,
    /// How far ahead the step was chosen. Workers that were beyond it already get a later one.
    ahead: u64,
}

/// The first attempt at a checkpoint that a person asked for is so many steps ahead.
const ASKED_AHEAD: u64 = 2;
const ANY_DIGEST: std::ops::RangeInclusive<u64> = 0..=u64::MAX;

impl Outputs {
    pub(super) fn new(output: OutputConfig, mut persisted: PersistedOutputs) -> Self {
        let checkpoint = persisted.checkpoint.take();
        let mut outputs = Self {
            output,
            persisted,
            unreadable: None,
            grids: false,
            window: LogWindow::after(0),
            last_logged_step: 0,
            reports: BTreeMap::new(),
            due: BTreeMap::new(),
            missed: BTreeMap::new(),
            asked: None,
        };
        outputs.go_on_from(checkpoint);
        outputs
    }

    /// The newest checkpoint is this one: lines go on after it.
    fn go_on_from(&mut self, checkpoint: Option<SavedCheckpoint>) {
        self.window =
            checkpoint.as_ref().map_or_else(|| LogWindow::after(0), |saved| saved.window.clone());
        self.last_logged_step = self.window.through - self.window.steps;
        self.persisted.checkpoint = checkpoint;
    }

    /// The checkpoint of `step` cannot be read, but `newest` can; says whether it matters.
    pub(super) fn unreadable(&mut self, step: Step, newest: Option<SavedCheckpoint>) -> bool {
        let is_newest = |saved: &SavedCheckpoint| saved.step == step;
        let matters = self.checkpoint().is_some_and(is_newest)
            && newest.as_ref().is_none_or(|newest| newest.step < step);
        if matters {
            self.unreadable = Some((step, newest));
        }
        matters
    }

    /// Nobody has the state of the newest checkpoint. If that cannot be read, an older one takes its place: gives the
    /// steps of both.
    pub(super) fn fall_back(&mut self) -> Option<(Step, Step)> {
        let newest = self.checkpoint()?.step;
        let (from, older) = self.unreadable.take().filter(|(step, _)| *step == newest)?;
        let to = older.as_ref().map_or(0, |saved| saved.step);
        self.go_on_from(older);
        Some((from, to))
    }

    pub(super) fn draw_grids(&mut self, grids: bool) {
        self.grids = grids;
    }

    pub(super) fn checkpoint(&self) -> Option<&SavedCheckpoint> {
        self.persisted.checkpoint.as_ref()
    }

    fn reports_of(&self, step: Step) -> impl DoubleEndedIterator<Item = (&Digest, &StepReport)> {
        let (first, last) = ANY_DIGEST.into_inner();
        self.reports
            .range((step, Digest(first))..=(step, Digest(last)))
            .map(|((_, digest), report)| (digest, report))
    }

    /// Takes a worker's report of a step; says who of the others reports another state, if anybody does.
    pub(super) fn report(
        &mut self,
        worker: &WorkerId,
        done: StepDone,
    ) -> Result<Option<WorkerId>, Failure> {
        let (step, digest) = (done.step, done.digest);
        if step <= self.persisted_through() {
            return Ok(None);
        }
        if let Some(i) = done.metrics.iter().position(|value| !value.is_finite()) {
            return Err(Failure::NotFinite { step, metric: METRIC_NAMES[i] });
        }
        // Who has copied another state since speaks for that one.
        let (first, last) = ANY_DIGEST.into_inner();
        for ((_, other), report) in
            self.reports.range_mut((step, Digest(first))..=(step, Digest(last)))
        {
            if *other != digest {
                report.by.remove(worker);
            }
        }
        self.reports.retain(|_, report| report.window.is_some() || !report.by.is_empty());
        let first = || StepReport { done, by: BTreeSet::new(), window: None };
        self.reports.entry((step, digest)).or_insert_with(first).by.insert(worker.clone());
        if let Some(due) = self.due.get_mut(&step) {
            due.lacking.remove(worker);
        }
        // A worker reports consecutive steps and forgets only what is persisted: what it skips, an earlier coordinator
        // has written.
        let skipped = step - 1;
        if skipped > self.window.through
            && !self.reports_of(skipped).any(|(_, report)| report.by.contains(worker))
        {
            self.window = LogWindow::after(skipped);
            self.last_logged_step = skipped;
        }
        let mut others = self.reports_of(step).filter(|(other, _)| **other != digest);
        Ok(others.find_map(|(_, report)| report.by.first().cloned()))
    }

    /// Turns the reports that follow on each other, and on which all of `members` agree, into lines, and notes the
    /// snapshots that are due.
    ///
    /// # Errors
    /// If they agree on a state that is not the one on disk.
    pub(super) fn advance(
        &mut self,
        members: &[WorkerId],
        out: &mut Vec<Command>,
    ) -> Result<(), Failure> {
        let OutputConfig { schedule, sharding, batch_size, learning_rate } = self.output;
        loop {
            let step = self.window.through + 1;
            let agreed = self
                .reports_of(step)
                .filter(|(_, report)| members.iter().all(|m| report.by.contains(m)));
            let Some(digest) =
                agreed.max_by_key(|(_, report)| report.by.len()).map(|(digest, _)| *digest)
            else {
                return Ok(());
            };
            let Some(report) = self.reports.get_mut(&(step, digest)) else {
                return Ok(());
            };
            let done = &report.done;
            self.window.add(done);
            if schedule.row_due(step) {
                match self.persisted.lines.insert(step, digest) {
                    Some(persisted) if persisted != digest => {
                        return Err(Failure::Unrepeatable { step, persisted, computed: digest });
                    }
                    Some(_) => out.push(Command::Notice(Notice::Repeated(step))),
                    None => {
                        let line =
                            self.window.row(done, sharding.epoch(step), batch_size, learning_rate);
                        out.push(Command::AppendRow(line));
                    }
                }
                self.last_logged_step = step;
                if schedule.window_ends(step) {
                    self.window = LogWindow::after(step);
                }
            }
            report.window = Some(self.window.clone());
            let asked = self.asked.is_some_and(|asked| asked.step == step);
            let checkpoint = (schedule.checkpoint_due(step) || asked) && !self.has_checkpoint(step);
            let grid =
                schedule.grid_due(step) && self.grids && !self.persisted.grids.contains(&step);
            if checkpoint || grid {
                self.add_due_snapshot(step, digest, self.window.clone(), checkpoint, grid);
            }
        }
    }

    /// These members go on after `step`. What was reported of later steps is on disk or on its way there, but snapshots
    /// that nobody held any more are due again: the members will come by once more.
    pub(super) fn go_on_after(&mut self, step: Step, members: &[WorkerId]) {
        for (_, report) in self.reports.iter_mut().filter(|((later, _), _)| *later > step) {
            report.by.retain(|worker| !members.contains(worker));
        }
        for (missed, due) in self.missed.split_off(&step) {
            if (due.checkpoint && !self.has_checkpoint(missed)) || due.grid {
                self.due.insert(
                    missed,
                    DueSnapshot { asked: None, attempts: 0, lacking: BTreeSet::new(), ..due },
                );
            }
        }
        for (_, due) in self.due.range_mut(step..) {
            due.lacking.clear();
        }
    }

    /// Asks for a checkpoint of a step that is about to be finished.
    pub(super) fn ask_for_checkpoint(&mut self) {
        self.asked.get_or_insert(RequestedCheckpoint {
            step: self.furthest() + ASKED_AHEAD,
            ahead: ASKED_AHEAD,
        });
    }

    /// The step whose snapshot workers are to keep although it is not due.
    pub(super) fn asked(&self) -> Option<Step> {
        self.asked.map(|asked| asked.step)
    }

    /// The greatest step that anybody has reported.
    fn furthest(&self) -> Step {
        self.reports
            .keys()
            .next_back()
            .map_or(self.window.through, |&(step, _)| step.max(self.window.through))
    }

    /// Asks for a checkpoint of the last step that `reached` has finished, outside the schedule.
    pub(super) fn want_checkpoint(&mut self, reached: StateRef) {
        let step = reached.position.step;
        let agreed = self
            .reports_of(step)
            .find_map(|(&digest, report)| Some((digest, report.window.clone()?)));
        if let Some(due) = self.due.get_mut(&step) {
            due.checkpoint = true;
        } else if let Some((digest, window)) = agreed {
            self.add_due_snapshot(step, digest, window, true, false);
        } else if self.window.through == step && reached.position.is_step_boundary() {
            self.add_due_snapshot(step, reached.digest, self.window.clone(), true, false);
        }
    }

    pub(super) fn has_checkpoint(&self, step: Step) -> bool {
        self.persisted.checkpoint.as_ref().is_some_and(|saved| saved.step >= step)
    }

    fn add_due_snapshot(
        &mut self,
        step: Step,
        digest: Digest,
        window: LogWindow,
        checkpoint: bool,
        grid: bool,
    ) {
        let due = DueSnapshot {
            digest,
            window,
            checkpoint,
            grid,
            asked: None,
            attempts: 0,
            lacking: BTreeSet::new(),
        };
        self.due.insert(step, due);
    }

    /// Asks for snapshots that are due: of any worker that has reported the step. One is given up if all of `members`, who
    /// went on after step `start`, have come by and nobody holds it.
    pub(super) fn request_snapshots(
        &mut self,
        now: Duration,
        members: &[WorkerId],
        start: Step,
        connected: &BTreeMap<WorkerId, ConnId>,
        out: &mut Vec<Command>,
    ) {
        let mut given_up = Vec::new();
        let mut furthest: BTreeMap<&WorkerId, Step> = BTreeMap::new();
        for (&(step, _), report) in &self.reports {
            furthest.extend(report.by.iter().map(|worker| (worker, step)));
        }
        let come_by = |step: Step| {
            members.iter().all(|worker| furthest.get(worker).is_some_and(|&at| at >= step))
        };
        for (&step, due) in &mut self.due {
            due.asked.take_if(|(_, since)| now >= *since + FETCH_TIMEOUT);
            let by = self.reports.get(&(step, due.digest)).map(|report| &report.by);
            if due.asked.is_some() {
                continue;
            }
            // Without a report (an early end right after a restart) anybody may hold it.
            let may_hold = |worker: &WorkerId| {
                !due.lacking.contains(worker) && by.is_none_or(|by| by.contains(worker))
            };
            let holders: Vec<_> = connected.iter().filter(|(worker, _)| may_hold(worker)).collect();
            if let Some((worker, conn)) = holders.get(due.attempts % holders.len().max(1)) {
                let (worker, conn) = (*worker, **conn);
                due.attempts += 1;
                due.asked = Some((worker.clone(), now));
                out.push(Command::Send(conn, ToWorker::RequestSnapshot(step)));
            } else if !members.is_empty()
                && members.iter().all(|worker| connected.contains_key(worker))
                && (start >= step || come_by(step))
            {
                given_up.push(step);
            }
        }
        for step in given_up {
            self.missed.extend(self.due.remove(&step).map(|due| (step, due)));
            out.push(Command::Notice(Notice::GivenUp(step)));
            self.ask_later(step);
        }
    }

    /// The step that a person's checkpoint was to be taken at has passed: chooses a later one.
    fn ask_later(&mut self, step: Step) {
        let furthest = self.furthest();
        if let Some(asked) = self.asked.as_mut().filter(|asked| asked.step <= step) {
            asked.ahead *= 2;
            asked.step = furthest + asked.ahead;
        }
    }

    /// A worker does not hold the snapshot of `step`, or not the right one.
    pub(super) fn on_snapshot_missing(&mut self, worker: &WorkerId, step: Step) {
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
    pub(super) fn on_snapshot(
        &mut self,
        step: Step,
        digest: Digest,
        bytes: &Arc<Vec<u8>>,
        out: &mut Vec<Command>,
    ) {
        let Some(due) = self.due.get_mut(&step) else {
            return;
        };
        if due.digest != digest {
            if let Some((worker, _)) = due.asked.take() {
                due.lacking.insert(worker);
            }
            return;
        }
        let due = self.due.remove(&step).expect("it was just there");
        if due.grid {
            out.push(Command::SaveGrid { step, bytes: Arc::clone(bytes) });
            self.persisted.grids.insert(step);
        }
        if due.checkpoint {
            let saved = SavedCheckpoint { step, digest, window: due.window };
            out.push(Command::SaveCheckpoint { saved: saved.clone(), bytes: Arc::clone(bytes) });
            self.asked.take_if(|asked| asked.step <= step);
            // Snapshots may overtake each other on their way.
            if !self.has_checkpoint(step) {
                self.persisted.checkpoint = Some(saved);
            }
        }
    }

    /// The last step up to which everything due is on disk.
    pub(super) fn persisted_through(&self) -> Step {
        self.due
            .keys()
            .next()
            .map_or(self.last_logged_step, |&first| self.last_logged_step.min(first - 1))
    }

    /// Forgets the reports of what is persisted. The last two stay: an early end may make a checkpoint there, since a
    /// worker whose reports made the last line may be gone, and others be a step behind.
    pub(super) fn forget(&mut self) {
        let persisted = self.persisted_through();
        self.reports.retain(|&(step, _), _| step + 2 > persisted);
    }

    /// Whether nothing that is due is missing on disk.
    pub(super) fn is_settled(&self) -> bool {
        self.due.is_empty()
    }

    /// Whether the run's last step is reached, and everything due is on disk.
    pub(super) fn is_finished(&self) -> bool {
        self.has_checkpoint(self.output.schedule.last_step) && self.is_settled()
    }

    /// The step that ends the run.
    pub(super) fn last_step(&self) -> Step {
        self.output.schedule.last_step
    }

    /// The last step that workers have reported without a gap.
    pub(super) fn reached(&self) -> Step {
        self.window.through
    }
}
