//! 3 x 3 convolutions as products with a matrix of patches, which is made for a few images at a time.

use std::sync::Arc;

use pulp::Simd;

use super::PackWeights;
use super::buffer_pool;
use super::fused_layer::{BlockOp, GradientTargets, PaddedShape};
use super::gemm::{Accumulate, LANES, LeftMatrix, gemm};
use super::kernel_layout::{inputs_last, taps_first, taps_last};

/// Rows of a product that make it efficient; an image with fewer pixels shares one with others.
const ROWS: usize = 64;

/// A convolution's weights `[outputs, inputs, 3, 3]`, as products need them.
#[derive(Debug)]
pub(crate) struct ConvWeights {
    inputs: usize,
    outputs: usize,
    /// Columns of patches: taps x inputs, with zeros up to a multiple of 16.
    columns: usize,
    /// `[taps x inputs, outputs]`
    forward: Vec<f32>,
    /// `[outputs, columns]`
    backward: Vec<f32>,
}

impl PackWeights for ConvWeights {
    fn prepare(values: &[f32], shape: &[usize]) -> Self {
        let (outputs, inputs) = (shape[0], shape[1]);
        let columns = (9 * inputs).next_multiple_of(LANES);
        let forward = taps_first(values, outputs, inputs);
        let backward = inputs_last(values, inputs, columns);
        Self { inputs, outputs, columns, forward, backward }
    }
}

/// A convolution of images of a size.
#[derive(Debug)]
pub(crate) struct Conv {
    pub(crate) size: [usize; 2],
    pub(crate) stride: usize,
    pub(crate) weights: Arc<ConvWeights>,
}

impl Conv {
    fn pixels(&self) -> usize {
        self.size.iter().map(|size| size.div_ceil(self.stride)).product()
    }

    /// For each row of patches, where its three taps begin in the padded images, in the order of the images' pixels.
    fn sources(&self, images: usize) -> impl Iterator<Item = [usize; 3]> {
        let PaddedShape { padded: [height, width], channels, .. } = self.frame();
        let [rows, columns, _] = self.output();
        let stride = self.stride;
        (0..images * rows * columns).map(move |pixel| {
            let (image, row, column) =
                (pixel / (rows * columns), pixel / columns % rows, pixel % columns);
            [0, 1, 2].map(|tap| {
                ((image * height + row * stride + tap) * width + column * stride) * channels
            })
        })
    }

    fn patches(&self, images: usize, x: &[f32]) -> Vec<f32> {
        let ConvWeights { inputs, columns, .. } = *self.weights;
        let mut patches = buffer_pool::take(images * self.pixels() * columns);
        for (patch, sources) in patches.chunks_exact_mut(columns).zip(self.sources(images)) {
            for (to, source) in patch.chunks_exact_mut(3 * inputs).zip(sources) {
                copy(&x[source..source + 3 * inputs], to);
            }
        }
        patches
    }
}

/// Copies slices of equal lengths; three numbers without a call.
#[inline(always)]
fn copy(from: &[f32], to: &mut [f32]) {
    match (<&[f32; 3]>::try_from(from), <&mut [f32; 3]>::try_from(&mut *to)) {
        (Ok(from), Ok(to)) => *to = *from,
        _ => to.copy_from_slice(from),
    }
}

impl BlockOp for Conv {
    fn frame(&self) -> PaddedShape {
        let padded = self.size.map(|size| (size.div_ceil(self.stride) - 1) * self.stride + 3);
        // Keras's 'same' padding: where it is odd, the extra row or column comes after.
        let before = (padded[0] - self.size[0]) / 2;
        assert_eq!(before, (padded[1] - self.size[1]) / 2, "rows and columns are padded alike");
        PaddedShape { size: self.size, channels: self.weights.inputs, before, padded }
    }

    fn output(&self) -> [usize; 3] {
        let [rows, columns] = self.size.map(|size| size.div_ceil(self.stride));
        [rows, columns, self.weights.outputs]
    }

    fn block(&self) -> usize {
        (ROWS / self.pixels()).max(1)
    }

    fn gradient_len(&self) -> usize {
        self.weights.forward.len()
    }

    #[inline(always)]
    fn forward<S: Simd>(&self, simd: S, images: usize, x: &[f32], y: &mut [f32]) {
        let ConvWeights { inputs, outputs, columns, ref forward, .. } = *self.weights;
        let patches = self.patches(images, x);
        let size = [images * self.pixels(), 9 * inputs, outputs];
        gemm(simd, size, LeftMatrix::rows(&patches, columns), forward, Accumulate::Set, y);
        buffer_pool::give(patches);
    }

    #[inline(always)]
    fn backward<S: Simd>(
        &self,
        simd: S,
        images: usize,
        x: &[f32],
        dy: &[f32],
        GradientTargets { dx, dw }: GradientTargets<'_>,
    ) {
        let ConvWeights { inputs, outputs, columns, ref backward, .. } = *self.weights;
        let pixels = images * self.pixels();
        if let Some(dw) = dw {
            let patches = self.patches(images, x);
            let left = LeftMatrix::transposed(&patches, columns);
            gemm(simd, [9 * inputs, pixels, outputs], left, dy, Accumulate::Add, dw);
            buffer_pool::give(patches);
        }
        if let Some(dx) = dx {
            let mut patches = buffer_pool::take(pixels * columns);
            gemm(
                simd,
                [pixels, outputs, columns],
                LeftMatrix::rows(dy, outputs),
                backward,
                Accumulate::Set,
                &mut patches,
            );
            for (patch, sources) in patches.chunks_exact(columns).zip(self.sources(images)) {
                for (from, source) in patch.chunks_exact(3 * inputs).zip(sources) {
                    for (to, from) in dx[source..source + 3 * inputs].iter_mut().zip(from) {
                        *to += from;
                    }
                }
            }
            buffer_pool::give(patches);
        }
    }

    fn weight_gradient(&self, sum: &[f32]) -> Vec<f32> {
        taps_last(sum, self.weights.outputs, self.weights.inputs)
    }
}
