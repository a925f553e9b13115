//! The operations' definitions, as loops over single numbers in double precision. The operations
//! are tested against them.

use burn::tensor::{Device, Tensor, TensorData};
use dcgan_core::random::{Purpose, RandomStream};

use super::EPSILON;

/// Values in row-major order, with their shape.
#[derive(Clone)]
pub(super) struct Array {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f64>,
}

impl Array {
    /// Standard normals, rounded to single precision.
    pub(super) fn random(shape: &[usize], seed: u64) -> Self {
        let values = RandomStream::new(seed, Purpose::Data, 0, 0)
            .normals(shape.iter().product())
            .map(f64::from)
            .collect();
        Self { shape: shape.to_vec(), values }
    }

    /// The values in single precision.
    pub(super) fn singles(&self) -> Vec<f32> {
        self.values.iter().map(|value| *value as f32).collect()
    }

    /// A leaf of the autodiff graph.
    pub(super) fn leaf<const D: usize>(&self) -> Tensor<D> {
        let shape: [usize; D] = self.shape.as_slice().try_into().unwrap();
        Tensor::from_data(TensorData::new(self.singles(), shape), &Device::flex())
            .autodiff()
            .require_grad()
    }

    /// The sum of the products of corresponding values.
    pub(super) fn dot(&self, other: &Self) -> f64 {
        self.values.iter().zip(&other.values).map(|(a, b)| a * b).sum()
    }

    fn dims(&self) -> [usize; 4] {
        self.shape.as_slice().try_into().unwrap()
    }

    /// Maps `[images, rows, columns, channels]` from a function of image, row, column and channel.
    fn maps(dims: [usize; 4], f: impl Fn([usize; 4]) -> f64) -> Self {
        let [_, h, w, c] = dims;
        let len = dims.iter().product();
        let values = (0..len)
            .map(|index| f([index / (h * w * c), index / (w * c) % h, index / c % w, index % c]));
        Self { shape: dims.to_vec(), values: values.collect() }
    }
}

/// A 3 x 3 convolution with 'same' padding of maps `[N, H, W, C]` that are first upsampled by
/// `factor`, with weights `[O, C, 3, 3]`: maps `[N, ceil(H factor / stride), .., O]`.
pub(super) fn conv(x: &Array, weight: &Array, factor: usize, stride: usize) -> Array {
    let [n, h, w, c] = x.dims();
    let outputs = weight.shape[0];
    let size = [h * factor, w * factor];
    let out = size.map(|size| size.div_ceil(stride));
    let before = [0, 1].map(|i| ((out[i] - 1) * stride + 3).saturating_sub(size[i]) / 2);
    Array::maps([n, out[0], out[1], outputs], |[image, row, column, o]| {
        let mut sum = 0.0;
        for tap in 0..9 {
            let y = (row * stride + tap / 3).checked_sub(before[0]).filter(|&y| y < size[0]);
            let x_ = (column * stride + tap % 3).checked_sub(before[1]).filter(|&x| x < size[1]);
            if let (Some(y), Some(x_)) = (y, x_) {
                let pixel = ((image * h + y / factor) * w + x_ / factor) * c;
                sum += (0..c)
                    .map(|c_| x.values[pixel + c_] * weight.values[(o * c + c_) * 9 + tap])
                    .sum::<f64>();
            }
        }
        sum
    })
}

/// The mean and the biased variance of each channel of maps `[N, H, W, C]`.
pub(super) fn statistics(x: &Array) -> [Vec<f64>; 2] {
    let [n, h, w, c] = x.dims();
    let count = (n * h * w) as f64;
    let of = |channel: usize| x.values.iter().skip(channel).step_by(c);
    let mean: Vec<f64> = (0..c).map(|channel| of(channel).sum::<f64>() / count).collect();
    let variance =
        (0..c).map(|channel| of(channel).map(|x| (x - mean[channel]).powi(2)).sum::<f64>() / count);
    let variance = variance.collect();
    [mean, variance]
}

/// Batch norm of maps `[N, H, W, C]` by their own statistics, and (leaky) ReLU.
pub(super) fn norm(x: &Array, scale: &Array, shift: &Array, slope: f64) -> Array {
    let [mean, variance] = statistics(x);
    let c = mean.len();
    let mut result = x.clone();
    for (index, value) in result.values.iter_mut().enumerate() {
        let channel = index % c;
        let normal = (*value - mean[channel]) / (variance[channel] + f64::from(EPSILON)).sqrt();
        let z = normal * scale.values[channel] + shift.values[channel];
        *value = if z > 0.0 { z } else { slope * z };
    }
    result
}

/// Global average pooling of maps `[N, H, W, C]`, and a dense layer to one number: `[N, 1, 1, 1]`.
pub(super) fn logits(x: &Array, weight: &Array, bias: &Array) -> Array {
    let [n, h, w, c] = x.dims();
    Array::maps([n, 1, 1, 1], |[image, ..]| {
        let pixels = &x.values[image * h * w * c..][..h * w * c];
        let sum: f64 =
            pixels.iter().enumerate().map(|(index, x)| x * weight.values[index % c]).sum();
        sum / (h * w) as f64 + bias.values[0]
    })
}

/// A dense layer with ReLU whose outputs are channel-major: vectors `[N, inputs]` to maps
/// `[N, 7, 7, C]`.
pub(super) fn dense(x: &Array, weight: &Array, bias: &Array) -> Array {
    let inputs = x.shape[1];
    Array::maps([x.shape[0], 7, 7, bias.values.len() / 49], |[image, row, column, channel]| {
        let o = channel * 49 + row * 7 + column;
        let products =
            (0..inputs).map(|i| x.values[image * inputs + i] * weight.values[o * inputs + i]);
        (products.sum::<f64>() + bias.values[o]).max(0.0)
    })
}

/// A tensor's values in row-major order.
pub(super) fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.clone().without_autodiff().into_data().try_into_vec().unwrap()
}

/// Asserts that values are within a tolerance of what is expected, relative to the largest of
/// those.
pub(super) fn assert_near(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-3f64, |max, value| max.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(
            error <= tolerance * scale,
            "{what}[{index}]: {found} instead of {expected}, of up to {scale}"
        );
    }
}
