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

use super::super::FeatureMaps;

/// The combinations of three taps that are multiplied: S, -g0, g2.
const COMBINATIONS: [[f32; 3]; 3] = [[1.0, 1.0, 1.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]];

/// FeatureMaps `[N, H, W, C]` and weights `[O, C, 3, 3]` to maps `[N, 2H, 2W, O]`.
pub(crate) fn upsample_conv3x3(x: FeatureMaps, weight: Tensor<4>) -> FeatureMaps {
    let [n, h, w, _] = x.dims();
    let weights = Combined::new(weight);
    let o = weights.outputs;
    let differences = difference(x.clone(), 1);
    let base = weights.both_columns(x, 0);
    let above = weights.both_columns(differences.clone(), 1).slice(s![.., 0..h, .., ..]);
    let below = weights.both_columns(differences, 2).slice(s![.., 1..h + 1, .., ..]);
    Tensor::stack::<5>(vec![base.clone() + above, base + below], 2).reshape([n, 2 * h, 2 * w, o])
}

/// `x[i] - x[i-1]` along a dimension, for i from 0 to its size, with zeros outside.
fn difference(x: FeatureMaps, dimension: usize) -> FeatureMaps {
    let mut shape = x.dims();
    let size = std::mem::replace(&mut shape[dimension], 1);
    let zeros = Tensor::zeros(shape, &x.device());
    let padded = Tensor::cat(vec![zeros.clone(), x, zeros], dimension);
    padded.clone().narrow(dimension, 1, size + 1) - padded.narrow(dimension, 0, size + 1)
}

/// The nine combinations of a kernel's taps: `[9, C, O]`, row combination slowest.
struct Combined {
    matrices: Tensor<3>,
    inputs: usize,
    outputs: usize,
}

impl Combined {
    fn new(weight: Tensor<4>) -> Self {
        let [outputs, inputs, _, _] = weight.dims();
        let mut taps_to_combinations = [0.0; 81];
        for (device, value) in taps_to_combinations.iter_mut().enumerate() {
            let (tap, combination) = (device / 9, device % 9);
            *value =
                COMBINATIONS[combination / 3][tap / 3] * COMBINATIONS[combination % 3][tap % 3];
        }
        let data = TensorData::new(taps_to_combinations.to_vec(), [9, 9]);
        let taps_to_combinations =
            Tensor::<2>::from_data(data, &weight.device().without_autodiff());
        let combined = weight.reshape([outputs * inputs, 9]).matmul(taps_to_combinations);
        Self {
            matrices: combined.reshape([outputs, inputs, 9]).permute([2, 1, 0]),
            inputs,
            outputs,
        }
    }

    /// The products with row combination `row`, put together along the columns: `[N, H, 2W, O]`.
    fn both_columns(&self, x: FeatureMaps, row: usize) -> FeatureMaps {
        let [n, h, w, _] = x.dims();
        let product = |x: FeatureMaps, column: usize| {
            let [n, h, w, c] = x.dims();
            let combination = 3 * row + column;
            let matrix = self.matrices.clone().slice(s![combination..combination + 1, .., ..]);
            let matrix = matrix.reshape([self.inputs, self.outputs]);
            x.reshape([n * h * w, c]).matmul(matrix).reshape([n, h, w, self.outputs])
        };
        let differences = difference(x.clone(), 2);
        let whole = product(x, 0);
        let left = product(differences.clone(), 1).slice(s![.., .., 0..w, ..]);
        let right = product(differences, 2).slice(s![.., .., 1..w + 1, ..]);
        Tensor::stack::<5>(vec![whole.clone() + left, whole + right], 3).reshape([
            n,
            h,
            2 * w,
            self.outputs,
        ])
    }
}
