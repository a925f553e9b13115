//! The discriminator: three convolutions at stride 2, each with batch norm and leaky ReLU, then
//! global average pooling and a dense layer.

use burn::tensor::{Gradients, Tensor};

use crate::ops::{Conv, FeatureMaps, LayerInput, Statistics, ToLogits, conv, to_logits};
use crate::params::{ConvBatchNorm, GradCollector, NetworkParams, ParamReader, WeightAndBias};

/// The factor of negative values in leaky ReLU.
const NEGATIVE_SLOPE: f32 = 0.2;

/// The discriminator, with the parameters of one state.
pub(crate) struct Discriminator {
    convs: [ConvBatchNorm<Conv>; 3],
    dense: WeightAndBias<2, ToLogits>,
}

impl Discriminator {
    /// Makes the network of its parameters: leaves of the autodiff graph if `trained`, constants
    /// otherwise.
    pub(crate) fn new(params: &NetworkParams<'_>, trained: bool) -> Self {
        let mut reader = ParamReader::new(params, trained);
        Self { convs: [(); 3].map(|()| reader.conv_batch_norm()), dense: reader.weight_and_bias() }
    }

    /// Computes logits `[N, 1, 1, 1]` of images `[N, 28, 28, 1]` in training mode, and the batch
    /// statistics of each batch norm's input.
    pub(crate) fn forward(&self, images: FeatureMaps) -> (FeatureMaps, Vec<Statistics>) {
        let mut x = LayerInput { maps: images, norm: None };
        let mut statistics = Vec::new();
        for layer in &self.convs {
            let output = conv(x, &layer.kernel, 2);
            statistics.push(output.statistics.clone().with_bias(layer.bias.clone()));
            x = layer.normalize(output, NEGATIVE_SLOPE);
        }
        (to_logits(x, &self.dense.kernel, &self.dense.bias), statistics)
    }

    /// The gradients with respect to all trained tensors, `[elements]` each, in the order of the
    /// network's table.
    pub(crate) fn gradients(&self, gradients: &mut Gradients) -> Vec<Tensor<1>> {
        let collector = GradCollector::new(gradients);
        self.convs
            .iter()
            .fold(collector, GradCollector::conv_batch_norm)
            .weight_and_bias(&self.dense)
            .finish()
    }
}
