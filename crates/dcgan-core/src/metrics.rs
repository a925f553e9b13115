//! The numbers that a step reports, and the rows of `metrics.jsonl`.
//!
//! A worker sends a [`StepDone`] after every step. The coordinator adds the reports to a
//! [`LogWindow`], and writes one [`MetricsRow`] for each window: the average over its steps. All
//! workers report the same metrics, since all of them hold the same state; only times differ.

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, Generation, Step};

/// The number of losses and accuracies that a step reports.
pub const METRIC_COUNT: usize = 6;

/// The losses and accuracies of one step, in the order of [`METRIC_NAMES`]. Each is the mean over
/// the whole batch.
pub type Metrics = [f32; METRIC_COUNT];

/// The names of the metrics: the loss of each phase in order, then the accuracy of each phase.
///
/// An accuracy is the share of images on the right side of probability 0.5. In the generator's
/// phase (`gacc`) that is the share of fakes that the discriminator takes for real.
pub const METRIC_NAMES: [&str; METRIC_COUNT] =
    ["d_loss_real", "d_loss_fake", "g_loss", "real_dacc", "fake_dacc", "gacc"];

/// A worker's report of a finished step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepDone {
    /// The step that was finished.
    pub step: Step,
    /// The generation in which the worker finished the step.
    pub generation: Generation,
    /// The number of members in that generation.
    pub world_size: u16,
    /// The digest of the state after the step.
    pub digest: Digest,
    /// The losses and accuracies of the step.
    pub metrics: Metrics,
    /// The time since the end of the step before, in milliseconds.
    pub step_ms: f32,
    /// The part of `step_ms` that the worker spent waiting for all-reduces, in milliseconds: for
    /// each phase, the time from its own last gradient to the complete sum.
    pub allreduce_ms: f32,
}

/// The sums over the steps of one log window.
///
/// A window begins after a multiple of the log interval and ends with the next multiple. An open
/// window is saved with each checkpoint, so that a resumed run writes the same rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogWindow {
    /// The last step that was added, or, in an empty window, the step before its first.
    pub through: Step,
    /// The number of steps that were added.
    pub steps: u64,
    /// The sum of each metric, in the order of [`METRIC_NAMES`].
    pub sums: [f64; METRIC_COUNT],
    /// The sum of [`StepDone::step_ms`], in milliseconds.
    pub step_ms: f64,
    /// The sum of [`StepDone::allreduce_ms`], in milliseconds.
    pub allreduce_ms: f64,
}

impl LogWindow {
    /// An empty window whose first step is `step + 1`.
    pub fn after(step: Step) -> Self {
        Self { through: step, ..Self::default() }
    }

    /// Adds the report of the next step.
    ///
    /// # Panics
    /// If `done` does not report the step after [`LogWindow::through`].
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

    /// Averages the window into a row.
    ///
    /// `last` is the report of the window's last step, from which the row takes the step, the
    /// generation and the digest. `batch_size` is the number of images in a step.
    pub fn row(
        &self,
        last: &StepDone,
        epoch: u64,
        batch_size: usize,
        learning_rate: f64,
    ) -> MetricsRow {
        let steps = self.steps.max(1) as f64;
        let [d_loss_real, d_loss_fake, g_loss, real_dacc, fake_dacc, gacc] =
            self.sums.map(|sum| sum / steps);
        // At least a nanosecond: a simulated step may take no time, and JSON has no infinity.
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
            images_per_second: batch_size as f64 * steps / seconds,
            step_ms: self.step_ms / steps,
            allreduce_ms: self.allreduce_ms / steps,
            world_size: last.world_size,
            generation: last.generation,
            state_digest: last.digest,
        }
    }
}

/// A row of `metrics.jsonl`: the averages over a log window, and the state at its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are a contract; docs/run-directory.md explains each")]
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
    fn a_row_averages_its_window() {
        let mut window = LogWindow::after(20);
        window.add(&done(21, 1.0));
        window.add(&done(22, 2.0));
        let row = window.row(&done(22, 2.0), 1, 256, 2e-4);
        assert_eq!((row.step, row.d_loss_real, row.real_dacc), (22, 1.5, 1.0));
        assert_eq!((row.images_per_second, row.step_ms, row.allreduce_ms), (512.0, 500.0, 2.0));
        assert_eq!(row.state_digest, Digest(22));
    }

    #[test]
    #[should_panic(expected = "in their order")]
    fn a_window_refuses_a_gap() {
        LogWindow::after(20).add(&done(22, 1.0));
    }
}
