//! The phases of a DCGAN training step.
//!
//! [`dcgan_core::train::train_step`] defines their order. Each phase computes, for one shard and
//! from a given state, the vector that is summed over the shards; [`Objective::optimizer_step`]
//! then updates one network by the sum.
//!
//! The discriminator normalises by batch statistics in all three phases. With running statistics in
//! the generator's phase, as Keras has for a frozen batch norm, the training collapses: after 390
//! steps every sample looks alike.

use std::sync::Arc;

use burn::tensor::{Gradients, Tensor, TensorData};
use dcgan_core::ids::{Phase, Position, ShardId, Step};
use dcgan_core::metrics::Metrics;
use dcgan_core::objective::{Objective, Scratch, ShardTask};
use dcgan_core::random::{Purpose, RandomStream};
use dcgan_core::spec::RunSpec;
use dcgan_core::spec::networks::LATENT_LEN;
use dcgan_core::state::{Layout, State};

use crate::adam::Adam;
use crate::device::{DeviceChoice, DeviceError, ExecutionDevice};
use crate::discriminator::Discriminator;
use crate::generator::GeneratorNet;
use crate::init;
use crate::layout::{NetworkTensors, StateTensors, layout};
use crate::loss::{Loss, Target, cross_entropy};
use crate::ops::{FeatureMaps, Statistics};
use crate::params::append;
use crate::phase_vector::{PhaseVector, PhaseVectorLayout};

/// The weight of a new value in a running statistic: PyTorch's momentum. Keras's is 1 - this, 0.8.
const MOMENTUM: f32 = 0.2;

/// The DCGAN as an objective.
pub struct Dcgan {
    spec: RunSpec,
    layout: Arc<Layout>,
    tensors: StateTensors,
    generator_vector: PhaseVectorLayout,
    discriminator_vector: PhaseVectorLayout,
    device: ExecutionDevice,
}

/// The fakes of one shard and step, with the graph that made them.
pub(crate) struct FakeBatch {
    generator: GeneratorNet,
    /// `[N, 28, 28, 1]`
    images: FeatureMaps,
    /// Batch statistics of the generator's batch norms.
    statistics: Vec<Statistics>,
}

/// A result in a shard's scratch, with the step and shard that it is for.
struct ScratchEntry {
    step: Step,
    shard: ShardId,
    content: ScratchContent,
}

/// A result that a phase or [`Objective::compute_ahead`] leaves for a later phase.
enum ScratchContent {
    /// The vector of the discriminator's phase on real images.
    RealVector(Vec<f32>),
    /// The fakes of both phases that use them.
    Fakes(Box<FakeBatch>),
}

impl Dcgan {
    /// The DCGAN of a run, on a device.
    ///
    /// # Errors
    /// If the device is not available.
    pub fn new(spec: RunSpec, device: DeviceChoice) -> Result<Self, DeviceError> {
        let device = device.open()?;
        let layout = layout();
        let tensors = StateTensors::new(&layout);
        Ok(Self {
            spec,
            generator_vector: PhaseVectorLayout::new(&tensors.generator, &layout),
            discriminator_vector: PhaseVectorLayout::new(&tensors.discriminator, &layout),
            tensors,
            layout: Arc::new(layout),
            device,
        })
    }

    // The phases. Each computes the vector of one shard.

    /// Computes the discriminator's vector on real images `[N, 28, 28, 1]`, with the target that
    /// they are real.
    pub(crate) fn discriminator_on_real(&self, state: &State, images: FeatureMaps) -> Vec<f32> {
        self.discriminator_vector_of(state, images, Target::Real)
    }

    /// Computes the discriminator's vector on fakes, with the target that they are fake. No
    /// gradient flows to the generator.
    pub(crate) fn discriminator_on_fakes(&self, state: &State, fakes: &FakeBatch) -> Vec<f32> {
        self.discriminator_vector_of(state, fakes.images.clone().without_autodiff(), Target::Fake)
    }

    /// Computes the generator's vector, through the discriminator, on the same fakes, with the
    /// target that they are real. The discriminator's weights get no gradients here, and its
    /// running statistics stay as they are.
    pub(crate) fn generator_on_fakes(&self, state: &State, fakes: FakeBatch) -> Vec<f32> {
        let discriminator =
            Discriminator::new(state, &self.tensors.discriminator, &self.device, false);
        let (logits, _) = discriminator.forward(fakes.images);
        let (loss, mut gradients) = backward(logits, Target::Real);
        let vector = &self.generator_vector;
        let gradients = fakes.generator.gradients(&mut gradients, vector.gradients_len());
        vector.assemble(gradients, fakes.statistics, &loss)
    }

