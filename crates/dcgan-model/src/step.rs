//! The phases of a DCGAN training step.
//!
//! [`dcgan_core::train::train_step`] defines their order. Each phase computes, for each shard and
//! from a given state, the vector that is summed over the shards; [`Objective::optimizer_step`]
//! then updates one network by the sum.
//!
//! A phase may be given several shards at once. What they read comes to the device in one copy, and
//! their vectors go back in one. In between, each shard is computed by itself: a library may choose
//! another kernel for a product of another size, and then a batch of several shards would give
//! other bits than the shards one by one.
//!
//! The discriminator normalises by batch statistics in all three phases. With running statistics in
//! the generator's phase, as Keras has for a frozen batch norm, the training collapses: after 390
//! steps every sample looks alike.

use std::num::NonZeroUsize;
use std::slice;
use std::sync::{Arc, OnceLock};

use burn::tensor::{Gradients, Tensor};
use dcgan_core::evaluation::Evaluation;
use dcgan_core::ids::{Phase, Position, ShardId, Step};
use dcgan_core::metrics::Metrics;
use dcgan_core::objective::{Objective, Scratch, ShardTask};
use dcgan_core::random::{Purpose, RandomStream};
use dcgan_core::spec::RunSpec;
use dcgan_core::spec::networks::LATENT_LEN;
use dcgan_core::state::{Layout, State};

use crate::adam::{self, Adam};
use crate::augmentation::Translation;
use crate::device::{DeviceChoice, DeviceError, ExecutionDevice};
use crate::discriminator::Discriminator;
use crate::ema::Ema;
use crate::evaluation::Evaluator;
use crate::generator::GeneratorNet;
use crate::init;
use crate::layout::{NetworkTensors, StateTensors, layout};
use crate::loss::{LossFunction, LossTensors};
use crate::ops::{FeatureMaps, Statistics};
use crate::params::{NetworkParams, upload};
use crate::phase_vector::{PhaseVector, PhaseVectorLayout, VectorParts};
use crate::sample::Generator;
use crate::spectral_norm;

/// The weight of a new value in a running statistic: PyTorch's momentum. Keras's is 1 - this, 0.8.
const MOMENTUM: f32 = 0.2;

/// The DCGAN as an objective.
pub struct Dcgan {
    spec: RunSpec,
    layout: Arc<Layout>,
    tensors: StateTensors,
    loss: LossFunction,
    generator_vector: PhaseVectorLayout,
    discriminator_vector: PhaseVectorLayout,
    device: ExecutionDevice,
    /// The weights that the run begins with, if its seed does not draw them.
    initial_weights: Option<State>,
    /// Made when a part of an evaluation is due, if it was not given.
    evaluator: OnceLock<Evaluator>,
}

/// The fakes of one shard and step, with the graph that made them.
pub(crate) struct FakeBatch {
    generator: GeneratorNet,
    /// `[N, 28, 28, 1]`
    images: FeatureMaps,
    /// Batch statistics of the generator's batch norms.
    statistics: Vec<Statistics>,
}

/// A result that a phase or [`Objective::compute_ahead`] leaves in a shard's scratch for a later
/// phase: the vector of the phase on real images, or the fakes of both phases that use them.
struct ScratchEntry<T> {
    step: Step,
    shard: ShardId,
    content: T,
}

impl Dcgan {
    /// The DCGAN of a run, on a device.
    ///
    /// # Errors
    /// If the device is not available.
    pub fn new(spec: RunSpec, device: DeviceChoice) -> Result<Self, DeviceError> {
        Ok(Self::on(spec, device.open()?))
    }

    /// The DCGAN of a run, on an open device.
    pub(crate) fn on(spec: RunSpec, device: ExecutionDevice) -> Self {
        let layout = layout(&spec);
        let tensors = StateTensors::new(&layout);
        Self {
            loss: LossFunction::new(&spec),
            spec,
            generator_vector: PhaseVectorLayout::new(&tensors.generator, &layout),
            discriminator_vector: PhaseVectorLayout::new(&tensors.discriminator, &layout),
            tensors,
            layout: Arc::new(layout),
            device,
            initial_weights: None,
            evaluator: OnceLock::new(),
        }
    }

