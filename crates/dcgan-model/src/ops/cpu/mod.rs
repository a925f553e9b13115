//! The operations on the processor, written for it: channels-last maps, a few images at a time, and the same bits on every
//! processor.
//!
//! Nothing here depends on the width of vectors, on cache sizes or on the platform's libm: sums run in an order of their
//! own, products are fused ([`gemm`]), functions are polynomials.

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
pub(crate) use isa::{Isa, WithIsa};
pub(crate) use pool::PoolWeights;
pub(crate) use upsample::UpsampleWeights;

use super::{ConvOutput, FeatureMaps, LayerInput, Statistics};
use bias_tanh::BiasTanh;
use conv::Conv;
use conv_to_image::ConvToImage;
use dense::Dense;
use fused_layer::{BlockOp, FusedLayer};
use norm::BatchNorm;
use pool::Pool;
use upsample::Upsample;

/// Weights in the form that an operation needs.
pub(crate) trait PackWeights: Send + Sync + 'static {
    /// From a tensor of the state, with its shape.
    fn prepare(values: &[f32], shape: &[usize]) -> Self;
}

pub(crate) fn dense(
    isa: Isa,
    weights: &Arc<DenseWeights>,
    x: Tensor<2>,
    weight: Tensor<2>,
    bias: Tensor<1>,
) -> FeatureMaps {
    let operation = Dense { isa, weights: Arc::clone(weights), images: x.dims()[0] };
    autodiff::apply(Arc::new(operation), x, [nothing(&bias), bias], weight)
}

pub(crate) fn conv(
    isa: Isa,
    weights: &Arc<ConvWeights>,
    input: LayerInput,
    weight: Tensor<4>,
    stride: usize,
) -> ConvOutput {
    let [_, h, w, _] = input.maps.dims();
    raw(isa, Conv { size: [h, w], stride, weights: Arc::clone(weights) }, input, weight)
}

pub(crate) fn upsample_conv(
    isa: Isa,
    weights: &Arc<UpsampleWeights>,
    input: LayerInput,
    weight: Tensor<4>,
) -> ConvOutput {
    let [_, h, w, _] = input.maps.dims();
    raw(isa, Upsample { size: [h, w], weights: Arc::clone(weights) }, input, weight)
}

pub(crate) fn to_images(
    isa: Isa,
    weights: &Arc<ConvToImageWeights>,
    input: LayerInput,
    weight: Tensor<4>,
    bias: Tensor<1>,
) -> FeatureMaps {
    let [_, h, w, _] = input.maps.dims();
    let maps =
        layer(isa, ConvToImage { size: [h, w], weights: Arc::clone(weights) }, input, weight, None);
    output(isa, maps, bias, true)
}

pub(crate) fn to_logits(
    isa: Isa,
    weights: &Arc<PoolWeights>,
    input: LayerInput,
    weight: Tensor<2>,
    bias: Tensor<1>,
) -> FeatureMaps {
    let [_, h, w, _] = input.maps.dims();
    let maps = layer(isa, Pool { size: [h, w], weights: Arc::clone(weights) }, input, weight, None);
    output(isa, maps, bias, false)
}

fn output(isa: Isa, maps: FeatureMaps, bias: Tensor<1>, tanh: bool) -> FeatureMaps {
    let operation = BiasTanh { isa, shape: maps.dims().to_vec(), tanh };
    autodiff::apply(Arc::new(operation), maps, [nothing(&bias), bias.clone()], nothing(&bias))
}

/// A convolution whose result is to be normalised.
fn raw<L: BlockOp + 'static, const D: usize>(
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

fn layer<L: BlockOp + 'static, const D: usize>(
    isa: Isa,
    op: L,
    input: LayerInput,
    weight: Tensor<D>,
    sums: Option<Arc<OnceLock<norm::Sums>>>,
) -> FeatureMaps {
    let LayerInput { maps, norm } = input;
    let (norm, parameters) = match norm {
        None => (None, [(); 2].map(|()| nothing(&weight))),
        Some(super::Normalization {
            statistics: Statistics { mean, variance },
            scale,
            shift,
            slope,
        }) => {
            let [mean, variance] = [mean, variance].map(values);
            (Some(BatchNorm { mean, variance, slope }), [scale, shift])
        }
    };
    let operation = FusedLayer { isa, op, norm, images: maps.dims()[0], sums };
    autodiff::apply(Arc::new(operation), maps, parameters, weight)
}

fn values(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("all tensors are of f32")
}

/// What an operation gets that has no use for an input.
fn nothing<const D: usize>(like: &Tensor<D>) -> Tensor<1> {
    Tensor::empty([0], &like.device().without_autodiff())
}
