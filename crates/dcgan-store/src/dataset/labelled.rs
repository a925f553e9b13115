//! Images with their classes, which the training of a classifier needs.

use std::path::{Path, PathBuf};

use dcgan_core::spec::networks::CLASSES;

use super::{DataError, open, read_images};
use crate::idx::{self, IdxError, PAYLOAD_BYTES_MAX};

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The images to train on.
    Training,
    /// The images to test with.
    Test,
}

/// The images of a part of a data set, with their classes.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// `[N, 28, 28]`, one byte for each pixel.
    pub pixels: Vec<u8>,
    /// `[N]`, each from 0 to 9.
    pub labels: Vec<u8>,
}

impl Labelled {
    /// Reads a part of the data set in a folder, whose files have the names of MNIST's.
    ///
    /// # Errors
    /// If a file is missing or not a valid one, or images and labels do not fit each other or the
    /// classifier.
    pub fn load(folder: &Path, split: Split) -> Result<Self, DataError> {
        let begin = match split {
            Split::Training => "train",
            Split::Test => "t10k",
        };
        let file = find(folder, &format!("{begin}-images-idx3-ubyte"))?;
        let images = read_images(&file, open(&file)?)?;
        if (images.rows, images.columns) != (28, 28) {
            return Err(DataError::Size {
                file,
                found: format!("{} x {}", images.rows, images.columns),
                expected: "28 x 28".to_owned(),
            });
        }
        let file = find(folder, &format!("{begin}-labels-idx1-ubyte"))?;
        let labels = idx::read_labels(open(&file)?, PAYLOAD_BYTES_MAX)
            .map_err(|error| DataError::File { file: file.clone(), error })?;
        let fault = |what: String| DataError::File { file, error: IdxError::Labels(what) };
        if labels.len() != images.count {
            let (expected, found) = (images.count, labels.len());
            return Err(fault(format!("one for each of {expected} images, found {found}")));
        }
        if let Some(label) = labels.iter().find(|label| usize::from(**label) >= CLASSES) {
            return Err(fault(format!("labels from 0 to {}, found {label}", CLASSES - 1)));
        }
        Ok(Self { pixels: images.pixels, labels })
    }
}

/// The file of this name, packed or not.
fn find(folder: &Path, name: &str) -> Result<PathBuf, DataError> {
    let packed = folder.join(format!("{name}.gz"));
    let plain = folder.join(name);
    let found = [&plain, &packed].into_iter().find(|file| file.is_file());
    found.cloned().ok_or(DataError::Missing(plain))
}
