//! Early stopping: a run ends when its evaluations have not become better for a while.
//!
//! An evaluation is computed beside the training, so when its result comes depends on the speed of
//! machines. The step with which a run ends must not. So the *verdict* on the evaluation after step
//! s is due when the next evaluation is, E steps later: members train through step s + E, the
//! *horizon*, and wait there in the rare case that the verdict is not known yet. A run that ends by
//! the evaluation after step s ends with step s + E.
//!
//! A verdict counts when its evaluation is on disk: a coordinator that starts again finds the same.

use crate::evaluation::BestEvaluation;
use crate::ids::Step;
use crate::spec::schedule::Schedule;

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
