//! Early stopping: a run ends when its evaluations have not become better for a while.
//!
//! An evaluation is computed beside the training, so when its result comes depends on the speed of
//! machines. The step with which a run ends must not. So the *verdict* on the evaluation after step
//! s is due when the next evaluation is, E steps later: members train through step s + E, the
//! *horizon*, and wait there in the rare case that the verdict is not known yet. A run that ends by
//! the evaluation after step s ends with step s + E.
//!
//! A verdict counts when its evaluation is on disk: a coordinator that starts again finds the same.

use super::super::{Command, Notice};
use super::{Outputs, SavedCheckpoint};
use crate::evaluation::{BestEvaluation, EvaluationInfo};
use crate::ids::{Position, Step};
use crate::protocol::plan::StateRef;
use crate::spec::schedule::Schedule;

/// A deciding evaluation that is lost more often than this cannot be computed, and the run fails.
/// Each time all workers that had the state must have died or failed.
const LOSSES_MAX: u32 = 8;

/// The end of a run before its schedule, because its evaluations have not become better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EarlyEnd {
    /// The last step.
    pub step: Step,
    /// The number of evaluations in a row that were no better.
    pub patience: u64,
    /// The best evaluation, before these.
    pub best: BestEvaluation,
}

/// The state of knowledge of an evaluation that is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Known {
    /// The evaluation is still to come.
    NotYet,
    /// The evaluation was not made, and never will be: it counts for nothing.
    Never,
    /// The evaluation is on disk, with this value of the criterion.
    Value(f64),
}

/// The verdicts so far.
#[derive(Debug)]
pub(super) struct EarlyStopping {
    patience: u64,
    /// The steps between two evaluations.
    every: u64,
    /// The name of the value that counts.
    criterion: &'static str,
    /// The step of the first evaluation without a verdict.
    next: Step,
    best: Option<BestEvaluation>,
    /// The evaluations since the best one.
    since_best: u64,
    end: Option<EarlyEnd>,
}

impl EarlyStopping {
    /// No verdict is known. `None` if no evaluation may end the run.
    pub(super) fn new(schedule: &Schedule, criterion: &'static str) -> Option<Self> {
        let every = schedule.verdict_every()?;
        let patience = schedule.early_stopping?.get();
        Some(Self { patience, every, criterion, next: every, best: None, since_best: 0, end: None })
    }

    /// Takes the evaluations that are known, in the order of their steps, as far as each is known.
    pub(super) fn advance(&mut self, known: impl Fn(Step) -> Known) {
        while self.end.is_none() {
            let value = match known(self.next) {
                Known::NotYet => return,
                Known::Never => None,
                Known::Value(value) => Some(value),
            };
            if let Some(value) = value {
                self.judge(value);
            }
            if self.end.is_none() {
                self.next = self.next.saturating_add(self.every);
            }
        }
    }

    /// Takes the value of the next evaluation.
    fn judge(&mut self, value: f64) {
        match self.best {
            Some(best) if value >= best.value => {
                self.since_best += 1;
                if self.since_best >= self.patience {
                    let (step, patience) = (self.horizon(), self.patience);
                    self.end = Some(EarlyEnd { step, patience, best });
                }
            }
            _ => {
                let (step, criterion) = (self.next, self.criterion);
                self.best = Some(BestEvaluation { step, value, criterion });
                self.since_best = 0;
            }
        }
    }

    /// The step of the first evaluation without a verdict, or of the one that ends the run.
    pub(super) fn next(&self) -> Step {
        self.next
    }

    /// The step that members may train through.
    pub(super) fn horizon(&self) -> Step {
        self.next.saturating_add(self.every)
    }

    /// The early end, once a verdict has decided it.
    pub(super) fn end(&self) -> Option<EarlyEnd> {
        self.end
    }
}

impl Outputs {
    /// The deciding evaluation that is neither made nor due although the log has passed its step:
    /// no member had a report of it.
    pub(super) fn passed_evaluation(&self) -> Option<Step> {
        let step = self.awaited_evaluation().filter(|&step| step <= self.log.through())?;
        let is_known = self.persisted.evaluations.contains_key(&step)
            || self.evaluations.first_step() == Some(step);
        (!is_known).then_some(step)
    }

    /// Makes the evaluation of the state that a plan starts from due, if it decides whether the run
    /// goes on. Members that copy the state from a checkpoint do not report its step.
    pub(in super::super) fn note_start(&mut self, start: &StateRef) {
        let Position { step, .. } = start.position;
        if start.position.is_step_boundary()
            && self.awaited_evaluation() == Some(step)
            && let Some(info) = self.evaluation_due_after(step)
        {
            self.missing_evaluations.remove(&step);
            self.evaluations.add(step, start.digest, &info);
        }
    }

    /// Sends the members back if no worker is left that could compute an evaluation on which the
    /// end of the run depends.
    pub(in super::super) fn go_back_if_lost(&mut self, out: &mut Vec<Command>) {
        if let Some(step) = self.hopeless.take()
            && self.lost.is_none()
        {
            let before = if self.losses.0 == step { self.losses.1 } else { 0 };
            self.losses = (step, before + 1);
            self.lost = Some(step);
            out.push(Command::Notice(Notice::EvaluationLost(step)));
        }
    }

