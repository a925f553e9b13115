//! The training of the classifier, with plain burn operations where it has none of ours.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData, activation};
use dcgan_core::random::{Purpose, RandomStream};
use dcgan_core::spec::Initializer;
use dcgan_core::spec::networks::{CLASSES, CLASSIFIER, TensorSpec};
use dcgan_core::state::State;

use super::classifier::{Classifier, ClassifierNet, from_byte};
use crate::PIXELS;
use crate::adam::Adam;
use crate::device::{DeviceChoice, ExecutionDevice};
use crate::init;
use crate::layout::{NetworkTensors, layout_of};
use crate::ops::{Isa, Statistics, values};
use crate::params::upload;

/// Images of a step.
const BATCH: usize = 250;
/// The learning rate of Adam at the beginning. It falls in a straight line to zero.
const LEARNING_RATE: f64 = 2e-3;
/// The decays of Adam's moments.
const BETAS: [f64; 2] = [0.9, 0.999];
/// The weight of a new value in a running statistic.
const MOMENTUM: f32 = 0.1;
/// An image is moved by up to so many pixels in each direction.
const SHIFT: usize = 2;
/// The rows and columns of an image.
const SIDE: usize = 28;

/// Images of digits or of other classes, with their classes.
#[derive(Clone, Copy, Debug)]
pub struct LabelledImages<'a> {
    /// `[N, 28, 28]`, one byte for each pixel.
    pub pixels: &'a [u8],
    /// `[N]`, each from 0 to 9.
    pub labels: &'a [u8],
}

impl LabelledImages<'_> {
    /// The number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Tells whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// A classifier in training.
pub(super) struct ClassifierTraining {
    state: State,
    tensors: NetworkTensors,
    device: ExecutionDevice,
    /// The number of steps of the whole training.
    steps: u64,
    /// The number of steps so far.
    step: u64,
}

impl ClassifierTraining {
    /// Begins a training of this number of epochs.
    pub(super) fn new(images: usize, epochs: u64) -> Self {
        let layout = Arc::new(layout_of(CLASSIFIER));
        let tensors = NetworkTensors::new(CLASSIFIER, &layout);
        let mut state = State::zeros(layout);
        init::fill_networks(&mut state, &[&tensors], Initializer::Glorot, 0);
        let device = DeviceChoice::default().open().expect("every build supports the processor");
        let steps = epochs * (images / BATCH) as u64;
        Self { state, tensors, device, steps, step: 0 }
    }

    /// Trains on all images once, in a random order, each moved a little. Returns the mean loss.
    pub(super) fn epoch(&mut self, epoch: u64, images: LabelledImages<'_>) -> f64 {
        let stream = |item| RandomStream::new(0, Purpose::Classifier, item, epoch);
        let order = stream(0).permutation(images.len());
        let shifts: Vec<usize> = stream(1)
            .uniforms(2 * images.len())
            .map(|u| (u * (2 * SHIFT + 1) as f32) as usize)
            .collect();
        let (mut sum, mut count) = (0.0, 0);
        for batch in order.chunks_exact(BATCH) {
            let mut pixels = Vec::with_capacity(BATCH * PIXELS);
            let mut labels = Vec::with_capacity(BATCH);
            for image in batch.iter().map(|&image| image as usize) {
                let source = &images.pixels[image * PIXELS..(image + 1) * PIXELS];
                append_shifted(&mut pixels, source, [shifts[2 * image], shifts[2 * image + 1]]);
                labels.push(images.labels[image]);
            }
            sum += self.step(pixels, &labels);
            count += 1;
        }
        sum / f64::from(count)
    }

    /// Updates all weights on one batch. Returns the loss.
    fn step(&mut self, pixels: Vec<f32>, labels: &[u8]) -> f64 {
        let ([params], mut inputs) =
            upload(&self.device, &self.state, [&self.tensors], vec![pixels]);
        let net = ClassifierNet::new(&params, true);
        let images = inputs.remove(0).reshape([labels.len(), SIDE, SIDE, 1]);
        let (logits, statistics) = net.forward(images);
        let mut targets = vec![0.0; labels.len() * CLASSES];
        for (row, &label) in targets.chunks_exact_mut(CLASSES).zip(labels) {
            row[usize::from(label)] = -1.0 / labels.len() as f32;
        }
        let targets = TensorData::new(targets, [labels.len(), CLASSES]);
        let targets = Tensor::<2>::from_data(targets, &self.device.device);
        let loss = (activation::log_softmax(logits, 1) * targets).sum();
        let mut gradients = loss.backward();
        let gradients = net.gradients(&mut gradients);
        drop(params);

        self.step += 1;
        let rate = LEARNING_RATE * (self.steps - self.step) as f64 / self.steps as f64;
        let adam = Adam::with(rate, BETAS, self.step);
        let gradients: Vec<Vec<f32>> = gradients.into_iter().map(values).collect();
        adam.update_network(&self.device, &mut self.state, &self.tensors, &gradients, 1.0);
        let batch =
            statistics.into_iter().flat_map(|Statistics { mean, variance }| [mean, variance]);
        for (&index, batch) in self.tensors.running.iter().zip(batch) {
            for (running, batch) in self.state.tensor_mut(index).iter_mut().zip(values(batch)) {
                *running += MOMENTUM * (batch - *running);
            }
        }
        f64::from(loss.into_scalar::<f32>())
    }

    /// The classifier as it is now.
    pub(super) fn classifier(&self) -> Classifier {
        Classifier::new(&self.state, &self.tensors, Isa::widest())
    }

    /// The names, shapes and values of the classifier's tensors.
    pub(super) fn tensors(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let of = |tensor: TensorSpec| {
            let index = self.state.layout().find(&tensor.name).expect("the layout is its table's");
            (tensor.name, tensor.shape, self.state.tensor(index).to_vec())
        };
        CLASSIFIER.tensors().into_iter().map(of).collect()
    }
}

/// Appends an image that is moved by `shift - SHIFT` pixels down and to the right. What comes into
/// it is black.
fn append_shifted(pixels: &mut Vec<f32>, image: &[u8], shift: [usize; 2]) {
    for row in 0..SIDE {
        for column in 0..SIDE {
            let source = [(row, shift[0]), (column, shift[1])]
                .map(|(place, shift)| (place + SHIFT).checked_sub(shift).filter(|it| *it < SIDE));
            let pixel = match source {
                [Some(row), Some(column)] => image[row * SIDE + column],
                _ => 0,
            };
            pixels.push(from_byte(pixel));
        }
    }
}
