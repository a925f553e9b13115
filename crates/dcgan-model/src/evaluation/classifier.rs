//! The classifier that judges samples: features and class probabilities of images.
//!
//! Distances between two sets of images are distances between their features, the activations of
//! the classifier's last hidden layer, as is usual for MNIST (for natural images one takes those of
//! Inception). The same image has the same features on every processor.

use burn::tensor::{Device, Gradients, Tensor, TensorData, activation};
use dcgan_core::portable::{exp_negative, ln};
use dcgan_core::spec::networks::{CLASSES, CLASSIFIER, FEATURES};
use dcgan_core::state::State;
use dcgan_store::state_file::StateFileError;

use crate::device::ExecutionDevice;
use crate::layout::{self, NetworkTensors};
use crate::ops::{
    Conv, EPSILON, FeatureMaps, GemmTask, Isa, LayerInput, LeftMatrix, Statistics, conv,
    normalized, values,
};
use crate::params::{ConvBatchNorm, GradCollector, NetworkParams, ParamReader, append, upload};

/// The factor of negative values in leaky ReLU.
const NEGATIVE_SLOPE: f32 = 0.2;
/// The maps after the convolutions: pixels x channels.
const MAPS_LEN: usize = 4 * 4 * 128;
/// The logits of an image, with zeros up to a whole vector.
const LOGITS_LEN: usize = 16;

/// The classifier's layers, with the parameters of one state.
pub(super) struct ClassifierNet {
    convs: [ConvBatchNorm<Conv>; 3],
    hidden: Dense,
    output: Dense,
}

/// A dense layer's weights `[outputs, inputs]` and bias `[outputs]`.
struct Dense {
    weight: Tensor<2>,
    bias: Tensor<1>,
}

impl ClassifierNet {
    /// Makes the network of its parameters: leaves of the autodiff graph if `trained`, constants
    /// otherwise.
    pub(super) fn new(params: &NetworkParams<'_>, trained: bool) -> Self {
        let mut reader = ParamReader::new(params, trained);
        let convs = [(); 3].map(|()| reader.conv_batch_norm());
        let mut dense = || Dense { weight: reader.tensor(), bias: reader.tensor() };
        Self { convs, hidden: dense(), output: dense() }
    }

    /// Computes logits `[N, 10]` of images `[N, 28, 28, 1]` in training mode, and the batch
    /// statistics of each batch norm's input.
    pub(super) fn forward(&self, images: FeatureMaps) -> (Tensor<2>, Vec<Statistics>) {
        let count = images.dims()[0];
        let mut statistics = Vec::new();
        let maps = self.convolve(images, |batch, bias| {
            statistics.push(batch.clone().with_bias(bias));
            batch
        });
        let maps = normalized(maps).reshape([count, MAPS_LEN]);
        let features = activation::relu(self.hidden.apply(maps));
        (self.output.apply(features), statistics)
    }

    /// Applies the convolutions. `choose_statistics` is called with the batch statistics of each
    /// one's output and its bias, and returns those that its batch norm is to use.
    fn convolve(
        &self,
        images: FeatureMaps,
        mut choose_statistics: impl FnMut(Statistics, Tensor<1>) -> Statistics,
    ) -> LayerInput {
        let mut x = LayerInput { maps: images, norm: None };
        for layer in &self.convs {
            let mut output = conv(x, &layer.kernel, 2);
            output.statistics = choose_statistics(output.statistics, layer.bias.clone());
            x = layer.normalize(output, NEGATIVE_SLOPE);
        }
        x
    }

    /// The gradients with respect to all trained tensors, `[elements]` each, in the order of the
    /// network's table.
    pub(super) fn gradients(&self, gradients: &mut Gradients) -> Vec<Tensor<1>> {
        let collector = GradCollector::new(gradients);
        let mut collector = self.convs.iter().fold(collector, GradCollector::conv_batch_norm);
        for Dense { weight, bias } in [&self.hidden, &self.output] {
            collector.push(weight);
            collector.push(bias);
        }
        collector.finish()
    }
}

impl Dense {
    fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.weight.clone().transpose()) + self.bias.clone().unsqueeze()
    }
}

/// Features and class probabilities of images.
pub(super) struct Judgement {
    /// `[N, 64]`
    pub(super) features: Vec<f32>,
    /// The natural logarithm of each class's probability, `[N, 10]`.
    pub(super) log_probabilities: Vec<f64>,
}

/// A trained classifier in inference mode: its batch norms use running statistics.
pub(super) struct Classifier {
    net: ClassifierNet,
    /// The running mean and the running variance of each batch norm, `[channels]` each.
    running: Vec<[Vec<f32>; 2]>,
    /// `[2048, 64]`
    hidden: Vec<f32>,
    hidden_bias: Vec<f32>,
    /// `[64, 16]`, of whose columns the last are zero.
    output: Vec<f32>,
    output_bias: Vec<f32>,
    device: ExecutionDevice,
    isa: Isa,
}

impl Classifier {
    /// Reads the classifier of an evaluator file.
    ///
    /// # Errors
    /// If the file does not hold one.
    pub(super) fn from_file(bytes: &[u8], isa: Isa) -> Result<Self, StateFileError> {
        let (state, tensors) = layout::network_from_file(CLASSIFIER, bytes, str::to_owned)?;
        Ok(Self::new(&state, &tensors, isa))
    }

