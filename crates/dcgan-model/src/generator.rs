//! The generator: a dense layer, a convolution, two upsamplings with convolutions, each with batch norm and ReLU, and a
//! convolution to one channel with tanh.

use burn::tensor::{Gradients, Tensor};
use dcgan_core::layers::LATENT;
use dcgan_core::state::State;

use crate::layout::NetworkTensors;
use crate::ops::{
    ConvWeights, DenseWeights, Input, Maps, Raw, Statistics, ToOneWeights, UpsampleWeights, conv, dense, to_images,
    upsample_conv,
};
use crate::parameters::{Collector, ConvNorm, Place, Reader, Weighted};

pub(crate) struct GeneratorNet {
    dense: Weighted<2, DenseWeights>,
    first: ConvNorm<ConvWeights>,
    upsampled: [ConvNorm<UpsampleWeights>; 2],
    last: Weighted<4, ToOneWeights>,
}

impl GeneratorNet {
    pub(crate) fn new(state: &State, tensors: &NetworkTensors, place: &Place, trained: bool) -> Self {
        let mut reader = Reader::new(state, tensors, place, trained);
        Self {
            dense: reader.weighted(),
            first: reader.conv_norm(),
            upsampled: [(); 2].map(|()| reader.conv_norm()),
            last: reader.weighted(),
        }
    }

    /// Latents `[N, 100]` to images `[N, 28, 28, 1]`, by batch statistics.
    pub(crate) fn forward(&self, latents: Tensor<2>) -> (Maps, Vec<Statistics>) {
        let mut seen = Vec::new();
        let images = self.layers(latents, |raw, bias| {
            seen.push(raw.statistics.clone().with_bias(bias));
            raw
        });
        (images, seen)
    }

    /// Latents `[N, 100]` to images `[N, 28, 28, 1]`, by given statistics.
    pub(crate) fn infer(&self, latents: Tensor<2>, running: Vec<Statistics>) -> Maps {
        let mut running = running.into_iter();
        self.layers(latents, |raw, bias| {
            let known = running.next().expect("there are statistics for each batch norm");
            Raw { statistics: known.with_bias(-bias), ..raw }
        })
    }

    fn layers(&self, latents: Tensor<2>, mut statistics: impl FnMut(Raw, Tensor<1>) -> Raw) -> Maps {
        debug_assert_eq!(latents.dims()[1], LATENT);
        let x = Input { maps: dense(latents, &self.dense.kernel, &self.dense.bias), norm: None };
        let raw = conv(x, &self.first.kernel, 1);
        let mut x = self.first.norm(statistics(raw, self.first.bias.clone()), 0.0);
        for layer in &self.upsampled {
            let raw = upsample_conv(x, &layer.kernel);
            x = layer.norm(statistics(raw, layer.bias.clone()), 0.0);
        }
        to_images(x, &self.last.kernel, &self.last.bias)
    }

    /// The gradients of all trained tensors, in the order of the table.
    pub(crate) fn gradients(&self, gradients: &mut Gradients, len: usize) -> Vec<f32> {
        let collector = Collector::new(gradients, len).weighted(&self.dense).conv_norm(&self.first);
        self.upsampled.iter().fold(collector, Collector::conv_norm).weighted(&self.last).finish()
    }
}
