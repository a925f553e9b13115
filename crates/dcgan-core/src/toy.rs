//! An objective without tensors: three vectors that follow noisy targets. It has the DCGAN's phases and names, and
//! rounds at every addition, so a sum in another order shows in its digests. The protocol's tests run on it.

use std::sync::Arc;

use crate::config::Recipe;
use crate::ids::{Position, Step};
use crate::metrics::{METRICS, Metrics};
use crate::objective::{Objective, Scratch, Task};
use crate::random::{Purpose, Stream};
use crate::sharding::{Sharding, ShardingError};
use crate::state::{Layout, State};

/// Elements of each of the toy's parameter vectors, one a phase.
const WIDTH: usize = 24;
const PHASES: u8 = 3;
/// Order of the tensors in the layout.
const GENERATOR: usize = 0;
const METRICS_TENSOR: usize = 1;
const PARAMETERS: usize = 2;

/// The toy objective.
#[derive(Debug)]
pub struct Toy {
    recipe: Recipe,
    sharding: Sharding,
    layout: Arc<Layout>,
}

impl Toy {
    /// The toy of a recipe.
    ///
    /// # Errors
    /// If the recipe's batch does not fit its shards and data.
    pub fn new(recipe: Recipe) -> Result<Self, ShardingError> {
        let sharding = Sharding::new(recipe.seed, recipe.data.images, recipe.shards, recipe.batch_size)?;
        let layout = Layout::new([
            ("generator.weight".to_owned(), vec![WIDTH]),
            ("metrics".to_owned(), vec![METRICS]),
            ("parameters".to_owned(), vec![usize::from(PHASES), WIDTH]),
        ]);
        Ok(Self { recipe, sharding, layout: Arc::new(layout) })
    }
}

impl Objective for Toy {
    fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn initial(&self) -> State {
        let mut state = State::zeros(Arc::clone(&self.layout));
        let stream = Stream::new(self.recipe.seed, Purpose::Weights, 0, 0);
        let parameters = state.tensor_mut(PARAMETERS);
        let values: Vec<f32> = stream.normals(parameters.len()).collect();
        parameters.copy_from_slice(&values);
        state
    }

    fn phases(&self) -> u8 {
        PHASES
    }

    fn vector_len(&self, _phase: u8) -> usize {
        WIDTH + 1
    }

    fn reads(&self, _phase: u8) -> &[usize] {
        &[PARAMETERS]
    }

    fn shard(&self, task: &Task<'_>, _scratch: &mut Scratch) -> Vec<f32> {
        let Task { state, at, shard, partition } = *task;
        let step: Step = at.step + 1;
        let time = step * u64::from(PHASES) + u64::from(at.phase);
        let noise = Stream::new(self.recipe.seed, Purpose::Toy, shard.0.into(), time);
        let batch = self.sharding.batch(shard, step);
        let brightness: f32 = batch.iter().map(|&i| f32::from(partition.image(i)[0])).sum::<f32>() / 255.0;
        let parameters = &state.tensor(PARAMETERS)[usize::from(at.phase) * WIDTH..][..WIDTH];
        let mut vector: Vec<f32> =
            parameters.iter().zip(noise.normals(WIDTH)).map(|(p, noise)| p - brightness - noise).collect();
        vector.push(vector.iter().map(|gap| gap * gap).sum());
        vector
    }

    fn apply(&self, state: &mut State, at: Position, sum: &[f32]) {
        let phase = usize::from(at.phase);
        let rate = self.recipe.learning_rate as f32 / f32::from(self.recipe.shards);
        let parameters = state.tensor_mut(PARAMETERS);
        for (p, gradient) in parameters[phase * WIDTH..].iter_mut().zip(&sum[..WIDTH]) {
            *p -= rate * gradient;
        }
        let generator = parameters[2 * WIDTH..].to_vec();
        state.tensor_mut(GENERATOR).copy_from_slice(&generator);
        let metrics = state.tensor_mut(METRICS_TENSOR);
        metrics[phase] = sum[WIDTH] / f32::from(self.recipe.shards);
        metrics[3 + phase] = 0.5;
    }

    fn metrics(&self, state: &State) -> Metrics {
        state.tensor(METRICS_TENSOR).try_into().expect("the layout says so")
    }
}

/// What several tests of this crate train.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;
    use crate::config::{DataSet, ObjectiveKind, shard_ids};
    use crate::ids::Digest;
    use crate::reduction::{Node, TreeSum};
    use crate::sharding::Partition;

    pub(crate) fn recipe(shards: u16) -> Recipe {
        Recipe {
            objective: ObjectiveKind::Toy,
            batch_size: 2 * usize::from(shards),
            shards,
            seed: 22,
            learning_rate: 0.1,
            beta1: 0.5,
            data: DataSet { images: 10 * usize::from(shards) + 1, rows: 1, columns: 1, digest: Digest(0) },
        }
    }

    pub(crate) fn partition() -> Partition {
        Partition::new(1, (0..11).collect())
    }

    /// The state after `steps` steps of one process, straight from the definition.
    pub(crate) fn alone(toy: &Toy, steps: u64) -> State {
        let mut state = toy.initial();
        let mut at = Position::after(0);
        let partition = partition();
        while at < Position::after(steps) {
            let mut sum = TreeSum::new(toy.recipe.shards);
            for shard in shard_ids(toy.recipe.shards) {
                let task = Task { state: &state, at, shard, partition: &partition };
                sum.insert(Node::leaf(shard), toy.shard(&task, &mut Scratch::default()).into());
            }
            toy.apply(&mut state, at, &sum.take(Node::root(toy.recipe.shards)).unwrap());
            at = at.next(PHASES);
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_changes_the_state() {
        let toy = Toy::new(fixture::recipe(8)).unwrap();
        let digests: Vec<_> = (0..4).map(|steps| fixture::alone(&toy, steps).digest()).collect();
        for (i, digest) in digests.iter().enumerate() {
            assert!(!digests[..i].contains(digest));
        }
    }
}
