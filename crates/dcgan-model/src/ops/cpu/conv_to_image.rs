//! A 3 x 3 convolution at stride 1 to a single channel.
//!
//! im2col would make a matrix nine times as large as the maps for a gemm with a single output
//! column. Instead one gemm computes the nine taps' products of every pixel, and each output is a
//! sum of nine neighbours' products.

use std::sync::Arc;

use pulp::Simd;

use super::PackWeights;
use super::buffer_pool;
use super::fused_layer::{BlockOp, GradientTargets, PaddedShape};
use super::gemm::{Beta, LANES, LeftMatrix, gemm};

/// Weights `[1, inputs, 3, 3]`, packed for gemm.
#[derive(Debug)]
pub(crate) struct ConvToImageWeights {
    inputs: usize,
    /// `[inputs, 16]`: the nine taps, and zeros up to a whole vector.
    forward: Vec<f32>,
    /// `[9, inputs]`
    backward: Vec<f32>,
}

impl PackWeights for ConvToImageWeights {
    fn pack(values: &[f32], shape: &[usize]) -> Self {
        let inputs = shape[1];
        let mut forward = vec![0.0; inputs * LANES];
        let mut backward = vec![0.0; 9 * inputs];
        for (c, taps) in values.as_chunks::<9>().0.iter().enumerate() {
            for (tap, &value) in taps.iter().enumerate() {
                forward[c * LANES + tap] = value;
                backward[tap * inputs + c] = value;
            }
        }
        Self { inputs, forward, backward }
    }
}

/// The convolution of images of one size.
#[derive(Debug)]
pub(crate) struct ConvToImage {
    /// Rows and columns of the input and of the output.
    pub(crate) size: [usize; 2],
    pub(crate) weights: Arc<ConvToImageWeights>,
}

impl ConvToImage {
    /// The distance, in pixels of a map with a border of one pixel, from the corner of a 3 x 3
    /// neighbourhood to each of its pixels.
    fn tap_offsets(&self) -> [usize; 9] {
        std::array::from_fn(|tap| tap / 3 * (self.size[1] + 2) + tap % 3)
    }

    /// Pixels of a map with a border of one pixel.
    fn bordered_pixels(&self) -> usize {
        (self.size[0] + 2) * (self.size[1] + 2)
    }

    /// Copies an image's gradient `[rows, columns]` into the inside of `bordered`
    /// `[rows + 2, columns + 2]`.
    #[inline(always)]
    fn copy_into_border(&self, dy: &[f32], bordered: &mut [f32]) {
        let width = self.size[1];
        for (row, dy) in dy.chunks_exact(width).enumerate() {
            bordered[(row + 1) * (width + 2) + 1..][..width].copy_from_slice(dy);
        }
    }
}

impl BlockOp for ConvToImage {
    fn input_shape(&self) -> PaddedShape {
        // The products get a border, not the maps: they have 9 channels, the maps 64.
        let (size, channels) = (self.size, self.weights.inputs);
        PaddedShape { size, channels, pad_before: 0, padded_size: size }
    }

    fn output_shape(&self) -> [usize; 3] {
        [self.size[0], self.size[1], 1]
    }

    fn images_per_block(&self) -> usize {
        1
    }

    /// The weight gradient is `[9, inputs]`.
    fn packed_gradient_len(&self) -> usize {
        9 * self.weights.inputs
    }

    #[inline(always)]
    fn forward<S: Simd>(&self, simd: S, images: usize, x: &[f32], y: &mut [f32]) {
        let ConvToImageWeights { inputs, ref forward, .. } = *self.weights;
        let [height, width] = self.size;
        let offsets = self.tap_offsets();
        // `[rows + 2, columns + 2, 16]`; the border stays zero.
        let mut products = buffer_pool::zeros(self.bordered_pixels() * LANES);
        let images = x
            .chunks_exact(height * width * inputs)
            .zip(y.chunks_exact_mut(height * width))
            .take(images);
        for (x, y) in images {
            // Multiply each pixel by the nine taps, a row at a time to leave the border free.
            for (row, x) in x.chunks_exact(width * inputs).enumerate() {
                let start = ((row + 1) * (width + 2) + 1) * LANES;
                let left = LeftMatrix::row_major(x, inputs);
                let to = &mut products[start..];
                gemm(simd, [width, inputs, LANES], left, forward, Beta::Zero, to);
            }
            // Add up the neighbours' products.
            let pixels = products.as_chunks::<LANES>().0;
            for (row, y) in y.chunks_exact_mut(width).enumerate() {
                let pixels = &pixels[row * (width + 2)..];
                for (column, y) in y.iter_mut().enumerate() {
                    *y = offsets
                        .iter()
                        .enumerate()
                        .fold(0.0, |sum, (tap, offset)| sum + pixels[column + offset][tap]);
                }
            }
        }
        buffer_pool::give(products);
    }

    #[inline(always)]
    fn backward<S: Simd>(
        &self,
        simd: S,
        images: usize,
        x: &[f32],
        dy: &[f32],
        mut targets: GradientTargets<'_>,
    ) {
        let ConvToImageWeights { inputs, ref backward, .. } = *self.weights;
        let [height, width] = self.size;
        let pixels = height * width;
        let offsets = self.tap_offsets();
        let mut bordered = buffer_pool::zeros(self.bordered_pixels());
        let mut d_products = buffer_pool::take(pixels * LANES);
        for image in 0..images {
            // The gradient with respect to a pixel's nine products is that of the nine outputs that
            // they were added to: the neighbourhood, rotated by 180 degrees, so tap becomes 8 -
            // tap.
            self.copy_into_border(&dy[image * pixels..][..pixels], &mut bordered);
            for (pixel, taps) in d_products.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                let corner = &bordered[pixel / width * (width + 2) + pixel % width..];
                (0..9).for_each(|tap| taps[tap] = corner[offsets[8 - tap]]);
            }
            let range = image * pixels * inputs..(image + 1) * pixels * inputs;
            if let Some(dw) = &mut targets.dw {
                let left = LeftMatrix::transposed(&d_products, LANES);
                gemm(simd, [9, pixels, inputs], left, &x[range.clone()], Beta::One, dw);
            }
            if let Some(dx) = &mut targets.dx {
                let left = LeftMatrix::row_major(&d_products, LANES);
                gemm(simd, [pixels, 9, inputs], left, backward, Beta::One, &mut dx[range]);
            }
        }
        buffer_pool::give(d_products);
        buffer_pool::give(bordered);
    }

    fn unpack_weight_gradient(&self, packed: &[f32]) -> Vec<f32> {
        let inputs = self.weights.inputs;
        (0..9 * inputs).map(|index| packed[index % 9 * inputs + index / 9]).collect()
    }
}
