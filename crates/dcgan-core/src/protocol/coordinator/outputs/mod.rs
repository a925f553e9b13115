//! The outputs of a run: which rows of metrics, checkpoints and grids are due, which worker is
//! asked for a snapshot, and up to which step workers may forget what they hold.
//!
//! Every worker reports every step until it is persisted. So a report comes several times: from
//! several workers, after each reconnection, and when a step is computed again. Nothing may be
//! written twice all the same, so everything here is keyed by step, and what is on disk, or on its
//! way there, is known.

mod agreement;
mod early_stopping;
mod evaluations;
mod log_position;
mod requested_checkpoint;
mod snapshots;
mod step_reports;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::alarms::{Alarm, Alarms};
use super::{Command, ConnId, Failure, Notice};
use crate::evaluation::{BestEvaluation, EvaluationInfo, EvaluationRow, PartId};
use crate::ids::{Digest, Step, WorkerId};
use crate::metrics::{LogWindow, NamedMetrics, StepDone};
use crate::protocol::plan::Plan;
use crate::spec::RunSpec;
use crate::spec::schedule::Schedule;
use agreement::MissingReport;
pub use early_stopping::EarlyEnd;
use early_stopping::EarlyStopping;
use evaluations::Evaluations;
use log_position::LogPosition;
use requested_checkpoint::RequestedCheckpoint;
use snapshots::{DueSnapshot, PlanView, Snapshots};
use step_reports::StepReports;
pub use writes::Write;
use writes::Writes;

/// A report of a step that is further than this ahead of the steps that all members have reported
/// is not kept: memory is bounded. The worker reports it again under the next plan.
const STEPS_AHEAD_MAX: u64 = 1_000_000;

/// The reports of so many steps are kept after the members have agreed on them, also while a disk
/// hangs. Older ones are forgotten. Those of a step take 2.5 kB with one worker.
const LOGGED_REPORTS_MAX: Step = 4096;

/// The settings of the outputs.
#[derive(Clone, Debug)]
pub struct OutputConfig {
    /// The intervals of rows, grids, checkpoints and evaluations.
    pub schedule: Schedule,
    /// The specification of the run.
    pub spec: RunSpec,
    /// Checkpoints are due by time as well, if this is given: so long after the one before.
    pub checkpoint_interval: Option<Duration>,
    /// The number of checkpoints that the run keeps.
    pub keep_checkpoints: usize,
}

impl OutputConfig {
    /// The number of the objective's metrics.
    fn metrics(&self) -> usize {
        self.spec.objective().metric_names().len()
    }
}

/// The contents of a run directory when the coordinator starts.
#[derive(Clone, Debug, Default)]
pub struct PersistedOutputs {
    /// The steps that have a row of metrics, with the state's digest there.
    pub rows: BTreeMap<Step, Digest>,
    /// The newest intact checkpoint.
    pub checkpoint: Option<SavedCheckpoint>,
    /// The steps that have a grid, or the snapshot for one.
    pub grids: BTreeSet<Step>,
    /// The values of the evaluations, by step.
    pub evaluations: BTreeMap<Step, NamedMetrics>,
}

impl PersistedOutputs {
    /// Returns whether there is a checkpoint of this step or a later one.
    fn has_checkpoint(&self, step: Step) -> bool {
        self.checkpoint.as_ref().is_some_and(|saved| saved.step >= step)
    }

    /// The position of the log at the checkpoint, or at the beginning of the run.
    fn log_position(&self, metrics: usize) -> LogPosition {
        let window = self.checkpoint.as_ref().map(|saved| saved.window.clone());
        LogPosition::at(window.unwrap_or_else(|| LogWindow::after(0, metrics)))
    }
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
    /// True if the run ends with this state, whatever the schedule says.
    pub ends_run: bool,
}

/// The purposes of a snapshot.
#[derive(Clone, Copy, Debug)]
struct Purposes {
    checkpoint: bool,
    grid: bool,
}

/// The newest checkpoint turned out to be unreadable.
#[derive(Debug)]
struct UnreadableCheckpoint {
    step: Step,
    /// The newest checkpoint that can be read.
    replacement: Option<SavedCheckpoint>,
}

