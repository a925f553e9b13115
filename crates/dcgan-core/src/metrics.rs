//! The numbers that a step reports, and the rows of `metrics.jsonl`.
//!
//! A worker sends a [`StepDone`] after every step. The coordinator adds the reports to a
//! [`LogWindow`], and writes one [`MetricsRow`] for each window: the average over its steps. All
//! workers report the same metrics, since all of them hold the same state; only times differ.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::{Digest, Generation, Step};

/// The losses, accuracies and other numbers that an objective reports of one step. Each is the mean
/// over the whole batch.
///
/// Which numbers these are, and in which order, is for the objective to say
/// ([`ObjectiveKind::metric_names`](crate::spec::ObjectiveKind::metric_names)). Everything else
/// knows only how many there are.
pub type Metrics = Vec<f32>;

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
    /// True if the run ends with this step: the state says so, not the schedule.
    pub ends_run: bool,
    /// The metrics of the step.
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogWindow {
    /// The last step that was added, or, in an empty window, the step before its first.
    pub through: Step,
    /// The number of steps that were added.
    pub steps: u64,
    /// The sum of each metric, in the objective's order. An empty window has zeros.
    pub sums: Vec<f64>,
    /// The sum of [`StepDone::step_ms`], in milliseconds.
    pub step_ms: f64,
    /// The sum of [`StepDone::allreduce_ms`], in milliseconds.
    pub allreduce_ms: f64,
}

impl LogWindow {
    /// An empty window whose first step is `step + 1`, for an objective with this number of
    /// metrics.
    pub fn after(step: Step, metrics: usize) -> Self {
        Self { through: step, steps: 0, sums: vec![0.0; metrics], step_ms: 0.0, allreduce_ms: 0.0 }
    }

    /// Adds the report of the next step.
    ///
    /// # Panics
    /// If `done` does not report the step after [`LogWindow::through`], or another number of
    /// metrics than the window has. Reports and windows are checked where they come in, from the
    /// network and from disk.
    pub fn add(&mut self, done: &StepDone) {
        assert_eq!(done.step, self.through + 1, "a window adds up steps in their order");
        assert_eq!(done.metrics.len(), self.sums.len(), "all steps have the same metrics");
        self.through = done.step;
        self.steps += 1;
        for (sum, value) in self.sums.iter_mut().zip(&done.metrics) {
            *sum += f64::from(*value);
        }
        self.step_ms += f64::from(done.step_ms);
        self.allreduce_ms += f64::from(done.allreduce_ms);
    }

    /// Averages the window into a row.
    ///
    /// `last` is the report of the window's last step, from which the row takes the step, the
    /// generation and the digest. `names` are those of the objective's metrics, and `batch_size` is
    /// the number of images in a step.
    pub fn row(
        &self,
        names: &'static [&'static str],
        last: &StepDone,
        epoch: u64,
        batch_size: usize,
        learning_rate: f64,
    ) -> MetricsRow {
        let steps = self.steps.max(1) as f64;
        let metrics = NamedMetrics::new(names, self.sums.iter().map(|sum| sum / steps));
        // At least a nanosecond: a simulated step may take no time, and JSON has no infinity.
        let seconds = (self.step_ms / 1e3).max(1e-9);
        MetricsRow {
            step: last.step,
            epoch,
            metrics,
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
    #[serde(flatten)]
    pub metrics: NamedMetrics,
    pub learning_rate: f64,
    pub images_per_second: f64,
    pub step_ms: f64,
    pub allreduce_ms: f64,
    pub world_size: u16,
    pub generation: Generation,
    pub state_digest: Digest,
}

impl MetricsRow {
    /// The numbers of the row by their names, in the order of the file: all but the step, which
    /// they belong to, and the digest, which is not a number.
    pub fn scalars(&self) -> impl Iterator<Item = (&str, f64)> {
        let Self {
            step: _,
            epoch,
            metrics,
            learning_rate,
            images_per_second,
            step_ms,
            allreduce_ms,
            world_size,
            generation,
            state_digest: _,
        } = self;
        std::iter::once(("epoch", *epoch as f64)).chain(metrics.iter()).chain([
            ("learning_rate", *learning_rate),
            ("images_per_second", *images_per_second),
            ("step_ms", *step_ms),
            ("allreduce_ms", *allreduce_ms),
            ("world_size", f64::from(*world_size)),
            ("generation", generation.0 as f64),
        ])
    }
}

/// The metrics of a row by their names, in the objective's order.
///
/// In the file they are keys of the row itself: whichever key is none of the engine's is a metric,
/// so that a program reads the rows of any objective.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamedMetrics(Vec<(Cow<'static, str>, f64)>);

impl NamedMetrics {
    /// Names values.
    pub fn new(names: &'static [&'static str], values: impl IntoIterator<Item = f64>) -> Self {
        Self(names.iter().map(|&name| Cow::Borrowed(name)).zip(values).collect())
    }

    /// The value of the metric with this name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.iter().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// The metrics in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (&**name, *value))
    }
}

