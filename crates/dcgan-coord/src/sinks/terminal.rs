//! Rows of metrics on standard output.

use std::fmt::Write;

use dcgan_core::ids::Step;
use dcgan_core::metrics::MetricsRow;

use super::Sink;
use crate::config::RunConfig;
use crate::console::CONSOLE;

/// Prints one line for each row, of at most 100 columns.
pub(super) struct Terminal {
    epochs: u64,
    last_step: Step,
    /// The short name of each metric.
    names: &'static [&'static str],
}

impl Terminal {
    pub(super) fn new(config: &RunConfig) -> Self {
        let last_step = config.schedule.last_step;
        let epochs = config.spec.sharding().epoch(last_step);
        Self { epochs, last_step, names: config.spec.objective().short_metric_names() }
    }

    fn line(&self, row: &MetricsRow) -> String {
        let Self { epochs, last_step, names } = self;
        let mut line = format!("epoch {}/{epochs}  step {}/{last_step}", row.epoch, row.step);
        let values = row.metrics.iter().map(|(_, value)| value);
        let metrics: Vec<(&str, f64)> = names.iter().copied().zip(values).collect();
        for group in metrics.chunk_by(|(name, _), (next, _)| name == next) {
            let digits = if group.len() == 1 { 3 } else { 2 };
            let values: Vec<String> =
                group.iter().map(|(_, value)| format!("{value:.digits$}")).collect();
            // Writing to a string cannot fail.
            let _ = write!(line, "  {} {}", group[0].0, values.join("/"));
        }
        let _ = writeln!(line, "  {:.0} img/s", row.images_per_second);
        line
    }
}

impl Sink for Terminal {
    fn row(&mut self, row: &MetricsRow) {
        CONSOLE.print_row(&self.line(row));
        CONSOLE.show_speed(row.images_per_second);
    }
}

#[cfg(test)]
mod tests {
    use dcgan_core::ids::{Digest, Generation};
    use dcgan_core::metrics::{LogWindow, StepDone};
    use dcgan_core::spec::ObjectiveKind;

    use super::*;

    /// The line of a step with these metrics, by their names and short names.
    fn line(
        names: &'static [&'static str],
        short: &'static [&'static str],
        metrics: Vec<f32>,
        step: Step,
    ) -> String {
        let done = StepDone {
            step,
            generation: Generation(1),
            world_size: 2,
            digest: Digest(1),
            ends_run: false,
            metrics,
            step_ms: 500.0,
            allreduce_ms: 1.0,
        };
        let mut window = LogWindow::after(step - 1, names.len());
        window.add(&done);
        let row = window.row(names, &done, 20, 256, 2e-4);
        Terminal { epochs: 20, last_step: 4680, names: short }.line(&row)
    }

    #[test]
    fn a_line_shows_whichever_metrics_the_objective_has() {
        let shown = line(&["loss", "gap"], &["loss", "gap"], vec![0.75, 12.0], 40);
        assert_eq!(shown, "epoch 20/20  step 40/4680  loss 0.750  gap 12.000  512 img/s\n");
    }

    #[test]
    fn the_longest_line_of_the_dcgan_fits_100_columns() {
        let dcgan = ObjectiveKind::Dcgan;
        let metrics = vec![0.726, 10.541, 10.887, 0.452, 1.0, 0.013];
        let shown = line(dcgan.metric_names(), dcgan.short_metric_names(), metrics, 4680);
        let expected = "epoch 20/20  step 4680/4680  d_real 0.726  d_fake 10.541  g 10.887  \
                        acc 0.45/1.00/0.01  512 img/s\n";
        assert_eq!(shown, expected);
        assert!(shown.len() <= 100);
    }
}
