//! A checkpoint that a person has asked for, or that is due by time.
//!
//! Workers keep the snapshots of steps that are due by the schedule, and no others. To save the
//! step that is finished just now, they would have to stop and wait. So the coordinator chooses a
//! step a little ahead and tells them to keep its snapshot too. If they had passed that step when
//! the message came, it chooses again, twice as far ahead.

use std::time::Duration;

use super::{DueSnapshot, Outputs, Purposes};
use crate::ids::Step;
use crate::protocol::plan::StateRef;

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

impl Outputs {
    /// Handles a person's request for a checkpoint: it will be that of a step a little ahead.
    pub(in super::super) fn request_checkpoint(&mut self) {
        let furthest = self.furthest_step();
        self.requested.get_or_insert(RequestedCheckpoint::new(furthest));
    }

    /// Requests a checkpoint if one is due by time. None is while another one is not on disk yet,
    /// and none if no step was finished since.
    pub(in super::super) fn request_timed_checkpoint(&mut self, now: Duration) {
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
    pub(in super::super) fn requested_checkpoint(&self) -> Option<Step> {
        self.requested.map(|requested| requested.step)
    }

    /// Adds a checkpoint of the last finished step of the state `reached`, outside the schedule.
    pub(in super::super) fn add_last_checkpoint(&mut self, reached: StateRef) {
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
}
