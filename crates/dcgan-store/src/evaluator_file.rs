//! Evaluators as safetensors files: what `dcgan-sampler train-evaluator` writes, coordinators serve
//! and workers judge samples with.
//!
//! A file has the tensors of the classifier, `reference.features` (of the real images, `[N, 64]`)
//! and `reference.nearest` (the distances of 1000 real images to the nearest training image). Its
//! header has the digest of the images that the classifier was trained on: an evaluator says
//! nothing about samples of a generator that was trained on others.

use std::io;
use std::path::Path;

use dcgan_core::ids::Digest;
use dcgan_core::spec::DatasetInfo;
use dcgan_core::spec::networks::{CLASSIFIER, FEATURES, TensorSpec};
use dcgan_core::state::digest;

use crate::file;
use crate::state_file::{self, StateFileError};

/// The most bytes of a file. MNIST's has 4 MB: the features of 250,000 images fit.
pub const EVALUATOR_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The tensor of the real images' features.
pub const REFERENCE_FEATURES: &str = "reference.features";
/// The tensor of their distances to the nearest training image.
pub const REFERENCE_NEAREST: &str = "reference.nearest";
/// The real images with such a distance, which are the fewest that an evaluator has.
pub const NEAREST_IMAGES: usize = 1000;
/// The key in the header for the digest of the training images.
const TRAINING_IMAGES: &str = "training_images";
/// The end of the names of tensors that are not negative.
const VARIANCE: &str = ".running_var";

/// Why a file is no evaluator that can be used.
#[derive(Debug, thiserror::Error)]
pub enum EvaluatorFileError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file lacks tensors, or is no safetensors file.
    #[error("this is no evaluator: {0}")]
    File(#[from] StateFileError),
    /// The file has too few real images.
    #[error(
        "this is no evaluator: expected the features of at least {NEAREST_IMAGES} images, found {0}"
    )]
    Images(usize),
    /// A tensor has values that no training gives.
    #[error("this is no evaluator: tensor {0} has values out of their range")]
    Values(String),
    /// The file does not say which images the classifier was trained on.
    #[error(
        "this evaluator does not say which images it is for: make it again with dcgan-sampler \
         train-evaluator"
    )]
    NoData,
    /// The classifier was trained on other images.
    #[error(
        "this evaluator is for other images than those of the run (their digests are {found} and \
         {expected}): make one with dcgan-sampler train-evaluator of the run's data"
    )]
    OtherData {
        /// The digest of the run's images.
        expected: Digest,
        /// The digest in the file.
        found: Digest,
    },
}

/// The content of an evaluator file, checked.
#[derive(Clone, Debug)]
pub struct EvaluatorFile {
    bytes: Vec<u8>,
    digest: Digest,
    /// The digest of the images that the classifier was trained on, if the file has it.
    trained_on: Option<Digest>,
}

impl EvaluatorFile {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or is no evaluator.
    pub fn read(path: &Path) -> Result<Self, EvaluatorFileError> {
        Self::new(file::read(path, EVALUATOR_BYTES_MAX)?)
    }

    /// Checks the content of a file.
    ///
    /// # Errors
    /// If it is no evaluator.
    pub fn new(bytes: Vec<u8>) -> Result<Self, EvaluatorFileError> {
        check(&bytes)?;
        let trained_on = state_file::header_value(&bytes, TRAINING_IMAGES)?;
        let trained_on = trained_on.and_then(|digits| digits.parse().ok());
        Ok(Self { digest: digest::of_bytes(&bytes), bytes, trained_on })
    }

    /// Returns the content.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes the content out.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Returns the digest of the content.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Checks that the classifier was trained on these images.
    ///
    /// # Errors
    /// If it was not, or the file does not say.
    pub fn check_data(&self, data: &DatasetInfo) -> Result<(), EvaluatorFileError> {
        match self.trained_on {
            Some(found) if found == data.digest => Ok(()),
            Some(found) => Err(EvaluatorFileError::OtherData { expected: data.digest, found }),
            None => Err(EvaluatorFileError::NoData),
        }
    }
}

