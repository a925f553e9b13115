//! Batch normalisation of what a convolution without its bias gives (Ioffe and Szegedy, ICML 2015).
//!
//! A bias in front of a batch norm in training mode cancels exactly: it moves the mean that is subtracted. So it is not
//! added, only counted in the mean that is reported, and its gradient is zero rather than a rounding error.

use burn::tensor::Tensor;

use super::Maps;

/// Added to the variance.
const EPSILON: f32 = 1e-3;

/// What a batch norm saw: mean and biased variance of each channel, `[C]`.
pub(crate) struct Statistics {
    pub(crate) mean: Tensor<1>,
    pub(crate) variance: Tensor<1>,
}

/// Normalises maps `[C, N, H, W]` by their own statistics.
pub(crate) fn batch_norm(x: Maps, conv_bias: Tensor<1>, scale: Tensor<1>, shift: Tensor<1>) -> (Maps, Statistics) {
    let [c, n, h, w] = x.dims();
    let x = x.reshape([c, n * h * w]);
    let mean = x.clone().mean_dim(1);
    let centred = x - mean.clone();
    let variance = (centred.clone() * centred.clone()).mean_dim(1);
    let factor = scale.reshape([c, 1]) / (variance.clone() + EPSILON).sqrt();
    let y = centred * factor + shift.reshape([c, 1]);
    let statistics = Statistics {
        mean: (mean.reshape([c]) + conv_bias).without_autodiff(),
        variance: variance.reshape([c]).without_autodiff(),
    };
    (y.reshape([c, n, h, w]), statistics)
}

/// Normalises maps `[C, N, H, W]` by given statistics, as in inference.
pub(crate) fn normalize(x: Maps, bias: Tensor<1>, scale: Tensor<1>, shift: Tensor<1>, known: Statistics) -> Maps {
    let c = x.dims()[0];
    let factor = scale / (known.variance + EPSILON).sqrt();
    let offset = (bias - known.mean) * factor.clone() + shift;
    x * factor.reshape([c, 1, 1, 1]) + offset.reshape([c, 1, 1, 1])
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::super::reference::{Array, values};
    use super::*;

    fn vector(values: [f32; 2]) -> Tensor<1> {
        Tensor::from_data(values, &Device::flex())
    }

    #[test]
    fn maps_are_normalised_by_their_own_statistics() {
        let x = Array::random([2, 3, 4, 5], 1);
        let (y, statistics) = batch_norm(x.tensor(), vector([5.0, -1.0]), vector([2.0, 3.0]), vector([0.5, -0.5]));
        let (y, means, variances) = (values(&y), values(&statistics.mean), values(&statistics.variance));
        for channel in 0..2 {
            let x = &x.values[60 * channel..][..60];
            let mean = x.iter().sum::<f32>() / 60.0;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 60.0;
            assert!((means[channel] - (mean + [5.0, -1.0][channel])).abs() < 1e-6);
            assert!((variances[channel] - variance).abs() < 1e-6);
            for (x, y) in x.iter().zip(&y[60 * channel..]) {
                let expected = (x - mean) / (variance + EPSILON).sqrt() * [2.0, 3.0][channel] + [0.5, -0.5][channel];
                assert!((y - expected).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn inference_by_the_same_statistics_gives_the_same() {
        let x = Array::random([2, 3, 4, 5], 1).tensor();
        let parameters = || (vector([5.0, -1.0]), vector([2.0, 3.0]), vector([0.5, -0.5]));
        let (bias, scale, shift) = parameters();
        let (trained, statistics) = batch_norm(x.clone(), bias, scale, shift);
        let (bias, scale, shift) = parameters();
        let inferred = normalize(x, bias, scale, shift, statistics);
        for (a, b) in values(&trained).iter().zip(values(&inferred)) {
            assert!((a - b).abs() < 1e-5);
        }
    }
}
