//! The time that steps take, and the deadline for the other members.
//!
//! A fixed deadline would be too short for a slow machine and too long for a fast one. The deadline
//! therefore follows the worker's own recent step times, which include waiting for others.

use std::collections::VecDeque;
use std::time::Duration;

use super::WorkerMachine;
use crate::protocol::message::Complaint;

/// How often the driver passes [`Event::Tick`](super::Event::Tick) to the machine. A deadline is
/// noticed this late at most.
pub const TICK: Duration = Duration::from_millis(50);

/// The number of recent step times that the deadline follows.
const RECENT_STEPS: usize = 8;

/// A member may owe a bucket sum for this many times the slowest recent step.
const DEADLINE_STEPS: u32 = 8;

/// The shortest deadline. On a loaded machine a process may get no CPU for seconds.
const DEADLINE_MIN: Duration = Duration::from_secs(20);

/// The deadline until this worker has finished a first step and knows how fast it is.
const DEADLINE_FIRST: Duration = Duration::from_secs(120);

impl WorkerMachine {
    /// Complains about a member that owes a bucket sum for longer than the deadline. Repeats the
    /// complaint after each further deadline.
    pub(super) fn complain_about_late_member(&mut self) {
        let deadline = self.timer.deadline();
        // Between a fence and the next plan nobody is late.
        if !self.may_apply() {
            return;
        }
        let Some(reduction) = &mut self.reduction else {
            return;
        };
        // Until this worker has contributed, others may be waiting for it.
        let Some(waiting_since) = reduction.complained_at.or(reduction.contributed_at) else {
            return;
        };
        if self.now < waiting_since + deadline {
            return;
        }

        reduction.complained_at = Some(self.now);
        if let Some(&late) = reduction.all_reduce.owed_by().first() {
            // Forget the last complaint: an equal one would not be sent again.
            self.complaint = None;
            self.complain(Complaint::Timeout(late));
        }
    }
}

/// The times of one step, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StepTimes {
    /// The time since the end of the step before.
    pub(super) step_ms: f32,
    /// The part of that time that was spent waiting for all-reduces.
    pub(super) allreduce_ms: f32,
}

/// Measures steps.
#[derive(Debug)]
pub(super) struct StepTimer {
    step_began: Duration,
    /// True while the worker has to wait for an evaluation before it begins the step.
    is_paused: bool,
    /// The time that this step has spent waiting for all-reduces so far.
    allreduce: Duration,
    /// The times of the last steps, oldest first.
    recent: VecDeque<Duration>,
}

impl StepTimer {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            step_began: now,
            is_paused: false,
            allreduce: Duration::ZERO,
            recent: VecDeque::new(),
        }
    }

    /// Notes that a plan begins.
    ///
    /// Before the first step, the time that was spent waiting for a plan is not counted. Later it
    /// is: a step that was begun under an older plan took as long as it took.
    pub(super) fn begin_plan(&mut self, now: Duration) {
        if self.recent.is_empty() {
            self.step_began = now;
        }
    }

    /// Notes that the next step must not begin yet.
    pub(super) fn pause(&mut self) {
        self.is_paused = true;
    }

    /// Notes that the next step begins. The time since the last one does not count if the worker
    /// had to wait.
    pub(super) fn end_pause(&mut self, now: Duration) {
        if std::mem::take(&mut self.is_paused) {
            self.step_began = now;
        }
    }

    /// Adds the time that one phase has waited for its all-reduce.
    pub(super) fn add_allreduce(&mut self, waited: Duration) {
        self.allreduce += waited;
    }

    /// Notes that a step is finished and the next begins, and returns its times.
    pub(super) fn finish_step(&mut self, now: Duration) -> StepTimes {
        let step = now.saturating_sub(self.step_began);
        let times =
            StepTimes { step_ms: milliseconds(step), allreduce_ms: milliseconds(self.allreduce) };
        self.step_began = now;
        self.allreduce = Duration::ZERO;
        self.recent.push_back(step);
        if self.recent.len() > RECENT_STEPS {
            self.recent.pop_front();
        }
        times
    }

    /// The time for which a member may owe a bucket sum.
    pub(super) fn deadline(&self) -> Duration {
        match self.recent.iter().max() {
            None => DEADLINE_FIRST,
            Some(&slowest) => (slowest * DEADLINE_STEPS).max(DEADLINE_MIN),
        }
    }
}

fn milliseconds(duration: Duration) -> f32 {
    duration.as_secs_f32() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_follows_the_slowest_recent_step() {
        let mut timer = StepTimer::new(Duration::ZERO);
        assert_eq!(timer.deadline(), DEADLINE_FIRST);
        timer.add_allreduce(Duration::from_millis(7));
        assert_eq!(
            timer.finish_step(Duration::from_millis(500)),
            StepTimes { step_ms: 500.0, allreduce_ms: 7.0 }
        );
        assert_eq!(timer.deadline(), DEADLINE_MIN);
        timer.finish_step(Duration::from_millis(5500));
        assert_eq!(timer.deadline(), Duration::from_secs(40));
    }
}
