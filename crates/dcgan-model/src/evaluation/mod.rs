//! How good are samples? Compares them with real images that were not trained on.
//!
//! An [`Evaluator`] is a classifier, and the features of the real images by it. It is one file,
//! which [`train`] makes of a data set with classes. That of MNIST is built in.
//!
//! # Layout
//!
//! * [`classifier`]: features and class probabilities of images; [`training`] makes it.
//! * [`moments`], [`kernel`], [`neighbours`]: the distances between two sets of features.

mod classifier;
mod kernel;
mod moments;
mod neighbours;
mod training;

use dcgan_core::portable::{exp_negative, ln};
use dcgan_core::spec::networks::{CLASSES, FEATURES};
use dcgan_store::evaluator_file::{
    self, EvaluatorFile, EvaluatorFileError, NEAREST_IMAGES, REFERENCE_FEATURES, REFERENCE_NEAREST,
};
use dcgan_store::state_file;

use crate::PIXELS;
use crate::ops::Isa;

use classifier::{Classifier, Judgement};
use moments::{MOMENTS_LEN, Moments, Normal};
pub use neighbours::Coverage;
use neighbours::{Points, nearest};
use training::ClassifierTraining;
pub use training::LabelledImages;

/// The images of a piece of an evaluation.
pub const PIECE_IMAGES: usize = 100;
/// The fewest images of each part of a data set for an evaluator, and the fewest samples.
pub const IMAGES_MIN: usize = NEAREST_IMAGES;
/// The share of the test images that are nearer to a training image than a sample that counts as a
/// copy.
const COPY_SHARE: f64 = 0.01;
/// Images that are judged at once: more take more memory and are no faster.
const BATCH: usize = 100;

/// The evaluator of MNIST; see `docs/evaluation.md` for the command that made it.
const MNIST: &[u8] = include_bytes!("../../mnist-evaluator.safetensors");

/// A judge of samples.
pub struct Evaluator {
    isa: Isa,
    classifier: Classifier,
    /// The features of the real images, `[N, 64]`.
    reference: Vec<f32>,
    reference_normal: Normal,
    /// The mean square of a feature.
    reference_square: f64,
    /// The distances of real images to the nearest training image, sorted.
    nearest: Vec<f32>,
}

/// The judgement of an evaluator on samples.
#[derive(Clone, Debug)]
pub struct Report {
    /// The values of `dcgan_core::spec::networks::EVALUATION`, in the order of its names.
    pub values: Vec<f64>,
    /// The share of each class.
    pub classes: [f64; CLASSES],
    /// Precision, recall, density and coverage.
    pub coverage: Coverage,
    /// The share of the first 1000 samples that are nearer to a training image, pixel by pixel,
    /// than 99% of the real images are.
    pub copies: f64,
}

impl Evaluator {
    /// The evaluator that is built in, for MNIST.
    ///
    /// # Panics
    /// Never: the tests read it.
    pub fn mnist() -> Self {
        Self::on(MNIST, Isa::widest()).expect("the file that is built in is intact")
    }

    /// The evaluator in a file.
    ///
    /// # Errors
    /// If the file lacks tensors, which was checked before.
    pub fn from_file(file: &EvaluatorFile) -> Result<Self, EvaluatorFileError> {
        Self::on(file.bytes(), Isa::widest())
    }

    fn on(bytes: &[u8], isa: Isa) -> Result<Self, EvaluatorFileError> {
        let classifier = Classifier::from_file(bytes, isa)?;
        let images = state_file::rows_of(bytes, REFERENCE_FEATURES)?;
        let features = (REFERENCE_FEATURES.to_owned(), vec![images, FEATURES]);
        let nearest = (REFERENCE_NEAREST.to_owned(), vec![NEAREST_IMAGES]);
        let [reference, nearest] = state_file::decode_tensors(bytes, &[features, nearest])?
            .try_into()
            .expect("two tensors were asked for");
        let squares: f64 = reference.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        Ok(Self {
            isa,
            classifier,
            reference_normal: Moments::of(&reference).normal(),
            reference_square: squares / reference.len() as f64,
            reference,
            nearest,
        })
    }