    /// Takes the verdicts of evaluations that are on disk, and ends the run if one of them does.
    pub(super) fn advance_verdicts(&mut self, out: &mut Vec<Command>) {
        let Some(early) = &mut self.early else {
            return;
        };
        let Some(EvaluationInfo { criterion, .. }) = self.config.spec.evaluation() else {
            return;
        };
        let (writes, persisted, origin) = (&self.writes, &self.persisted, self.origin);
        early.advance(|step| match persisted.evaluations.get(&step) {
            _ if writes.has_evaluation(step) => Known::NotYet,
            Some(values) => values.get(criterion).map_or(Known::Never, Known::Value),
            None if step < origin => Known::Never,
            None => Known::NotYet,
        });
        // Where the schedule ends the run as early, the verdict ends nothing.
        let end = early.end().filter(|end| end.step < self.config.schedule.last_step);
        if let Some(end) = end {
            self.early_end = Some(end);
            self.config.schedule.last_step = end.step;
            let (step, patience, best) = (end.step, end.patience, end.best.to_string());
            out.push(Command::Notice(Notice::EndsEarly { step, patience, best }));
        }
    }

    /// Makes the evaluation of the checkpoint at which this coordinator begins due, if it decides
    /// whether the run goes on and is not on disk.
    pub(super) fn resume_evaluation(&mut self) {
        let Some(SavedCheckpoint { step, digest, .. }) = self.checkpoint() else {
            return;
        };
        let (step, digest) = (*step, *digest);
        if self.config.schedule.verdict_due(step)
            && let Some(info) = self.evaluation_due_after(step)
        {
            self.evaluations.add(step, digest, &info);
        }
    }

    /// The early end of the run, if the evaluations have decided it.
    pub(in super::super) fn early_end(&self) -> Option<EarlyEnd> {
        self.early_end
    }

    /// The step that members may train through: the last one, or the one before which an evaluation
    /// has to be known. If that is lost, they go back before the step that it is of.
    pub(in super::super) fn train_through(&self) -> Step {
        let horizon = self.early.as_ref().map(EarlyStopping::horizon);
        self.lost.unwrap_or_else(|| horizon.unwrap_or(Step::MAX).min(self.last_step()))
    }

    /// The step that members are told to train through, if an evaluation may end the run.
    pub(in super::super) fn horizon(&self) -> Option<Step> {
        self.early.as_ref().map(|_| self.train_through())
    }

    /// The step of the evaluation that is waited for before members may train through a later step
    /// than now; `None` if there is none.
    pub(in super::super) fn awaited_evaluation(&self) -> Option<Step> {
        let next = self.early.as_ref().filter(|_| self.early_end.is_none())?.next();
        self.config.schedule.verdict_due(next).then_some(next)
    }

    /// Returns whether that evaluation is due already.
    pub(in super::super) fn awaits_due_evaluation(&self) -> bool {
        let awaited = self.awaited_evaluation();
        awaited.is_some_and(|step| self.evaluations.first_step().is_some_and(|due| due <= step))
    }

    /// The last step that is logged now. Whether the step at the horizon is the last one of the
    /// run, which has a row, is not known before the verdict.
    pub(in super::super) fn logs_through(&self) -> Step {
        let early = self.early.as_ref().filter(|_| self.awaited_evaluation().is_some());
        early.map_or(Step::MAX, |early| early.horizon() - 1)
    }

    /// Returns whether an evaluation may end the run.
    pub(in super::super) fn needs_evaluations(&self) -> bool {
        self.early.is_some()
    }

    /// The deciding evaluation that was lost so often that something is wrong with it.
    pub(in super::super) fn lost_too_often(&self) -> Option<Step> {
        let (step, times) = self.losses;
        (times > LOSSES_MAX).then_some(step)
    }

    /// Returns whether the members have to go back before an evaluation that is lost.
    pub(in super::super) fn lost_evaluation(&self) -> Option<Step> {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    fn early_stopping(patience: u64) -> EarlyStopping {
        let schedule = Schedule {
            last_step: 1000,
            log_every: 1,
            grid_every: 1,
            checkpoint_every: 1,
            evaluate_every: NonZeroU64::new(10),
            early_stopping: NonZeroU64::new(patience),
        };
        EarlyStopping::new(&schedule, "distance").unwrap()
    }

    /// Takes these values one after the other; `None` is an evaluation that was not made.
    fn after(patience: u64, values: &[Option<f64>]) -> EarlyStopping {
        let mut early = early_stopping(patience);
        early.advance(|step| match values.get(step as usize / 10 - 1) {
            None => Known::NotYet,
            Some(None) => Known::Never,
            Some(&Some(value)) => Known::Value(value),
        });
        early
    }

    #[test]
    fn a_run_ends_when_no_evaluation_was_better_for_a_while() {
        let early = after(2, &[Some(9.0), Some(5.0), Some(5.0)]);
        assert_eq!((early.end(), early.horizon()), (None, 50));
        let early = after(2, &[Some(9.0), Some(5.0), Some(5.0), Some(6.0), Some(1.0)]);
        let best = BestEvaluation { step: 20, value: 5.0, criterion: "distance" };
        assert_eq!(early.end(), Some(EarlyEnd { step: 50, patience: 2, best }));
        assert_eq!(early.horizon(), 50, "what comes later changes nothing");
        // A better one begins the count anew.
        let early = after(2, &[Some(9.0), Some(10.0), Some(8.0), Some(8.0)]);
        assert_eq!((early.end(), early.horizon()), (None, 60));
    }

    #[test]
    fn members_wait_for_the_first_verdict_that_is_not_known() {
        assert_eq!(after(1, &[]).horizon(), 20);
        // A later evaluation waits for the one before.
        let mut early = early_stopping(1);
        early.advance(|step| if step == 20 { Known::Value(1.0) } else { Known::NotYet });
        assert_eq!(early.horizon(), 20);
        // One that was never made counts for nothing.
        let early = after(2, &[Some(5.0), Some(6.0), None]);
        assert_eq!((early.end(), early.next()), (None, 40));
    }
}