    /// The classifier with the weights and the running statistics of a state.
    pub(super) fn new(state: &State, tensors: &NetworkTensors, isa: Isa) -> Self {
        let device = ExecutionDevice { device: Device::flex(), isa: Some(isa) };
        let values_of = |index: &usize| state.tensor(*index).to_vec();
        let running = tensors.running.chunks_exact(2).map(|of| [&of[0], &of[1]].map(values_of));
        let ([params], _) = upload(&device, state, [tensors], Vec::new());
        let net = ClassifierNet::new(&params, false);
        let packed = |dense: &Dense, width: usize| {
            let [outputs, inputs] = dense.weight.dims();
            let weight = values(dense.weight.clone().reshape([outputs * inputs]));
            let mut packed = vec![0.0; inputs * width];
            for (output, row) in weight.chunks_exact(inputs).enumerate() {
                for (input, &weight) in row.iter().enumerate() {
                    packed[input * width + output] = weight;
                }
            }
            packed
        };
        Self {
            running: running.collect(),
            hidden: packed(&net.hidden, FEATURES),
            hidden_bias: values(net.hidden.bias.clone()),
            output: packed(&net.output, LOGITS_LEN),
            output_bias: values(net.output.bias.clone()),
            net,
            device,
            isa,
        }
    }

    /// Judges images `[N, 28, 28]`, one byte for each pixel.
    pub(super) fn judge(&self, images: &[u8]) -> Judgement {
        let pixels: Vec<f32> = images.iter().map(|&pixel| from_byte(pixel)).collect();
        let count = pixels.len() / (28 * 28);
        let images = self.tensor(&pixels, [count, 28, 28, 1]);
        let mut running = self.running.iter();
        let maps = self.net.convolve(images, |_, bias| {
            let [mean, variance] =
                running.next().expect("there are statistics for each batch norm");
            let tensor = |values: &Vec<f32>| self.tensor(values, [values.len()]);
            // Running statistics are those of the output with its bias, which is not added here.
            Statistics { mean: tensor(mean), variance: tensor(variance) }.with_bias(-bias)
        });

        // The last batch norm and the dense layers, with operations that round alike everywhere.
        let maps = activated(maps);
        let mut features = self.product(&maps, MAPS_LEN, &self.hidden, FEATURES);
        for row in features.chunks_exact_mut(FEATURES) {
            row.iter_mut().zip(&self.hidden_bias).for_each(|(x, bias)| *x = (*x + bias).max(0.0));
        }
        let logits = self.product(&features, FEATURES, &self.output, LOGITS_LEN);
        let mut log_probabilities = Vec::with_capacity(count * CLASSES);
        for row in logits.chunks_exact(LOGITS_LEN) {
            let mut logits = [0.0; CLASSES];
            for (class, logit) in logits.iter_mut().enumerate() {
                *logit = f64::from(row[class] + self.output_bias[class]);
            }
            log_probabilities.extend(log_softmax(logits));
        }
        Judgement { features, log_probabilities }
    }

    /// The product of `x`, `[N, inputs]`, and weights `[inputs, outputs]`.
    fn product(&self, x: &[f32], inputs: usize, weights: &[f32], outputs: usize) -> Vec<f32> {
        let rows = x.len() / inputs;
        let mut y = vec![0.0; rows * outputs];
        let a = LeftMatrix::row_major(x, inputs);
        self.isa.run(GemmTask { size: [rows, inputs, outputs], a, b: weights, c: &mut y });
        y
    }

    /// A constant tensor on the classifier's device.
    fn tensor<const D: usize>(&self, values: &[f32], shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &self.device.device)
    }
}

/// The value from -1 to 1 that a pixel has for the networks.
pub(super) fn from_byte(pixel: u8) -> f32 {
    f32::from(pixel) / 127.5 - 1.0
}

/// A layer's input after its batch norm and leaky ReLU, `[N, rows, columns, channels]`.
fn activated(LayerInput { maps, norm }: LayerInput) -> Vec<f32> {
    let norm = norm.expect("each convolution has a batch norm");
    let [mean, variance, scale, shift] =
        [norm.statistics.mean, norm.statistics.variance, norm.scale, norm.shift].map(values);
    let mut pixels = Vec::new();
    append(&mut pixels, maps);
    let channels = mean.len();
    let factors: Vec<f32> = (0..channels)
        .map(|channel| scale[channel] / (variance[channel] + EPSILON).sqrt())
        .collect();
    for pixel in pixels.chunks_exact_mut(channels) {
        for channel in 0..channels {
            let y = (pixel[channel] - mean[channel]) * factors[channel] + shift[channel];
            pixel[channel] = if y < 0.0 { norm.negative_slope * y } else { y };
        }
    }
    pixels
}

/// The logarithms of the probabilities that logits stand for.
fn log_softmax(logits: [f64; CLASSES]) -> [f64; CLASSES] {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| exp_negative(logit - largest)).sum();
    logits.map(|logit| logit - largest - ln(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_the_logits() {
        let logits = [1.0, 2.0, 0.0, -1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0];
        let sum: f64 = logits.iter().map(|logit: &f64| logit.exp()).sum();
        for (found, logit) in log_softmax(logits).iter().zip(logits) {
            assert!((found - (logit - sum.ln())).abs() < 1e-14);
        }
    }
}
