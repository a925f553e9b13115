//! Nearest upsampling by two and a 3 x 3 convolution, in nine products for each pixel before upsampling.
//!
//! The direct form takes 36 products for the four pixels after it. In one dimension, with taps g0, g1, g2, their sum S
//! and `d[i] = x[i] - x[i-1]` (zero outside), the two outputs of pixel i are
//!
//! ```text
//! out[2i] = S x[i] - g0 d[i]        out[2i+1] = S x[i] + g2 d[i+1]
//! ```
//!
//! and in two dimensions the same along rows and columns: three products (S, -g0, g2) by three. Neither the upsampled
//! maps nor a matrix of patches is ever made.

use burn::tensor::{Tensor, TensorData, s};

use super::Maps;

/// The combinations of three taps that are multiplied: S, -g0, g2.
const COMBINATIONS: [[f32; 3]; 3] = [[1.0, 1.0, 1.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]];

/// Maps `[C, N, H, W]` and weights `[O, C, 3, 3]` to maps `[O, N, 2H, 2W]`.
pub(crate) fn upsample_conv3x3(x: Maps, weight: Tensor<4>) -> Maps {
    let [_, n, h, w] = x.dims();
    let weights = Combined::new(weight);
    let o = weights.outputs;
    let differences = difference(x.clone(), 2);
    let base = weights.both_columns(x, 0);
    let above = weights.both_columns(differences.clone(), 1).slice(s![.., .., 0..h, ..]);
    let below = weights.both_columns(differences, 2).slice(s![.., .., 1..h + 1, ..]);
    let rows = Tensor::stack::<5>(vec![base.clone() + above, base + below], 0);
    rows.permute([1, 2, 3, 0, 4]).reshape([o, n, 2 * h, 2 * w])
}

/// `x[i] - x[i-1]` along a dimension, for i from 0 to its size, with zeros outside.
fn difference(x: Maps, dimension: usize) -> Maps {
    let mut shape = x.dims();
    let size = std::mem::replace(&mut shape[dimension], 1);
    let zeros = Tensor::zeros(shape, &x.device());
    let padded = Tensor::cat(vec![zeros.clone(), x, zeros], dimension);
    padded.clone().narrow(dimension, 1, size + 1) - padded.narrow(dimension, 0, size + 1)
}

/// The nine combinations of a kernel's taps: `[9 O, C]`, row combination slowest.
struct Combined {
    matrix: Tensor<2>,
    outputs: usize,
}

impl Combined {
    fn new(weight: Tensor<4>) -> Self {
        let [outputs, c, _, _] = weight.dims();
        let mut taps_to_combinations = [0.0; 81];
        for (place, value) in taps_to_combinations.iter_mut().enumerate() {
            let (tap, combination) = (place / 9, place % 9);
            *value = COMBINATIONS[combination / 3][tap / 3] * COMBINATIONS[combination % 3][tap % 3];
        }
        let data = TensorData::new(taps_to_combinations.to_vec(), [9, 9]);
        let taps_to_combinations = Tensor::<2>::from_data(data, &weight.device().without_autodiff());
        let combined = weight.reshape([outputs * c, 9]).matmul(taps_to_combinations);
        Self { matrix: combined.transpose().reshape([9 * outputs, c]), outputs }
    }

    /// The products with row combination `row`, put together along the columns: `[O, N, H, 2W]`.
    fn both_columns(&self, x: Maps, row: usize) -> Maps {
        let [c, n, h, w] = x.dims();
        let o = self.outputs;
        let weights = |column: usize, count: usize| {
            let first = (3 * row + column) * o;
            self.matrix.clone().slice(s![first..first + count * o, ..])
        };
        let whole = weights(0, 1).matmul(x.clone().reshape([c, n * h * w])).reshape([o, n, h, w]);
        let differences = difference(x, 3).reshape([c, n * h * (w + 1)]);
        let sides = weights(1, 2).matmul(differences).reshape([2, o, n, h, w + 1]);
        let left = sides.clone().slice(s![0..1, .., .., .., 0..w]).reshape([o, n, h, w]);
        let right = sides.slice(s![1..2, .., .., .., 1..w + 1]).reshape([o, n, h, w]);
        // Interleaved by a permutation, which is several times faster than stacking along the last dimension.
        let columns = Tensor::stack::<5>(vec![whole.clone() + left, whole + right], 0);
        columns.permute([1, 2, 3, 4, 0]).reshape([o, n, h, 2 * w])
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{self, Array};
    use super::*;

    #[test]
    fn it_is_upsampling_then_convolution() {
        for (i, shape) in [[3, 2, 7, 7], [2, 3, 4, 6], [1, 1, 1, 1], [4, 1, 5, 2]].into_iter().enumerate() {
            let x = Array::random(shape, i as u64);
            let weight = Array::random([5, shape[0], 3, 3], 10 + i as u64);
            reference::check(&x, &weight, |x, w| reference::conv(x, w, 2, 1), upsample_conv3x3);
        }
    }
}