/// Encodes an evaluator of these tensors, whose classifier was trained on these pixels.
///
/// # Panics
/// If a shape does not fit its values.
pub fn encode(tensors: &[(String, Vec<usize>, Vec<f32>)], training_pixels: &[u8]) -> Vec<u8> {
    let digest = digest::of_bytes(training_pixels).to_string();
    state_file::encode_tensors(tensors, Some((TRAINING_IMAGES, digest)))
}

/// The names and shapes of an evaluator's tensors, with this number of real images.
fn tensors(images: usize) -> Vec<(String, Vec<usize>)> {
    let classifier = CLASSIFIER.tensors().into_iter();
    let mut tensors: Vec<_> =
        classifier.map(|TensorSpec { name, shape, .. }| (name, shape)).collect();
    tensors.push((REFERENCE_FEATURES.to_owned(), vec![images, FEATURES]));
    tensors.push((REFERENCE_NEAREST.to_owned(), vec![NEAREST_IMAGES]));
    tensors
}

/// Checks that a file has all tensors of an evaluator, with values that can be computed with.
fn check(bytes: &[u8]) -> Result<(), EvaluatorFileError> {
    let images = state_file::rows_of(bytes, REFERENCE_FEATURES)?;
    if images < NEAREST_IMAGES {
        return Err(EvaluatorFileError::Images(images));
    }
    let tensors = tensors(images);
    for ((name, _), values) in tensors.iter().zip(state_file::decode_tensors(bytes, &tensors)?) {
        let least = if name.ends_with(VARIANCE) { 0.0 } else { f32::MIN };
        if !values.iter().all(|&value| value.is_finite() && value >= least) {
            return Err(EvaluatorFileError::Values(name.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An evaluator of zeros for these pixels, whose first tensor has this first value.
    fn evaluator(images: usize, first: f32, pixels: &[u8]) -> Vec<u8> {
        let tensors = tensors(images).into_iter().enumerate().map(|(index, (name, shape))| {
            let mut values = vec![0.0; shape.iter().product()];
            if index == 0 {
                values[0] = first;
            }
            (name, shape, values)
        });
        encode(&tensors.collect::<Vec<_>>(), pixels)
    }

    #[test]
    fn an_evaluator_is_for_the_images_that_it_was_trained_on() {
        let bytes = evaluator(1000, 0.0, b"pixels");
        let file = EvaluatorFile::new(bytes.clone()).unwrap();
        assert_eq!((file.bytes(), file.digest()), (&*bytes, digest::of_bytes(&bytes)));
        let data = |pixels: &[u8]| DatasetInfo {
            images: 1,
            rows: 28,
            columns: 28,
            digest: digest::of_bytes(pixels),
        };
        file.check_data(&data(b"pixels")).unwrap();
        let refused = file.check_data(&data(b"others")).unwrap_err().to_string();
        assert!(refused.starts_with("this evaluator is for other images"), "{refused}");
        let no_header = state_file::subset(&bytes, &["classifier", "reference"]).unwrap();
        let file = EvaluatorFile::new(no_header).unwrap();
        assert!(matches!(file.check_data(&data(b"pixels")), Err(EvaluatorFileError::NoData)));
    }

    #[test]
    fn a_file_that_is_no_evaluator_is_refused_with_the_reason() {
        let refused = |bytes: Vec<u8>| EvaluatorFile::new(bytes).unwrap_err().to_string();
        assert!(refused(b"text".to_vec()).starts_with("this is no evaluator: "));
        let few = refused(evaluator(999, 0.0, b""));
        assert!(few.ends_with("of at least 1000 images, found 999"), "{few}");
        let values = refused(evaluator(1000, f32::NAN, b""));
        assert!(values.ends_with("weight has values out of their range"), "{values}");
        let part = state_file::subset(&evaluator(1000, 0.0, b""), &["reference"]).unwrap();
        assert!(refused(part).contains("classifier.conv1.weight"));
    }
}
