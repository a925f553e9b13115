//! One training step against PyTorch in float64: losses, gradients, weights after the three
//! updates, running statistics. `vectors/make.py` made the expected values, and says how.

use std::sync::{Arc, Mutex};

use burn::tensor::Device;
use dcgan_core::ids::{Digest, Phase, Position};
use dcgan_core::metrics::Metrics;
use dcgan_core::objective::{Objective, Scratch, ShardTask};
use dcgan_core::spec::sharding::Partition;
use dcgan_core::spec::{DatasetInfo, RunSpec};
use dcgan_core::state::{Layout, State};
use dcgan_core::train::{Shard, train_step};
use safetensors::SafeTensors;

use crate::Dcgan;
use crate::augmentation::Translation;
use crate::device::ExecutionDevice;
use crate::layout::{NetworkTensors, TrainedTensor};
use crate::ops::Isa;
use crate::phase_vector::PhaseVectorLayout;

const VECTORS: &[u8] = include_bytes!("../vectors/step.safetensors");
const IMAGES: usize = 8;
const SAMPLE: usize = 400;
const LEARNING_RATE: f64 = 2e-4;

/// SplitMix64's finalizer of a counter, as numbers in [-1, 1) with 24 bits. `make.py` has the same.
fn uniforms(seed: u64, tensor: u64, n: usize) -> impl Iterator<Item = f64> {
    (0..n as u64).map(move |i| {
        let mut z = i.wrapping_add(seed << 48).wrapping_add(tensor << 32);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f64 / f64::from(1 << 23) - 1.0
    })
}

/// The values that a trained tensor begins with. `make.py` has the same.
fn initial_weights(tensor: &TrainedTensor, seed: u64, number: u64) -> Vec<f32> {
    let values = uniforms(seed, number, tensor.spec.len());
    match *tensor.spec.shape.as_slice() {
        [outputs, inputs, ref taps @ ..] => {
            let fan = (outputs + inputs) * taps.iter().product::<usize>();
            let bound = f64::from((6.0 / fan as f64).sqrt() as f32);
            values.map(|u| (u * bound) as f32).collect()
        }
        _ if tensor.spec.name.ends_with(".weight") => {
            values.map(|u| (1.0 + 0.25 * u) as f32).collect()
        }
        _ => values.map(|u| (0.1 * u) as f32).collect(),
    }
}

/// The file's samples of tensors, and the number of tensors that were compared with them.
struct Vectors<'a> {
    file: SafeTensors<'a>,
    compared: usize,
}

impl Vectors<'_> {
    /// Compares every entry that the file has a sample for. `bound` maps a tensor's largest entry
    /// to the allowed error.
    fn check(&mut self, name: &str, values: &[f32], bound: impl Fn(f64) -> f64) {
        let tensor = self.file.tensor(name).unwrap_or_else(|_| panic!("{name} is not in the file"));
        let mut expected =
            tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        let bound = bound(expected.next().unwrap().into());
        let stride = values.len().div_ceil(SAMPLE);
        assert_eq!(expected.len(), values.len().div_ceil(stride), "{name}");
        for (i, (value, expected)) in values.iter().step_by(stride).zip(expected).enumerate() {
            let error = f64::from((value - expected).abs());
            assert!(error <= bound, "{name}[{}]: {value} instead of {expected}", i * stride);
        }
        self.compared += 1;
    }

    /// Compares a phase's loss and gradients.
    fn check_phase(&mut self, phase: &str, network: &NetworkTensors, layout: &Layout, sum: &[f32]) {
        let vector_layout = PhaseVectorLayout::new(network, layout);
        let vector = vector_layout.split(sum);
        self.check(&format!("loss.{phase}"), &[vector.loss], |_| 1e-5);
        for (TrainedTensor { spec, .. }, gradient) in network.trained.iter().zip(vector.gradients) {
            if is_cancelled(&spec.name) {
                assert!(gradient.iter().all(|&g| g == 0.0), "{} has no influence", spec.name);
            } else {
                let name = format!("gradient.{phase}.{}", spec.name);
                self.check(&name, gradient, |largest| 1e-4 * largest);
            }
        }
    }

    /// Compares weights after the three updates, and running statistics.
    fn check_state(&mut self, network: &NetworkTensors, state: &State) {
        for TrainedTensor { spec, weight, .. } in &network.trained {
            let bound = if is_cancelled(&spec.name) { 3.0 * LEARNING_RATE } else { 5e-5 };
            self.check(&format!("weight.{}", spec.name), state.tensor(*weight), |_| bound);
        }
        for &index in &network.running {
            let name = format!("running.{}", state.layout().tensors()[index].name);
            self.check(&name, state.tensor(index), |largest| 1e-3 * largest);
        }
    }
}

