//! The generator: a dense layer, a convolution, two upsamplings with convolutions, each with batch norm and ReLU, and a
//! convolution to one channel with tanh.

use burn::tensor::{Gradients, Tensor};
use dcgan_core::spec::networks::LATENT_LEN;
use dcgan_core::state::State;

use crate::device::ExecutionDevice;
use crate::layout::NetworkTensors;
use crate::ops::{
    ConvOutput, ConvToImageWeights, ConvWeights, DenseWeights, FeatureMaps, LayerInput, Statistics,
    UpsampleWeights, conv, dense, to_images, upsample_conv,
};
use crate::params::{ConvBatchNorm, GradCollector, ParamReader, WeightAndBias};

pub(crate) struct GeneratorNet {
    dense: WeightAndBias<2, DenseWeights>,
    first: ConvBatchNorm<ConvWeights>,
    upsampled: [ConvBatchNorm<UpsampleWeights>; 2],
    last: WeightAndBias<4, ConvToImageWeights>,
}

impl GeneratorNet {
    pub(crate) fn new(
        state: &State,
        tensors: &NetworkTensors,
        device: &ExecutionDevice,
        trained: bool,
    ) -> Self {
        let mut reader = ParamReader::new(state, tensors, device, trained);
        Self {
            dense: reader.weight_and_bias(),
            first: reader.conv_batch_norm(),
            upsampled: [(); 2].map(|()| reader.conv_batch_norm()),
            last: reader.weight_and_bias(),
        }
    }

    /// Latents `[N, 100]` to images `[N, 28, 28, 1]`, by batch statistics.
    pub(crate) fn forward(&self, latents: Tensor<2>) -> (FeatureMaps, Vec<Statistics>) {
        let mut seen = Vec::new();
        let images = self.layers(latents, |raw, bias| {
            seen.push(raw.statistics.clone().with_bias(bias));
            raw
        });
        (images, seen)
    }

    /// Latents `[N, 100]` to images `[N, 28, 28, 1]`, by given statistics.
    pub(crate) fn infer(&self, latents: Tensor<2>, running: Vec<Statistics>) -> FeatureMaps {
        let mut running = running.into_iter();
        self.layers(latents, |raw, bias| {
            let known = running.next().expect("there are statistics for each batch norm");
            ConvOutput { statistics: known.with_bias(-bias), ..raw }
        })
    }

    fn layers(
        &self,
        latents: Tensor<2>,
        mut statistics: impl FnMut(ConvOutput, Tensor<1>) -> ConvOutput,
    ) -> FeatureMaps {
        debug_assert_eq!(latents.dims()[1], LATENT_LEN);
        let x =
            LayerInput { maps: dense(latents, &self.dense.kernel, &self.dense.bias), norm: None };
        let raw = conv(x, &self.first.kernel, 1);
        let mut x = self.first.normalize(statistics(raw, self.first.bias.clone()), 0.0);
        for layer in &self.upsampled {
            let raw = upsample_conv(x, &layer.kernel);
            x = layer.normalize(statistics(raw, layer.bias.clone()), 0.0);
        }
        to_images(x, &self.last.kernel, &self.last.bias)
    }

    /// The gradients of all trained tensors, in the order of the table.
    pub(crate) fn gradients(&self, gradients: &mut Gradients, len: usize) -> Vec<f32> {
        let collector = GradCollector::new(gradients, len)
            .weight_and_bias(&self.dense)
            .conv_batch_norm(&self.first);
        self.upsampled
            .iter()
            .fold(collector, GradCollector::conv_batch_norm)
            .weight_and_bias(&self.last)
            .finish()
    }
}
