//! Draws images with the generator of a checkpoint.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use dcgan_core::random::{Purpose, RandomStream};
use dcgan_core::spec::networks::{GENERATOR, LATENT_LEN};
use dcgan_core::state::{Layout, State};
use dcgan_store::state_file;

use crate::device::{DeviceChoice, ExecutionDevice};
use crate::generator::GeneratorNet;
use crate::layout::{NetworkTensors, TrainedTensor};
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
        // Decode the generator's tensors, and make a state of them alone.
        let table = GENERATOR.tensors();
        let named: Vec<(String, Vec<usize>)> =
            table.iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
        let weights = Weights::of_file(bytes, wanted)?;
        let saved = named.iter().map(|(name, shape)| (weights.name_of(name), shape.clone()));
        let values = state_file::decode_tensors(bytes, &saved.collect::<Vec<_>>())?;
        let mut state = State::zeros(Arc::new(Layout::new(named)));

        // Sort them into trained tensors and running statistics.
        let mut tensors = NetworkTensors { trained: Vec::new(), running: Vec::new() };
        for (spec, values) in table.into_iter().zip(&values) {
            let index = state.layout().find(&spec.name).expect("the layout is of the same table");
            state.tensor_mut(index).copy_from_slice(values);
            if spec.trained {
                // There are no moments to find: nothing here is trained.
                let moments = [index; 2];
                tensors.trained.push(TrainedTensor { spec, weight: index, moments });
            } else {
                tensors.running.push(index);
            }
        }
        let values_of = |index: usize| state.tensor(index).to_vec();
        let pairs = tensors.running.chunks_exact(2);
        let running = pairs.map(|pair| [values_of(pair[0]), values_of(pair[1])]).collect();

        let device = DeviceChoice::default().open().expect("every build supports the processor");
        let ([params], _) = upload(&device, &state, [&tensors], Vec::new());
        let net = GeneratorNet::new(&params, false);
        Ok(Self { net, running, device })
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
        let mut images = Vec::with_capacity(count * PIXELS);
        let mut batches = self.batches(count, seed, run_seed);
        while images.len() < count * PIXELS {
            if !is_wanted() {
                return None;
            }
            images.extend(batches.next()?);
        }
        Some(images)
    }

    /// Draws images like [`draw`](Self::draw), a few at a time.
    pub fn batches(
        &self,
        count: usize,
        seed: Option<u64>,
        run_seed: u64,
    ) -> impl Iterator<Item = Vec<u8>> {
        let stream = match seed {
            None => RandomStream::new(run_seed, Purpose::Grid, 0, 0),
            Some(seed) => RandomStream::new(seed, Purpose::Sample, 0, 0),
        };
        let mut latents = stream.normals(count * LATENT_LEN);
        std::iter::from_fn(move || {
            let batch: Vec<f32> = latents.by_ref().take(BATCH * LATENT_LEN).collect();
            (!batch.is_empty()).then(|| self.images(&batch))
        })
    }

    /// `G(z)` for latents `[N, 100]`, as bytes `[N, 28, 28]`.
    fn images(&self, latents: &[f32]) -> Vec<u8> {
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
        values.into_iter().map(|value| ((value + 1.0) * 127.5).round_ties_even() as u8).collect()
    }

    /// A constant tensor on the generator's device.
    fn tensor<const D: usize>(&self, values: &[f32], shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &self.device.device)
    }
}
