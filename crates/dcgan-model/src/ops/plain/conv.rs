//! 3 x 3 convolutions with Keras's 'same' padding: as many rows out as in, divided by the stride
//! and rounded up; where the padding is odd, the extra row and column come after.

use burn::tensor::{Tensor, s};

use super::super::FeatureMaps;

/// A convolution of maps `[N, H, W, C]` with weights `[O, C, 3, 3]` to maps `[N, H', W', O]`:
/// im2col and one matrix product. The patches are small for the layers that use this.
pub(crate) fn conv3x3(x: FeatureMaps, weight: Tensor<4>, stride: usize) -> FeatureMaps {
    let [n, h, w, c] = x.dims();
    let outputs = weight.dims()[0];
    let (rows, columns) = (h.div_ceil(stride), w.div_ceil(stride));
    let padded = x.pad([padding(h, stride), padding(w, stride), (0, 0)], 0.0);
    // The pixels that a tap multiplies, for all outputs.
    let pixels = |tap: usize| {
        let (top, left) = (tap / 3, tap % 3);
        let (bottom, right) = (top + (rows - 1) * stride + 1, left + (columns - 1) * stride + 1);
        padded.clone().slice(s![.., top..bottom; stride, left..right; stride, ..])
    };
    let patches = Tensor::cat((0..9).map(pixels).collect(), 3);
    let weight = weight.permute([2, 3, 1, 0]).reshape([9 * c, outputs]);
    patches.reshape([n * rows * columns, 9 * c]).matmul(weight).reshape([n, rows, columns, outputs])
}

/// Rows (or columns) of zeros before and after `size` rows.
fn padding(size: usize, stride: usize) -> (usize, usize) {
    let total = ((size.div_ceil(stride) - 1) * stride + 3).saturating_sub(size);
    (total / 2, total - total / 2)
}

/// A convolution of maps `[N, H, W, C]` with weights `[1, C, 3, 3]` at stride 1 to maps `[N, H, W,
/// 1]`.
///
/// im2col's patches would be nine times as large as the maps. So the nine taps' products are
/// computed first, and each output is the sum of nine of them, shifted.
pub(crate) fn conv3x3_to_one(x: FeatureMaps, weight: Tensor<4>) -> FeatureMaps {
    let [n, h, w, c] = x.dims();
    let taps = x.reshape([n * h * w, c]).matmul(weight.reshape([c, 9])).reshape([n, h, w, 9]);
    let taps = taps.pad([(1, 1), (1, 1), (0, 0)], 0.0);
    let shifted = |tap: usize| {
        let (top, left) = (tap / 3, tap % 3);
        taps.clone().slice(s![.., top..top + h, left..left + w, tap..tap + 1])
    };
    (1..9).map(shifted).fold(shifted(0), |sum, products| sum + products)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_that_of_keras() {
        // At stride 2 on an even size the extra row comes after; on 7 there is one on either side.
        assert_eq!(padding(28, 2), (0, 1));
        assert_eq!(padding(7, 2), (1, 1));
        assert_eq!(padding(28, 1), (1, 1));
    }
}