/// The outputs that are written, those that are due, and the reports of the steps in between.
#[derive(Debug)]
pub(super) struct Outputs {
    config: OutputConfig,
    /// The contents of the disk. Rows, grids and evaluations are entered when they go there, so
    /// that none goes twice.
    persisted: PersistedOutputs,
    writes: Writes,
    unreadable: Option<UnreadableCheckpoint>,
    /// True if a sampler draws grids.
    draws_grids: bool,
    /// The step whose state has ended the run.
    ends_at: Option<Step>,
    log: LogPosition,
    reports: StepReports,
    snapshots: Snapshots,
    evaluations: Evaluations,
    /// The steps up to the checkpoint at which this coordinator began whose evaluations are not on
    /// disk. A worker may still hold what they need.
    missing_evaluations: BTreeSet<Step>,
    /// A checkpoint that a person has asked for, or that is due by time.
    requested: Option<RequestedCheckpoint>,
    /// The time at which the snapshot of the last checkpoint came, or workers began to train.
    checkpoint_since: Option<Duration>,
    missing_report: Option<MissingReport>,
    alarms: Alarms,
    /// The verdicts on evaluations, if one may end the run.
    early: Option<EarlyStopping>,
    /// The early end that they have decided, if it comes before that of the schedule.
    early_end: Option<EarlyEnd>,
    /// The step of the checkpoint at which this coordinator began: evaluations before it that are
    /// not on disk never will be.
    origin: Step,
    /// A deciding evaluation that no worker of the last look can compute any more.
    hopeless: Option<Step>,
    /// The one because of which the members go back before its step.
    lost: Option<Step>,
    /// The step whose evaluation was lost last, and how often.
    losses: (Step, u32),
}

impl Outputs {
    /// The outputs of a run directory that holds `persisted`.
    pub(super) fn new(config: OutputConfig, persisted: PersistedOutputs) -> Self {
        let end = persisted.checkpoint.as_ref().filter(|saved| saved.ends_run);
        let end = end.map(|saved| saved.step);
        let mut alarms = Alarms::new(config.spec.objective().alarms());
        for (&step, values) in &persisted.evaluations {
            // It was said when they were made.
            alarms.on_evaluation(step, values);
        }
        // A state that is evaluated may be the best, so its checkpoint gives way to no newer one.
        let is_evaluated = config.schedule.evaluate_every.is_some();
        let waiting_max = if is_evaluated { usize::MAX } else { config.keep_checkpoints };
        let criterion = config.spec.evaluation().map(|info| info.criterion);
        let early = criterion.and_then(|name| EarlyStopping::new(&config.schedule, name));
        let mut outputs = Self {
            early,
            early_end: None,
            origin: persisted.checkpoint.as_ref().map_or(0, |saved| saved.step),
            hopeless: None,
            lost: None,
            losses: (0, 0),
            log: persisted.log_position(config.metrics()),
            persisted,
            writes: Writes::new(waiting_max),
            config,
            unreadable: None,
            draws_grids: false,
            ends_at: None,
            reports: StepReports::default(),
            snapshots: Snapshots::default(),
            evaluations: Evaluations::default(),
            missing_evaluations: BTreeSet::new(),
            requested: None,
            checkpoint_since: None,
            missing_report: None,
            alarms,
        };
        if let Some(step) = end {
            outputs.end_at(step);
        }
        outputs.advance_verdicts(&mut Vec::new());
        outputs.resume_evaluation();
        let steps = 1..=outputs.log.through();
        outputs.missing_evaluations =
            steps.filter(|&step| outputs.evaluation_due_after(step).is_some()).collect();
        if let Some(first) = outputs.evaluations.first_step() {
            outputs.missing_evaluations.remove(&first);
        }
        outputs
    }

    /// Notes that the checkpoint of `step` cannot be read and that `newest` is the newest that can.
    /// Returns true if that matters, because `step` is still the newest checkpoint.
    pub(super) fn on_unreadable(&mut self, step: Step, newest: Option<SavedCheckpoint>) -> bool {
        let is_newest = self.checkpoint().is_some_and(|saved| saved.step == step);
        let is_replaced = newest.as_ref().is_some_and(|newest| newest.step >= step);
        if !is_newest || is_replaced {
            return false;
        }
        self.unreadable = Some(UnreadableCheckpoint { step, replacement: newest });
        true
    }

