//! 3 x 3 convolutions with Keras's 'same' padding: as many rows out as in, divided by the stride
//! and rounded up; where the padding is odd, the extra row and column come after.

use burn::tensor::{Int, Tensor, TensorData, s};

use super::super::FeatureMaps;

/// A convolution of maps `[N, H, W, C]` with weights `[O, C, 3, 3]` to maps `[N, H', W', O]`:
/// im2col and one matrix product. The patches are small for the layers that use this.
pub(crate) fn conv3x3(x: FeatureMaps, weight: Tensor<4>, stride: usize) -> FeatureMaps {
    let [n, h, w, c] = x.dims();
    let outputs = weight.dims()[0];
    let (rows, columns) = (h.div_ceil(stride), w.div_ceil(stride));
    let sources = patch_sources([h, w], stride);
    let device = x.device();
    let sources = Tensor::<1, Int>::from_data(
        TensorData::new(sources, [9 * rows * columns]),
        &device.clone().without_autodiff(),
    );
    // One more pixel, which is zero, stands for the padding.
    let pixels = Tensor::cat(vec![x.reshape([n, h * w, c]), Tensor::zeros([n, 1, c], &device)], 1);
    let patches = pixels.select(1, sources).reshape([n * rows * columns, 9 * c]);
    let weight = weight.permute([2, 3, 1, 0]).reshape([9 * c, outputs]);
    patches.matmul(weight).reshape([n, rows, columns, outputs])
}

/// The input pixel for each output pixel and each tap, `[H' x W' x 9]`. Taps in the padding get
/// `h * w`, the index after the last pixel.
fn patch_sources([h, w]: [usize; 2], stride: usize) -> Vec<i64> {
    let (rows, columns) = (h.div_ceil(stride), w.div_ceil(stride));
    let before = |size: usize, out: usize| ((out - 1) * stride + 3).saturating_sub(size) / 2;
    let (top, left) = (before(h, rows), before(w, columns));
    let mut sources = Vec::with_capacity(9 * rows * columns);
    for pixel in 0..rows * columns {
        for tap in 0..9 {
            let y = (pixel / columns * stride + tap / 3).checked_sub(top).filter(|&y| y < h);
            let x = (pixel % columns * stride + tap % 3).checked_sub(left).filter(|&x| x < w);
            sources.push(y.zip(x).map_or(h * w, |(y, x)| y * w + x) as i64);
        }
    }
    sources
}

/// A convolution of maps `[N, H, W, C]` with weights `[1, C, 3, 3]` at stride 1 to maps `[N, H, W,
/// 1]`.
///
/// im2col's patches would be nine times as large as the maps. So the nine taps' products are
/// computed first, and each output is the sum of nine of them, shifted.
pub(crate) fn conv3x3_to_one(x: FeatureMaps, weight: Tensor<4>) -> FeatureMaps {
    let [n, h, w, c] = x.dims();
    let device = x.device();
    let taps = x.reshape([n * h * w, c]).matmul(weight.reshape([c, 9])).reshape([n, h, w, 9]);
    let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &device);
    let taps = Tensor::cat(vec![zeros([n, h, 1, 9]), taps, zeros([n, h, 1, 9])], 2);
    let taps = Tensor::cat(vec![zeros([n, 1, w + 2, 9]), taps, zeros([n, 1, w + 2, 9])], 1);
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
        for (size, rows, first, last) in
            [(28, 14, [0, 1, 2], [26, 27, 28]), (7, 4, [7, 0, 1], [5, 6, 7])]
        {
            let sources = patch_sources([size, 1], 2);
            let taps = |row: usize| [0, 1, 2].map(|tap| sources[9 * row + 3 * tap + 1]);
            assert_eq!((taps(0), taps(rows - 1)), (first, last));
        }
    }
}
