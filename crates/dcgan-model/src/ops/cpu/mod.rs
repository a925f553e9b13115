//! The operations written for the processor: channels-last maps, a few images at a time, and the
//! same bits on every processor.
//!
//! Results depend neither on the width of vectors, nor on cache sizes, nor on the platform's libm:
//! sums run in a fixed order, multiply and add are fused ([`gemm`]), functions are polynomials.
//!
//! The functions here have the signatures of those in [`super`], which choose between this and
//! plain burn; they put an operation together and make it a node of the autodiff graph. A kernel is
//! a [`BlockOp`](fused_layer::BlockOp); [`FusedLayer`] adds batch norm and activation.

mod autodiff;
pub mod bench_cases;
mod bias_tanh;
mod buffer_pool;
mod conv;
mod conv_to_image;
mod dense;
mod fused_layer;
mod gemm;
mod isa;
mod kernel_layout;
mod norm;
mod pool;
mod upsample;

use std::sync::{Arc, OnceLock};

use burn::tensor::{Tensor, TensorData};

pub(crate) use conv::ConvWeights;
pub(crate) use conv_to_image::ConvToImageWeights;
pub(crate) use dense::DenseWeights;
pub(crate) use gemm::{GemmTask, LeftMatrix};
pub(crate) use isa::{Isa, WithIsa};
pub(crate) use pool::PoolWeights;
pub(crate) use upsample::UpsampleWeights;

use super::{ConvOutput, FeatureMaps, LayerInput, Normalization, Statistics};
use bias_tanh::BiasTanh;
use conv::Conv;
use conv_to_image::ConvToImage;
use dense::Dense;
use fused_layer::{BlockOp, FusedLayer};
use norm::{BatchNorm, ChannelSums};
use pool::Pool;
use upsample::Upsample;

/// Weights in the layout that a kernel reads.
pub(crate) trait PackWeights: Send + Sync + 'static {
    /// Packs a tensor of the state, given its values in row-major order and its shape.
    fn pack(values: &[f32], shape: &[usize]) -> Self;
}

/// Implements [`super::dense`]: `[N, inputs]` to `[N, 7, 7, channels]`.
pub(crate) fn dense(
    isa: Isa,
    weights: &Arc<DenseWeights>,
    x: Tensor<2>,
    weight: Tensor<2>,
    bias: Tensor<1>,
) -> FeatureMaps {
    let operation = Dense { isa, weights: Arc::clone(weights), images: x.dims()[0] };
    autodiff::apply(Arc::new(operation), x, [no_input(&bias), bias], weight)
}

/// Implements [`super::conv`]: `[N, H, W, inputs]` to `[N, ceil(H / stride), ceil(W / stride),
/// outputs]`.
pub(crate) fn conv(
    isa: Isa,
    weights: &Arc<ConvWeights>,
    input: LayerInput,
    weight: Tensor<4>,
    stride: usize,
) -> ConvOutput {
    let size = size_of(&input);
    let op = Conv { size, stride, weights: Arc::clone(weights) };
    layer_with_statistics(isa, op, input, weight)
}

/// Implements [`super::upsample_conv`]: `[N, H, W, inputs]` to `[N, 2H, 2W, outputs]`.
pub(crate) fn upsample_conv(
    isa: Isa,
    weights: &Arc<UpsampleWeights>,
    input: LayerInput,
    weight: Tensor<4>,
) -> ConvOutput {
    let op = Upsample { size: size_of(&input), weights: Arc::clone(weights) };
    layer_with_statistics(isa, op, input, weight)
}

/// Implements [`super::to_images`]: `[N, H, W, inputs]` to `[N, H, W, 1]`.
pub(crate) fn to_images(
    isa: Isa,
    weights: &Arc<ConvToImageWeights>,
    input: LayerInput,
    weight: Tensor<4>,
    bias: Tensor<1>,
) -> FeatureMaps {
    let op = ConvToImage { size: size_of(&input), weights: Arc::clone(weights) };
    let maps = layer(isa, op, input, weight, None);
    bias_tanh(isa, maps, bias, true)
}

/// Implements [`super::to_logits`]: `[N, H, W, channels]` to `[N, 1, 1, 1]`.
pub(crate) fn to_logits(
    isa: Isa,
    weights: &Arc<PoolWeights>,
    input: LayerInput,
    weight: Tensor<2>,
    bias: Tensor<1>,
) -> FeatureMaps {
    let op = Pool { size: size_of(&input), weights: Arc::clone(weights) };
    let maps = layer(isa, op, input, weight, None);
    bias_tanh(isa, maps, bias, false)
}

/// Adds a bias `[1]` to maps of any shape, and applies tanh if `tanh`.
fn bias_tanh(isa: Isa, maps: FeatureMaps, bias: Tensor<1>, tanh: bool) -> FeatureMaps {
    let operation = BiasTanh { isa, shape: maps.dims().to_vec(), tanh };
    // The bias goes into the slot of the shift, as in `dense`: see `OpInputs`.
    let slots = [no_input(&bias), bias.clone()];
    autodiff::apply(Arc::new(operation), maps, slots, no_input(&bias))
}

/// Applies a fused layer before a batch norm: the output comes with its statistics.
fn layer_with_statistics<L: BlockOp + 'static, const D: usize>(
    isa: Isa,
    op: L,
    input: LayerInput,
    weight: Tensor<D>,
) -> ConvOutput {
    let sums = Arc::new(OnceLock::new());
    let maps = layer(isa, op, input, weight, Some(Arc::clone(&sums)));
    let [mean, variance] = sums.get().expect("the operation has run").statistics().map(|values| {
        let len = values.len();
        Tensor::from_data(TensorData::new(values, [len]), &maps.device().without_autodiff())
    });
    ConvOutput { maps, statistics: Statistics { mean, variance } }
}

/// Applies a fused layer, which leaves the sums over its output's channels in `output_sums`.
fn layer<L: BlockOp + 'static, const D: usize>(
    isa: Isa,
    op: L,
    input: LayerInput,
    weight: Tensor<D>,
    output_sums: Option<Arc<OnceLock<ChannelSums>>>,
) -> FeatureMaps {
    let LayerInput { maps, norm } = input;
    let (norm, scale_and_shift) = match norm {
        None => (None, [no_input(&weight), no_input(&weight)]),
        Some(Normalization { statistics, scale, shift, negative_slope }) => {
            let mean = values(statistics.mean);
            let variance = values(statistics.variance);
            (Some(BatchNorm { mean, variance, negative_slope }), [scale, shift])
        }
    };
    let operation = FusedLayer { isa, op, norm, images: maps.dims()[0], output_sums };
    autodiff::apply(Arc::new(operation), maps, scale_and_shift, weight)
}

/// The rows and columns of a layer's input.
fn size_of(input: &LayerInput) -> [usize; 2] {
    let [_, rows, columns, _] = input.maps.dims();
    [rows, columns]
}

/// The values of a tensor `[elements]`.
pub(crate) fn values(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("all tensors are of f32")
}

/// An empty tensor `[0]` for an input that an operation does not read, on the device of `like`.
fn no_input<const D: usize>(like: &Tensor<D>) -> Tensor<1> {
    Tensor::empty([0], &like.device().without_autodiff())
}
