//! The agreement of the members: which steps are logged, on whose numbers, and what follows from
//! each.
//!
//! A report is a claim, and so is its absence. A member that leaves out the report of a step, or
//! makes none any more, must neither hold up the rows of the others nor leave a gap in them.

use std::time::Duration;

use super::step_reports::Agreed;
use super::{Command, DueSnapshot, Failure, LogPosition, LogWindow, Notice, Outputs};
use crate::ids::{Step, WorkerId};
use crate::metrics::StepDone;
use crate::protocol::false_claim::FalseClaim;

/// A member whose report of a step is still missing when most members finished the next one this
/// long ago withholds it. A worker whose stream is slow is lost, or heard again, long before.
const WITHHELD_MAX: Duration = Duration::from_secs(20);

/// A step that most members have passed, and of which a report is missing.
#[derive(Debug)]
pub(super) struct MissingReport {
    step: Step,
    since: Duration,
}

impl Outputs {
    /// Logs the next steps up to `through`, one by one, as long as all of `members` agree on the
    /// state: makes the rows of metrics and notes the snapshots that are due. Returns the workers
    /// whose numbers of such a state are not those of most others.
    ///
    /// # Errors
    /// If they agree on a state that is not the one that an earlier row has, or on a metric that is
    /// not a finite number.
    pub(in super::super) fn add_agreed_steps(
        &mut self,
        members: &[WorkerId],
        through: Step,
        out: &mut Vec<Command>,
    ) -> Result<Vec<(WorkerId, FalseClaim)>, Failure> {
        let mut liars = Vec::new();
        loop {
            let step = self.log.through() + 1;
            let passed_max = self.passed_max(step, members);
            let agreed = self.reports.agreed(step, members, passed_max);
            let Some(Agreed { done, contradicted_by }) = agreed.filter(|_| step <= through) else {
                if self.pass_gap(members) {
                    continue;
                }
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

    /// Goes on after a gap in the reports: steps that too many of `members` have passed to agree on
    /// them. Returns whether there is a later step to go on with.
    ///
    /// A worker reports every step in order, and drops a report only when the step is persisted. So
    /// an earlier coordinator has written everything up to the end of the gap.
    pub(in super::super) fn pass_gap(&mut self, members: &[WorkerId]) -> bool {
        let step = self.log.through() + 1;
        if self.reports.passed(step, members) <= self.passed_max(step, members) {
            return false;
        }
        let next = self.reports.first_agreed(step, members);
        let Some(next) = next.filter(|&next| next > step) else {
            return false;
        };
        self.log = LogPosition::after(next - 1, self.config.metrics());
        true
    }

    /// The most members that may have passed a step without a report of it, if the others agree on
    /// it: fewer than half, or half if no earlier coordinator has written as far. Then they had no
    /// reason to drop the report, and it is theirs that is withheld.
    fn passed_max(&self, step: Step, members: &[WorkerId]) -> usize {
        members.len().saturating_sub(self.has_row_from(step).into()) / 2
    }

    /// Returns whether there is a row of this step or of a later one.
    fn has_row_from(&self, step: Step) -> bool {
        self.persisted.rows.range(step..).next().is_some()
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
    pub(super) fn end_at(&mut self, step: Step) {
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

    /// The members that withhold the report of the next step: most others finished the step after
    /// it long ago, and no member can without all others. Their plan starts after step `start`; a
    /// member that copies that state has finished nothing yet.
    pub(in super::super) fn withholders(
        &mut self,
        now: Duration,
        members: &[WorkerId],
        start: Step,
    ) -> Vec<(WorkerId, FalseClaim)> {
        let step = self.log.through() + 1;
        // Nothing is to be reported after the last step. Workers may still evaluate its state.
        if step > self.last_step() {
            self.missing_report = None;
            return Vec::new();
        }
        // The last step is the proof itself.
        let proof = (step + 1).min(self.last_step()).max(start + 1);
        let last_steps = || members.iter().map(|member| self.last_step_of(member));
        let is_proved = 2 * last_steps().filter(|&last| last >= proof).count() > members.len();
        if !is_proved || last_steps().all(|last| last >= step) {
            self.missing_report = None;
            return Vec::new();
        }
        let missing = self.missing_report.take().filter(|missing| missing.step == step);
        let since = missing.map_or(now, |missing| missing.since);
        self.missing_report = Some(MissingReport { step, since });
        if now < since + WITHHELD_MAX {
            return Vec::new();
        }
        let seconds = WITHHELD_MAX.as_secs();
        let silent = members.iter().filter(|member| self.last_step_of(member) < step);
        let claims = silent.map(|member| {
            let claim = format!("not to have finished step {step}");
            let possible = format!("most members finished step {proof} {seconds} s ago");
            (member.clone(), FalseClaim::new(claim, possible))
        });
        claims.collect()
    }

    /// Returns whether a worker that says that it has finished a step has kept back its report of
    /// it. Others have made theirs, and it is not old enough to be dropped.
    pub(in super::super) fn is_report_missing(&self, worker: &WorkerId, step: Step) -> bool {
        !self.has_row_from(step)
            && !self.reports.has_reported(worker, step)
            && self.reports.has_another_reported(worker, step)
    }

    /// Waits for missing reports once more from the beginning, after a time in which the
    /// coordinator could not hear.
    pub(in super::super) fn restart_clock(&mut self) {
        self.missing_report = None;
    }
}
