//! The operations on the processor, written for it: channels-last maps, a few images at a time, and the same bits on every
//! processor.
//!
//! Nothing here depends on the width of vectors, on cache sizes or on the platform's libm: sums run in an order of their
//! own, products are fused ([`product`]), functions are polynomials.

mod buffers;
mod conv;
mod dense;
mod graph;
mod isa;
mod layer;
pub mod measure;
mod norm;
mod output;
mod pool;
mod product;
mod taps;
mod to_one;
mod upsample;

use std::sync::{Arc, OnceLock};

use burn::tensor::{Tensor, TensorData};

pub(crate) use conv::ConvWeights;
pub(crate) use dense::DenseWeights;
pub(crate) use isa::{Isa, Loop};
pub(crate) use pool::PoolWeights;
pub(crate) use to_one::ToOneWeights;
pub(crate) use upsample::UpsampleWeights;

use super::{Input, Maps, Raw, Statistics};
use conv::Conv;
use dense::Dense;
use layer::{Layer, Linear};
use norm::Norm;
use output::Output;
use pool::Pool;
use to_one::ToOne;
use upsample::Upsample;

/// Weights in the form that an operation needs.
pub(crate) trait Prepare: Send + Sync + 'static {
    /// From a tensor of the state, with its shape.
    fn prepare(values: &[f32], shape: &[usize]) -> Self;
}

pub(crate) fn dense(isa: Isa, weights: &Arc<DenseWeights>, x: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>) -> Maps {
    let operation = Dense { isa, weights: Arc::clone(weights), images: x.dims()[0] };
    graph::apply(Arc::new(operation), x, [nothing(&bias), bias], weight)
}

pub(crate) fn conv(isa: Isa, weights: &Arc<ConvWeights>, input: Input, weight: Tensor<4>, stride: usize) -> Raw {
    let [_, h, w, _] = input.maps.dims();
    raw(isa, Conv { size: [h, w], stride, weights: Arc::clone(weights) }, input, weight)
}

pub(crate) fn upsample_conv(isa: Isa, weights: &Arc<UpsampleWeights>, input: Input, weight: Tensor<4>) -> Raw {
    let [_, h, w, _] = input.maps.dims();
    raw(isa, Upsample { size: [h, w], weights: Arc::clone(weights) }, input, weight)
}

pub(crate) fn to_images(
    isa: Isa,
    weights: &Arc<ToOneWeights>,
    input: Input,
    weight: Tensor<4>,
    bias: Tensor<1>,
) -> Maps {
    let [_, h, w, _] = input.maps.dims();
    let maps = layer(isa, ToOne { size: [h, w], weights: Arc::clone(weights) }, input, weight, None);
    output(isa, maps, bias, true)
}

pub(crate) fn to_logits(
    isa: Isa,
    weights: &Arc<PoolWeights>,
    input: Input,
    weight: Tensor<2>,
    bias: Tensor<1>,
) -> Maps {
    let [_, h, w, _] = input.maps.dims();
    let maps = layer(isa, Pool { size: [h, w], weights: Arc::clone(weights) }, input, weight, None);
    output(isa, maps, bias, false)
}

fn output(isa: Isa, maps: Maps, bias: Tensor<1>, tanh: bool) -> Maps {
    let operation = Output { isa, shape: maps.dims().to_vec(), tanh };
    graph::apply(Arc::new(operation), maps, [nothing(&bias), bias.clone()], nothing(&bias))
}

/// A convolution whose result is to be normalised.
fn raw<L: Linear + 'static, const D: usize>(isa: Isa, linear: L, input: Input, weight: Tensor<D>) -> Raw {
    let sums = Arc::new(OnceLock::new());
    let maps = layer(isa, linear, input, weight, Some(Arc::clone(&sums)));
    let [mean, variance] = sums.get().expect("the operation has run").statistics().map(|values| {
        let len = values.len();
        Tensor::from_data(TensorData::new(values, [len]), &maps.device().without_autodiff())
    });
    Raw { maps, statistics: Statistics { mean, variance } }
}

fn layer<L: Linear + 'static, const D: usize>(
    isa: Isa,
    linear: L,
    input: Input,
    weight: Tensor<D>,
    sums: Option<Arc<OnceLock<norm::Sums>>>,
) -> Maps {
    let Input { maps, norm } = input;
    let (norm, parameters) = match norm {
        None => (None, [(); 2].map(|()| nothing(&weight))),
        Some(super::Norm { statistics: Statistics { mean, variance }, scale, shift, slope }) => {
            let [mean, variance] = [mean, variance].map(values);
            (Some(Norm { mean, variance, slope }), [scale, shift])
        }
    };
    let operation = Layer { isa, linear, norm, images: maps.dims()[0], sums };
    graph::apply(Arc::new(operation), maps, parameters, weight)
}

fn values(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("all tensors are of f32")
}

/// What an operation gets that has no use for an input.
fn nothing<const D: usize>(like: &Tensor<D>) -> Tensor<1> {
    Tensor::empty([0], &like.device().without_autodiff())
}
