//! Rows of metrics on standard output.

use std::fmt::Write;

use dcgan_core::ids::Step;
use dcgan_core::metrics::MetricsRow;

use super::Sink;
use crate::config::RunConfig;
use crate::console::CONSOLE;

/// Prints one line for each row.
pub(super) struct Terminal {
    epochs: u64,
    last_step: Step,
}

impl Terminal {
    pub(super) fn new(config: &RunConfig) -> Self {
        let last_step = config.schedule.last_step;
        Self { epochs: config.spec.sharding().epoch(last_step), last_step }
    }

    fn line(&self, row: &MetricsRow) -> String {
        let Self { epochs, last_step } = self;
        let mut line = format!("epoch {}/{epochs}  step {}/{last_step}", row.epoch, row.step);
        for (name, value) in row.metrics.iter() {
            // Writing to a string cannot fail.
            let _ = write!(line, "  {name} {value:.3}");
        }
        let _ = writeln!(line, "  {:.0} images/s", row.images_per_second);
        line
    }
}

impl Sink for Terminal {
    fn row(&mut self, row: &MetricsRow) {
        CONSOLE.print(&self.line(row));
    }
}

#[cfg(test)]
mod tests {
    use dcgan_core::ids::{Digest, Generation};
    use dcgan_core::metrics::{LogWindow, StepDone};

    use super::*;

    #[test]
    fn a_line_shows_whichever_metrics_the_objective_has() {
        let done = StepDone {
            step: 40,
            generation: Generation(1),
            world_size: 2,
            digest: Digest(1),
            ends_run: false,
            metrics: vec![0.75, 12.0],
            step_ms: 500.0,
            allreduce_ms: 1.0,
        };
        let mut window = LogWindow::after(39, 2);
        window.add(&done);
        let row = window.row(&["loss", "gap"], &done, 1, 256, 2e-4);
        let line = Terminal { epochs: 20, last_step: 4680 }.line(&row);
        let expected = "epoch 1/20  step 40/4680  loss 0.750  gap 12.000  512 images/s\n";
        assert_eq!(line, expected);
    }
}