    /// The same run, which begins with these weights of both networks
    /// ([`InitialWeights::layout`](dcgan_core::spec::InitialWeights::layout)) if there are any.
    #[must_use]
    pub fn with_initial_weights(self, initial_weights: Option<State>) -> Self {
        Self { initial_weights, ..self }
    }

    /// Gives the DCGAN the evaluator that judges its samples, before the first part of an
    /// evaluation is computed. Without one it is that of MNIST.
    pub fn set_evaluator(&self, evaluator: Evaluator) {
        // A second one is the same.
        let _ = self.evaluator.set(evaluator);
    }

    // The phases. Each computes the vectors of several shards.

    /// Computes the discriminator's vectors on real images `[N, 28, 28, 1]` of each shard, which it
    /// should take for real.
    pub(crate) fn discriminator_on_real(
        &self,
        state: &State,
        images: Vec<Vec<f32>>,
        translations: &[Translation],
    ) -> Vec<Vec<f32>> {
        let ([discriminator], images) =
            upload(&self.device, state, [&self.tensors.read_discriminator], images);
        let vectors = images.into_iter().zip(translations).map(|(images, translation)| {
            let images = translation.apply(images.reshape([-1, 28, 28, 1]));
            self.discriminator_vector_of(&discriminator, images, Phase::DiscriminatorReal)
        });
        self.discriminator_vector.download(vectors.collect())
    }

