//! The discriminator: three convolutions at stride 2, each with batch norm and leaky ReLU, then the mean of each channel
//! and a dense layer.

use burn::tensor::Gradients;
use dcgan_core::state::State;

use crate::device::ExecutionDevice;
use crate::layout::NetworkTensors;
use crate::ops::{ConvWeights, FeatureMaps, LayerInput, PoolWeights, Statistics, conv, to_logits};
use crate::params::{ConvBatchNorm, GradCollector, ParamReader, WeightAndBias};

/// What negative numbers are multiplied by.
const SLOPE: f32 = 0.2;

pub(crate) struct Discriminator {
    convs: [ConvBatchNorm<ConvWeights>; 3],
    dense: WeightAndBias<2, PoolWeights>,
}

impl Discriminator {
    pub(crate) fn new(
        state: &State,
        tensors: &NetworkTensors,
        device: &ExecutionDevice,
        trained: bool,
    ) -> Self {
        let mut reader = ParamReader::new(state, tensors, device, trained);
        Self { convs: [(); 3].map(|()| reader.conv_batch_norm()), dense: reader.weight_and_bias() }
    }

    /// Images `[N, 28, 28, 1]` to logits `[N, 1, 1, 1]`, by batch statistics.
    pub(crate) fn forward(&self, images: FeatureMaps) -> (FeatureMaps, Vec<Statistics>) {
        let mut x = LayerInput { maps: images, norm: None };
        let mut seen = Vec::new();
        for layer in &self.convs {
            let raw = conv(x, &layer.kernel, 2);
            seen.push(raw.statistics.clone().with_bias(layer.bias.clone()));
            x = layer.normalize(raw, SLOPE);
        }
        (to_logits(x, &self.dense.kernel, &self.dense.bias), seen)
    }

    /// The gradients of all trained tensors, in the order of the table.
    pub(crate) fn gradients(&self, gradients: &mut Gradients, len: usize) -> Vec<f32> {
        let collector = GradCollector::new(gradients, len);
        self.convs
            .iter()
            .fold(collector, GradCollector::conv_batch_norm)
            .weight_and_bias(&self.dense)
            .finish()
    }
}
