//! The mean of each channel over the pixels, and a dense layer to one number.

use std::sync::Arc;

use pulp::Simd;

use super::PackWeights;
use super::fused_layer::{BlockOp, GradientTargets, PaddedShape};

/// Weights `[1, channels]`.
#[derive(Debug)]
pub(crate) struct PoolWeights(Vec<f32>);

impl PackWeights for PoolWeights {
    fn prepare(values: &[f32], _: &[usize]) -> Self {
        Self(values.to_vec())
    }
}

/// Mean and dense layer for images of a size.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) size: [usize; 2],
    pub(crate) weights: Arc<PoolWeights>,
}

impl Pool {
    fn means<'a>(&'a self, x: &'a [f32]) -> impl Iterator<Item = Vec<f32>> {
        let channels = self.weights.0.len();
        let pixels = self.size[0] * self.size[1];
        x.chunks_exact(pixels * channels).map(move |image| {
            let mut sums = vec![0f32; channels];
            for pixel in image.chunks_exact(channels) {
                sums.iter_mut().zip(pixel).for_each(|(sum, x)| *sum += x);
            }
            sums.iter_mut().for_each(|sum| *sum /= pixels as f32);
            sums
        })
    }
}

impl BlockOp for Pool {
    fn frame(&self) -> PaddedShape {
        PaddedShape {
            size: self.size,
            channels: self.weights.0.len(),
            before: 0,
            padded: self.size,
        }
    }

    fn output(&self) -> [usize; 3] {
        [1, 1, 1]
    }

    fn block(&self) -> usize {
        1
    }

    fn gradient_len(&self) -> usize {
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
        if let Some(dw) = dw {
            for (dy, means) in dy.iter().zip(self.means(x)).take(images) {
                dw.iter_mut().zip(means).for_each(|(dw, mean)| *dw = mean.mul_add(*dy, *dw));
            }
        }
        if let Some(dx) = dx {
            let pixels = self.size[0] * self.size[1];
            for (dy, dx) in
                dy.iter().zip(dx.chunks_exact_mut(pixels * self.weights.0.len())).take(images)
            {
                let dy = dy / pixels as f32;
                for pixel in dx.chunks_exact_mut(self.weights.0.len()) {
                    pixel
                        .iter_mut()
                        .zip(&self.weights.0)
                        .for_each(|(dx, w)| *dx = dy.mul_add(*w, *dx));
                }
            }
        }
    }

    fn weight_gradient(&self, sum: &[f32]) -> Vec<f32> {
        sum.to_vec()
    }
}
