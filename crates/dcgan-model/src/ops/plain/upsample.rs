//! Nearest upsampling by two and a 3 x 3 convolution, in nine products for each pixel before
//! upsampling.
//!
//! The direct form takes 36 products for the four pixels after it. In one dimension, with taps g0,
//! g1, g2, their sum S and `d[i] = x[i] - x[i-1]` (zero outside), the two outputs of pixel i are
//!
//! ```text
//! out[2i] = S x[i] - g0 d[i]        out[2i+1] = S x[i] + g2 d[i+1]
//! ```
//!
//! and in two dimensions the same along rows and columns: three products (S, -g0, g2) by three.
//! Neither the upsampled maps nor a matrix of patches is ever made.

use burn::tensor::{Tensor, s};

use super::super::FeatureMaps;

/// Upsampling and convolution of maps `[N, H, W, C]` with weights `[O, C, 3, 3]` to maps
/// `[N, 2H, 2W, O]`.
pub(crate) fn upsample_conv3x3(x: FeatureMaps, weight: Tensor<4>) -> FeatureMaps {
    let [n, h, w, _] = x.dims();
    let kernel = TransformedKernel::new(weight);
    let o = kernel.outputs;
    let differences = difference(x.clone(), 1);
    let base = kernel.convolve_rows(x, 0);
    let above = kernel.convolve_rows(differences.clone(), 1).slice(s![.., 0..h, .., ..]);
    let below = kernel.convolve_rows(differences, 2).slice(s![.., 1..h + 1, .., ..]);
    // Each pixel's upper and lower row of outputs, interleaved.
    Tensor::stack::<5>(vec![base.clone() + above, base + below], 2).reshape([n, 2 * h, 2 * w, o])
}

/// `x[i] - x[i-1]` along a dimension, for i from 0 to its size, with zeros outside. The result has
/// one more entry in that dimension.
fn difference(x: FeatureMaps, dimension: usize) -> FeatureMaps {
    let size = x.dims()[dimension];
    let mut zeros = [(0, 0); 4];
    zeros[dimension] = (1, 1);
    let padded = x.pad(zeros, 0.0);
    padded.clone().narrow(dimension, 1, size + 1) - padded.narrow(dimension, 0, size + 1)
}

/// The kernels of the three products along a dimension of three taps: S, -g0, g2.
fn transform_kernel(weight: Tensor<4>, dimension: usize) -> Tensor<4> {
    let tap = |number| weight.clone().narrow(dimension, number, 1);
    Tensor::cat(vec![weight.clone().sum_dim(dimension), -tap(0), tap(2)], dimension)
}

/// The kernels of the nine products.
struct TransformedKernel {
    /// `[9, C, O]`: three of the rows by three of the columns.
    matrices: Tensor<3>,
    inputs: usize,
    outputs: usize,
}

impl TransformedKernel {
    /// Transforms weights `[O, C, 3, 3]`.
    fn new(weight: Tensor<4>) -> Self {
        let [outputs, inputs, _, _] = weight.dims();
        let kernels = transform_kernel(transform_kernel(weight, 2), 3);
        Self { matrices: kernels.reshape([outputs, inputs, 9]).permute([2, 1, 0]), inputs, outputs }
    }

    /// The one-dimensional operation along the rows of `x` `[N, H, W, C]`, with the kernels whose
    /// row is `row`: `[N, H, 2W, O]`.
    fn convolve_rows(&self, x: FeatureMaps, row: usize) -> FeatureMaps {
        let [n, h, w, _] = x.dims();
        let differences = difference(x.clone(), 2);
        let base = self.multiply(x, 3 * row);
        let left = self.multiply(differences.clone(), 3 * row + 1).slice(s![.., .., 0..w, ..]);
        let right = self.multiply(differences, 3 * row + 2).slice(s![.., .., 1..w + 1, ..]);
        let outputs = self.outputs;
        Tensor::stack::<5>(vec![base.clone() + left, base + right], 3).reshape([
            n,
            h,
            2 * w,
            outputs,
        ])
    }

    /// Every pixel of `x` `[N, H, W, C]` times one of the nine matrices: `[N, H, W, O]`.
    fn multiply(&self, x: FeatureMaps, product: usize) -> FeatureMaps {
        let [n, h, w, c] = x.dims();
        let matrix = self.matrices.clone().slice(s![product..product + 1, .., ..]);
        let matrix = matrix.reshape([self.inputs, self.outputs]);
        x.reshape([n * h * w, c]).matmul(matrix).reshape([n, h, w, self.outputs])
    }
}
