//! An objective that costs nothing to compute, for the tests of the protocol.
//!
//! The toy has one parameter vector for each phase. The vector is pulled towards a noisy target
//! that depends on the step, the shard and the shard's images:
//!
//! ```text
//! target = brightness of the shard's batch + noise(step, phase, shard)
//! loss   = sum of (parameter - target)^2
//! ```
//!
//! It has the same phases and metrics as the DCGAN. Its additions round like those of a real model,
//! so a sum in another order gives another digest, and a test that compares digests fails.

use std::ops::Range;
use std::sync::Arc;

use crate::evaluation::{Evaluation, EvaluationInfo};
use crate::ids::{Phase, Position, Step};
use crate::metrics::Metrics;
use crate::objective::{Objective, Scratch, ShardTask};
use crate::random::{Purpose, RandomStream};
use crate::spec::alarm::{AlarmRule, Sign};
use crate::spec::{RunSpec, networks};
use crate::state::{Layout, State};

/// The number of elements in the parameter vector of a phase.
const WIDTH: usize = 24;

/// The names of the toy's metrics. They are the DCGAN's, so that people and tests see rows of the
/// same form; the toy classifies nothing, and its accuracies are constant.
pub const METRIC_NAMES: &[&str] = networks::METRIC_NAMES;

// Indices of the tensors in the layout, which sorts them by name.

/// A copy of the generator phase's parameters, `[WIDTH]`: the part that samplers receive.
const GENERATOR: usize = 0;
/// The metrics of the step that was finished last, one for each of [`METRIC_NAMES`].
const METRICS_TENSOR: usize = 1;
/// The parameters of all phases, `[3, WIDTH]`.
const PARAMETERS: usize = 2;

/// The evaluation of the toy: the root mean square of its parameters.
pub const EVALUATION: EvaluationInfo =
    EvaluationInfo { pieces: PIECES as u16, names: &["parameter_rms"], criterion: "parameter_rms" };

/// The alarms of the toy.
pub const ALARMS: &[AlarmRule] = &[AlarmRule {
    code: "worse",
    what: "the parameters have become much greater",
    sign: Sign::FarAboveBest { value: "parameter_rms", times: 2.0, by: 5.0 },
}];

/// The number of pieces of the evaluation, which share the parameters.
const PIECES: usize = 6;

/// The toy objective.
#[derive(Debug)]
pub struct Toy {
    spec: RunSpec,
    layout: Arc<Layout>,
    /// The run ends when the loss of the generator's phase is smaller than this.
    loss_min: f32,
}

impl Toy {
    /// Makes the toy objective of a specification.
    pub fn new(spec: RunSpec) -> Self {
        let layout = Layout::new([
            ("generator.weight".to_owned(), vec![WIDTH]),
            ("metrics".to_owned(), vec![METRIC_NAMES.len()]),
            ("parameters".to_owned(), vec![Phase::ALL.len(), WIDTH]),
        ]);
        Self { spec, layout: Arc::new(layout), loss_min: 0.0 }
    }

    /// Ends the run with the first step whose loss in the generator's phase is smaller than
    /// `loss`.
    #[must_use]
    pub fn ending_below(self, loss: f32) -> Self {
        Self { loss_min: loss, ..self }
    }
}

impl Objective for Toy {
    fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn initial_state(&self) -> State {
        let mut state = State::zeros(Arc::clone(&self.layout));
        let stream = RandomStream::new(self.spec.seed(), Purpose::Weights, 0, 0);
        let parameters = state.tensor_mut(PARAMETERS);
        let values: Vec<f32> = stream.normals(parameters.len()).collect();
        parameters.copy_from_slice(&values);
        state
    }

    /// The layout of a vector is `[gradients | loss]`.
    fn phase_vector_len(&self, _phase: Phase) -> usize {
        WIDTH + 1
    }

    fn tensors_read(&self, _phase: Phase) -> &[usize] {
        &[PARAMETERS]
    }

    fn shard_vector(&self, task: &ShardTask<'_>, _scratch: &mut Scratch) -> Vec<f32> {
        let brightness = self.batch_brightness(task);
        let noise = self.noise(task).normals(WIDTH);
        let parameters = &task.state.tensor(PARAMETERS)[parameter_range(task.at.phase)];

        // The gradient of the loss, up to a factor 2.
        let mut vector: Vec<f32> = parameters
            .iter()
            .zip(noise)
            .map(|(parameter, noise)| parameter - brightness - noise)
            .collect();
        let loss = vector.iter().map(|gap| gap * gap).sum();
        vector.push(loss);
        vector
    }

