//! What a step reports, and the lines of `metrics.jsonl`.

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, Generation, Step};

/// How many numbers a step reports.
pub const METRIC_COUNT: usize = 6;

/// The losses and accuracies of one step's training passes, in the order of [`METRIC_NAMES`].
pub type Metrics = [f32; METRIC_COUNT];

/// Losses, and accuracies at threshold 0.5; `gacc` is the share of fakes that D calls real in the generator's phase.
pub const METRIC_NAMES: [&str; METRIC_COUNT] =
    ["d_loss_real", "d_loss_fake", "g_loss", "real_dacc", "fake_dacc", "gacc"];

/// A finished step, as a worker reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct StepDone {
    /// The step.
    pub step: Step,
    /// The generation in which the worker reached it.
    pub generation: Generation,
    /// Members of that generation.
    pub world_size: u16,
    /// The digest of the state after it.
    pub digest: Digest,
    /// Losses and accuracies.
    pub metrics: Metrics,
    /// Time since the step before, in milliseconds.
    pub step_ms: f32,
    /// Of it, between the worker's last gradient of a phase and the phase's reduced vector.
    pub allreduce_ms: f32,
}

/// The sums of the open log window: the steps since the last multiple of the log interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogWindow {
    /// Every step up to this one is in this window or in an earlier one.
    pub through: Step,
    /// Steps in the window.
    pub steps: u64,
    /// Sums of the metrics, in the order of [`METRIC_NAMES`].
    pub sums: [f64; METRIC_COUNT],
    /// Sum of the steps' times, in milliseconds.
    pub step_ms: f64,
    /// Sum of the all-reduces' times, in milliseconds.
    pub allreduce_ms: f64,
}

impl LogWindow {
    /// An empty window after `step`.
    pub fn after(step: Step) -> Self {
        Self { through: step, ..Self::default() }
    }

    /// Adds the step that follows.
    ///
    /// # Panics
    /// If `done` is not the step after [`LogWindow::through`].
    pub fn add(&mut self, done: &StepDone) {
        assert_eq!(done.step, self.through + 1, "a window adds up steps in their order");
        self.through = done.step;
        self.steps += 1;
        for (sum, value) in self.sums.iter_mut().zip(done.metrics) {
            *sum += f64::from(value);
        }
        self.step_ms += f64::from(done.step_ms);
        self.allreduce_ms += f64::from(done.allreduce_ms);
    }

    /// The line that averages the window, at the step that `last` finished.
    pub fn line(
        &self,
        last: &StepDone,
        epoch: u64,
        batch_size: usize,
        learning_rate: f64,
    ) -> MetricsRow {
        let n = self.steps.max(1) as f64;
        let [d_loss_real, d_loss_fake, g_loss, real_dacc, fake_dacc, gacc] =
            self.sums.map(|sum| sum / n);
        let seconds = (self.step_ms / 1e3).max(1e-9);
        MetricsRow {
            step: last.step,
            epoch,
            d_loss_real,
            d_loss_fake,
            g_loss,
            real_dacc,
            fake_dacc,
            gacc,
            learning_rate,
            images_per_second: batch_size as f64 * n / seconds,
            step_ms: self.step_ms / n,
            allreduce_ms: self.allreduce_ms / n,
            world_size: last.world_size,
            generation: last.generation,
            state_digest: last.digest,
        }
    }
}

/// One line of `metrics.jsonl`: averages over the steps since the last multiple of the log interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the fields are the contract of the run directory; README.md explains each"
)]
pub struct MetricsRow {
    pub step: Step,
    pub epoch: u64,
    pub d_loss_real: f64,
    pub d_loss_fake: f64,
    pub g_loss: f64,
    pub real_dacc: f64,
    pub fake_dacc: f64,
    pub gacc: f64,
    pub learning_rate: f64,
    pub images_per_second: f64,
    pub step_ms: f64,
    pub allreduce_ms: f64,
    pub world_size: u16,
    pub generation: Generation,
    pub state_digest: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(step: Step, loss: f32) -> StepDone {
        StepDone {
            step,
            generation: Generation(1),
            world_size: 4,
            digest: Digest(step),
            metrics: [loss, 0.0, 0.0, 1.0, 0.0, 0.0],
            step_ms: 500.0,
            allreduce_ms: 2.0,
        }
    }

    #[test]
    fn a_line_averages_its_window() {
        let mut window = LogWindow::after(20);
        window.add(&done(21, 1.0));
        window.add(&done(22, 2.0));
        let line = window.line(&done(22, 2.0), 1, 256, 2e-4);
        assert_eq!((line.step, line.d_loss_real, line.real_dacc), (22, 1.5, 1.0));
        assert_eq!((line.images_per_second, line.step_ms, line.allreduce_ms), (512.0, 500.0, 2.0));
        assert_eq!(line.state_digest, Digest(22));
    }

    #[test]
    #[should_panic(expected = "in their order")]
    fn a_window_refuses_a_gap() {
        LogWindow::after(20).add(&done(22, 1.0));
    }
}
