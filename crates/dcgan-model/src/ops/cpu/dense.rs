//! A dense layer with ReLU, from vectors to channels-last maps.

use std::sync::Arc;

use pulp::{Simd, WithSimd};

use super::PackWeights;
use super::autodiff::{OpInputs, Operation};
use super::buffer_pool;
use super::gemm::{Accumulate, LeftMatrix, gemm};
use super::isa::Isa;

/// Rows and columns of the maps.
const SIZE: [usize; 2] = [7, 7];

/// Weights `[channels x pixels, inputs]`, as products need them.
#[derive(Debug)]
pub(crate) struct DenseWeights {
    inputs: usize,
    channels: usize,
    /// `[inputs, pixels x channels]`, where the state has outputs channel by channel.
    forward: Vec<f32>,
}

impl PackWeights for DenseWeights {
    fn prepare(values: &[f32], shape: &[usize]) -> Self {
        let (outputs, inputs) = (shape[0], shape[1]);
        let channels = outputs / (SIZE[0] * SIZE[1]);
        let mut weights = Self { inputs, channels, forward: vec![0.0; values.len()] };
        for (o, row) in values.chunks_exact(inputs).enumerate() {
            let device = weights.device(o);
            row.iter()
                .enumerate()
                .for_each(|(i, value)| weights.forward[i * outputs + device] = *value);
        }
        weights
    }
}

impl DenseWeights {
    fn outputs(&self) -> usize {
        self.forward.len() / self.inputs
    }

    /// The device of output `o` of the state's weights in channels-last maps.
    fn device(&self, o: usize) -> usize {
        let pixels = SIZE[0] * SIZE[1];
        o % pixels * self.channels + o / pixels
    }
}

/// The layer for a number of vectors.
#[derive(Debug)]
pub(crate) struct Dense {
    pub(crate) isa: Isa,
    pub(crate) weights: Arc<DenseWeights>,
    pub(crate) images: usize,
}

struct Product<'a> {
    size: [usize; 3],
    left: LeftMatrix<'a>,
    right: &'a [f32],
    result: &'a mut [f32],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { size, left, right, result } = self;
        gemm(simd, size, left, right, Accumulate::Set, result);
    }
}

impl Operation for Dense {
    fn shape(&self) -> Vec<usize> {
        vec![self.images, SIZE[0], SIZE[1], self.weights.channels]
    }

    fn forward(&self, [x, _, bias, _]: OpInputs<'_>) -> Vec<f32> {
        let DenseWeights { inputs, ref forward, .. } = *self.weights;
        let outputs = self.weights.outputs();
        let mut y = buffer_pool::take(self.images * outputs);
        let left = LeftMatrix::rows(x, inputs);
        self.isa.run(Product {
            size: [self.images, inputs, outputs],
            left,
            right: forward,
            result: &mut y,
        });
        for y in y.chunks_exact_mut(outputs) {
            for (o, bias) in bias.iter().enumerate() {
                let y = &mut y[self.weights.device(o)];
                let sum = *y + bias;
                // Not `max`: what is not a number must stay visible.
                *y = if sum < 0.0 { 0.0 } else { sum };
            }
        }
        y
    }

    fn backward(
        &self,
        [x, ..]: OpInputs<'_>,
        y: &[f32],
        dy: &[f32],
        wanted: [bool; 4],
    ) -> [Option<Vec<f32>>; 4] {
        assert!(!wanted[0], "no gradients by latents are needed");
        let DenseWeights { inputs, .. } = *self.weights;
        let outputs = self.weights.outputs();
        let dz: Vec<f32> =
            y.iter().zip(dy).map(|(y, dy)| if *y > 0.0 { *dy } else { 0.0 }).collect();
        let mut dw = buffer_pool::take(inputs * outputs);
        let left = LeftMatrix::transposed(x, inputs);
        self.isa.run(Product {
            size: [inputs, self.images, outputs],
            left,
            right: &dz,
            result: &mut dw,
        });
        let mut sums = vec![0f32; outputs];
        for dz in dz.chunks_exact(outputs) {
            sums.iter_mut().zip(dz).for_each(|(sum, dz)| *sum += dz);
        }
        let by_bias = (0..outputs).map(|o| sums[self.weights.device(o)]).collect();
        let mut by_weight = vec![0.0; dw.len()];
        for (o, row) in by_weight.chunks_exact_mut(inputs).enumerate() {
            let device = self.weights.device(o);
            row.iter_mut().enumerate().for_each(|(i, value)| *value = dw[i * outputs + device]);
        }
        buffer_pool::give(dw);
        [None, None, Some(by_bias), Some(by_weight)]
    }
}
