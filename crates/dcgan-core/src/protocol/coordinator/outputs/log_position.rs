//! The progress of the log: how far rows of metrics are written.

use crate::ids::Step;
use crate::metrics::{LogWindow, StepDone};

/// The open log window, and the last step that a row on disk covers.
#[derive(Debug)]
pub(super) struct LogPosition {
    /// The steps since the last multiple of the log interval, added up.
    pub(super) window: LogWindow,
    /// The last step that a row on disk averages.
    pub(super) last_logged_step: Step,
}

impl LogPosition {
    /// The position at which this window is open.
    pub(super) fn at(window: LogWindow) -> Self {
        Self { last_logged_step: window.through - window.steps, window }
    }

    /// The position right after `step`, whose row is on disk.
    pub(super) fn after(step: Step, metrics: usize) -> Self {
        Self { window: LogWindow::after(step, metrics), last_logged_step: step }
    }

    /// The last step that is in the open window or in an earlier one.
    pub(super) fn through(&self) -> Step {
        self.window.through
    }

    /// Adds the step that follows to the window.
    pub(super) fn add(&mut self, done: &StepDone) {
        self.window.add(done);
    }
}
