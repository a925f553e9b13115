//! The outputs of a run: which rows of metrics, checkpoints and grids are due, which worker is
//! asked for a snapshot, and up to which step workers may forget what they hold.
//!
//! Every worker reports every step until it is persisted. So a report comes several times: from
//! several workers, after each reconnection, and when a step is computed again. Nothing may be
//! written twice all the same, so everything here is keyed by step, and what is on disk, or on its
//! way there, is known.

mod evaluations;
mod log_position;
mod requested_checkpoint;
mod snapshots;
mod step_reports;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Command, ConnId, Failure, Notice};
use crate::evaluation::{EvaluationInfo, EvaluationRow, PartId};
use crate::ids::{Digest, Step, WorkerId};
use crate::metrics::{LogWindow, NamedMetrics, StepDone};
use crate::protocol::false_claim::FalseClaim;
use crate::protocol::plan::{Plan, StateRef};
use crate::spec::RunSpec;
use crate::spec::schedule::Schedule;
use evaluations::Evaluations;
use log_position::LogPosition;
use requested_checkpoint::RequestedCheckpoint;
use snapshots::{DueSnapshot, PlanView, Snapshots};
use step_reports::{Agreed, StepReports};
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
    /// The steps that are evaluated.
    pub evaluations: BTreeSet<Step>,
}

