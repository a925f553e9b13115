//! A dense layer with ReLU, from vectors to channels-last maps.
//!
//! In the state its outputs are channel-major, `[channels, 7, 7]`, as PyTorch's `view` has them.
//! The packed weights have their columns in the order of channels-last maps, so that the product
//! already lies as the next layer reads it.

use std::sync::Arc;

use super::PackWeights;
use super::autodiff::{OpInputs, Operation};
use super::buffer_pool;
use super::gemm::{GemmTask, LeftMatrix};
use super::isa::Isa;

/// Rows and columns of the maps.
const SIZE: [usize; 2] = [7, 7];

/// Weights `[channels x 49, inputs]`, packed for gemm.
#[derive(Debug)]
pub(crate) struct DenseWeights {
    inputs: usize,
    channels: usize,
    /// `[inputs, 49 x channels]`
    forward: Vec<f32>,
}

impl PackWeights for DenseWeights {
    fn pack(values: &[f32], shape: &[usize]) -> Self {
        let (outputs, inputs) = (shape[0], shape[1]);
        let channels = outputs / (SIZE[0] * SIZE[1]);
        let mut weights = Self { inputs, channels, forward: vec![0.0; values.len()] };
        for (o, row) in values.chunks_exact(inputs).enumerate() {
            let column = weights.channels_last(o);
            for (i, value) in row.iter().enumerate() {
                weights.forward[i * outputs + column] = *value;
            }
        }
        weights
    }
}

impl DenseWeights {
    fn outputs(&self) -> usize {
        self.forward.len() / self.inputs
    }

    /// The index in channels-last maps of the state's output `o`.
    fn channels_last(&self, o: usize) -> usize {
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

impl Operation for Dense {
    fn shape(&self) -> Vec<usize> {
        vec![self.images, SIZE[0], SIZE[1], self.weights.channels]
    }

    /// Computes maps `[N, 7, 7, channels]` from vectors `x` `[N, inputs]`. The bias comes in the
    /// slot of the shift: see [`OpInputs`].
    fn forward(&self, [x, _, bias, _]: OpInputs<'_>) -> Vec<f32> {
        let DenseWeights { inputs, ref forward, .. } = *self.weights;
        let outputs = self.weights.outputs();
        let mut y = buffer_pool::take(self.images * outputs);
        self.isa.run(GemmTask {
            size: [self.images, inputs, outputs],
            a: LeftMatrix::row_major(x, inputs),
            b: forward,
            c: &mut y,
        });
        for y in y.chunks_exact_mut(outputs) {
            for (o, bias) in bias.iter().enumerate() {
                let y = &mut y[self.weights.channels_last(o)];
                let sum = *y + bias;
                // Not `max`, which turns NaN into zero and would hide a diverged training.
                *y = if sum < 0.0 { 0.0 } else { sum };
            }
        }
        y
    }

    /// Computes the gradients with respect to the bias `[outputs]` and the weights
    /// `[outputs, inputs]`.
    fn backward(
        &self,
        [x, ..]: OpInputs<'_>,
        y: &[f32],
        dy: &[f32],
        needs_gradient: [bool; 4],
    ) -> [Option<Vec<f32>>; 4] {
        assert!(!needs_gradient[0], "latents are constants: their gradient is not implemented");
        let DenseWeights { inputs, .. } = *self.weights;
        let outputs = self.weights.outputs();
        // With respect to the activation's input, `[N, outputs]`.
        let dz: Vec<f32> =
            y.iter().zip(dy).map(|(y, dy)| if *y > 0.0 { *dy } else { 0.0 }).collect();

        let mut dw = buffer_pool::take(inputs * outputs);
        self.isa.run(GemmTask {
            size: [inputs, self.images, outputs],
            a: LeftMatrix::transposed(x, inputs),
            b: &dz,
            c: &mut dw,
        });
        let mut d_weights = vec![0.0; dw.len()];
        for (o, row) in d_weights.chunks_exact_mut(inputs).enumerate() {
            let column = self.weights.channels_last(o);
            row.iter_mut().enumerate().for_each(|(i, value)| *value = dw[i * outputs + column]);
        }
        buffer_pool::give(dw);

        let mut sums = vec![0f32; outputs];
        for dz in dz.chunks_exact(outputs) {
            sums.iter_mut().zip(dz).for_each(|(sum, dz)| *sum += dz);
        }
        let d_bias = (0..outputs).map(|o| sums[self.weights.channels_last(o)]).collect();
        [None, None, Some(d_bias), Some(d_weights)]
    }
}
