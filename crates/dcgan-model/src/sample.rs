//! Draws images with the generator of a checkpoint.

use burn::tensor::{Tensor, TensorData};
use dcgan_core::random::{Purpose, RandomStream};
use dcgan_core::spec::networks::{GENERATOR, LATENT_LEN};
use dcgan_core::state::State;

use crate::device::{DeviceChoice, ExecutionDevice};
use crate::evaluation::PIECE_IMAGES;
use crate::generator::GeneratorNet;
use crate::layout::{NetworkTensors, network_from_file};
use crate::ops::Statistics;
use crate::params::{append, upload};
use crate::weights::{GeneratorError, Weights};

/// Pixels of an image.
pub const PIXELS: usize = 28 * 28;

/// Images drawn at once: more take more memory and are no faster.
const BATCH: usize = 32;

/// A trained generator in inference mode: its batch norms use running statistics.
pub struct Generator {
    net: GeneratorNet,
    /// The running mean and the running variance of each batch norm, `[channels]` each.
    running: Vec<[Vec<f32>; 2]>,
    device: ExecutionDevice,
}

impl Generator {
    /// Reads the generator from a state file, with the weights that are wanted: by default their
    /// moving average, if there is one.
    ///
    /// # Errors
    /// If the file does not hold one.
    pub fn from_file(bytes: &[u8], wanted: Option<Weights>) -> Result<Self, GeneratorError> {
        let weights = Weights::of_file(bytes, wanted)?;
        let (state, tensors) = network_from_file(GENERATOR, bytes, |name| weights.name_of(name))?;
        Ok(Self::new(&state, &tensors))
    }

    /// Tells whether a state file has the moving average of a generator's weights.
    pub fn has_average(bytes: &[u8]) -> bool {
        Weights::of_file(bytes, Some(Weights::Ema)).is_ok()
    }

    /// The generator in a state.
    pub(crate) fn new(state: &State, tensors: &NetworkTensors) -> Self {
        let values_of = |index: usize| state.tensor(index).to_vec();
        let pairs = tensors.running.chunks_exact(2);
        let running = pairs.map(|pair| [values_of(pair[0]), values_of(pair[1])]).collect();

        let device = DeviceChoice::default().open().expect("every build supports the processor");
        let ([params], _) = upload(&device, state, [tensors], Vec::new());
        let net = GeneratorNet::new(&params, false);
        Self { net, running, device }
    }

    /// Draws `count` images of 28 x 28 pixels, one byte a pixel, one image after the other. The
    /// same seed gives the same images. Without a seed, the latents are those of the run's own
    /// grids, which depend on the run's seed.
    pub fn draw(&self, count: usize, seed: Option<u64>, run_seed: u64) -> Vec<u8> {
        self.draw_while(|| true, count, seed, run_seed).unwrap_or_default()
    }

    /// Draws images like [`draw`](Self::draw) as long as they are wanted: asks before each 32 of
    /// them, and returns `None` if they are not.
    pub fn draw_while(
        &self,
        is_wanted: impl Fn() -> bool,
        count: usize,
        seed: Option<u64>,
        run_seed: u64,
    ) -> Option<Vec<u8>> {
        let latents: Vec<f32> = latents(count, seed, run_seed).collect();
        self.draw_latents(is_wanted, &latents)
    }

    /// Draws images like [`draw`](Self::draw), a few at a time.
    pub fn batches(
        &self,
        count: usize,
        seed: Option<u64>,
        run_seed: u64,
    ) -> impl Iterator<Item = Vec<u8>> {
        self.value_batches(count, seed, run_seed).map(|values| to_bytes(&values))
    }

    /// Draws images like [`batches`](Self::batches), as the generator gives them: values from -1 to
    /// 1.
    pub fn value_batches(
        &self,
        count: usize,
        seed: Option<u64>,
        run_seed: u64,
    ) -> impl Iterator<Item = Vec<f32>> {
        let mut latents = latents(count, seed, run_seed);
        std::iter::from_fn(move || {
            let batch: Vec<f32> = latents.by_ref().take(BATCH * LATENT_LEN).collect();
            (!batch.is_empty()).then(|| self.values(&batch))
        })
    }