    /// Judges piece `piece` of the samples, `[100, 28, 28]`: the numbers that
    /// [`combine`](Self::combine) needs of it.
    pub(crate) fn piece(&self, images: &[u8], piece: usize) -> Vec<f64> {
        let Judgement { features, log_probabilities } = self.classifier.judge(images);
        let mut numbers = Vec::new();
        Moments::of(&features).append_to(&mut numbers);

        // Of the classes: how many images, the sum of the probabilities, and that of p ln p.
        let (mut counts, mut sums, mut negative_entropy) = ([0.0; CLASSES], [0.0; CLASSES], 0.0);
        for row in log_probabilities.chunks_exact(CLASSES) {
            counts[most_likely(row)] += 1.0;
            for (sum, log) in sums.iter_mut().zip(row) {
                let probability = exp_negative(*log);
                *sum += probability;
                negative_entropy += probability * log;
            }
        }
        numbers.extend(counts);
        numbers.extend(sums);
        numbers.push(negative_entropy);

        // Images that follow each other are often by one writer, and more alike than others.
        let blocks = self.reference.len() / features.len();
        let rows = self.reference.chunks_exact(FEATURES).skip(piece % blocks).step_by(blocks);
        let reference: Vec<f32> = rows.take(PIECE_IMAGES).flatten().copied().collect();
        numbers.push(kernel::kernel_distance(&features, &reference, self.reference_square));
        numbers
    }

    /// Combines the numbers of all pieces to the values of `EVALUATION`.
    pub(crate) fn combine(&self, pieces: &[Vec<f64>]) -> Vec<f64> {
        let moments = Moments::sum(pieces.iter().map(|piece| &piece[..MOMENTS_LEN]));
        let frechet = moments.normal().frechet_distance(&self.reference_normal);
        let rest: Vec<&[f64]> = pieces.iter().map(|piece| &piece[MOMENTS_LEN..]).collect();
        let sum = |at: usize| rest.iter().map(|piece| piece[at]).sum::<f64>();
        let images = (0..CLASSES).map(sum).sum::<f64>();
        let shares = (0..CLASSES).map(|class| sum(class) / images);
        let (least, most) = shares
            .fold((1.0f64, 0.0f64), |(least, most), share| (least.min(share), most.max(share)));
        // exp(mean of p ln p - p' ln p'), where p' is the mean of p over all images.
        let mean_entropy = -sum(2 * CLASSES) / images;
        let entropy_of_mean: f64 = (0..CLASSES)
            .map(|class| sum(CLASSES + class) / images)
            .map(|share| if share > 0.0 { -share * ln(share) } else { 0.0 })
            .sum();
        let score = 1.0 / exp_negative((mean_entropy - entropy_of_mean).min(0.0));
        let kernel = sum(2 * CLASSES + 1) / pieces.len() as f64;
        vec![frechet, kernel, score, least, most]
    }

    /// Judges samples `[N, 28, 28]`, of which there must be a multiple of 100, and at least 1000.
    /// `training` are the images that the generator was trained on, `[M, 28, 28]`.
    ///
    /// The values are those of an evaluation during the training, if the samples are the same.
    pub fn report(&self, samples: &[u8], training: &[u8]) -> Report {
        let pieces: Vec<Vec<f64>> = samples
            .chunks_exact(PIECE_IMAGES * PIXELS)
            .enumerate()
            .map(|(piece, images)| self.piece(images, piece))
            .collect();
        let mut classes = [0.0; CLASSES];
        for (class, share) in classes.iter_mut().enumerate() {
            let counts = pieces.iter().map(|piece| piece[MOMENTS_LEN + class]);
            *share = counts.sum::<f64>() / (samples.len() / PIXELS) as f64;
        }
        let features = self.features(samples);
        let coverage = neighbours::coverage(self.isa, &self.reference, &features, FEATURES);
        let limit = self.nearest[(COPY_SHARE * self.nearest.len() as f64) as usize];
        let distances = nearest_training_image(samples, training);
        let copies = distances.iter().filter(|distance| **distance < limit).count();
        Report {
            values: self.combine(&pieces),
            classes,
            coverage,
            copies: copies as f64 / distances.len() as f64,
        }
    }

    /// The share of images whose most likely class is their label.
    pub fn accuracy(&self, images: LabelledImages<'_>) -> f64 {
        accuracy(&self.classifier, images)
    }

    /// The features of images `[N, 28, 28]`, `[N, 64]`.
    fn features(&self, images: &[u8]) -> Vec<f32> {
        features(&self.classifier, images)
    }
}

