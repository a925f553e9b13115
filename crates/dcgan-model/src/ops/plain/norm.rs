//! Batch normalisation (Ioffe and Szegedy, ICML 2015) and (leaky) ReLU.

use burn::tensor::activation;

use super::super::{ConvOutput, EPSILON, FeatureMaps, LayerInput, Normalization, Statistics};

/// Maps `[N, H, W, C]` with the mean and the biased variance of each channel.
pub(crate) fn with_statistics(maps: FeatureMaps) -> ConvOutput {
    let [n, h, w, c] = maps.dims();
    let pixels = maps.clone().reshape([n * h * w, c]);
    let mean = pixels.clone().mean_dim(0);
    let centred = pixels - mean.clone();
    let variance = (centred.clone() * centred).mean_dim(0);
    ConvOutput {
        maps,
        statistics: Statistics { mean: mean.reshape([c]), variance: variance.reshape([c]) },
    }
}

/// A layer's input `[N, H, W, C]` after its batch norm and activation, if it has them.
pub(crate) fn normalized(LayerInput { maps, norm }: LayerInput) -> FeatureMaps {
    let Some(Normalization { statistics, scale, shift, negative_slope }) = norm else {
        return maps;
    };
    let Statistics { mean, variance } = statistics;
    let shape = [1, 1, 1, mean.dims()[0]];
    let factor = (scale / (variance + EPSILON).sqrt()).reshape(shape);
    let y = (maps - mean.reshape(shape)) * factor + shift.reshape(shape);
    match negative_slope {
        0.0 => activation::relu(y),
        slope => activation::leaky_relu(y, slope.into()),
    }
}
