//! The networks' operations. Maps are channels-last (NHWC), `[images, rows, columns, channels]`.
//!
//! Each operation has two implementations: one written for the processor ([`cpu`]), and one of
//! plain burn operations ([`plain`]), which runs on every device and is what the other is tested
//! against. The functions here choose by [`LayerWeights`], since the weights are packed for one of
//! the two.

pub(crate) mod cpu;
mod plain;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::tensor::{Tensor, activation};

pub(crate) use cpu::{GemmTask, Isa, LeftMatrix, PackWeights, WithIsa, values};
pub(crate) use plain::normalized;

/// Maps, `[images, rows, columns, channels]`.
pub(crate) type FeatureMaps = Tensor<4>;

/// Added to a variance before the root is taken.
pub(crate) const EPSILON: f32 = 1e-3;

/// An operation with weights, and the forms that its implementations have these in. A layer is
/// declared by its operation, so only this file knows the forms.
pub(crate) trait WeightedOp {
    /// The weights packed for the processor's implementation.
    type CpuWeights: PackWeights;
}

/// The operation [`dense`].
pub(crate) enum Dense {}

impl WeightedOp for Dense {
    type CpuWeights = cpu::DenseWeights;
}

/// The operation [`conv`].
pub(crate) enum Conv {}

impl WeightedOp for Conv {
    type CpuWeights = cpu::ConvWeights;
}

/// The operation [`upsample_conv`].
pub(crate) enum UpsampleConv {}

impl WeightedOp for UpsampleConv {
    type CpuWeights = cpu::UpsampleWeights;
}

/// The operation [`to_images`].
pub(crate) enum ToImages {}

impl WeightedOp for ToImages {
    type CpuWeights = cpu::ConvToImageWeights;
}

/// The operation [`to_logits`].
pub(crate) enum ToLogits {}

impl WeightedOp for ToLogits {
    type CpuWeights = cpu::PoolWeights;
}

/// A layer's weights, with the implementation that uses them.
pub(crate) struct LayerWeights<const D: usize, O: WeightedOp> {
    /// The weights as the state has them: the leaf of the autodiff graph.
    pub(crate) tensor: Tensor<D>,
    pub(crate) implementation: Implementation<O>,
}

/// An implementation of an operation.
pub(crate) enum Implementation<O: WeightedOp> {
    /// Plain burn operations.
    Plain,
    /// The processor's, with the same weights packed for it.
    Cpu(Isa, Arc<O::CpuWeights>),
}

/// Mean and biased variance of each channel, `[C]`.
#[derive(Clone)]
pub(crate) struct Statistics {
    pub(crate) mean: Tensor<1>,
    pub(crate) variance: Tensor<1>,
}

impl Statistics {
    /// The statistics of the same maps with a bias `[C]` added to each channel. No gradients pass.
    pub(crate) fn with_bias(self, bias: Tensor<1>) -> Self {
        let mean = self.mean.without_autodiff() + bias.without_autodiff();
        Self { mean, variance: self.variance.without_autodiff() }
    }
}

/// The output of a convolution without its bias, with its statistics.
///
/// A bias in front of a batch norm in training mode cancels exactly: it moves the mean that is
/// subtracted. So it is not added, and its gradient is zero rather than a rounding error.
pub(crate) struct ConvOutput {
    pub(crate) maps: FeatureMaps,
    pub(crate) statistics: Statistics,
}

/// The input of a layer: maps, and the batch norm that the layer applies to them first.
pub(crate) struct LayerInput {
    pub(crate) maps: FeatureMaps,
    pub(crate) norm: Option<Normalization>,
}

/// A batch norm with given statistics, and the (leaky) ReLU after it.
pub(crate) struct Normalization {
    pub(crate) statistics: Statistics,
    /// Gamma, `[C]`.
    pub(crate) scale: Tensor<1>,
    /// Beta, `[C]`.
    pub(crate) shift: Tensor<1>,
    /// The factor of negative values: 0 for ReLU.
    pub(crate) negative_slope: f32,
}

