//! When a child that has ended is started again, and when it is given up.
//!
//! A child that crashes once a night must not be lost in the morning, and one that crashes at once
//! whenever it is started must not use up its attempts in a blink: what it lacks, such as memory,
//! may come back. So a time of health forgives earlier ends, and the pauses grow.

use std::time::Duration;

/// A child that ends once more than this, without a time of health in between, is given up.
pub(super) const RESTARTS_MAX: u32 = 3;
/// The pause before the first restart.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Each pause is this many times the one before it.
const PAUSE_FACTOR: u32 = 4;
/// A child that has run for this long is healthy: the ends before count no more.
const HEALTHY_MIN: Duration = Duration::from_secs(60);

/// The starts and ends of one child. All times are on the driver's clock.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    started: Duration,
    /// The restarts since the last time of health.
    count: u32,
}

impl Restarts {
    /// Notes that the child is started.
    pub(super) fn on_start(&mut self, now: Duration) {
        self.started = now;
    }

    /// Notes that the child has ended. Returns the pause until it is started again; `None` if it
    /// ended too often.
    pub(super) fn on_end(&mut self, now: Duration) -> Option<Duration> {
        if now.saturating_sub(self.started) >= HEALTHY_MIN {
            self.count = 0;
        }
        if self.count == RESTARTS_MAX {
            return None;
        }
        self.count += 1;
        Some(FIRST_PAUSE * PAUSE_FACTOR.pow(self.count - 1))
    }

    /// The number of the restart that follows, from 1.
    pub(super) fn attempt(&self) -> u32 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_ends_at_once_is_given_up_after_pauses_that_grow() {
        let mut restarts = Restarts::default();
        let mut now = Duration::ZERO;
        let mut pauses = Vec::new();
        while let Some(pause) = restarts.on_end(now) {
            pauses.push(pause.as_millis());
            now += pause;
            restarts.on_start(now);
        }
        assert_eq!(pauses, [250, 1000, 4000]);
    }

    #[test]
    fn a_child_that_ends_once_in_a_while_is_always_started_again() {
        let mut restarts = Restarts::default();
        for crash in 1..100 {
            let now = HEALTHY_MIN * crash;
            assert_eq!(restarts.on_end(now), Some(FIRST_PAUSE));
            restarts.on_start(now);
        }
    }
}