    /// Computes the vector of a phase that trains the discriminator, on images `[N, 28, 28, 1]`.
    fn discriminator_vector_of(
        &self,
        state: &State,
        images: FeatureMaps,
        target: Target,
    ) -> Vec<f32> {
        let discriminator =
            Discriminator::new(state, &self.tensors.discriminator, &self.device, true);
        let (logits, statistics) = discriminator.forward(images);
        let (loss, mut gradients) = backward(logits, target);
        let vector = &self.discriminator_vector;
        let gradients = discriminator.gradients(&mut gradients, vector.gradients_len());
        vector.assemble(gradients, statistics, &loss)
    }

    /// Computes `G(z)` in training mode, for latents `[N, 100]`, one after the other.
    pub(crate) fn generate(&self, state: &State, latents: &[f32]) -> FakeBatch {
        let generator = GeneratorNet::new(state, &self.tensors.generator, &self.device, true);
        let shape = [latents.len() / LATENT_LEN, LATENT_LEN];
        let data = TensorData::new(latents.to_vec(), shape);
        let latents = Tensor::from_data(data, &self.device.device);
        let (images, statistics) = generator.forward(latents);
        FakeBatch { generator, images, statistics }
    }

    // The inputs of a shard at a step.

    /// Draws the shard's real images, `[N, 28, 28, 1]` in [-1, 1].
    fn real_images(&self, task: &ShardTask<'_>) -> FeatureMaps {
        let batch = self.spec.sharding().batch(task.shard, task.at.step + 1);
        let pixels = batch.iter().flat_map(|&index| task.partition.image(index));
        let values: Vec<f32> = pixels.map(|&pixel| f32::from(pixel) / 127.5 - 1.0).collect();
        let shape = [batch.len(), 28, 28, 1];
        Tensor::from_data(TensorData::new(values, shape), &self.device.device)
    }

    /// Makes the shard's fakes from latents of its own.
    fn fakes(&self, task: &ShardTask<'_>) -> FakeBatch {
        let (seed, shard, step) = (self.spec.seed(), task.shard.0.into(), task.at.step + 1);
        let stream = RandomStream::new(seed, Purpose::Latents, shard, step);
        let count = LATENT_LEN * self.spec.sharding().shard_batch();
        let latents: Vec<f32> = stream.normals(count).collect();
        self.generate(task.state, &latents)
    }

    /// The fakes that an earlier phase of the step left in the scratch, or new ones, which are the
    /// same.
    fn kept_or_new_fakes(
        &self,
        kept: Option<ScratchContent>,
        task: &ShardTask<'_>,
    ) -> Box<FakeBatch> {
        match kept {
            Some(ScratchContent::Fakes(fakes)) => fakes,
            Some(ScratchContent::RealVector(_)) | None => Box::new(self.fakes(task)),
        }
    }

    // The network that a phase trains.

    fn trained_network(&self, phase: Phase) -> &NetworkTensors {
        match phase {
            Phase::DiscriminatorReal | Phase::DiscriminatorFake => &self.tensors.discriminator,
            Phase::Generator => &self.tensors.generator,
        }
    }

    fn vector_layout(&self, phase: Phase) -> &PhaseVectorLayout {
        match phase {
            Phase::DiscriminatorReal | Phase::DiscriminatorFake => &self.discriminator_vector,
            Phase::Generator => &self.generator_vector,
        }
    }

    /// The number of the trained network's update at a position, counted from 1.
    fn update_number(at: Position) -> u64 {
        match at.phase {
            Phase::DiscriminatorReal => 2 * at.step + 1,
            Phase::DiscriminatorFake => 2 * at.step + 2,
            Phase::Generator => at.step + 1,
        }
    }

    /// Updates all trained tensors of a network with Adam. `gradients` are sums over all shards.
    fn update_weights(
        &self,
        state: &mut State,
        network: &NetworkTensors,
        adam: Adam,
        gradients: &[&[f32]],
    ) {
        let shards = f32::from(self.spec.shards());
        for (tensor, gradient) in network.trained.iter().zip(gradients) {
            let [m, v] = tensor.moments;
            // A block at a time, so that its old and new values are hashed while in the cache.
            state.replace([tensor.weight, m, v], |block, old, new| {
                for (new, old) in new.iter_mut().zip(old) {
                    new.extend_from_slice(old);
                }
                let appended = new.each_mut().map(|new| &mut new[block.clone()]);
                self.device.run(|| adam.update(appended, &gradient[block], shards));
            });
        }
    }

    /// Moves the running statistics towards the mean of the shards' batch statistics.
    fn update_running_statistics(
        &self,
        state: &mut State,
        network: &NetworkTensors,
        sums: &[&[f32]],
    ) {
        let shards = f32::from(self.spec.shards());
        for (&index, sums) in network.running.iter().zip(sums) {
            for (running, sum) in state.tensor_mut(index).iter_mut().zip(*sums) {
                *running += MOMENTUM * (sum / shards - *running);
            }
        }
    }
}