    /// Replaces the newest checkpoint, whose state no worker has, by an older one if it cannot be
    /// read. Returns the steps of both; step 0 is the beginning of the run.
    pub(super) fn fall_back(&mut self) -> Option<(Step, Step)> {
        let from = self.checkpoint()?.step;
        let UnreadableCheckpoint { step, replacement } = self.unreadable.take()?;
        if step != from {
            return None;
        }
        let to = replacement.as_ref().map_or(0, |saved| saved.step);
        self.persisted.checkpoint = replacement;
        self.log = self.persisted.log_position(self.config.metrics());
        Some((from, to))
    }

    /// Sets whether a sampler draws grids from now on.
    pub(super) fn set_draws_grids(&mut self, draws_grids: bool) {
        self.draws_grids = draws_grids;
    }

    /// The newest checkpoint on disk.
    pub(super) fn checkpoint(&self) -> Option<&SavedCheckpoint> {
        self.persisted.checkpoint.as_ref()
    }

    /// Takes a worker's report of a step. Returns one of `members` that reports another state after
    /// it, if there is one.
    pub(super) fn on_step_done(
        &mut self,
        worker: &WorkerId,
        done: StepDone,
        members: &[WorkerId],
    ) -> Option<WorkerId> {
        let (step, digest) = (done.step, done.digest);
        let first_kept = self.first_kept_report();
        if step <= self.persisted_through() || self.is_too_far(step) || step < first_kept {
            return None;
        }
        self.reports.add(worker, done);
        self.reports.forget_before(first_kept);
        self.snapshots.on_report(worker, step);
        self.evaluations.on_report(worker, step);
        // The members agreed on this step long ago: its row tells on what.
        let is_agreed = self.persisted.rows.get(&step).is_none_or(|&logged| logged == digest);
        if is_agreed
            && (self.early.is_none() || self.awaited_evaluation() == Some(step))
            && self.missing_evaluations.remove(&step)
            && let Some(info) = self.evaluation_due_after(step)
        {
            self.evaluations.add(step, digest, &info);
        }
        self.reports.dissenter(step, digest, members)
    }

    /// The first step whose reports are kept. Older ones may not be durable yet, but the members
    /// agreed on them long ago, and what follows from them waits for the disk or is there.
    fn first_kept_report(&self) -> Step {
        let due = [
            self.snapshots.first_step(),
            self.evaluations.first_step(),
            self.missing_evaluations.first().copied(),
        ];
        let logged = self.log.through().saturating_sub(LOGGED_REPORTS_MAX);
        due.into_iter().flatten().fold(logged, Step::min)
    }

    /// Returns whether a step is so far ahead of the others that its report is not kept.
    fn is_too_far(&self, step: Step) -> bool {
        step.saturating_sub(self.log.through()) > STEPS_AHEAD_MAX
    }

    /// The purposes of a snapshot after this step; `None` if no snapshot is due.
    fn due_after(&self, step: Step) -> Option<Purposes> {
        let schedule = &self.config.schedule;
        let wants_checkpoint =
            schedule.checkpoint_due(step) || self.requested_checkpoint() == Some(step);
        let wants_grid = schedule.grid_due(step) && self.draws_grids;
        let due = Purposes {
            checkpoint: wants_checkpoint && !self.has_checkpoint(step),
            grid: wants_grid && !self.persisted.grids.contains(&step),
        };
        (due.checkpoint || due.grid).then_some(due)
    }

    /// The evaluation that is due after this step, if one is.
    fn evaluation_due_after(&self, step: Step) -> Option<EvaluationInfo> {
        let is_due = self.config.schedule.evaluation_due(step);
        let evaluation = self.config.spec.evaluation();
        evaluation.filter(|_| is_due && !self.persisted.evaluations.contains_key(&step))
    }

    /// Returns whether a checkpoint of this step or a later one is on disk or on its way there.
    pub(super) fn has_checkpoint(&self, step: Step) -> bool {
        self.persisted.has_checkpoint(step) || self.writes.has_checkpoint(step)
    }

