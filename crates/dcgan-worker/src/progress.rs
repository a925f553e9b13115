//! Log lines about the progress of the training: whoever looks at a worker sees that it works.

use std::time::Duration;

use dcgan_core::ids::Step;

/// The time between two lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// The progress since the last line, or since the plan began.
#[derive(Default)]
pub(crate) struct Progress {
    since: Duration,
    step: Step,
}

impl Progress {
    /// Begins to count at this time, after this step.
    pub(crate) fn start(since: Duration, step: Step) -> Self {
        Self { since, step }
    }

    /// Logs the step and the rate, if a line is due.
    pub(crate) fn report(&mut self, now: Duration, step: Step, batch_size: usize) {
        if let Some(steps_per_second) = self.rate_if_due(now, step) {
            let images_per_second = steps_per_second * batch_size as f64;
            tracing::info!(
                event = "progress",
                step,
                images_per_second,
                "step {step}, {images_per_second:.0} images/s"
            );
        }
    }

    /// Returns the steps in a second since the last line, if a line is due and there are some.
    fn rate_if_due(&mut self, now: Duration, step: Step) -> Option<f64> {
        let elapsed = now.saturating_sub(self.since);
        if elapsed < REPORT_INTERVAL || step <= self.step {
            return None;
        }
        let before = std::mem::replace(self, Self::start(now, step));
        Some((step - before.step) as f64 / elapsed.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_every_minute_in_which_a_step_was_finished() {
        let second = Duration::from_secs;
        let mut progress = Progress::start(second(10), 100);
        assert_eq!(progress.rate_if_due(second(69), 200), None);
        assert_eq!(progress.rate_if_due(second(70), 100), None);
        assert_eq!(progress.rate_if_due(second(90), 260), Some(2.0));
        assert_eq!(progress.rate_if_due(second(149), 300), None);
        assert_eq!(progress.rate_if_due(second(150), 320), Some(1.0));
    }
}