impl PersistedOutputs {
    /// Returns whether there is a checkpoint of this step or a later one.
    fn has_checkpoint(&self, step: Step) -> bool {
        self.checkpoint.as_ref().is_some_and(|saved| saved.step >= step)
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
}

impl Outputs {
    /// The outputs of a run directory that holds `persisted`.
    pub(super) fn new(config: OutputConfig, persisted: PersistedOutputs) -> Self {
        let end = persisted.checkpoint.as_ref().filter(|saved| saved.ends_run);
        let end = end.map(|saved| saved.step);
        let mut outputs = Self {
            log: LogPosition::at(persisted.checkpoint.as_ref(), config.metrics()),
            persisted,
            writes: Writes::new(config.keep_checkpoints),
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
        };
        if let Some(step) = end {
            outputs.end_at(step);
        }
        let steps = 1..=outputs.log.through();
        outputs.missing_evaluations =
            steps.filter(|&step| outputs.evaluation_due_after(step).is_some()).collect();
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
        self.log = LogPosition::at(replacement.as_ref(), self.config.metrics());
        self.persisted.checkpoint = replacement;
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
            && self.missing_evaluations.remove(&step)
            && let Some(info) = self.evaluation_due_after(step)
        {
            self.evaluations.add(step, digest, &info);
        }

        self.pass_gap_before(step, members);
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

    /// Logs the next steps up to `through`, one by one, as long as all of `members` agree on the
    /// state: makes the rows of metrics and notes the snapshots that are due. Returns the workers
    /// whose numbers of such a state are not those of most others.
    ///
    /// # Errors
    /// If they agree on a state that is not the one that an earlier row has, or on a metric that is
    /// not a finite number.
    pub(super) fn add_agreed_steps(
        &mut self,
        members: &[WorkerId],
        through: Step,
        out: &mut Vec<Command>,
    ) -> Result<Vec<(WorkerId, FalseClaim)>, Failure> {
        let mut liars = Vec::new();
        loop {
            let step = self.log.through() + 1;
            let agreed = self.reports.agreed(step, members).filter(|_| step <= through);
            let Some(Agreed { done, contradicted_by }) = agreed else {
                return Ok(liars);
            };
            for worker in contradicted_by {
                let claim = format!("other numbers of step {step} than most members");
                let possible = "the same state has the same numbers".to_owned();
                liars.push((worker, FalseClaim::new(claim, possible)));
            }
            self.check_metrics(&done)?;
            self.log.add(&done);
            if done.ends_run {
                self.end_at(step);
            }
            if self.config.schedule.row_due(step) {
                self.add_row(&done, out)?;
            }
            self.reports.set_window(step, done.digest, self.log.window.clone());
            if let Some(due) = self.due_after(step) {
                let window = self.log.window.clone();
                let snapshot = DueSnapshot::new(done.digest, window, done.ends_run, due);
                self.snapshots.add(step, snapshot);
            }
            if let Some(info) = self.evaluation_due_after(step) {
                self.evaluations.add(step, done.digest, &info);
            }
        }
    }

    /// Goes on with `step` if there is a gap before it in the reports of `members`.
    ///
    /// A worker reports every step in order, and drops a report only when the step is persisted. If
    /// all members have reported a step and one of them does not have the step before, an earlier
    /// coordinator has already written everything up to there. One worker alone may say anything.
    fn pass_gap_before(&mut self, step: Step, members: &[WorkerId]) {
        let previous = step - 1;
        if previous <= self.log.through()
            || members.is_empty()
            || members.iter().all(|member| self.reports.has_reported(member, previous))
            || self.reports.agreed(step, members).is_none()
        {
            return;
        }
        self.log = LogPosition::after(previous, self.config.metrics());
    }

    /// Goes on after the first gap that the reports of `members` have, before an early end: the
    /// others may be gone.
    pub(super) fn pass_first_gap(&mut self, members: &[WorkerId]) {
        if let Some(step) = self.reports.first_agreed(self.log.through() + 1, members) {
            self.pass_gap_before(step, members);
        }
    }

    /// Checks that the metrics that members agree on are finite.
    ///
    /// # Errors
    /// If one is not.
    fn check_metrics(&self, done: &StepDone) -> Result<(), Failure> {
        let names = self.config.spec.objective().metric_names();
        let mut metrics = names.iter().zip(&done.metrics);
        match metrics.find(|(_, value)| !value.is_finite()) {
            Some((&metric, _)) => Err(Failure::MetricNotFinite { step: done.step, metric }),
            None => Ok(()),
        }
    }

    /// Ends the run with `step`, because its state says so. The schedule ends there, too: a row, a
    /// grid and a checkpoint are due.
    fn end_at(&mut self, step: Step) {
        self.ends_at = Some(step);
        self.config.schedule.last_step = step;
    }

    /// Adds the row of metrics at the step that `done` reports, unless it is written already.
    fn add_row(&mut self, done: &StepDone, out: &mut Vec<Command>) -> Result<(), Failure> {
        let (step, computed) = (done.step, done.digest);
        match self.persisted.rows.insert(step, computed) {
            None => {
                let spec = &self.config.spec;
                let names = spec.objective().metric_names();
                let epoch = spec.sharding().epoch(step);
                let rate = spec.learning_rate_at(step);
                let row = self.log.window.row(names, done, epoch, spec.batch_size(), rate);
                self.writes.add_row(row, self.log.last_logged_step);
            }
            Some(persisted) if persisted == computed => {
                out.push(Command::Notice(Notice::StepRecomputed(step)));
            }
            Some(persisted) => {
                return Err(Failure::NotReproducible { step, persisted, computed });
            }
        }
        self.log.last_logged_step = step;
        if self.config.schedule.window_ends(step) {
            self.log.window = LogWindow::after(step, self.config.metrics());
        }
        Ok(())
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
        let evaluation = self.config.spec.objective().evaluation();
        evaluation.filter(|_| is_due && !self.persisted.evaluations.contains(&step))
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

    /// Prepares for a plan by which `members` compute the steps after `step` again. The rows of
    /// those steps are written already, so only the snapshots that were given up become due again.
    pub(super) fn restart_after(&mut self, step: Step, members: &[WorkerId]) {
        self.reports.withdraw_after(step, members);
        self.snapshots.restart_after(step, &self.persisted);
        self.evaluations.restart_after(step);
    }

    /// Handles a person's request for a checkpoint: it will be that of a step a little ahead.
    pub(super) fn request_checkpoint(&mut self) {
        let furthest = self.furthest_step();
        self.requested.get_or_insert(RequestedCheckpoint::new(furthest));
    }

    /// Requests a checkpoint if one is due by time. None is while another one is not on disk yet,
    /// and none if no step was finished since.
    pub(super) fn request_timed_checkpoint(&mut self, now: Duration) {
        let Some(interval) = self.config.checkpoint_interval else {
            return;
        };
        let since = *self.checkpoint_since.get_or_insert(now);
        let furthest = self.furthest_step();
        if now >= since + interval
            && self.requested.is_none()
            && !self.has_checkpoint(furthest)
            && !self.writes.has_checkpoint(0)
        {
            // An attempt that fails is not repeated at once.
            self.checkpoint_since = Some(now);
            let request = RequestedCheckpoint::new(furthest);
            // The last step is due anyway.
            self.requested = Some(request).filter(|it| it.step < self.last_step());
        }
    }

    /// The step of the checkpoint that a person has asked for: workers are to keep its snapshot.
    pub(super) fn requested_checkpoint(&self) -> Option<Step> {
        self.requested.map(|requested| requested.step)
    }

    /// The greatest step that any worker has reported.
    fn furthest_step(&self) -> Step {
        self.log.through().max(self.reports.last_step().unwrap_or(0))
    }

    /// Adds a checkpoint of the last finished step of the state `reached`, outside the schedule.
    pub(super) fn add_last_checkpoint(&mut self, reached: StateRef) {
        let step = reached.position.step;
        // The initial state needs no checkpoint: every worker has it, and none a snapshot.
        if step == 0 {
            return;
        }
        let is_saved = self.unreadable.is_none()
            && self.checkpoint().is_some_and(|it| (it.step, it.digest) == (step, reached.digest));
        if is_saved || self.snapshots.add_checkpoint(step) || self.writes.has_checkpoint(step) {
            return;
        }
        // The log window there is known if the step was logged. It is also known if the step is the
        // last one on disk and this coordinator was only just started.
        let is_log_position = self.log.through() == step && reached.position.is_step_boundary();
        let (digest, window) = match self.reports.window(step) {
            Some(agreed) => agreed,
            None if is_log_position => (reached.digest, self.log.window.clone()),
            None => return,
        };
        let due = Purposes { checkpoint: true, grid: false };
        let ends_run = self.ends_at == Some(step);
        self.snapshots.add(step, DueSnapshot::new(digest, window, ends_run, due));
    }

    /// Requests the snapshots that are due from workers that hold them. A snapshot is given up when
    /// all of `members`, whose plan starts after step `start`, have passed it and nobody holds it.
    pub(super) fn request_snapshots(
        &mut self,
        now: Duration,
        members: &[WorkerId],
        start: Step,
        connected: &BTreeMap<WorkerId, ConnId>,
        out: &mut Vec<Command>,
    ) {
        let view = PlanView { members, start, connected };
        for step in self.snapshots.request(now, &self.reports, &view, out) {
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
        for step in self.evaluations.assign(now, &self.reports, &view, is_run_over, out) {
            out.push(Command::Notice(Notice::EvaluationGivenUp(step)));
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
        let Some(info) = self.config.spec.objective().evaluation() else {
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
        self.persisted.evaluations.insert(id.step);
        self.writes.add_evaluation(EvaluationRow { step: id.step, values, state_digest });
    }

    /// Gives up the evaluations of steps before this coordinator's start that no worker has
    /// reported. Called when workers train: all of them have reported what they hold.
    pub(super) fn give_up_missing_evaluations(&mut self, out: &mut Vec<Command>) {
        let missing = std::mem::take(&mut self.missing_evaluations);
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
        self.config.spec.objective().evaluation()
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
mod tests {
    use super::*;
    use crate::ids::Generation;
    use crate::protocol::message::ToWorker;
    use crate::spec::{DatasetInfo, ObjectiveKind, RunSpec};

    /// Outputs with a row of metrics and a checkpoint at every second step.
    fn outputs() -> Outputs {
        let data = DatasetInfo { images: 100, rows: 1, columns: 1, digest: Digest(0) };
        let builder = RunSpec::builder().objective(ObjectiveKind::Toy).batch_size(16);
        let schedule = Schedule {
            last_step: 10,
            log_every: 2,
            grid_every: 10,
            checkpoint_every: 2,
            evaluate_every: None,
        };
        let spec = builder.build(data).unwrap();
        let config =
            OutputConfig { schedule, spec, checkpoint_interval: None, keep_checkpoints: 5 };
        Outputs::new(config, PersistedOutputs::default())
    }

    fn worker(name: &str) -> WorkerId {
        WorkerId { name: name.to_owned(), incarnation: 1 }
    }

    /// The report of a step whose digest is the step's number.
    fn done(step: Step) -> StepDone {
        StepDone {
            step,
            generation: Generation(1),
            world_size: 2,
            digest: Digest(step),
            ends_run: false,
            metrics: vec![0.5, 0.25, 0.0, 0.0, 0.0, 0.0],
            step_ms: 100.0,
            allreduce_ms: 1.0,
        }
    }

    #[test]
    fn a_step_is_logged_once_and_only_when_all_members_have_reported_it() {
        let members = [worker("a"), worker("b")];
        let mut outputs = outputs();
        let mut out = Vec::new();
        for step in [1, 2] {
            assert_eq!(outputs.on_step_done(&members[0], done(step), &members), None);
        }
        assert_eq!(outputs.add_agreed_steps(&members, Step::MAX, &mut out), Ok(Vec::new()));
        assert_eq!(out, [], "b has reported nothing");

        // b reports each step twice, as after a reconnection.
        for step in [1, 1, 2, 2] {
            assert_eq!(outputs.on_step_done(&members[1], done(step), &members), None);
            assert_eq!(outputs.add_agreed_steps(&members, Step::MAX, &mut out), Ok(Vec::new()));
        }
        assert_eq!(out, []);
        let Some(Write::Rows(rows)) = outputs.start_next_write() else { panic!() };
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((row.step, row.state_digest), (2, Digest(2)));
        let metrics: Vec<(&str, f64)> = row.metrics.iter().collect();
        assert_eq!(metrics[..2], [("d_loss_real", 0.5), ("d_loss_fake", 0.25)]);
        assert_eq!(outputs.persisted_through(), 0, "the row is on its way to the disk");
        outputs.finish_write(&mut out);
        assert_eq!(outputs.persisted_through(), 1, "the checkpoint of step 2 is due");
    }

    #[test]
    fn a_snapshot_is_requested_from_one_holder_after_the_other() {
        let members = [worker("a"), worker("b")];
        let connected = BTreeMap::from([(worker("a"), ConnId(1)), (worker("b"), ConnId(2))]);
        let mut outputs = outputs();
        let mut out = Vec::new();
        for step in [1, 2] {
            for member in &members {
                outputs.on_step_done(member, done(step), &members);
            }
        }
        assert_eq!(outputs.add_agreed_steps(&members, Step::MAX, &mut out), Ok(Vec::new()));
        outputs.start_next_write();
        outputs.finish_write(&mut out);
        out.clear();

        // a does not hold it, so b is asked, and its snapshot becomes a checkpoint.
        let now = Duration::ZERO;
        outputs.request_snapshots(now, &members, 0, &connected, &mut out);
        outputs.on_snapshot_missing(&members[0], 2);
        outputs.request_snapshots(now, &members, 0, &connected, &mut out);
        let bytes = Arc::new(vec![7]);
        outputs.on_snapshot(2, Digest(2), &bytes, now, &mut out);
        let saved = SavedCheckpoint {
            step: 2,
            digest: Digest(2),
            window: LogWindow::after(2, 6),
            ends_run: false,
        };
        assert_eq!(
            out,
            [
                Command::Send(ConnId(1), ToWorker::RequestSnapshot(2)),
                Command::Send(ConnId(2), ToWorker::RequestSnapshot(2)),
            ]
        );
        assert_eq!(outputs.start_next_write(), Some(Write::Checkpoint { saved, bytes }));
        assert_eq!(outputs.persisted_through(), 1, "the checkpoint is on its way to the disk");
        outputs.finish_write(&mut out);
        assert_eq!(outputs.persisted_through(), 2);
    }

    /// Lets members report steps one after the other, and logs what they agree on.
    fn report(outputs: &mut Outputs, members: &[WorkerId], reports: &[(usize, StepDone)]) {
        for (member, done) in reports {
            outputs.on_step_done(&members[*member], done.clone(), members);
            outputs.add_agreed_steps(members, Step::MAX, &mut Vec::new()).unwrap();
        }
    }

    #[test]
    fn a_gap_counts_only_if_all_members_have_it() {
        let members = [worker("a"), worker("b")];
        let mut outputs = outputs();
        // One member alone may say anything: the log does not follow it.
        report(&mut outputs, &members, &[(0, done(9))]);
        assert_eq!(outputs.reached(), 0);
        report(&mut outputs, &members, &[(1, done(1)), (0, done(1))]);
        assert_eq!(outputs.reached(), 1);
        // Neither has step 2, so an earlier coordinator has written it.
        report(&mut outputs, &members, &[(0, done(3)), (0, done(4)), (1, done(4))]);
        assert_eq!(outputs.reached(), 4);
    }

    #[test]
    fn of_the_numbers_of_a_state_those_of_most_members_are_logged() {
        let members = [worker("a"), worker("b"), worker("c")];
        let mut outputs = outputs();
        let lie = StepDone { metrics: vec![f32::NAN; 6], ends_run: true, ..done(1) };
        outputs.on_step_done(&members[0], lie, &members);
        report(&mut outputs, &members, &[(1, done(1))]);
        outputs.on_step_done(&members[2], done(1), &members);
        let liars = outputs.add_agreed_steps(&members, Step::MAX, &mut Vec::new()).unwrap();
        assert_eq!(liars.into_iter().map(|(id, _)| id.name).collect::<Vec<_>>(), ["a"]);
        assert_eq!((outputs.reached(), outputs.last_step()), (1, 10), "the run has not ended");
    }

    #[test]
    fn metrics_that_are_not_finite_end_the_run_when_the_members_agree_on_them() {
        let members = [worker("a"), worker("b")];
        let mut outputs = outputs();
        let diverged = StepDone { metrics: vec![f32::NAN; 6], ..done(1) };
        report(&mut outputs, &members, &[(0, diverged.clone())]);
        outputs.on_step_done(&members[1], diverged, &members);
        let failure = outputs.add_agreed_steps(&members, Step::MAX, &mut Vec::new()).unwrap_err();
        assert!(matches!(failure, Failure::MetricNotFinite { step: 1, .. }), "{failure}");
    }
}