    /// The greatest step that a worker has reported, not counting steps that a later plan computes
    /// again; 0 if there is none.
    pub(super) fn last_step_of(&self, worker: &WorkerId) -> Step {
        self.reports.last_steps().get(worker).copied().unwrap_or(0)
    }

    /// Returns whether a snapshot that is due can come from one of these workers.
    pub(super) fn can_get_snapshot(&self, connected: &BTreeMap<WorkerId, ConnId>) -> bool {
        self.snapshots.can_get_one(&self.reports, connected)
    }

    /// Prepares for a plan by which `members` compute the steps after `step`, some of them perhaps
    /// again: those are reported and agreed on like new ones, and snapshots that were given up
    /// become due again. Rows that are written already are compared.
    pub(super) fn restart_after(&mut self, step: Step, members: &[WorkerId]) {
        self.reports.withdraw_after(step, members);
        self.go_back_to(step);
        self.snapshots.restart_after(step, &self.persisted);
        self.evaluations.restart_after(step);
        if let Some(lost) = self.lost.take_if(|lost| step <= *lost) {
            self.evaluations.begin_anew(lost);
        }
    }

    /// Takes the log back to `step`, after which members compute what is logged already. Where the
    /// window that is open there is not known, it goes back to the end of that window: what was
    /// logged up to there stays as it is.
    fn go_back_to(&mut self, step: Step) {
        if step >= self.log.through() {
            return;
        }
        let saved = self.checkpoint().filter(|saved| saved.step == step);
        let saved = saved.map(|saved| saved.window.clone());
        let window = saved.or_else(|| self.reports.window(step).map(|(_, window)| window));
        let end = self.config.schedule.window_end_after(step);
        self.log = match window {
            Some(window) => LogPosition::at(window),
            None if end < self.log.through() => LogPosition::after(end, self.config.metrics()),
            None => return,
        };
        // A checkpoint that was to be taken soon would be far away now.
        if let Some(requested) = &mut self.requested {
            *requested = RequestedCheckpoint::new(step);
        }
    }

    /// The greatest step that is logged, or that a member has reported.
    fn furthest_step(&self) -> Step {
        let last_steps = self.reports.last_steps().values().copied();
        last_steps.fold(self.log.through(), Step::max)
    }

    /// Requests the snapshots that are due from workers that hold them. A snapshot is given up when
    /// all of `members`, whose plan starts after step `start`, have passed it and nobody holds it.
    /// Checkpoints of steps after `hold` wait.
    pub(super) fn request_snapshots(
        &mut self,
        now: Duration,
        members: &[WorkerId],
        start: Step,
        connected: &BTreeMap<WorkerId, ConnId>,
        hold: Option<Step>,
        out: &mut Vec<Command>,
    ) {
        let view = PlanView { members, start, connected };
        for step in self.snapshots.request(now, &self.reports, &view, hold, out) {
            out.push(Command::Notice(Notice::SnapshotGivenUp(step)));
            let furthest = self.furthest_step();
            if let Some(requested) = &mut self.requested
                && requested.step <= step
            {
                requested.postpone(furthest);
            }
        }
    }

    /// Asks workers that are free for parts of the evaluations that are due. Takes the same
    /// arguments as [`request_snapshots`](Self::request_snapshots), and whether no worker is left,
    /// not even one that may reconnect.
    pub(super) fn assign_evaluations(
        &mut self,
        now: Duration,
        members: &[WorkerId],
        start: Step,
        connected: &BTreeMap<WorkerId, ConnId>,
        is_nobody_left: bool,
        out: &mut Vec<Command>,
    ) {
        let view = PlanView { members, start, connected };
        let is_run_over = is_nobody_left && self.persisted.has_checkpoint(self.last_step());
        let schedule = self.config.schedule;
        let assigned = self.evaluations.assign(
            now,
            &self.reports,
            &view,
            is_run_over,
            |step| schedule.verdict_due(step),
            out,
        );
        for step in assigned.given_up {
            out.push(Command::Notice(Notice::EvaluationGivenUp(step)));
        }
        self.hopeless = assigned.lost;
        if let Some(step) = self.passed_evaluation() {
            self.missing_evaluations.insert(step);
            let are_beyond = view.are_beyond(step, self.reports.last_steps());
            self.hopeless = Some(step).filter(|_| are_beyond);
        }
    }

