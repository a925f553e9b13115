//! The discriminator: three convolutions at stride 2, each with batch norm and leaky ReLU, then the mean of each channel
//! and a dense layer.

use burn::tensor::{Device, Gradients, Tensor, activation};
use dcgan_core::state::State;

use crate::layout::NetworkTensors;
use crate::ops::{Maps, Statistics, batch_norm, conv3x3};
use crate::parameters::{Collector, ConvNorm, Dense, Reader};

pub(crate) struct Discriminator {
    convs: [ConvNorm; 3],
    dense: Dense,
}

impl Discriminator {
    pub(crate) fn new(state: &State, tensors: &NetworkTensors, device: &Device, trained: bool) -> Self {
        let mut reader = Reader::new(state, tensors, device, trained);
        Self { convs: [(); 3].map(|()| reader.conv_norm()), dense: reader.dense() }
    }

    /// Images `[1, N, 28, 28]` to logits `[1, N]`, by batch statistics.
    pub(crate) fn forward(&self, images: Maps) -> (Tensor<2>, Vec<Statistics>) {
        let mut x = images;
        let mut statistics = Vec::new();
        for ConvNorm { weight, bias, scale, shift } in &self.convs {
            let maps = conv3x3(x, weight.clone(), 2);
            let (maps, seen) = batch_norm(maps, bias.clone(), scale.clone(), shift.clone());
            x = activation::leaky_relu(maps, 0.2);
            statistics.push(seen);
        }
        let [c, n, h, w] = x.dims();
        let pooled = x.reshape([c * n, h * w]).mean_dim(1).reshape([c, n]);
        let Dense { weight, bias } = &self.dense;
        (weight.clone().matmul(pooled) + bias.clone().reshape([1, 1]), statistics)
    }

    /// The gradients of all trained tensors, in the order of the table.
    pub(crate) fn gradients(&self, gradients: &mut Gradients, len: usize) -> Vec<f32> {
        let collector = Collector::new(gradients, len);
        self.convs.iter().fold(collector, Collector::conv_norm).dense(&self.dense).finish()
    }
}
