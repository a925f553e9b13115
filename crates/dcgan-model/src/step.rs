//! The recipe, as phases of the engine: the discriminator on real images, the discriminator on fakes, the generator.
//!
//! One iteration: D on real, its own update; `fake = G(z)` once, D on it, its own update; G through the updated D on the
//! same fakes. D uses batch statistics in all three; with running statistics, as Keras does for a frozen batch norm, the
//! training collapses.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use dcgan_core::config::Recipe;
use dcgan_core::ids::{Position, ShardId, Step};
use dcgan_core::layers::LATENT;
use dcgan_core::metrics::Metrics;
use dcgan_core::objective::{Objective, Scratch, Task};
use dcgan_core::random::{Purpose, Stream};
use dcgan_core::sharding::{Sharding, ShardingError};
use dcgan_core::state::{Layout, State};

use crate::adam::Adam;
use crate::device::{DeviceChoice, DeviceError};
use crate::discriminator::Discriminator;
use crate::generator::GeneratorNet;
use crate::init;
use crate::layout::{NetworkTensors, StateTensors, layout};
use crate::loss::{Loss, Target, cross_entropy};
use crate::ops::{Maps, Statistics};
use crate::parameters::{Place, append};

/// The phases of a step, in order.
pub(crate) const REAL: u8 = 0;
pub(crate) const FAKE: u8 = 1;
pub(crate) const GENERATE: u8 = 2;
const PHASES: u8 = 3;

/// The share of a new value in a running statistic: Keras's momentum 0.8.
const MOMENTUM: f32 = 0.2;

/// The DCGAN as an objective.
pub struct Dcgan {
    recipe: Recipe,
    sharding: Sharding,
    layout: Arc<Layout>,
    tensors: StateTensors,
    place: Place,
}

