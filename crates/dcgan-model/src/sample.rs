//! Drawing images with a generator from a checkpoint.

use burn::tensor::{Tensor, TensorData};
use dcgan_core::random::{Purpose, RandomStream};
use dcgan_core::spec::networks::{GENERATOR, LATENT_LEN};
use dcgan_core::state::{Layout, State};
use dcgan_store::state_file::{self, StateFileError};

use crate::device::{DeviceChoice, ExecutionDevice};
use crate::generator::GeneratorNet;
use crate::layout::{NetworkTensors, TrainedTensor};
use crate::ops::Statistics;
use crate::params::append;

/// Pixels of an image.
pub const PIXELS: usize = 28 * 28;

/// Images drawn at once: more take more memory and are no faster.
const BATCH: usize = 32;

/// A trained generator, by its running statistics.
pub struct Generator {
    net: GeneratorNet,
    running: Vec<[Vec<f32>; 2]>,
    device: ExecutionDevice,
}

impl Generator {
    /// The generator in a state file.
    ///
    /// # Errors
    /// If the file does not hold one.
    pub fn from_file(bytes: &[u8]) -> Result<Self, StateFileError> {
        let table = GENERATOR.tensors();
        let named: Vec<(String, Vec<usize>)> =
            table.iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
        let values = state_file::decode_tensors(bytes, &named)?;
        let layout = Layout::new(named);
        let mut state = State::zeros(std::sync::Arc::new(layout.clone()));
        let find = |name: &str| layout.find(name).expect("the layout is made of the same table");
        for (tensor, values) in table.iter().zip(&values) {
            state.tensor_mut(find(&tensor.name)).copy_from_slice(values);
        }
        let (trained, running): (Vec<_>, Vec<_>) =
            table.into_iter().partition(|tensor| tensor.trained);
        let trained = trained.into_iter().map(|table| {
            let weight = find(&table.name);
            TrainedTensor { table, weight, moments: [weight; 2] }
        });
        let tensors = NetworkTensors { trained: trained.collect(), running: Vec::new() };
        let device = DeviceChoice::default().open().expect("every build supports the processor");
        let net = GeneratorNet::new(&state, &tensors, &device, false);
        let statistic = |tensor: &dcgan_core::spec::networks::TensorSpec| {
            state.tensor(find(&tensor.name)).to_vec()
        };
        let running = running
            .chunks_exact(2)
            .map(|pair| [statistic(&pair[0]), statistic(&pair[1])])
            .collect();
        Ok(Self { net, running, device })
    }

    /// `count` images of 28 x 28 pixels, one byte a pixel; the same for the same seed. Without a seed, those of the
    /// run's own grids, which depend on the run's seed.
    pub fn draw(&self, count: usize, seed: Option<u64>, run_seed: u64) -> Vec<u8> {
        let stream = match seed {
            None => RandomStream::new(run_seed, Purpose::Grid, 0, 0),
            Some(seed) => RandomStream::new(seed, Purpose::Sample, 0, 0),
        };
        let latents: Vec<f32> = stream.normals(count * LATENT_LEN).collect();
        latents.chunks(BATCH * LATENT_LEN).flat_map(|latents| self.images(latents)).collect()
    }

    fn images(&self, latents: &[f32]) -> Vec<u8> {
        let vector = |values: &Vec<f32>| {
            Tensor::<1>::from_data(
                TensorData::new(values.clone(), [values.len()]),
                &self.device.device,
            )
        };
        let running = self
            .running
            .iter()
            .map(|[mean, var]| Statistics { mean: vector(mean), variance: vector(var) });
        let shape = [latents.len() / LATENT_LEN, LATENT_LEN];
        let latents =
            Tensor::from_data(TensorData::new(latents.to_vec(), shape), &self.device.device);
        let mut values = Vec::new();
        append(&mut values, self.net.infer(latents, running.collect()));
        values.into_iter().map(|value| ((value + 1.0) * 127.5).round_ties_even() as u8).collect()
    }
}