/// Returns whether a tensor is a bias in front of a batch norm. Its gradient cancels exactly;
/// PyTorch's is rounding errors.
fn is_cancelled(name: &str) -> bool {
    ["conv1.bias", "conv2.bias", "conv3.bias"].iter().any(|bias| name.ends_with(bias))
}

/// The DCGAN on given images and latents. It records the vectors that it is updated by.
struct OnGivenInputs {
    dcgan: Dcgan,
    images: Vec<f32>,
    latents: Vec<f32>,
    /// The vector of each phase so far.
    sums: Mutex<Vec<Vec<f32>>>,
}

impl Objective for OnGivenInputs {
    fn layout(&self) -> &Arc<Layout> {
        self.dcgan.layout()
    }

    fn initial_state(&self) -> State {
        self.dcgan.initial_state()
    }

    fn phase_vector_len(&self, phase: Phase) -> usize {
        self.dcgan.phase_vector_len(phase)
    }

    fn tensors_read(&self, phase: Phase) -> &[usize] {
        self.dcgan.tensors_read(phase)
    }

    fn shard_vector(&self, task: &ShardTask<'_>, _: &mut Scratch) -> Vec<f32> {
        let Self { dcgan, images, latents, .. } = self;
        let unmoved = [Translation::default()];
        let fakes = || dcgan.discriminator_and_fakes(task.state, None, || vec![latents.clone()]);
        let mut vectors = match task.at.phase {
            Phase::DiscriminatorReal => {
                dcgan.discriminator_on_real(task.state, vec![images.clone()], &unmoved)
            }
            Phase::DiscriminatorFake => {
                let (discriminator, fakes) = fakes();
                dcgan.discriminator_on_fakes(&discriminator, &fakes, &unmoved)
            }
            Phase::Generator => {
                let (discriminator, fakes) = fakes();
                dcgan.generator_on_fakes(&discriminator, fakes, &unmoved)
            }
        };
        vectors.remove(0)
    }

    fn optimizer_step(&self, state: &mut State, at: Position, sum: &[f32]) {
        self.sums.lock().unwrap().push(sum.to_vec());
        self.dcgan.optimizer_step(state, at, sum);
    }

    fn metrics(&self, state: &State) -> Metrics {
        self.dcgan.metrics(state)
    }
}

#[test]
fn a_training_step_agrees_with_pytorch() {
    check_a_step(Some(Isa::widest()));
}

#[test]
fn a_training_step_of_plain_operations_agrees_with_pytorch() {
    check_a_step(None);
}

/// Compares one training step by the operations of an instruction set, or by plain ones.
fn check_a_step(isa: Option<Isa>) {
    let file = SafeTensors::deserialize(VECTORS).unwrap();
    let seed = f32::from_le_bytes(file.tensor("seed").unwrap().data().try_into().unwrap()) as u64;
    let data = DatasetInfo { images: IMAGES, rows: 28, columns: 28, digest: Digest(0) };
    let builder = RunSpec::builder().batch_size(IMAGES).shards(1).seed(0);
    let spec = builder.learning_rate(LEARNING_RATE).beta1(0.5).build(data).unwrap();
    let dcgan = Dcgan::on(spec, ExecutionDevice { device: Device::flex(), isa });

    // The state, images and latents of the file.
    let tensors = crate::layout::StateTensors::new(dcgan.layout());
    let mut state = dcgan.initial_state();
    for (tensor, number) in
        tensors.generator.trained.iter().chain(&tensors.discriminator.trained).zip(0..)
    {
        state.tensor_mut(tensor.weight).copy_from_slice(&initial_weights(tensor, seed, number));
    }
    let pixels = uniforms(seed, 100, IMAGES * 784).map(|u| ((u + 1.0) * 128.0) as u8);
    let images: Vec<f32> = pixels.map(|pixel| f32::from(pixel) / 127.5 - 1.0).collect();
    let latents: Vec<f32> = uniforms(seed, 101, IMAGES * 100).map(|u| (2.0 * u) as f32).collect();

    // One step.
    let objective = OnGivenInputs { dcgan, images, latents, sums: Mutex::default() };
    // The images are given, so the partition is never read.
    let partition = Partition::new(1, vec![0]);
    let mut shards = Shard::all(1, |_| &partition);
    train_step(&objective, &mut shards, &mut state, 1, |_, _| {});

    // Compare everything.
    let mut vectors = Vectors { file, compared: 0 };
    let sums = objective.sums.into_inner().unwrap();
    let networks = [&tensors.discriminator, &tensors.discriminator, &tensors.generator];
    for ((phase, network), sum) in ["real", "fake", "generate"].iter().zip(networks).zip(&sums) {
        vectors.check_phase(phase, network, state.layout(), sum);
    }
    vectors.check_state(&tensors.generator, &state);
    vectors.check_state(&tensors.discriminator, &state);
    // Three losses, 14 + 14 + 16 gradients less nine cancelled ones, 30 weights, 12 running
    // statistics.
    assert_eq!(vectors.compared, 80);
}