/// Why a DCGAN cannot be trained as asked.
#[derive(Debug, thiserror::Error)]
pub enum DcganError {
    /// The recipe cannot be followed.
    #[error(transparent)]
    Recipe(#[from] ShardingError),
    /// The device cannot be had.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// What a later phase can reuse.
struct Kept {
    step: Step,
    shard: ShardId,
    what: Part,
}

enum Part {
    /// The vector of the phase on real images.
    Real(Vec<f32>),
    /// For both phases on fakes.
    Draft(Box<Draft>),
}

/// The fakes of a step, with their graph.
struct Draft {
    generator: GeneratorNet,
    fakes: Maps,
    statistics: Vec<Statistics>,
}

impl Dcgan {
    /// The DCGAN of a recipe, on a device.
    ///
    /// # Errors
    /// If the recipe cannot be followed or the device cannot be had.
    pub fn new(recipe: Recipe, device: DeviceChoice) -> Result<Self, DcganError> {
        let sharding = Sharding::new(recipe.seed, recipe.data.images, recipe.shards, recipe.batch_size)?;
        let place = device.open()?;
        let layout = layout();
        Ok(Self { recipe, sharding, tensors: StateTensors::new(&layout), layout: Arc::new(layout), place })
    }

    /// D on real images: gradients, batch statistics, loss and accuracy.
    pub(crate) fn real_phase(&self, state: &State, images: Maps) -> Vec<f32> {
        self.discriminator_phase(state, images, Target::Real)
    }

    /// D on fakes.
    fn fake_phase(&self, state: &State, draft: &Draft) -> Vec<f32> {
        self.discriminator_phase(state, draft.fakes.clone().without_autodiff(), Target::Fake)
    }

    /// G through D on the same fakes: no gradients of D's weights, no running statistics of D.
    fn generator_phase(&self, state: &State, draft: Draft) -> Vec<f32> {
        let discriminator = Discriminator::new(state, &self.tensors.discriminator, &self.place, false);
        let (logits, _) = discriminator.forward(draft.fakes);
        let (loss, mut gradients) = backward(logits, Target::Real);
        let len = self.tensors.generator.trained_len();
        let flat = draft.generator.gradients(&mut gradients, len);
        finish(flat, draft.statistics, &loss)
    }

    fn discriminator_phase(&self, state: &State, images: Maps, target: Target) -> Vec<f32> {
        let discriminator = Discriminator::new(state, &self.tensors.discriminator, &self.place, true);
        let (logits, statistics) = discriminator.forward(images);
        let (loss, mut gradients) = backward(logits, target);
        let flat = discriminator.gradients(&mut gradients, self.tensors.discriminator.trained_len());
        finish(flat, statistics, &loss)
    }

    /// `fake = G(z)`, in training mode.
    fn draft(&self, state: &State, latents: &[f32]) -> Draft {
        let generator = GeneratorNet::new(state, &self.tensors.generator, &self.place, true);
        let shape = [latents.len() / LATENT, LATENT];
        let latents = Tensor::from_data(TensorData::new(latents.to_vec(), shape), &self.place.device);
        let (fakes, statistics) = generator.forward(latents);
        Draft { generator, fakes, statistics }
    }

    /// The phases on fakes, from given latents.
    #[cfg(test)]
    pub(crate) fn phase_on(&self, phase: u8, state: &State, latents: &[f32]) -> Vec<f32> {
        let draft = self.draft(state, latents);
        if phase == FAKE { self.fake_phase(state, &draft) } else { self.generator_phase(state, draft) }
    }

    fn real_images(&self, task: &Task<'_>) -> Maps {
        let batch = self.sharding.batch(task.shard, task.at.step + 1);
        let pixels: Vec<f32> =
            batch.iter().flat_map(|&i| task.partition.image(i)).map(|&pixel| f32::from(pixel) / 127.5 - 1.0).collect();
        Tensor::from_data(TensorData::new(pixels, [batch.len(), 28, 28, 1]), &self.place.device)
    }

    fn draft_of(&self, task: &Task<'_>) -> Draft {
        let step = task.at.step + 1;
        let stream = Stream::new(self.recipe.seed, Purpose::Latents, task.shard.0.into(), step);
        let latents: Vec<f32> = stream.normals(LATENT * self.sharding.shard_batch()).collect();
        self.draft(task.state, &latents)
    }

    /// What the scratch keeps for a task.
    fn kept(task: &Task<'_>, scratch: &mut Scratch) -> Option<Part> {
        let kept = scratch.0.take()?.downcast::<Kept>().ok()?;
        (kept.step == task.at.step + 1 && kept.shard == task.shard).then_some(kept.what)
    }

    fn keep(task: &Task<'_>, scratch: &mut Scratch, what: Part) {
        scratch.0 = Some(Box::new(Kept { step: task.at.step + 1, shard: task.shard, what }));
    }

    fn network(&self, phase: u8) -> &NetworkTensors {
        if phase == GENERATE { &self.tensors.generator } else { &self.tensors.discriminator }
    }
}

impl Objective for Dcgan {
    fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn initial(&self) -> State {
        let mut state = State::zeros(Arc::clone(&self.layout));
        init::fill(&mut state, &self.tensors, self.recipe.seed);
        state
    }

    fn phases(&self) -> u8 {
        PHASES
    }

    fn vector_len(&self, phase: u8) -> usize {
        let network = self.network(phase);
        let running: usize = network.running.iter().map(|&index| self.layout.tensors()[index].len()).sum();
        network.trained_len() + running + 2
    }

    fn reads(&self, phase: u8) -> &[usize] {
        // The fakes are G's, also where they were made ahead.
        &self.tensors.read[usize::from(phase != REAL)]
    }

    fn shard(&self, task: &Task<'_>, scratch: &mut Scratch) -> Vec<f32> {
        let kept = Self::kept(task, scratch);
        if task.at.phase == REAL {
            return match kept {
                Some(Part::Real(vector)) => vector,
                _ => self.real_phase(task.state, self.real_images(task)),
            };
        }
        let draft = match kept {
            Some(Part::Draft(draft)) => *draft,
            _ => self.draft_of(task),
        };
        if task.at.phase == GENERATE {
            return self.generator_phase(task.state, draft);
        }
        let vector = self.fake_phase(task.state, &draft);
        Self::keep(task, scratch, Part::Draft(Box::new(draft)));
        vector
    }

    /// Updates of D leave G as it is, and that of G leaves D: the fakes can be made while D is updated on real images, and
    /// D's gradients on the next real images while G is updated.
    fn ahead(&self, task: &Task<'_>, scratch: &mut Scratch) {
        let task = Task { at: task.at.next(PHASES), ..*task };
        match task.at.phase {
            FAKE => Self::keep(&task, scratch, Part::Draft(Box::new(self.draft_of(&task)))),
            REAL => {
                let vector = self.real_phase(task.state, self.real_images(&task));
                Self::keep(&task, scratch, Part::Real(vector));
            }
            _ => {}
        }
    }

    fn apply(&self, state: &mut State, at: Position, sum: &[f32]) {
        let count = f32::from(self.recipe.shards);
        let network = self.network(at.phase);
        // D is updated twice a step.
        let time = if at.phase == GENERATE { at.step + 1 } else { 2 * at.step + 1 + u64::from(at.phase) };
        let adam = Adam::new(&self.recipe, time);
        let (mut gradients, rest) = sum.split_at(network.trained_len());
        for tensor in &network.trained {
            let (gradient, later) = gradients.split_at(tensor.table.len());
            gradients = later;
            let [m, v] = tensor.moments;
            state.replace([tensor.weight, m, v], |block, old, new| {
                new.iter_mut().zip(old).for_each(|(new, old)| new.extend_from_slice(old));
                let fresh = new.each_mut().map(|new| &mut new[block.clone()]);
                self.place.run(|| adam.update(fresh, &gradient[block], count));
            });
        }
        let (mut statistics, metrics) = rest.split_at(rest.len() - 2);
        for &index in &network.running {
            let running = state.tensor_mut(index);
            let (seen, later) = statistics.split_at(running.len());
            statistics = later;
            for (running, sum) in running.iter_mut().zip(seen) {
                *running += MOMENTUM * (sum / count - *running);
            }
        }
        let all = state.tensor_mut(self.tensors.metrics);
        all[usize::from(at.phase)] = metrics[0] / count;
        all[usize::from(PHASES + at.phase)] = metrics[1] / count;
    }

    fn metrics(&self, state: &State) -> Metrics {
        state.tensor(self.tensors.metrics).try_into().expect("the layout says so")
    }
}

/// The loss of logits `[N, 1, 1, 1]`, and the gradients of everything that they depend on.
fn backward(logits: Maps, target: Target) -> (Loss, burn::tensor::Gradients) {
    let mut values = Vec::new();
    append(&mut values, logits.clone().without_autodiff());
    let loss = cross_entropy(&values, target);
    let data = TensorData::new(loss.gradient.clone(), logits.dims());
    let weights = Tensor::from_data(data, &logits.device().without_autodiff());
    // The derivative of this sum by each logit is the loss's.
    let gradients = (logits * weights).sum().backward();
    (loss, gradients)
}

/// A phase's vector: gradients, batch statistics, loss, accuracy.
fn finish(mut flat: Vec<f32>, statistics: Vec<Statistics>, loss: &Loss) -> Vec<f32> {
    for Statistics { mean, variance } in statistics {
        append(&mut flat, mean);
        append(&mut flat, variance);
    }
    flat.extend([loss.value, loss.share]);
    flat
}