    /// Brings to the device what the phases on fakes read: the discriminator, and the fakes of each
    /// shard, unless they were kept. `latents` gives those of each shard, `[N, 100]`.
    pub(crate) fn discriminator_and_fakes<'a>(
        &'a self,
        state: &'a State,
        kept: Option<Vec<FakeBatch>>,
        latents: impl FnOnce() -> Vec<Vec<f32>>,
    ) -> (NetworkParams<'a>, Vec<FakeBatch>) {
        let StateTensors { generator, read_discriminator: discriminator, .. } = &self.tensors;
        if let Some(fakes) = kept {
            let ([discriminator], _) = upload(&self.device, state, [discriminator], Vec::new());
            return (discriminator, fakes);
        }
        let ([discriminator, generator], latents) =
            upload(&self.device, state, [discriminator, generator], latents());
        (discriminator, generate(&generator, latents))
    }

    /// Computes the discriminator's vectors on fakes, which it should take for fakes. No gradient
    /// flows to the generator.
    pub(crate) fn discriminator_on_fakes(
        &self,
        discriminator: &NetworkParams<'_>,
        fakes: &[FakeBatch],
        translations: &[Translation],
    ) -> Vec<Vec<f32>> {
        let vectors = fakes.iter().zip(translations).map(|(fakes, translation)| {
            let images = translation.apply(fakes.images.clone().without_autodiff());
            self.discriminator_vector_of(discriminator, images, Phase::DiscriminatorFake)
        });
        self.discriminator_vector.download(vectors.collect())
    }

    /// Computes the generator's vectors, through the discriminator, on the same fakes, which should
    /// be taken for real. The discriminator's weights get no gradients here, and its running
    /// statistics stay as they are.
    pub(crate) fn generator_on_fakes(
        &self,
        discriminator: &NetworkParams<'_>,
        fakes: Vec<FakeBatch>,
        translations: &[Translation],
    ) -> Vec<Vec<f32>> {
        let vectors = fakes.into_iter().zip(translations).map(|(fakes, translation)| {
            let FakeBatch { generator, images, statistics } = fakes;
            let images = translation.apply(images);
            let (outputs, _) = Discriminator::new(discriminator, false).forward(images);
            let (loss, mut gradients) = self.backward(outputs, Phase::Generator);
            VectorParts::new(generator.gradients(&mut gradients), statistics, loss)
        });
        self.generator_vector.download(vectors.collect())
    }

    /// Computes the vector of a shard in a phase that trains the discriminator, on images
    /// `[N, 28, 28, 1]`.
    fn discriminator_vector_of(
        &self,
        discriminator: &NetworkParams<'_>,
        images: FeatureMaps,
        phase: Phase,
    ) -> VectorParts {
        let discriminator = Discriminator::new(discriminator, true);
        let (outputs, statistics) = discriminator.forward(images);
        let (loss, mut gradients) = self.backward(outputs, phase);
        VectorParts::new(discriminator.gradients(&mut gradients), statistics, loss)
    }

    /// Computes the loss of a phase from D's outputs `[N, 1, 1, 1]`, and the gradients with respect
    /// to everything that they depend on.
    fn backward(&self, outputs: FeatureMaps, phase: Phase) -> (LossTensors, Gradients) {
        let constants = outputs.clone().without_autodiff();
        let loss = self.loss.of_tensor(&self.device, constants, phase);
        // The derivative of this weighted sum with respect to each output is the loss's derivative.
        let gradients = (outputs * loss.gradient.clone()).sum().backward();
        (loss, gradients)
    }

    // The inputs of shards at a step.

    /// Draws the real images of each shard, `[N, 28, 28, 1]` in [-1, 1].
    fn real_images(&self, tasks: &[ShardTask<'_>]) -> Vec<Vec<f32>> {
        let draw = |task: &ShardTask<'_>| {
            let batch = self.spec.sharding().batch(task.shard, task.at.step + 1);
            let pixels = batch.iter().flat_map(|&index| task.partition.image(index));
            pixels.map(|&pixel| f32::from(pixel) / 127.5 - 1.0).collect()
        };
        tasks.iter().map(draw).collect()
    }

    /// Draws the latents of each shard's fakes, `[N, 100]`.
    fn latents(&self, tasks: &[ShardTask<'_>]) -> Vec<Vec<f32>> {
        let draw = |task: &ShardTask<'_>| {
            let (seed, shard, step) = (self.spec.seed(), task.shard.0.into(), task.at.step + 1);
            let stream = RandomStream::new(seed, Purpose::Latents, shard, step);
            stream.normals(LATENT_LEN * self.spec.sharding().shard_batch()).collect()
        };
        tasks.iter().map(draw).collect()
    }

    /// Draws the shifts of each shard's images in the tasks' phase.
    fn translations(&self, tasks: &[ShardTask<'_>]) -> Vec<Translation> {
        tasks.iter().map(|task| Translation::draw(&self.spec, task)).collect()
    }

    fn evaluator(&self) -> &Evaluator {
        self.evaluator.get_or_init(Evaluator::mnist)
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
    fn update_number(&self, at: Position) -> u64 {
        match at.phase {
            Phase::DiscriminatorReal => 2 * at.step + 1,
            Phase::DiscriminatorFake => 2 * at.step + 2,
            Phase::Generator => (at.step + 1) / self.spec.d_steps(),
        }
    }

    /// Returns whether a phase is left out, because its step does not train the generator.
    fn is_left_out(&self, at: Position) -> bool {
        at.phase == Phase::Generator && !self.spec.trains_generator(at.step + 1)
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
        match &self.initial_weights {
            Some(weights) => init::fill_with(&mut state, &self.tensors, weights, self.spec.seed()),
            None => init::fill(&mut state, &self.tensors, &self.spec),
        }
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
        self.shard_vectors(slice::from_ref(task), slice::from_mut(scratch)).remove(0)
    }

    fn shards_at_once(&self) -> NonZeroUsize {
        match self.device.isa {
            Some(_) => NonZeroUsize::MIN,
            None => NonZeroUsize::MAX,
        }
    }

    fn shard_vectors(&self, tasks: &[ShardTask<'_>], scratches: &mut [Scratch]) -> Vec<Vec<f32>> {
        let Some(&ShardTask { state, at, .. }) = tasks.first() else { return Vec::new() };
        if self.is_left_out(at) {
            scratches.iter_mut().for_each(|scratch| *scratch = Scratch::default());
            return vec![vec![0.0; self.phase_vector_len(at.phase)]; tasks.len()];
        }
        let translations = self.translations(tasks);
        if at.phase == Phase::DiscriminatorReal {
            return take_all(tasks, scratches).unwrap_or_else(|| {
                self.discriminator_on_real(state, self.real_images(tasks), &translations)
            });
        }
        // The fakes that an earlier phase of the step left in the scratches, or new ones, which are
        // the same.
        let kept = take_all(tasks, scratches);
        let (discriminator, fakes) =
            self.discriminator_and_fakes(state, kept, || self.latents(tasks));
        if at.phase == Phase::Generator {
            return self.generator_on_fakes(&discriminator, fakes, &translations);
        }
        let vectors = self.discriminator_on_fakes(&discriminator, &fakes, &translations);
        keep_all(fakes, tasks, scratches);
        vectors
    }

    /// Computes what the update that is being reduced cannot change.
    ///
    /// Updates of D leave G as it is, and the update of G leaves D. So the fakes can be made while
    /// D is updated on real images, and D's gradients on the next real images while G is updated.
    fn compute_ahead(&self, tasks: &[ShardTask<'_>], scratches: &mut [Scratch]) {
        let Some(&ShardTask { state, at, .. }) = tasks.first() else { return };
        let next: Vec<ShardTask<'_>> =
            tasks.iter().map(|task| ShardTask { at: at.next(), ..*task }).collect();
        match at.next().phase {
            Phase::DiscriminatorReal => {
                let (images, translations) = (self.real_images(&next), self.translations(&next));
                let vectors = self.discriminator_on_real(state, images, &translations);
                keep_all(vectors, &next, scratches);
            }
            Phase::DiscriminatorFake => {
                let latents = self.latents(&next);
                let ([generator], latents) =
                    upload(&self.device, state, [&self.tensors.generator], latents);
                keep_all(generate(&generator, latents), &next, scratches);
            }
            Phase::Generator => {}
        }
    }

    fn optimizer_step(&self, state: &mut State, at: Position, sum: &[f32]) {
        if self.is_left_out(at) {
            return;
        }
        let network = self.trained_network(at.phase);
        let PhaseVector { gradients, statistics, loss, accuracy } =
            self.vector_layout(at.phase).split(sum);

        let time = self.update_number(at);
        let adam = Adam::new(&self.spec, at, time);
        let shards = f32::from(self.spec.shards());
        let (averaged, normalized) = match at.phase {
            Phase::Generator => (&*self.tensors.averaged, &[][..]),
            _ => (&[][..], &*self.tensors.normalized),
        };
        let gradients = spectral_norm::gradients(normalized, state, gradients);
        let count = adam::clipping_count(&gradients, shards, self.spec.clip_grad_norm());
        adam.update_network(&self.device, state, network, &gradients, count);
        self.update_running_statistics(state, network, &statistics);
        Ema::new(&self.spec, time).update(state, averaged, &self.device);
        normalized.iter().for_each(|weight| weight.update(state));

        let metrics = state.tensor_mut(self.tensors.metrics);
        metrics[at.phase.index()] = loss / shards;
        metrics[Phase::ALL.len() + at.phase.index()] = accuracy / shards;
    }

    fn metrics(&self, state: &State) -> Metrics {
        state.tensor(self.tensors.metrics).to_vec()
    }

    fn evaluation(&self) -> Option<&dyn Evaluation> {
        Some(self)
    }
}

/// Evaluations are computed on the processor, whichever device trains: there are always the same
/// bits.
impl Evaluation for Dcgan {
    fn piece(&self, state: &State, piece: u16) -> Vec<f64> {
        let generator = Generator::new(state, &self.tensors.shown_generator);
        let samples = generator.draw_piece(self.spec.seed(), piece.into());
        self.evaluator().piece(&samples, piece.into())
    }

    fn combine(&self, pieces: &[Vec<f64>]) -> Vec<f64> {
        self.evaluator().combine(pieces)
    }
}

/// Computes `G(z)` in training mode, for the latents `[N, 100]` of each shard.
fn generate(generator: &NetworkParams<'_>, latents: Vec<Tensor<1>>) -> Vec<FakeBatch> {
    let generate = |latents: Tensor<1>| {
        let generator = GeneratorNet::new(generator, true);
        let (images, statistics) = generator.forward(latents.reshape([-1, LATENT_LEN as i32]));
        FakeBatch { generator, images, statistics }
    };
    latents.into_iter().map(generate).collect()
}

/// Takes the results that the scratches hold for the tasks' step and shards, if each holds one.
fn take_all<T: 'static>(tasks: &[ShardTask<'_>], scratches: &mut [Scratch]) -> Option<Vec<T>> {
    let take = |(task, scratch): (&ShardTask<'_>, &mut Scratch)| {
        let entry = scratch.0.take()?.downcast::<ScratchEntry<T>>().ok()?;
        let is_for_task = entry.step == task.at.step + 1 && entry.shard == task.shard;
        is_for_task.then_some(entry.content)
    };
    tasks.iter().zip(scratches).map(take).collect()
}

/// Puts a result into each scratch, for its task's step and shard.
fn keep_all<T: 'static>(results: Vec<T>, tasks: &[ShardTask<'_>], scratches: &mut [Scratch]) {
    for ((content, task), scratch) in results.into_iter().zip(tasks).zip(scratches) {
        let (step, shard) = (task.at.step + 1, task.shard);
        scratch.0 = Some(Box::new(ScratchEntry { step, shard, content }));
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use dcgan_core::ids::Digest;
    use dcgan_core::spec::sharding::Partition;
    use dcgan_core::spec::{DatasetInfo, RunSpecBuilder};

    use super::*;
    use crate::ops::Isa;

    const SHARDS: u16 = 3;
    const IMAGES: usize = 12;

    fn bits(vectors: &[Vec<f32>]) -> Vec<Vec<u32>> {
        vectors.iter().map(|vector| vector.iter().map(|value| value.to_bits()).collect()).collect()
    }

    /// Computes the vectors of all shards together and one by one, for every phase and for the
    /// first of the next step, by the operations of an instruction set or by plain ones.
    fn compare_together_and_one_by_one(isa: Option<Isa>) {
        compare(RunSpec::builder(), isa);
        // A step that does not train the generator, and images that are moved.
        compare(RunSpec::builder().d_steps(2).augment_translation(3), isa);
    }

    fn compare(builder: RunSpecBuilder, isa: Option<Isa>) {
        let data = DatasetInfo { images: IMAGES, rows: 28, columns: 28, digest: Digest(0) };
        let builder = builder.shards(SHARDS).batch_size(2 * usize::from(SHARDS));
        let spec = builder.build(data).unwrap();
        let device = ExecutionDevice { device: Device::flex(), isa };
        let dcgan = Dcgan::on(spec, device);
        let pixels = (0..IMAGES * 28 * 28).map(|i| (i * i / 97) as u8).collect();
        let partition = Partition::new(28 * 28, pixels);

        let empty = || [(); SHARDS as usize].map(|()| Scratch::default());
        let mut scratches = empty();
        let mut state = dcgan.initial_state();
        let mut at = Position { step: 0, phase: Phase::DiscriminatorReal };
        for _ in 0..=Phase::ALL.len() {
            let tasks: Vec<ShardTask<'_>> = (0..SHARDS)
                .map(|shard| ShardTask {
                    state: &state,
                    at,
                    shard: ShardId(shard),
                    partition: &partition,
                })
                .collect();
            let one_by_one: Vec<Vec<f32>> = tasks
                .iter()
                .map(|task| dcgan.shard_vector(task, &mut Scratch::default()))
                .collect();
            let together = dcgan.shard_vectors(&tasks, &mut empty());
            assert_eq!(bits(&together), bits(&one_by_one), "{isa:?} at {at:?}");

            // Again, with what was kept and computed ahead; one shard has come from elsewhere.
            if at.phase == Phase::Generator {
                scratches[1] = Scratch::default();
            }
            let with_scratches = dcgan.shard_vectors(&tasks, &mut scratches);
            assert_eq!(bits(&with_scratches), bits(&one_by_one), "{isa:?} at {at:?}, scratches");
            dcgan.compute_ahead(&tasks, &mut scratches);

            let mut sum = vec![0.0; dcgan.phase_vector_len(at.phase)];
            for vector in &one_by_one {
                sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += value);
            }
            dcgan.optimizer_step(&mut state, at, &sum);
            at = at.next();
        }
    }

    #[test]
    fn shards_that_are_computed_together_have_the_bits_of_each_alone() {
        compare_together_and_one_by_one(Some(Isa::widest()));
    }

    #[test]
    fn shards_that_share_an_upload_and_a_download_have_the_bits_of_each_alone() {
        compare_together_and_one_by_one(None);
    }
}
