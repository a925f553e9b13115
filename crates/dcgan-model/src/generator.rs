//! The generator: a dense layer, a convolution, two upsamplings with convolutions, each with batch norm and ReLU, and a
//! convolution to one channel with tanh.

use burn::tensor::{Device, Gradients, Tensor, activation};
use dcgan_core::layers::LATENT;
use dcgan_core::state::State;

use crate::layout::NetworkTensors;
use crate::ops::{Maps, Statistics, batch_norm, conv3x3, conv3x3_to_one, normalize, upsample_conv3x3};
use crate::parameters::{Collector, Conv, ConvNorm, Dense, Reader};

pub(crate) struct GeneratorNet {
    dense: Dense,
    convs: [ConvNorm; 3],
    last: Conv,
}

impl GeneratorNet {
    pub(crate) fn new(state: &State, tensors: &NetworkTensors, device: &Device, trained: bool) -> Self {
        let mut reader = Reader::new(state, tensors, device, trained);
        Self { dense: reader.dense(), convs: [(); 3].map(|()| reader.conv_norm()), last: reader.conv() }
    }

    /// Latents `[N, 100]` to images `[1, N, 28, 28]`, by batch statistics.
    pub(crate) fn forward(&self, latents: Tensor<2>) -> (Maps, Vec<Statistics>) {
        let mut statistics = Vec::new();
        let images = self.layers(latents, |layer, maps| {
            let ConvNorm { bias, scale, shift, .. } = layer;
            let (maps, seen) = batch_norm(maps, bias.clone(), scale.clone(), shift.clone());
            statistics.push(seen);
            maps
        });
        (images, statistics)
    }

    /// Latents `[N, 100]` to images `[1, N, 28, 28]`, by given statistics.
    pub(crate) fn infer(&self, latents: Tensor<2>, running: Vec<Statistics>) -> Maps {
        let mut running = running.into_iter();
        self.layers(latents, |layer, maps| {
            let ConvNorm { bias, scale, shift, .. } = layer;
            let known = running.next().expect("there are statistics for each batch norm");
            normalize(maps, bias.clone(), scale.clone(), shift.clone(), known)
        })
    }

    fn layers(&self, latents: Tensor<2>, mut norm: impl FnMut(&ConvNorm, Maps) -> Maps) -> Maps {
        let [n, latent] = latents.dims();
        debug_assert_eq!(latent, LATENT);
        let Dense { weight, bias } = &self.dense;
        let x = activation::relu(latents.matmul(weight.clone().transpose()) + bias.clone().reshape([1, 1568]));
        let mut x = x.reshape([n, 32, 7, 7]).swap_dims(0, 1);
        for (i, layer) in self.convs.iter().enumerate() {
            let weight = layer.weight.clone();
            let maps = if i == 0 { conv3x3(x, weight, 1) } else { upsample_conv3x3(x, weight) };
            x = activation::relu(norm(layer, maps));
        }
        let Conv { weight, bias } = &self.last;
        (conv3x3_to_one(x, weight.clone()) + bias.clone().reshape([1, 1, 1, 1])).tanh()
    }

    /// The gradients of all trained tensors, in the order of the table.
    pub(crate) fn gradients(&self, gradients: &mut Gradients, len: usize) -> Vec<f32> {
        let collector = Collector::new(gradients, len).dense(&self.dense);
        self.convs.iter().fold(collector, Collector::conv_norm).conv(&self.last).finish()
    }
}
