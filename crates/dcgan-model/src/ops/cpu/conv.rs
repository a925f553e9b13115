//! 3 x 3 convolutions by im2col and gemm, a few images at a time, so that the patches stay in the
//! cache.

use std::sync::Arc;

use pulp::Simd;

use super::PackWeights;
use super::buffer_pool;
use super::fused_layer::{BlockOp, GradientTargets, PaddedShape};
use super::gemm::{Beta, LANES, LeftMatrix, gemm};
use super::kernel_layout::{hwio_to_oihw, oihw_to_hwio, oihw_to_ohwi};

/// Rows that make a gemm efficient. An image with fewer output pixels shares a gemm with others.
const EFFICIENT_ROWS: usize = 64;

/// A convolution's weights `[outputs, inputs, 3, 3]`, packed for gemm.
#[derive(Debug)]
pub(crate) struct ConvWeights {
    inputs: usize,
    outputs: usize,
    /// Elements of a patch: taps x inputs, with zeros up to a multiple of 16.
    patch_len: usize,
    /// HWIO, `[taps x inputs, outputs]`.
    forward: Vec<f32>,
    /// OHWI, `[outputs, patch_len]`.
    backward: Vec<f32>,
}

impl PackWeights for ConvWeights {
    fn pack(values: &[f32], shape: &[usize]) -> Self {
        let (outputs, inputs) = (shape[0], shape[1]);
        let patch_len = (9 * inputs).next_multiple_of(LANES);
        let forward = oihw_to_hwio(values, outputs, inputs);
        let backward = oihw_to_ohwi(values, inputs, patch_len);
        Self { inputs, outputs, patch_len, forward, backward }
    }
}

/// A convolution of images of one size.
#[derive(Debug)]
pub(crate) struct Conv {
    /// Rows and columns of the input.
    pub(crate) size: [usize; 2],
    pub(crate) stride: usize,
    pub(crate) weights: Arc<ConvWeights>,
}

impl Conv {
    /// Pixels of an output image.
    fn output_pixels(&self) -> usize {
        self.size.iter().map(|size| size.div_ceil(self.stride)).product()
    }

    /// For each output pixel, in order, the offsets of its patch's three rows in the padded images.
    fn patch_offsets(&self, images: usize) -> impl Iterator<Item = [usize; 3]> {
        let PaddedShape { padded_size: [height, width], channels, .. } = self.input_shape();
        let [rows, columns, _] = self.output_shape();
        let stride = self.stride;
        (0..images * rows * columns).map(move |pixel| {
            let (image, row, column) =
                (pixel / (rows * columns), pixel / columns % rows, pixel % columns);
            [0, 1, 2].map(|tap| {
                ((image * height + row * stride + tap) * width + column * stride) * channels
            })
        })
    }

    /// Copies the patches of padded images `x`: `[output pixels, patch_len]`. The last columns,
    /// beyond taps x inputs, are unspecified, and nothing reads them.
    fn im2col(&self, images: usize, x: &[f32]) -> Vec<f32> {
        let ConvWeights { inputs, patch_len, .. } = *self.weights;
        let mut patches = buffer_pool::take(images * self.output_pixels() * patch_len);
        for (patch, offsets) in patches.chunks_exact_mut(patch_len).zip(self.patch_offsets(images))
        {
            for (to, offset) in patch.chunks_exact_mut(3 * inputs).zip(offsets) {
                copy(&x[offset..offset + 3 * inputs], to);
            }
        }
        patches
    }

    /// Adds patches `[output pixels, patch_len]` to the pixels of padded images `dx` that they are
    /// copies of: the transpose of [`Conv::im2col`].
    #[inline(always)]
    fn col2im(&self, images: usize, patches: &[f32], dx: &mut [f32]) {
        let ConvWeights { inputs, patch_len, .. } = *self.weights;
        for (patch, offsets) in patches.chunks_exact(patch_len).zip(self.patch_offsets(images)) {
            for (from, offset) in patch.chunks_exact(3 * inputs).zip(offsets) {
                for (to, from) in dx[offset..offset + 3 * inputs].iter_mut().zip(from) {
                    *to += from;
                }
            }
        }
    }
}

/// Copies a slice to one of equal length. Three numbers, the row of a patch of a single channel,
/// are copied without a call of memcpy.
#[inline(always)]
fn copy(from: &[f32], to: &mut [f32]) {
    match (<&[f32; 3]>::try_from(from), <&mut [f32; 3]>::try_from(&mut *to)) {
        (Ok(from), Ok(to)) => *to = *from,
        _ => to.copy_from_slice(from),
    }
}

impl BlockOp for Conv {
    fn input_shape(&self) -> PaddedShape {
        let padded_size = self.size.map(|size| (size.div_ceil(self.stride) - 1) * self.stride + 3);
        // Keras's 'same' padding: where it is odd, the extra row or column comes after.
        let pad_before = (padded_size[0] - self.size[0]) / 2;
        assert_eq!(
            pad_before,
            (padded_size[1] - self.size[1]) / 2,
            "rows and columns are padded alike"
        );
        PaddedShape { size: self.size, channels: self.weights.inputs, pad_before, padded_size }
    }

    fn output_shape(&self) -> [usize; 3] {
        let [rows, columns] = self.size.map(|size| size.div_ceil(self.stride));
        [rows, columns, self.weights.outputs]
    }

    fn images_per_block(&self) -> usize {
        (EFFICIENT_ROWS / self.output_pixels()).max(1)
    }

    /// The weight gradient is HWIO, `[taps x inputs, outputs]`.
    fn packed_gradient_len(&self) -> usize {
        self.weights.forward.len()
    }

    #[inline(always)]
    fn forward<S: Simd>(&self, simd: S, images: usize, x: &[f32], y: &mut [f32]) {
        let ConvWeights { inputs, outputs, patch_len, ref forward, .. } = *self.weights;
        let patches = self.im2col(images, x);
        let size = [images * self.output_pixels(), 9 * inputs, outputs];
        gemm(simd, size, LeftMatrix::row_major(&patches, patch_len), forward, Beta::Zero, y);
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
        let ConvWeights { inputs, outputs, patch_len, ref backward, .. } = *self.weights;
        let pixels = images * self.output_pixels();
        // Patches, transposed, times dy.
        if let Some(dw) = dw {
            let patches = self.im2col(images, x);
            let left = LeftMatrix::transposed(&patches, patch_len);
            gemm(simd, [9 * inputs, pixels, outputs], left, dy, Beta::One, dw);
            buffer_pool::give(patches);
        }
        // dy times weights, transposed, gives the gradient with respect to the patches.
        if let Some(dx) = dx {
            let mut d_patches = buffer_pool::take(pixels * patch_len);
            let size = [pixels, outputs, patch_len];
            let left = LeftMatrix::row_major(dy, outputs);
            gemm(simd, size, left, backward, Beta::Zero, &mut d_patches);
            self.col2im(images, &d_patches, dx);
            buffer_pool::give(d_patches);
        }
    }

    fn unpack_weight_gradient(&self, packed: &[f32]) -> Vec<f32> {
        hwio_to_oihw(packed, self.weights.outputs, self.weights.inputs)
    }
}