    /// Takes the result of a part of an evaluation, or why a worker has none.
    pub(super) fn on_evaluated(
        &mut self,
        worker: &WorkerId,
        id: PartId,
        result: Result<Vec<f64>, String>,
        out: &mut Vec<Command>,
    ) {
        let Some(info) = self.config.spec.evaluation() else {
            return;
        };
        // Nobody has a result that was not asked for.
        if !self.evaluations.was_asked(worker, &id) {
            return;
        }
        if let Err(why) = &result {
            let (by, step) = (worker.name.clone(), id.step);
            out.push(Command::Notice(Notice::PartFailed { by, step, why: why.clone() }));
        }
        let Some((state_digest, values)) = self.evaluations.on_result(worker, id, &info, result)
        else {
            return;
        };
        let values = NamedMetrics::new(info.names, values);
        out.extend(self.alarms.on_evaluation(id.step, &values).into_iter().map(Command::Notice));
        self.persisted.evaluations.insert(id.step, values.clone());
        self.writes.add_evaluation(EvaluationRow { step: id.step, values, state_digest });
    }

    /// Gives up the evaluations of steps before this coordinator's start that no worker has
    /// reported. Called when workers train: all of them have reported what they hold.
    pub(super) fn give_up_missing_evaluations(&mut self, out: &mut Vec<Command>) {
        let mut missing = std::mem::take(&mut self.missing_evaluations);
        // One on which the end of the run depends is waited for.
        let awaited = self.awaited_evaluation();
        self.missing_evaluations.extend(awaited.filter(|step| missing.remove(step)));
        if let Some(&last) = missing.last() {
            let count = missing.len();
            out.push(Command::Notice(Notice::EvaluationsMissing { count, last }));
        }
    }

    /// Gives up the evaluations that are due: the run is about to end.
    pub(super) fn give_up_evaluations(&mut self, out: &mut Vec<Command>) {
        for step in self.evaluations.clear() {
            out.push(Command::Notice(Notice::EvaluationGivenUp(step)));
        }
    }

    /// Notes that a worker does not hold the snapshot of `step`, or not the right one.
    pub(super) fn on_snapshot_missing(&mut self, worker: &WorkerId, step: Step) {
        self.snapshots.on_missing(worker, step);
    }

    /// Notes that a worker's connection closed.
    pub(super) fn on_closed(&mut self, name: &str) {
        self.snapshots.on_closed(name);
        self.evaluations.on_closed(name);
    }

    /// Takes a snapshot that a worker sent: what is due of it is to be written.
    pub(super) fn on_snapshot(
        &mut self,
        step: Step,
        digest: Digest,
        bytes: &Arc<Vec<u8>>,
        now: Duration,
        out: &mut Vec<Command>,
    ) {
        let Some(snapshot) = self.snapshots.take(step, digest) else {
            return;
        };
        if snapshot.purposes.grid {
            self.persisted.grids.insert(step);
            self.writes.add_grid(step, Arc::clone(bytes), out);
        }
        if snapshot.purposes.checkpoint {
            let DueSnapshot { window, ends_run, .. } = snapshot;
            self.checkpoint_since = Some(now);
            let saved = SavedCheckpoint { step, digest, window, ends_run };
            self.requested.take_if(|requested| requested.step <= step);
            self.writes.add_checkpoint(saved, Arc::clone(bytes), out);
        }
    }

    /// Adds a plan that is to be stored.
    pub(super) fn store_plan(&mut self, plan: Arc<Plan>, fingerprint: String) {
        self.writes.add_plan(plan, fingerprint);
    }

    /// Starts the next write, unless one is on its way to the disk.
    pub(super) fn start_next_write(&mut self) -> Option<Write> {
        self.writes.start_next()
    }

    /// Notes that the write that was on its way is durable, and returns it.
    pub(super) fn finish_write(&mut self, out: &mut Vec<Command>) -> Option<Write> {
        let write = self.writes.finish(out)?;
        // Snapshots may overtake each other on their way: an older one replaces nothing.
        if let Write::Checkpoint { saved, .. } = &write
            && !self.persisted.has_checkpoint(saved.step)
        {
            self.persisted.checkpoint = Some(saved.clone());
        }
        if matches!(write, Write::Evaluation(_)) {
            self.advance_verdicts(out);
        }
        Some(write)
    }