    /// Draws the images of these latents, `[N, 100]`, as long as they are wanted, like
    /// [`draw_while`](Self::draw_while).
    pub fn draw_latents(&self, is_wanted: impl Fn() -> bool, latents: &[f32]) -> Option<Vec<u8>> {
        let mut images = Vec::new();
        for batch in latents.chunks(BATCH * LATENT_LEN) {
            if !is_wanted() {
                return None;
            }
            images.extend(to_bytes(&self.values(batch)));
        }
        Some(images)
    }

    /// Draws the 100 images of one piece of an evaluation, as [`draw`](Self::draw) does.
    pub fn draw_piece(&self, seed: u64, piece: u32) -> Vec<u8> {
        let stream = RandomStream::new(seed, Purpose::Evaluation, piece, 0);
        let latents: Vec<f32> = stream.normals(PIECE_IMAGES * LATENT_LEN).collect();
        to_bytes(&self.values(&latents))
    }

    /// `G(z)` for latents `[N, 100]`: values `[N, 28, 28]` from -1 to 1.
    fn values(&self, latents: &[f32]) -> Vec<f32> {
        let mut running = Vec::new();
        for [mean, variance] in &self.running {
            running.push(Statistics {
                mean: self.tensor(mean, [mean.len()]),
                variance: self.tensor(variance, [variance.len()]),
            });
        }
        let latents = self.tensor(latents, [latents.len() / LATENT_LEN, LATENT_LEN]);
        let mut values = Vec::new();
        append(&mut values, self.net.infer(latents, running));
        values
    }

    /// A constant tensor on the generator's device.
    fn tensor<const D: usize>(&self, values: &[f32], shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &self.device.device)
    }
}

/// The latents `[count, 100]` of samples. The same seed gives the same ones. Without a seed they
/// are those of the run's own grids, which depend on the run's seed.
pub fn latents(count: usize, seed: Option<u64>, run_seed: u64) -> impl Iterator<Item = f32> {
    let stream = match seed {
        None => RandomStream::new(run_seed, Purpose::Grid, 0, 0),
        Some(seed) => RandomStream::new(seed, Purpose::Sample, 0, 0),
    };
    stream.normals(count * LATENT_LEN)
}

/// The latents of `count` images `[count, 100]` on the great circle from one latent vector to
/// another, both included: spherical linear interpolation (Shoemake, Animating Rotation with
/// Quaternion Curves, 1985). Samples of a normal distribution lie near a sphere; a straight line
/// between two would leave it.
pub fn interpolate(from: &[f32], to: &[f32], count: usize) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let cosine = dot(from, to) / (dot(from, from) * dot(to, to)).sqrt();
    let angle = cosine.clamp(-1.0, 1.0).acos();
    let mut latents = Vec::with_capacity(count * from.len());
    for number in 0..count {
        let part = number as f64 / (count.max(2) - 1) as f64;
        let weight = |part: f64| match angle.sin() {
            // The same direction, or the opposite one.
            sine if sine < 1e-6 => part,
            sine => (part * angle).sin() / sine,
        };
        let (first, second) = (weight(1.0 - part), weight(part));
        let mix = |(a, b): (&f32, &f32)| (first * f64::from(*a) + second * f64::from(*b)) as f32;
        latents.extend(from.iter().zip(to).map(mix));
    }
    latents
}

/// Pixels, one byte each, of values from -1 to 1.
fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().map(|value| ((value + 1.0) * 127.5).round_ties_even() as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpolation_stays_on_the_sphere_and_has_both_ends() {
        let ends: Vec<f32> = latents(2, Some(5), 0).collect();
        let (from, to) = ends.split_at(LATENT_LEN);
        let found = interpolate(from, to, 5);
        let length = |latent: &[f32]| latent.iter().map(|x| x * x).sum::<f32>().sqrt();
        let (shortest, longest) = (length(from).min(length(to)), length(from).max(length(to)));
        for latent in found.chunks(LATENT_LEN) {
            assert!((0.9 * shortest..=1.1 * longest).contains(&length(latent)));
        }
        let is_near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(is_near(&found[..LATENT_LEN], from) && is_near(&found[4 * LATENT_LEN..], to));
        assert!(is_near(&interpolate(from, from, 3), &[from, from, from].concat()));
    }
}
