//! A 3 x 3 convolution at stride 1 to a single channel: nine products for each pixel, then sums of nine neighbours, where
//! a matrix of patches would be nine times as large as the maps.

use std::sync::Arc;

use pulp::Simd;

use super::PackWeights;
use super::buffer_pool;
use super::fused_layer::{BlockOp, GradientTargets, PaddedShape};
use super::gemm::{Accumulate, LANES, LeftMatrix, gemm};

/// Weights `[1, inputs, 3, 3]`, as products need them.
#[derive(Debug)]
pub(crate) struct ConvToImageWeights {
    inputs: usize,
    /// `[inputs, 16]`, nine of them used.
    forward: Vec<f32>,
    /// `[9, inputs]`
    backward: Vec<f32>,
}

impl PackWeights for ConvToImageWeights {
    fn prepare(values: &[f32], shape: &[usize]) -> Self {
        let inputs = shape[1];
        let mut forward = vec![0.0; inputs * LANES];
        let mut backward = vec![0.0; 9 * inputs];
        for (device, &value) in values.iter().enumerate() {
            let (c, tap) = (device / 9, device % 9);
            forward[c * LANES + tap] = value;
            backward[tap * inputs + c] = value;
        }
        Self { inputs, forward, backward }
    }
}

/// The convolution of images of a size.
#[derive(Debug)]
pub(crate) struct ConvToImage {
    pub(crate) size: [usize; 2],
    pub(crate) weights: Arc<ConvToImageWeights>,
}

impl ConvToImage {
    /// Where pixel [0, 0] of a map with a border of one pixel is, as seen by each tap.
    fn taps(&self) -> [usize; 9] {
        std::array::from_fn(|tap| tap / 3 * (self.size[1] + 2) + tap % 3)
    }
}

impl BlockOp for ConvToImage {
    fn frame(&self) -> PaddedShape {
        PaddedShape { size: self.size, channels: self.weights.inputs, before: 0, padded: self.size }
    }

    fn output(&self) -> [usize; 3] {
        [self.size[0], self.size[1], 1]
    }

    fn block(&self) -> usize {
        1
    }

    fn gradient_len(&self) -> usize {
        9 * self.weights.inputs
    }

    #[inline(always)]
    fn forward<S: Simd>(&self, simd: S, images: usize, x: &[f32], y: &mut [f32]) {
        let ConvToImageWeights { inputs, ref forward, .. } = *self.weights;
        let [height, width] = self.size;
        let mut taps = buffer_pool::zeros((height + 2) * (width + 2) * LANES);
        let images = x
            .chunks_exact(height * width * inputs)
            .zip(y.chunks_exact_mut(height * width))
            .take(images);
        for (x, y) in images {
            for (row, x) in x.chunks_exact(width * inputs).enumerate() {
                let start = ((row + 1) * (width + 2) + 1) * LANES;
                gemm(
                    simd,
                    [width, inputs, LANES],
                    LeftMatrix::rows(x, inputs),
                    forward,
                    Accumulate::Set,
                    &mut taps[start..],
                );
            }
            let (pixels, places) = (taps.as_chunks::<LANES>().0, self.taps());
            for (row, y) in y.chunks_exact_mut(width).enumerate() {
                let pixels = &pixels[row * (width + 2)..];
                for (column, y) in y.iter_mut().enumerate() {
                    *y = places
                        .iter()
                        .enumerate()
                        .fold(0.0, |sum, (tap, device)| sum + pixels[column + device][tap]);
                }
            }
        }
        buffer_pool::give(taps);
    }

    #[inline(always)]
    fn backward<S: Simd>(
        &self,
        simd: S,
        images: usize,
        x: &[f32],
        dy: &[f32],
        mut wanted: GradientTargets<'_>,
    ) {
        let ConvToImageWeights { inputs, ref backward, .. } = *self.weights;
        let [height, width] = self.size;
        let pixels = height * width;
        let mut bordered = buffer_pool::zeros((height + 2) * (width + 2));
        let mut taps = buffer_pool::take(pixels * LANES);
        let places = self.taps();
        for image in 0..images {
            for (row, dy) in dy[image * pixels..][..pixels].chunks_exact(width).enumerate() {
                bordered[(row + 1) * (width + 2) + 1..][..width].copy_from_slice(dy);
            }
            for (pixel, taps) in taps.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                // What a tap of the way there reads, it writes on the way back: the other way round.
                let corner = &bordered[pixel / width * (width + 2) + pixel % width..];
                (0..9).for_each(|tap| taps[tap] = corner[places[8 - tap]]);
            }
            let part = image * pixels * inputs..(image + 1) * pixels * inputs;
            if let Some(dw) = &mut wanted.dw {
                let left = LeftMatrix::transposed(&taps, LANES);
                gemm(simd, [9, pixels, inputs], left, &x[part.clone()], Accumulate::Add, dw);
            }
            if let Some(dx) = &mut wanted.dx {
                let left = LeftMatrix::rows(&taps, LANES);
                gemm(simd, [pixels, 9, inputs], left, backward, Accumulate::Add, &mut dx[part]);
            }
        }
        buffer_pool::give(taps);
        buffer_pool::give(bordered);
    }

    fn weight_gradient(&self, sum: &[f32]) -> Vec<f32> {
        let inputs = self.weights.inputs;
        (0..9 * inputs).map(|device| sum[device % 9 * inputs + device / 9]).collect()
    }
}
