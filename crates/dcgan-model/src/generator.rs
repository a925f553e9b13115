//! The generator: a dense layer with ReLU; a convolution and two upsamplings with convolutions,
//! each with batch norm and ReLU; and a convolution to one channel with tanh.

use burn::tensor::{Gradients, Tensor};
use dcgan_core::spec::networks::LATENT_LEN;

use crate::ops::{
    Conv, ConvOutput, Dense, FeatureMaps, LayerInput, Statistics, ToImages, UpsampleConv, conv,
    dense, to_images, upsample_conv,
};
use crate::params::{ConvBatchNorm, GradCollector, NetworkParams, ParamReader, WeightAndBias};

/// The factor of negative values in ReLU.
const RELU_SLOPE: f32 = 0.0;

/// The generator, with the parameters of one state.
pub(crate) struct GeneratorNet {
    dense: WeightAndBias<2, Dense>,
    first: ConvBatchNorm<Conv>,
    upsampled: [ConvBatchNorm<UpsampleConv>; 2],
    last: WeightAndBias<4, ToImages>,
}

impl GeneratorNet {
    /// Makes the network of its parameters: leaves of the autodiff graph if `trained`, constants
    /// otherwise.
    pub(crate) fn new(params: &NetworkParams<'_>, trained: bool) -> Self {
        let mut reader = ParamReader::new(params, trained);
        Self {
            dense: reader.weight_and_bias(),
            first: reader.conv_batch_norm(),
            upsampled: [(); 2].map(|()| reader.conv_batch_norm()),
            last: reader.weight_and_bias(),
        }
    }

    /// Computes images `[N, 28, 28, 1]` from latents `[N, 100]` in training mode, and the batch
    /// statistics of each batch norm's input.
    pub(crate) fn forward(&self, latents: Tensor<2>) -> (FeatureMaps, Vec<Statistics>) {
        let mut statistics = Vec::new();
        let images = self.layers(latents, |output, bias| {
            statistics.push(output.statistics.clone().with_bias(bias));
            output
        });
        (images, statistics)
    }

    /// Computes images `[N, 28, 28, 1]` from latents `[N, 100]` in inference mode, with the running
    /// statistics of each batch norm.
    pub(crate) fn infer(&self, latents: Tensor<2>, running: Vec<Statistics>) -> FeatureMaps {
        let mut running = running.into_iter();
        self.layers(latents, |output, bias| {
            // Running statistics are those of the output with its bias, which `output` lacks.
            let running = running.next().expect("there are statistics for each batch norm");
            ConvOutput { statistics: running.with_bias(-bias), ..output }
        })
    }

    /// Applies all layers. `choose_statistics` is called with each convolution's output and bias,
    /// and returns the output with the statistics that its batch norm is to use.
    fn layers(
        &self,
        latents: Tensor<2>,
        mut choose_statistics: impl FnMut(ConvOutput, Tensor<1>) -> ConvOutput,
    ) -> FeatureMaps {
        debug_assert_eq!(latents.dims()[1], LATENT_LEN);
        let x =
            LayerInput { maps: dense(latents, &self.dense.kernel, &self.dense.bias), norm: None };
        let output = conv(x, &self.first.kernel, 1);
        let output = choose_statistics(output, self.first.bias.clone());
        let mut x = self.first.normalize(output, RELU_SLOPE);
        for layer in &self.upsampled {
            let output = upsample_conv(x, &layer.kernel);
            x = layer.normalize(choose_statistics(output, layer.bias.clone()), RELU_SLOPE);
        }
        to_images(x, &self.last.kernel, &self.last.bias)
    }

    /// The gradients with respect to all trained tensors, `[elements]` each, in the order of the
    /// network's table.
    pub(crate) fn gradients(&self, gradients: &mut Gradients) -> Vec<Tensor<1>> {
        let collector =
            GradCollector::new(gradients).weight_and_bias(&self.dense).conv_batch_norm(&self.first);
        self.upsampled
            .iter()
            .fold(collector, GradCollector::conv_batch_norm)
            .weight_and_bias(&self.last)
            .finish()
    }
}
