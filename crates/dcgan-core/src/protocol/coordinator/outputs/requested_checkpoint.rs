//! A checkpoint that a person has asked for, or that is due by time.
//!
//! Workers keep the snapshots of steps that are due by the schedule, and no others. To save the
//! step that is finished just now, they would have to stop and wait. So the coordinator chooses a
//! step a little ahead and tells them to keep its snapshot too. If they had passed that step when
//! the message came, it chooses again, twice as far ahead.

use crate::ids::Step;

/// How many steps ahead of the furthest worker the first choice is.
const STEPS_AHEAD_MIN: u64 = 2;

/// A checkpoint outside the schedule.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestedCheckpoint {
    /// The step after which it is to be taken.
    pub(super) step: Step,
    /// How many steps ahead the step was chosen.
    ahead: u64,
}

impl RequestedCheckpoint {
    /// The first choice, when the furthest worker has finished `furthest` steps.
    pub(super) fn new(furthest: Step) -> Self {
        Self { step: furthest + STEPS_AHEAD_MIN, ahead: STEPS_AHEAD_MIN }
    }

    /// Chooses again, twice as far ahead.
    pub(super) fn postpone(&mut self, furthest: Step) {
        self.ahead *= 2;
        self.step = furthest + self.ahead;
    }
}
