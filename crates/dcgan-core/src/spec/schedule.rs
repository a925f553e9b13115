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

    /// Tells whether the log window ends with `step`.
    ///
    /// The row of the run's last step does not end the window, unless it is a multiple of the
    /// interval: if the run is resumed with a greater length, the window continues.
    pub fn window_ends(&self, step: Step) -> bool {
        step.is_multiple_of(self.log_every)
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
    }
}
