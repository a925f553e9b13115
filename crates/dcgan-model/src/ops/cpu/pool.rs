//! Global average pooling, and a dense layer to one number.

use std::sync::Arc;

use pulp::Simd;

use super::PackWeights;
use super::fused_layer::{BlockOp, GradientTargets, PaddedShape};

/// Weights of the dense layer, `[channels]`. They need no packing.
#[derive(Debug)]
pub(crate) struct PoolWeights(Vec<f32>);

impl PackWeights for PoolWeights {
    fn pack(values: &[f32], _: &[usize]) -> Self {
        Self(values.to_vec())
    }
}

/// Pooling and dense layer for images of one size.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Rows and columns of the input.
    pub(crate) size: [usize; 2],
    pub(crate) weights: Arc<PoolWeights>,
}

impl Pool {
    /// The mean of each channel, `[channels]`, for each image of `x` `[images, pixels, channels]`.
    fn means<'a>(&'a self, x: &'a [f32]) -> impl Iterator<Item = Vec<f32>> {
        let channels = self.weights.0.len();
        let pixels = self.pixels();
        x.chunks_exact(pixels * channels).map(move |image| {
            let mut sums = vec![0f32; channels];
            for pixel in image.chunks_exact(channels) {
                sums.iter_mut().zip(pixel).for_each(|(sum, x)| *sum += x);
            }
            sums.iter_mut().for_each(|sum| *sum /= pixels as f32);
            sums
        })
    }

    fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }
}

impl BlockOp for Pool {
    fn input_shape(&self) -> PaddedShape {
        let (size, channels) = (self.size, self.weights.0.len());
        PaddedShape { size, channels, pad_before: 0, padded_size: size }
    }

    fn output_shape(&self) -> [usize; 3] {
        [1, 1, 1]
    }

    fn images_per_block(&self) -> usize {
        1
    }

    fn packed_gradient_len(&self) -> usize {
        self.weights.0.len()
    }

    #[inline(always)]
    fn forward<S: Simd>(&self, _: S, images: usize, x: &[f32], y: &mut [f32]) {
        for (y, means) in y.iter_mut().zip(self.means(x)).take(images) {
            *y = means.iter().zip(&self.weights.0).fold(0.0, |sum: f32, (x, w)| x.mul_add(*w, sum));
        }
    }

    #[inline(always)]
    fn backward<S: Simd>(
        &self,
        _: S,
        images: usize,
        x: &[f32],
        dy: &[f32],
        GradientTargets { dx, dw }: GradientTargets<'_>,
    ) {
        let weights = &self.weights.0;
        if let Some(dw) = dw {
            for (dy, means) in dy.iter().zip(self.means(x)).take(images) {
                dw.iter_mut().zip(means).for_each(|(dw, mean)| *dw = mean.mul_add(*dy, *dw));
            }
        }
        // Every pixel has the same share of the mean.
        if let Some(dx) = dx {
            let pixels = self.pixels();
            for (dy, dx) in dy.iter().zip(dx.chunks_exact_mut(pixels * weights.len())).take(images)
            {
                let d_pixel = dy / pixels as f32;
                for pixel in dx.chunks_exact_mut(weights.len()) {
                    for (dx, w) in pixel.iter_mut().zip(weights) {
                        *dx = d_pixel.mul_add(*w, *dx);
                    }
                }
            }
        }
    }

    /// The packed layout is that of the state, `[channels]`.
    fn unpack_weight_gradient(&self, packed: &[f32]) -> Vec<f32> {
        packed.to_vec()
    }
}
