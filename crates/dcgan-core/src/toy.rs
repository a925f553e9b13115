//! An objective without tensors: three vectors that follow noisy targets. It has the DCGAN's phases and names, and
//! rounds at every addition, so a sum in another order shows in its digests. The protocol's tests run on it.

use std::sync::Arc;

use crate::ids::{Phase, Position, Step};
use crate::metrics::{METRIC_COUNT, Metrics};
use crate::objective::{Objective, Scratch, ShardTask};
use crate::random::{Purpose, RandomStream};
use crate::spec::RunSpec;
use crate::spec::sharding::{Sharding, ShardingError};
use crate::state::{Layout, State};

/// Elements of each of the toy's parameter vectors, one a phase.
const WIDTH: usize = 24;
const PHASES: u64 = Phase::ALL.len() as u64;
/// Order of the tensors in the layout.
const GENERATOR: usize = 0;
const METRICS_TENSOR: usize = 1;
const PARAMETERS: usize = 2;

/// The toy objective.
#[derive(Debug)]
pub struct Toy {
    spec: RunSpec,
    sharding: Sharding,
    layout: Arc<Layout>,
}

impl Toy {
    /// The toy of a spec.
    ///
    /// # Errors
    /// If the spec's batch does not fit its shards and data.
    pub fn new(spec: RunSpec) -> Result<Self, ShardingError> {
        let sharding = Sharding::new(spec.seed, spec.data.images, spec.shards, spec.batch_size)?;
        let layout = Layout::new([
            ("generator.weight".to_owned(), vec![WIDTH]),
            ("metrics".to_owned(), vec![METRIC_COUNT]),
            ("parameters".to_owned(), vec![Phase::ALL.len(), WIDTH]),
        ]);
        Ok(Self { spec, sharding, layout: Arc::new(layout) })
    }
}

impl Objective for Toy {
    fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn initial_state(&self) -> State {
        let mut state = State::zeros(Arc::clone(&self.layout));
        let stream = RandomStream::new(self.spec.seed, Purpose::Weights, 0, 0);
        let parameters = state.tensor_mut(PARAMETERS);
        let values: Vec<f32> = stream.normals(parameters.len()).collect();
        parameters.copy_from_slice(&values);
        state
    }

    fn phase_vector_len(&self, _phase: Phase) -> usize {
        WIDTH + 1
    }

    fn tensors_read(&self, _phase: Phase) -> &[usize] {
        &[PARAMETERS]
    }

    fn shard_gradients(&self, task: &ShardTask<'_>, _scratch: &mut Scratch) -> Vec<f32> {
        let ShardTask { state, at, shard, partition } = *task;
        let step: Step = at.step + 1;
        let time = step * PHASES + at.phase.index() as u64;
        let noise = RandomStream::new(self.spec.seed, Purpose::Toy, shard.0.into(), time);
        let batch = self.sharding.batch(shard, step);
        let brightness: f32 =
            batch.iter().map(|&i| f32::from(partition.image(i)[0])).sum::<f32>() / 255.0;
        let parameters = &state.tensor(PARAMETERS)[at.phase.index() * WIDTH..][..WIDTH];
        let mut vector: Vec<f32> = parameters
            .iter()
            .zip(noise.normals(WIDTH))
            .map(|(p, noise)| p - brightness - noise)
            .collect();
        vector.push(vector.iter().map(|gap| gap * gap).sum());
        vector
    }

    fn optimizer_step(&self, state: &mut State, at: Position, sum: &[f32]) {
        let phase = at.phase.index();
        let rate = self.spec.learning_rate as f32 / f32::from(self.spec.shards);
        let parameters = state.tensor_mut(PARAMETERS);
        for (p, gradient) in parameters[phase * WIDTH..].iter_mut().zip(&sum[..WIDTH]) {
            *p -= rate * gradient;
        }
        let generator = parameters[2 * WIDTH..].to_vec();
        state.tensor_mut(GENERATOR).copy_from_slice(&generator);
        let metrics = state.tensor_mut(METRICS_TENSOR);
        metrics[phase] = sum[WIDTH] / f32::from(self.spec.shards);
        metrics[Phase::ALL.len() + phase] = 0.5;
    }

    fn metrics(&self, state: &State) -> Metrics {
        state.tensor(METRICS_TENSOR).try_into().expect("the layout says so")
    }
}

/// What several tests of this crate train.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;
    use crate::ids::Digest;
    use crate::spec::sharding::Partition;
    use crate::spec::{DatasetInfo, ObjectiveKind};
    use crate::train::{Shard, train_step};

    pub(crate) fn spec(shards: u16) -> RunSpec {
        RunSpec {
            objective: ObjectiveKind::Toy,
            batch_size: 2 * usize::from(shards),
            shards,
            seed: 22,
            learning_rate: 0.1,
            beta1: 0.5,
            data: DatasetInfo {
                images: 10 * usize::from(shards) + 1,
                rows: 1,
                columns: 1,
                digest: Digest(0),
            },
        }
    }

    pub(crate) fn partition() -> Partition {
        Partition::new(1, (0..11).collect())
    }

    /// The state after `steps` steps.
    pub(crate) fn state_after(toy: &Toy, steps: u64) -> State {
        let partition = partition();
        let mut shards = Shard::all(toy.spec.shards, |_| &partition);
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
        let toy = Toy::new(fixture::spec(8)).unwrap();
        let digests: Vec<_> =
            (0..4).map(|steps| fixture::state_after(&toy, steps).digest()).collect();
        for (i, digest) in digests.iter().enumerate() {
            assert!(!digests[..i].contains(digest));
        }
    }
}
