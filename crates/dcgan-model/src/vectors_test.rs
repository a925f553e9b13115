//! One iteration against PyTorch in float64: losses, gradients, weights after the three updates, running statistics.
//! `vectors/make.py` made the file that this compares with, and says how.

use burn::tensor::{Device, Tensor, TensorData};
use dcgan_core::config::{DataSet, ObjectiveKind, Recipe};
use dcgan_core::ids::{Digest, Position};
use dcgan_core::objective::Objective;
use dcgan_core::state::State;
use safetensors::SafeTensors;

use crate::layout::{NetworkTensors, TrainedTensor};
use crate::step::{FAKE, GENERATE, REAL};
use crate::{Dcgan, DeviceChoice};

const VECTORS: &[u8] = include_bytes!("../vectors/step.safetensors");
const IMAGES: usize = 8;
const SAMPLE: usize = 400;
const LEARNING_RATE: f64 = 2e-4;

/// SplitMix64's finalizer of a counter, as numbers in [-1, 1) with 24 bits.
fn uniforms(seed: u64, tensor: u64, n: usize) -> impl Iterator<Item = f64> {
    (0..n as u64).map(move |i| {
        let mut z = i.wrapping_add(seed << 48).wrapping_add(tensor << 32);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f64 / f64::from(1 << 23) - 1.0
    })
}

fn initial_weights(tensor: &TrainedTensor, seed: u64, number: u64) -> Vec<f32> {
    let values = uniforms(seed, number, tensor.table.len());
    match *tensor.table.shape.as_slice() {
        [outputs, inputs, ref taps @ ..] => {
            let fan = (outputs + inputs) * taps.iter().product::<usize>();
            let bound = f64::from((6.0 / fan as f64).sqrt() as f32);
            values.map(|u| (u * bound) as f32).collect()
        }
        _ if tensor.table.name.ends_with(".weight") => values.map(|u| (1.0 + 0.25 * u) as f32).collect(),
        _ => values.map(|u| (0.1 * u) as f32).collect(),
    }
}

/// The file's samples of tensors, and what is compared with them.
struct Vectors<'a> {
    file: SafeTensors<'a>,
    compared: usize,
}

impl Vectors<'_> {
    /// Compares every entry of which there is a sample; `bound` gives the allowed error for a tensor's largest entry.
    fn check(&mut self, name: &str, values: &[f32], bound: impl Fn(f64) -> f64) {
        let tensor = self.file.tensor(name).unwrap_or_else(|_| panic!("{name} is not in the file"));
        let mut expected = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
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
    fn check_phase(&mut self, phase: &str, network: &NetworkTensors, vector: &[f32]) {
        self.check(&format!("loss.{phase}"), &vector[vector.len() - 2..vector.len() - 1], |_| 1e-5);
        let mut rest = vector;
        for TrainedTensor { table, .. } in &network.trained {
            let (gradient, later) = rest.split_at(table.len());
            rest = later;
            if is_cancelled(&table.name) {
                assert!(gradient.iter().all(|&g| g == 0.0), "{} has no influence", table.name);
            } else {
                self.check(&format!("gradient.{phase}.{}", table.name), gradient, |largest| 1e-4 * largest);
            }
        }
    }

    /// Compares weights after the three updates, and running statistics.
    fn check_state(&mut self, network: &NetworkTensors, state: &State) {
        for TrainedTensor { table, weight, .. } in &network.trained {
            let bound = if is_cancelled(&table.name) { 3.0 * LEARNING_RATE } else { 5e-5 };
            self.check(&format!("weight.{}", table.name), state.tensor(*weight), |_| bound);
        }
        for &index in &network.running {
            let name = format!("running.{}", state.layout().tensors()[index].name);
            self.check(&name, state.tensor(index), |largest| 1e-3 * largest);
        }
    }
}

/// A bias in front of a batch norm: PyTorch's gradient is rounding only.
fn is_cancelled(name: &str) -> bool {
    ["conv1.bias", "conv2.bias", "conv3.bias"].iter().any(|bias| name.ends_with(bias))
}

#[test]
fn an_iteration_is_that_of_pytorch() {
    let file = SafeTensors::deserialize(VECTORS).unwrap();
    let seed = f32::from_le_bytes(file.tensor("seed").unwrap().data().try_into().unwrap()) as u64;
    let recipe = Recipe {
        objective: ObjectiveKind::Dcgan,
        batch_size: IMAGES,
        shards: 1,
        seed: 0,
        learning_rate: LEARNING_RATE,
        beta1: 0.5,
        data: DataSet { images: IMAGES, rows: 28, columns: 28, digest: Digest(0) },
    };
    let dcgan = Dcgan::new(recipe, DeviceChoice::default()).unwrap();
    let tensors = crate::layout::StateTensors::new(dcgan.layout());
    let mut state = dcgan.initial();
    for (tensor, number) in tensors.generator.trained.iter().chain(&tensors.discriminator.trained).zip(0..) {
        state.tensor_mut(tensor.weight).copy_from_slice(&initial_weights(tensor, seed, number));
    }
    let pixels = uniforms(seed, 100, IMAGES * 784).map(|u| ((u + 1.0) * 128.0) as u8);
    let images: Vec<f32> = pixels.map(|pixel| f32::from(pixel) / 127.5 - 1.0).collect();
    let images = Tensor::from_data(TensorData::new(images, [IMAGES, 28, 28, 1]), &Device::flex());
    let latents: Vec<f32> = uniforms(seed, 101, IMAGES * 100).map(|u| (2.0 * u) as f32).collect();

    let mut vectors = Vectors { file, compared: 0 };
    let at = |phase| Position { step: 0, phase };
    let vector = dcgan.real_phase(&state, images);
    vectors.check_phase("real", &tensors.discriminator, &vector);
    dcgan.apply(&mut state, at(REAL), &vector);
    let vector = dcgan.phase_on(FAKE, &state, &latents);
    vectors.check_phase("fake", &tensors.discriminator, &vector);
    dcgan.apply(&mut state, at(FAKE), &vector);
    let vector = dcgan.phase_on(GENERATE, &state, &latents);
    vectors.check_phase("generate", &tensors.generator, &vector);
    dcgan.apply(&mut state, at(GENERATE), &vector);
    vectors.check_state(&tensors.generator, &state);
    vectors.check_state(&tensors.discriminator, &state);
    // Three losses, 14 + 14 + 16 gradients less nine cancelled ones, 30 weights, 12 running statistics.
    assert_eq!(vectors.compared, 80);
}