/// Trains an evaluator on the training images of a data set, and takes the test images as the real
/// ones. Returns the file. `tell` is called after each epoch with its number, the mean loss and the
/// accuracy on the test images.
///
/// # Panics
/// If a part has fewer than [`IMAGES_MIN`] images.
pub fn train(
    training: LabelledImages<'_>,
    test: LabelledImages<'_>,
    epochs: u64,
    mut tell: impl FnMut(u64, f64, f64),
) -> Vec<u8> {
    let mut classifier = ClassifierTraining::new(training.len(), epochs);
    for epoch in 1..=epochs {
        let loss = classifier.epoch(epoch, training);
        tell(epoch, loss, accuracy(&classifier.classifier(), test));
    }
    let features = features(&classifier.classifier(), test.pixels);
    let mut nearest = nearest_training_image(test.pixels, training.pixels);
    nearest.sort_by(f32::total_cmp);

    let mut tensors = classifier.tensors();
    tensors.push((REFERENCE_FEATURES.to_owned(), vec![test.len(), FEATURES], features));
    tensors.push((REFERENCE_NEAREST.to_owned(), vec![nearest.len()], nearest));
    evaluator_file::encode(&tensors, training.pixels)
}

fn features(classifier: &Classifier, images: &[u8]) -> Vec<f32> {
    images.chunks(BATCH * PIXELS).flat_map(|batch| classifier.judge(batch).features).collect()
}

fn accuracy(classifier: &Classifier, LabelledImages { pixels, labels }: LabelledImages<'_>) -> f64 {
    let mut right = 0;
    for (pixels, labels) in pixels.chunks(BATCH * PIXELS).zip(labels.chunks(BATCH)) {
        let log_probabilities = classifier.judge(pixels).log_probabilities;
        for (row, &label) in log_probabilities.chunks_exact(CLASSES).zip(labels) {
            right += usize::from(most_likely(row) == usize::from(label));
        }
    }
    right as f64 / labels.len() as f64
}

/// The class with the greatest probability.
fn most_likely(row: &[f64]) -> usize {
    let mut best = 0;
    for (class, log) in row.iter().enumerate() {
        if *log > row[best] {
            best = class;
        }
    }
    best
}

/// The distance of each of the first images to the nearest training image, in pixels from 0 to 1.
fn nearest_training_image(images: &[u8], training: &[u8]) -> Vec<f32> {
    let values = |pixels: &[u8]| pixels.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
    let images: Vec<f32> = values(&images[..NEAREST_IMAGES * PIXELS]);
    // All distances at once would take gigabytes.
    let mut distances = vec![f32::INFINITY; NEAREST_IMAGES];
    for part in training.chunks(10_000 * PIXELS) {
        let part: Vec<f32> = values(part);
        let found = nearest(Isa::widest(), &Points::new(&part, PIXELS), &images);
        distances.iter_mut().zip(found).for_each(|(least, it)| *least = least.min(it));
    }
    distances
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dcgan_core::random::{Purpose, RandomStream};
    use dcgan_core::spec::networks::EVALUATION;
    use dcgan_store::dataset::{Labelled, Split};

    use super::*;

    fn test_images() -> Labelled {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dcgan-store/mnist");
        Labelled::load(&folder, Split::Test).unwrap()
    }

    #[test]
    fn the_built_in_classifier_is_right_in_more_than_99_2_percent() {
        let Labelled { pixels, labels } = &test_images();
        let accuracy = Evaluator::mnist().accuracy(LabelledImages { pixels, labels });
        assert!(accuracy >= 0.992, "{accuracy}");
    }

    #[test]
    fn the_real_images_are_at_no_distance_from_themselves() {
        let pixels = test_images().pixels;
        let report = Evaluator::mnist().report(&pixels, &[]);
        let of = |name| {
            let place = EVALUATION.names.iter().position(|it| *it == name).unwrap();
            report.values[place]
        };
        assert!(of("frechet_distance").abs() < 1e-6, "{report:?}");
        assert!(of("kernel_distance").abs() < 0.1 && of("classifier_score") > 9.5, "{report:?}");
        assert!(of("class_share_min") > 0.08 && of("class_share_max") < 0.12, "{report:?}");
        let Coverage { precision, recall, density, coverage } = report.coverage;
        assert_eq!((precision, recall, coverage), (1.0, 1.0, 1.0));
        assert!((density - 1.2).abs() < 1e-2, "{density}");
    }

    #[test]
    fn an_evaluation_has_the_same_bits_with_every_instruction_set() {
        let stream = RandomStream::new(0, Purpose::Data, 0, 0);
        let samples: Vec<u8> =
            stream.uniforms(PIECE_IMAGES * PIXELS).map(|u| (256.0 * u) as u8).collect();
        let numbers = |isa| {
            let numbers = Evaluator::on(MNIST, isa).unwrap().piece(&samples, 0);
            numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>()
        };
        let expected = numbers(Isa::Scalar);
        for isa in Isa::available() {
            assert_eq!(numbers(isa), expected, "{isa:?}");
        }
    }
}