    /// Puts the write that was on its way back to those that wait.
    pub(super) fn postpone_write(&mut self, out: &mut Vec<Command>) {
        self.writes.postpone(out);
    }

    /// Gives up the write that was on its way, and returns it.
    pub(super) fn give_up_write(&mut self) -> Option<Write> {
        self.writes.give_up()
    }

    /// Drops all writes that wait for the disk.
    pub(super) fn drop_writes(&mut self) {
        self.writes.clear();
    }

    /// Leaves out the checkpoints that wait for the disk, except the newest: the run is about to
    /// end.
    pub(super) fn leave_out_superseded_checkpoints(&mut self, out: &mut Vec<Command>) {
        self.writes.leave_out_checkpoints(1, out);
    }

    /// Returns whether the last step is reached and its checkpoint is missing, and no worker is
    /// known that could send it.
    pub(super) fn lacks_last_checkpoint(&self) -> bool {
        let last_step = self.last_step();
        self.reached() >= last_step && !self.has_checkpoint(last_step) && !self.awaits_snapshots()
    }

    /// Returns whether something is on its way to the disk or waits for it.
    pub(super) fn is_writing(&self) -> bool {
        !self.writes.is_empty()
    }

    /// Returns whether a checkpoint of a step after `step` is on its way to the disk.
    pub(super) fn writes_checkpoint_after(&self, step: Step) -> bool {
        self.writes.has_checkpoint(step + 1)
    }

    /// The last step up to which everything due is on disk.
    pub(super) fn persisted_through(&self) -> Step {
        let logged = self.log.last_logged_step;
        let rows = self.writes.rows_durable_through().map_or(logged, |step| step.min(logged));
        let due = [
            self.snapshots.first_step(),
            self.evaluations.first_step(),
            self.missing_evaluations.first().copied(),
            self.writes.first_step(),
        ];
        match due.into_iter().flatten().min() {
            Some(first) if first > 0 => rows.min(first - 1),
            // A checkpoint of the initial state, step 0, holds back no report.
            Some(_) | None => rows,
        }
    }

    /// Forgets the reports of steps that are persisted. The last two stay, because an early end may
    /// make a checkpoint there: a worker whose report made the last row may be gone, and the others
    /// may be a step behind.
    pub(super) fn forget_persisted(&mut self) {
        self.reports.forget_through(self.persisted_through());
        self.evaluations.forget_through(self.persisted_through());
    }

    /// Returns whether a snapshot that is due has not come yet.
    pub(super) fn awaits_snapshots(&self) -> bool {
        self.snapshots.first_step().is_some()
    }

    /// Returns whether the run's last step is reached, and everything due is on disk.
    pub(super) fn is_finished(&self) -> bool {
        self.persisted.has_checkpoint(self.last_step())
            && !self.awaits_snapshots()
            && self.evaluations.first_step().is_none()
            && !self.is_writing()
    }

    /// The number of different reports that are kept. For tests.
    pub(super) fn reports(&self) -> usize {
        self.reports.len()
    }

    /// The number of the objective's metrics.
    pub(super) fn metrics(&self) -> usize {
        self.config.metrics()
    }

    /// The evaluation of the objective, if it has one.
    pub(super) fn evaluation(&self) -> Option<EvaluationInfo> {
        self.config.spec.evaluation()
    }

    /// The best state of those that are evaluated.
    pub(super) fn best_evaluation(&self) -> Option<BestEvaluation> {
        let evaluations = self.persisted.evaluations.iter();
        self.evaluation()?.best(evaluations.map(|(&step, values)| (step, values)))
    }

    /// The alarms that have begun and have not passed.
    pub(super) fn alarms(&self) -> Vec<Alarm> {
        self.alarms.active()
    }

    /// The step that ends the run.
    pub(super) fn last_step(&self) -> Step {
        self.config.schedule.last_step
    }

    /// The last finished step on which all members agree.
    pub(super) fn reached(&self) -> Step {
        self.log.through()
    }
}

#[cfg(test)]
mod tests;