    fn optimizer_step(&self, state: &mut State, at: Position, sum: &[f32]) {
        let (gradients, loss) = (&sum[..WIDTH], sum[WIDTH]);
        let shards = f32::from(self.spec.shards());

        // Gradient descent on the mean over the shards.
        let rate = self.spec.learning_rate_at(at.step + 1) as f32 / shards;
        let parameters = state.tensor_mut(PARAMETERS);
        for (p, gradient) in parameters[parameter_range(at.phase)].iter_mut().zip(gradients) {
            *p -= rate * gradient;
        }

        let generator = parameters[parameter_range(Phase::Generator)].to_vec();
        state.tensor_mut(GENERATOR).copy_from_slice(&generator);

        let metrics = state.tensor_mut(METRICS_TENSOR);
        metrics[at.phase.index()] = loss / shards;
        metrics[Phase::ALL.len() + at.phase.index()] = 0.5;
    }

    fn metrics(&self, state: &State) -> Metrics {
        state.tensor(METRICS_TENSOR).to_vec()
    }

    fn ends_run(&self, state: &State) -> bool {
        state.tensor(METRICS_TENSOR)[Phase::Generator.index()] < self.loss_min
    }

    fn evaluation(&self) -> Option<&dyn Evaluation> {
        Some(self)
    }
}

impl Evaluation for Toy {
    /// The sum of squares of a part of the parameters.
    fn piece(&self, state: &State, piece: u16) -> Vec<f64> {
        let parameters = state.tensor(PARAMETERS);
        let len = parameters.len() / PIECES;
        let start = usize::from(piece) * len;
        vec![parameters[start..start + len].iter().map(|&p| f64::from(p) * f64::from(p)).sum()]
    }

    fn combine(&self, pieces: &[Vec<f64>]) -> Vec<f64> {
        let sum: f64 = pieces.iter().flatten().sum();
        vec![(sum / (Phase::ALL.len() * WIDTH) as f64).sqrt()]
    }
}

impl Toy {
    /// The sum of the first pixels of the shard's images in this step, each from 0 to 1.
    fn batch_brightness(&self, task: &ShardTask<'_>) -> f32 {
        let mut sum = 0.0;
        for image in self.spec.sharding().batch(task.shard, task.at.step + 1) {
            sum += f32::from(task.partition.image(image)[0]);
        }
        sum / 255.0
    }

    /// The random numbers of one phase of one step for one shard.
    fn noise(&self, task: &ShardTask<'_>) -> RandomStream {
        let step: Step = task.at.step + 1;
        let time = step * Phase::ALL.len() as u64 + task.at.phase.index() as u64;
        RandomStream::new(self.spec.seed(), Purpose::Toy, task.shard.0.into(), time)
    }
}

/// The elements of the parameters tensor that belong to a phase.
fn parameter_range(phase: Phase) -> Range<usize> {
    let start = phase.index() * WIDTH;
    start..start + WIDTH
}

/// A small run for the tests of this crate.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;
    use crate::ids::Digest;
    use crate::spec::sharding::Partition;
    use crate::spec::{DatasetInfo, ObjectiveKind};
    use crate::train::{Shard, train_step};

    /// A specification with two images a shard and step, and data of one pixel an image.
    pub(crate) fn spec(shards: u16) -> RunSpec {
        let images = 10 * usize::from(shards) + 1;
        let builder = RunSpec::builder().objective(ObjectiveKind::Toy).shards(shards);
        builder
            .batch_size(2 * usize::from(shards))
            .learning_rate(0.1)
            .build(DatasetInfo { images, rows: 1, columns: 1, digest: Digest(0) })
            .unwrap()
    }

    /// Eleven images of one pixel, which stand for the partition of any shard.
    pub(crate) fn partition() -> Partition {
        Partition::new(1, (0..11).collect())
    }

    /// Trains from the initial state for `steps` steps.
    pub(crate) fn state_after(toy: &Toy, steps: u64) -> State {
        let partition = partition();
        let mut shards = Shard::all(toy.spec.shards(), |_| &partition);
        let mut state = toy.initial_state();
        for step in 1..=steps {
            train_step(toy, &mut shards, &mut state, step, |_, _| {});
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_changes_the_state() {
        let toy = Toy::new(fixture::spec(8));
        let digests: Vec<_> =
            (0..4).map(|steps| fixture::state_after(&toy, steps).digest()).collect();
        for (i, digest) in digests.iter().enumerate() {
            assert!(!digests[..i].contains(digest));
        }
    }
}