impl FromIterator<(String, f64)> for NamedMetrics {
    fn from_iter<I: IntoIterator<Item = (String, f64)>>(metrics: I) -> Self {
        Self(metrics.into_iter().map(|(name, value)| (Cow::Owned(name), value)).collect())
    }
}

impl Serialize for NamedMetrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for NamedMetrics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamedMetricsVisitor)
    }
}

/// Collects names and values in the order in which they come.
struct NamedMetricsVisitor;

impl<'de> Visitor<'de> for NamedMetricsVisitor {
    type Value = NamedMetrics;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("metrics by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<NamedMetrics, A::Error> {
        let mut metrics = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, f64>()? {
            metrics.push((Cow::Owned(name), value));
        }
        Ok(NamedMetrics(metrics))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ObjectiveKind;

    fn done(step: Step, loss: f32) -> StepDone {
        StepDone {
            step,
            generation: Generation(1),
            world_size: 4,
            digest: Digest(step),
            ends_run: false,
            metrics: vec![loss, 1.0],
            step_ms: 500.0,
            allreduce_ms: 2.0,
        }
    }

    /// The metrics of an objective that is neither the DCGAN nor the toy.
    const NAMES: &[&str] = &["loss", "accuracy"];

    #[test]
    fn a_row_averages_its_window() {
        let mut window = LogWindow::after(20, NAMES.len());
        window.add(&done(21, 1.0));
        window.add(&done(22, 2.0));
        let row = window.row(NAMES, &done(22, 2.0), 1, 256, 2e-4);
        assert_eq!(row.step, 22);
        let scalars: Vec<_> = row.scalars().collect();
        assert_eq!(
            scalars,
            [
                ("epoch", 1.0),
                ("loss", 1.5),
                ("accuracy", 1.0),
                ("learning_rate", 2e-4),
                ("images_per_second", 512.0),
                ("step_ms", 500.0),
                ("allreduce_ms", 2.0),
                ("world_size", 4.0),
                ("generation", 1.0),
            ]
        );
        assert_eq!(row.state_digest, Digest(22));
    }

    #[test]
    #[should_panic(expected = "in their order")]
    fn a_window_refuses_a_gap() {
        LogWindow::after(20, NAMES.len()).add(&done(22, 1.0));
    }

    #[test]
    #[should_panic(expected = "the same metrics")]
    fn a_window_refuses_another_number_of_metrics() {
        LogWindow::after(20, NAMES.len() + 1).add(&done(21, 1.0));
    }

    #[test]
    fn no_metric_has_the_name_of_another_key() {
        let none = LogWindow::after(0, 0).row(&[], &done(1, 1.0), 1, 256, 2e-4);
        for objective in [ObjectiveKind::Dcgan, ObjectiveKind::Toy] {
            let mut keys: Vec<&str> = none.scalars().map(|(name, _)| name).collect();
            keys.extend(["step", "state_digest"]);
            for &name in objective.metric_names() {
                assert!(!keys.contains(&name), "{objective}: {name}");
                keys.push(name);
            }
        }
    }
}