/// A dense layer with ReLU: vectors `[N, inputs]` to maps `[N, 7, 7, channels]`. The kernel
/// `[channels x 49, inputs]` and the bias `[channels x 49]` have channel-major outputs.
pub(crate) fn dense(
    x: Tensor<2>,
    kernel: &LayerWeights<2, Dense>,
    bias: &Tensor<1>,
) -> FeatureMaps {
    match &kernel.implementation {
        Implementation::Cpu(isa, weights) => {
            cpu::dense(*isa, weights, x, kernel.tensor.clone(), bias.clone())
        }
        Implementation::Plain => {
            let [n, _] = x.dims();
            let [outputs, _] = kernel.tensor.dims();
            let y =
                x.matmul(kernel.tensor.clone().transpose()) + bias.clone().reshape([1, outputs]);
            activation::relu(y).reshape([n, outputs / 49, 7, 7]).permute([0, 2, 3, 1])
        }
    }
}

/// A 3 x 3 convolution with Keras's 'same' padding: maps `[N, H, W, inputs]` and a kernel
/// `[outputs, inputs, 3, 3]` to `[N, ceil(H / stride), ceil(W / stride), outputs]`.
pub(crate) fn conv(input: LayerInput, kernel: &LayerWeights<4, Conv>, stride: usize) -> ConvOutput {
    match &kernel.implementation {
        Implementation::Cpu(isa, weights) => {
            cpu::conv(*isa, weights, input, kernel.tensor.clone(), stride)
        }
        Implementation::Plain => plain::with_statistics(plain::conv3x3(
            plain::normalized(input),
            kernel.tensor.clone(),
            stride,
        )),
    }
}

/// Nearest upsampling by two, and a 3 x 3 convolution: maps `[N, H, W, inputs]` and a kernel
/// `[outputs, inputs, 3, 3]` to `[N, 2H, 2W, outputs]`.
pub(crate) fn upsample_conv(
    input: LayerInput,
    kernel: &LayerWeights<4, UpsampleConv>,
) -> ConvOutput {
    match &kernel.implementation {
        Implementation::Cpu(isa, weights) => {
            cpu::upsample_conv(*isa, weights, input, kernel.tensor.clone())
        }
        Implementation::Plain => plain::with_statistics(plain::upsample_conv3x3(
            plain::normalized(input),
            kernel.tensor.clone(),
        )),
    }
}

/// A 3 x 3 convolution to one channel with its bias and tanh: maps `[N, H, W, inputs]` and a kernel
/// `[1, inputs, 3, 3]` to images `[N, H, W, 1]`.
pub(crate) fn to_images(
    input: LayerInput,
    kernel: &LayerWeights<4, ToImages>,
    bias: &Tensor<1>,
) -> FeatureMaps {
    match &kernel.implementation {
        Implementation::Cpu(isa, weights) => {
            cpu::to_images(*isa, weights, input, kernel.tensor.clone(), bias.clone())
        }
        Implementation::Plain => {
            let maps = plain::conv3x3_to_one(plain::normalized(input), kernel.tensor.clone());
            (maps + bias.clone().reshape([1, 1, 1, 1])).tanh()
        }
    }
}

/// Global average pooling, and a dense layer to one logit for each image: maps `[N, H, W,
/// channels]` and a kernel `[1, channels]` to `[N, 1, 1, 1]`.
pub(crate) fn to_logits(
    input: LayerInput,
    kernel: &LayerWeights<2, ToLogits>,
    bias: &Tensor<1>,
) -> FeatureMaps {
    match &kernel.implementation {
        Implementation::Cpu(isa, weights) => {
            cpu::to_logits(*isa, weights, input, kernel.tensor.clone(), bias.clone())
        }
        Implementation::Plain => {
            let maps = plain::normalized(input);
            let [n, h, w, c] = maps.dims();
            let pooled = maps.reshape([n, h * w, c]).mean_dim(1).reshape([n, c]);
            (pooled.matmul(kernel.tensor.clone().transpose()) + bias.clone().reshape([1, 1]))
                .reshape([n, 1, 1, 1])
        }
    }
}