impl Objective for Dcgan {
    fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn initial_state(&self) -> State {
        let mut state = State::zeros(Arc::clone(&self.layout));
        init::fill(&mut state, &self.tensors, self.spec.seed());
        state
    }

    fn phase_vector_len(&self, phase: Phase) -> usize {
        self.vector_layout(phase).len()
    }

    fn tensors_read(&self, phase: Phase) -> &[usize] {
        match phase {
            Phase::DiscriminatorReal => &self.tensors.discriminator_weights,
            // The fakes depend on G, also if they were made ahead of the phase.
            Phase::DiscriminatorFake | Phase::Generator => &self.tensors.both_networks_weights,
        }
    }

    fn shard_vector(&self, task: &ShardTask<'_>, scratch: &mut Scratch) -> Vec<f32> {
        let kept = ScratchContent::take(task, scratch);
        match (task.at.phase, kept) {
            (Phase::DiscriminatorReal, Some(ScratchContent::RealVector(vector))) => vector,
            (Phase::DiscriminatorReal, _) => {
                self.discriminator_on_real(task.state, self.real_images(task))
            }
            (Phase::DiscriminatorFake, kept) => {
                let fakes = self.kept_or_new_fakes(kept, task);
                let vector = self.discriminator_on_fakes(task.state, &fakes);
                ScratchContent::Fakes(fakes).keep(task, scratch);
                vector
            }
            (Phase::Generator, kept) => {
                self.generator_on_fakes(task.state, *self.kept_or_new_fakes(kept, task))
            }
        }
    }

    /// Computes what the update that is being reduced cannot change.
    ///
    /// Updates of D leave G as it is, and the update of G leaves D. So the fakes can be made while
    /// D is updated on real images, and D's gradients on the next real images while G is updated.
    fn compute_ahead(&self, task: &ShardTask<'_>, scratch: &mut Scratch) {
        let next = ShardTask { at: task.at.next(), ..*task };
        let content = match next.at.phase {
            Phase::DiscriminatorReal => {
                let images = self.real_images(&next);
                ScratchContent::RealVector(self.discriminator_on_real(next.state, images))
            }
            Phase::DiscriminatorFake => ScratchContent::Fakes(Box::new(self.fakes(&next))),
            Phase::Generator => return,
        };
        content.keep(&next, scratch);
    }

    fn optimizer_step(&self, state: &mut State, at: Position, sum: &[f32]) {
        let network = self.trained_network(at.phase);
        let PhaseVector { gradients, statistics, loss, accuracy } =
            self.vector_layout(at.phase).split(sum);

        let adam = Adam::new(&self.spec, at.step + 1, Self::update_number(at));
        self.update_weights(state, network, adam, &gradients);
        self.update_running_statistics(state, network, &statistics);

        let shards = f32::from(self.spec.shards());
        let metrics = state.tensor_mut(self.tensors.metrics);
        metrics[at.phase.index()] = loss / shards;
        metrics[Phase::ALL.len() + at.phase.index()] = accuracy / shards;
    }

    fn metrics(&self, state: &State) -> Metrics {
        state.tensor(self.tensors.metrics).to_vec()
    }
}

impl ScratchContent {
    /// Takes what the scratch holds, if it is for the task's step and shard.
    fn take(task: &ShardTask<'_>, scratch: &mut Scratch) -> Option<Self> {
        let entry = scratch.0.take()?.downcast::<ScratchEntry>().ok()?;
        let is_for_task = entry.step == task.at.step + 1 && entry.shard == task.shard;
        is_for_task.then_some(entry.content)
    }

    /// Puts a result into the scratch, for the task's step and shard.
    fn keep(self, task: &ShardTask<'_>, scratch: &mut Scratch) {
        let (step, shard) = (task.at.step + 1, task.shard);
        scratch.0 = Some(Box::new(ScratchEntry { step, shard, content: self }));
    }
}

/// Computes the loss of logits `[N, 1, 1, 1]`, and the gradients with respect to everything that
/// the logits depend on.
fn backward(logits: FeatureMaps, target: Target) -> (Loss, Gradients) {
    let mut values = Vec::new();
    append(&mut values, logits.clone().without_autodiff());
    let loss = cross_entropy(&values, target);
    let data = TensorData::new(loss.gradient.clone(), logits.dims());
    let weights = Tensor::from_data(data, &logits.device().without_autodiff());
    // The derivative of this weighted sum with respect to each logit is the loss's derivative.
    let gradients = (logits * weights).sum().backward();
    (loss, gradients)
}
