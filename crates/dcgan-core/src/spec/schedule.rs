//! The schedule of a run: its length, and the steps at which something is due.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::ids::Step;

/// The length of a run and its intervals, all in steps.
///
/// They are not part of the [`RunSpec`](super::RunSpec): no state depends on them, so they may
/// change when a run is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// The step after which the run ends.
    pub last_step: Step,
    /// The number of steps between two metrics rows.
    pub log_every: u64,
    /// The number of steps between two grids of samples.
    pub grid_every: u64,
    /// The number of steps between two checkpoints.
    pub checkpoint_every: u64,
    /// The number of steps between two evaluations; `None` if there are none.
    pub evaluate_every: Option<NonZeroU64>,
    /// The run ends early when so many evaluations in a row are no better than the best before
    /// them; `None` if no evaluation ends it.
    pub early_stopping: Option<NonZeroU64>,
}

impl Schedule {
    /// Tells whether a metrics row is due after `step`.
    pub fn row_due(&self, step: Step) -> bool {
        self.due(step, self.log_every)
    }

    /// Tells whether a grid of samples is due after `step`.
    pub fn grid_due(&self, step: Step) -> bool {
        self.due(step, self.grid_every)
    }

    /// Tells whether a checkpoint is due after `step`. A state that is evaluated may be the best
    /// one, and is saved.
    pub fn checkpoint_due(&self, step: Step) -> bool {
        self.due(step, self.checkpoint_every) || self.evaluation_due(step)
    }

    /// Tells whether an evaluation is due after `step`.
    pub fn evaluation_due(&self, step: Step) -> bool {
        // A short trial is not worth one.
        let every = self.evaluate_every.map(NonZeroU64::get);
        every.is_some_and(|every| self.due(step, every) && step >= every)
    }

    /// The interval of the evaluations that may end the run; `None` if none may.
    pub fn verdict_every(&self) -> Option<u64> {
        self.early_stopping.and(self.evaluate_every).map(NonZeroU64::get)
    }

    /// Tells whether the evaluation after `step` decides whether the run goes on after the next one
    /// is due. Where the next one would end the run anyway, none decides.
    pub fn verdict_due(&self, step: Step) -> bool {
        self.verdict_every().is_some_and(|every| {
            step > 0 && step.is_multiple_of(every) && step.saturating_add(every) < self.last_step
        })
    }

    /// The last step before `step` whose evaluation decides whether the run goes on. A run goes on
    /// from the checkpoint of `step` only if that evaluation is known.
    pub fn verdict_before(&self, step: Step) -> Option<Step> {
        let every = self.verdict_every()?;
        let last = step.saturating_sub(1) / every * every;
        Some(last).filter(|&last| self.verdict_due(last))
    }

    /// The step that members may train through before anything is known of evaluations; `None` if
    /// no evaluation may end the run.
    pub fn first_horizon(&self) -> Option<Step> {
        self.verdict_every().map(|every| every.saturating_mul(2))
    }

    /// Tells whether the log window ends with `step`.
    ///
    /// The row of the run's last step does not end the window, unless it is a multiple of the
    /// interval: if the run is resumed with a greater length, the window continues.
    pub fn window_ends(&self, step: Step) -> bool {
        step.is_multiple_of(self.log_every)
    }

    /// The step that ends the log window which is open after `step`.
    pub fn window_end_after(&self, step: Step) -> Step {
        (step / self.log_every).saturating_add(1).saturating_mul(self.log_every)
    }

    /// Tells whether something with this interval is due: at its multiples, and at the end of the
    /// run.
    fn due(&self, step: Step, every: u64) -> bool {
        step > 0 && (step.is_multiple_of(every) || step == self.last_step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiples_of_the_interval_and_the_last_step_are_due() {
        let schedule = Schedule {
            last_step: 50,
            log_every: 20,
            grid_every: 25,
            checkpoint_every: 100,
            evaluate_every: None,
            early_stopping: None,
        };
        let steps_with = |is_due: fn(&Schedule, Step) -> bool| -> Vec<Step> {
            (0..=60).filter(|&step| is_due(&schedule, step)).collect()
        };
        assert_eq!(steps_with(Schedule::row_due), [20, 40, 50, 60]);
        assert_eq!(steps_with(Schedule::grid_due), [25, 50]);
        assert_eq!(steps_with(Schedule::checkpoint_due), [50]);
        assert_eq!(steps_with(Schedule::evaluation_due), [0; 0]);
        let evaluated = Schedule { evaluate_every: NonZeroU64::new(30), ..schedule };
        assert!(evaluated.evaluation_due(30) && evaluated.evaluation_due(50));
        assert!(evaluated.checkpoint_due(30) && !evaluated.checkpoint_due(40));
        let trial = Schedule { evaluate_every: NonZeroU64::new(51), ..schedule };
        assert!(!trial.evaluation_due(50));
        assert!(schedule.window_ends(40) && !schedule.window_ends(50));
        assert_eq!([0, 19, 20, 50].map(|step| schedule.window_end_after(step)), [20, 20, 40, 60]);
    }

    #[test]
    fn an_evaluation_decides_if_another_one_comes_before_the_end() {
        let schedule = Schedule {
            last_step: 30,
            log_every: 1,
            grid_every: 1,
            checkpoint_every: 1,
            evaluate_every: NonZeroU64::new(7),
            early_stopping: NonZeroU64::new(2),
        };
        let deciding: Vec<Step> = (0..40).filter(|&step| schedule.verdict_due(step)).collect();
        assert_eq!(deciding, [7, 14, 21]);
        assert_eq!(
            [7, 8, 14, 15, 30].map(|step| schedule.verdict_before(step)),
            [None, Some(7), Some(7), Some(14), None]
        );
        assert_eq!(schedule.first_horizon(), Some(14));
        let without = Schedule { early_stopping: None, ..schedule };
        assert!(!without.verdict_due(7) && without.verdict_before(8).is_none());
    }
}
