//! The operations that take the time. FeatureMaps are channels-last, `[images, rows, columns, channels]`.
//!
//! Each exists twice: written for the processor ([`cpu`]), and in plain burn operations ([`plain`]), which run on every
//! device and are what the others are tested against. [`LayerWeights`] is the switch.

pub(crate) mod cpu;
mod plain;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::tensor::{Tensor, activation};

pub(crate) use cpu::{
    ConvToImageWeights, ConvWeights, DenseWeights, Isa, PackWeights, PoolWeights, UpsampleWeights,
    WithIsa,
};

/// FeatureMaps, `[images, rows, columns, channels]`.
pub(crate) type FeatureMaps = Tensor<4>;

/// Added to a variance.
const EPSILON: f32 = 1e-3;

/// Weights, and by which path they are used.
pub(crate) struct LayerWeights<const D: usize, P> {
    pub(crate) tensor: Tensor<D>,
    pub(crate) path: Implementation<P>,
}

/// How operations are computed.
pub(crate) enum Implementation<P> {
    /// In plain burn operations.
    Plain,
    /// On the processor, with weights prepared for it.
    Cpu(Isa, Arc<P>),
}

/// Mean and biased variance of each channel, `[C]`.
#[derive(Clone)]
pub(crate) struct Statistics {
    pub(crate) mean: Tensor<1>,
    pub(crate) variance: Tensor<1>,
}

impl Statistics {
    /// Those of the same maps with a bias added to each channel. No gradients pass.
    pub(crate) fn with_bias(self, bias: Tensor<1>) -> Self {
        let mean = self.mean.without_autodiff() + bias.without_autodiff();
        Self { mean, variance: self.variance.without_autodiff() }
    }
}

/// What comes out of a convolution without its bias, with its statistics.
///
/// A bias in front of a batch norm in training mode cancels exactly: it moves the mean that is subtracted. So it is not
/// added, and its gradient is zero rather than a rounding error.
pub(crate) struct ConvOutput {
    pub(crate) maps: FeatureMaps,
    pub(crate) statistics: Statistics,
}

/// What a convolution reads: maps, normalised first if they came out of another one.
pub(crate) struct LayerInput {
    pub(crate) maps: FeatureMaps,
    pub(crate) norm: Option<Normalization>,
}

/// A batch norm by given statistics, and the (leaky) ReLU after it.
pub(crate) struct Normalization {
    pub(crate) statistics: Statistics,
    pub(crate) scale: Tensor<1>,
    pub(crate) shift: Tensor<1>,
    /// What negative numbers are multiplied by.
    pub(crate) slope: f32,
}

/// Vectors `[N, inputs]` to maps `[N, 7, 7, channels]`: a dense layer whose outputs are channel-major, with ReLU.
pub(crate) fn dense(
    x: Tensor<2>,
    kernel: &LayerWeights<2, DenseWeights>,
    bias: &Tensor<1>,
) -> FeatureMaps {
    match &kernel.path {
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

/// A 3 x 3 convolution with Keras's 'same' padding.
pub(crate) fn conv(
    input: LayerInput,
    kernel: &LayerWeights<4, ConvWeights>,
    stride: usize,
) -> ConvOutput {
    match &kernel.path {
        Implementation::Cpu(isa, weights) => {
            cpu::conv(*isa, weights, input, kernel.tensor.clone(), stride)
        }
        Implementation::Plain => plain::with_statistics(plain::conv3x3(
            plain::normed(input),
            kernel.tensor.clone(),
            stride,
        )),
    }
}

/// Nearest upsampling by two, and a 3 x 3 convolution.
pub(crate) fn upsample_conv(
    input: LayerInput,
    kernel: &LayerWeights<4, UpsampleWeights>,
) -> ConvOutput {
    match &kernel.path {
        Implementation::Cpu(isa, weights) => {
            cpu::upsample_conv(*isa, weights, input, kernel.tensor.clone())
        }
        Implementation::Plain => plain::with_statistics(plain::upsample_conv3x3(
            plain::normed(input),
            kernel.tensor.clone(),
        )),
    }
}

/// A 3 x 3 convolution to one channel with its bias and tanh: images `[N, rows, columns, 1]`.
pub(crate) fn to_images(
    input: LayerInput,
    kernel: &LayerWeights<4, ConvToImageWeights>,
    bias: &Tensor<1>,
) -> FeatureMaps {
    match &kernel.path {
        Implementation::Cpu(isa, weights) => {
            cpu::to_images(*isa, weights, input, kernel.tensor.clone(), bias.clone())
        }
        Implementation::Plain => {
            let maps = plain::conv3x3_to_one(plain::normed(input), kernel.tensor.clone());
            (maps + bias.clone().reshape([1, 1, 1, 1])).tanh()
        }
    }
}

/// The mean of each channel and a dense layer to one logit for each image: `[N, 1, 1, 1]`.
pub(crate) fn to_logits(
    input: LayerInput,
    kernel: &LayerWeights<2, PoolWeights>,
    bias: &Tensor<1>,
) -> FeatureMaps {
    match &kernel.path {
        Implementation::Cpu(isa, weights) => {
            cpu::to_logits(*isa, weights, input, kernel.tensor.clone(), bias.clone())
        }
        Implementation::Plain => {
            let maps = plain::normed(input);
            let [n, h, w, c] = maps.dims();
            let pooled = maps.reshape([n, h * w, c]).mean_dim(1).reshape([n, c]);
            (pooled.matmul(kernel.tensor.clone().transpose()) + bias.clone().reshape([1, 1]))
                .reshape([n, 1, 1, 1])
        }
    }
}
