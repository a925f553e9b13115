//! What is due at a step. Who does it is decided elsewhere.

use serde::{Deserialize, Serialize};

use crate::ids::Step;

/// A run's length and intervals, in steps. They may change between two starts of a run: no result depends on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// The step that ends the run.
    pub last_step: Step,
    /// Steps between lines of metrics.
    pub log_every: u64,
    /// Steps between grids of samples.
    pub grid_every: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
}

impl Schedule {
    /// Whether a line of metrics is due after `step`.
    pub fn line_due(&self, step: Step) -> bool {
        self.due(step, self.log_every)
    }

    /// Whether a grid of samples is due after `step`.
    pub fn grid_due(&self, step: Step) -> bool {
        self.due(step, self.grid_every)
    }

    /// Whether a checkpoint is due after `step`.
    pub fn checkpoint_due(&self, step: Step) -> bool {
        self.due(step, self.checkpoint_every)
    }

    /// Whether the log window ends with `step`. The run's last line does not end one: a longer run goes on in it.
    pub fn window_ends(&self, step: Step) -> bool {
        step.is_multiple_of(self.log_every)
    }

    fn due(&self, step: Step, every: u64) -> bool {
        step > 0 && (step.is_multiple_of(every) || step == self.last_step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_due_at_multiples_and_at_the_end() {
        let schedule =
            Schedule { last_step: 50, log_every: 20, grid_every: 25, checkpoint_every: 100 };
        let due = |due: fn(&Schedule, Step) -> bool| {
            (0..=60).filter(|&s| due(&schedule, s)).collect::<Vec<_>>()
        };
        assert_eq!(due(Schedule::line_due), [20, 40, 50, 60]);
        assert_eq!(due(Schedule::grid_due), [25, 50]);
        assert_eq!(due(Schedule::checkpoint_due), [50]);
        assert!(schedule.window_ends(40) && !schedule.window_ends(50));
    }
}
