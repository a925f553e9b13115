//! Images with their classes, which the training of a classifier needs.

use std::path::{Path, PathBuf};

use dcgan_core::spec::networks::CLASSES;

use super::pictures::Pictures;
use super::{DataError, IMAGE_SIDE, is_emnist, open, read_images, transposed};
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
    /// Reads a part of the data set in a folder: files with the names of MNIST's, or pictures in a
    /// folder for each class. The images are those that a run on this folder is trained with.
    ///
    /// # Errors
    /// If a file is missing or not a valid one, or images and labels do not fit each other or the
    /// classifier.
    pub fn load(folder: &Path, split: Split) -> Result<Self, DataError> {
        let begin = match split {
            Split::Training => "train",
            Split::Test => "t10k",
        };
        match find(folder, &format!("{begin}-images-idx3-ubyte")) {
            Ok(images) => {
                Self::of_files(images, &find(folder, &format!("{begin}-labels-idx1-ubyte"))?)
            }
            Err(missing) => Self::of_pictures(folder, split, missing),
        }
    }

    /// Reads a file of images and the file of their labels.
    fn of_files(file: PathBuf, labels: &Path) -> Result<Self, DataError> {
        let images = read_images(&file, open(&file)?)?;
        if (images.rows, images.columns) != (IMAGE_SIDE, IMAGE_SIDE) {
            return Err(DataError::Size {
                file,
                found: format!("{} x {}", images.rows, images.columns),
                expected: format!("{IMAGE_SIDE} x {IMAGE_SIDE}"),
            });
        }
        let images = if is_emnist(&file) { transposed(images) } else { images };
        let file = labels;
        let fault = |error| DataError::File { file: file.to_owned(), error };
        let labels = idx::read_labels(open(file)?, PAYLOAD_BYTES_MAX).map_err(fault)?;
        if labels.len() != images.count {
            let (expected, found) = (images.count, labels.len());
            let what = format!("one for each of {expected} images, found {found}");
            return Err(fault(IdxError::Labels(what)));
        }
        if let Some(label) = labels.iter().find(|label| usize::from(**label) >= CLASSES) {
            let what = format!("labels from 0 to {}, found {label}", CLASSES - 1);
            return Err(fault(IdxError::Labels(what)));
        }
        Ok(Self { pixels: images.pixels, labels })
    }

    /// Reads the pictures of a split. `missing` is the error if there are none, nor of the other
    /// split.
    fn of_pictures(folder: &Path, split: Split, missing: DataError) -> Result<Self, DataError> {
        let of = |split| match folder.is_dir() {
            true => Pictures::of_split(folder, split),
            false => Ok(None),
        };
        let no_split = |split| DataError::NoSplit { folder: folder.to_owned(), split };
        let (training, pictures) = match (of(Split::Training)?, of(split)?) {
            (Some(training), Some(pictures)) => (training, pictures),
            (Some(_), None) => return Err(no_split("test")),
            (None, Some(_)) => return Err(no_split("train")),
            (None, None) if Pictures::find(folder).is_ok_and(|found| found.is_some()) => {
                return Err(no_split("train"));
            }
            (None, None) => return Err(missing),
        };
        let labels = pictures.labels(&training.classes()?)?;
        Ok(Self { pixels: pictures.read()?.pixels, labels })
    }
}

/// The file of this name, packed or not.
fn find(folder: &Path, name: &str) -> Result<PathBuf, DataError> {
    let packed = folder.join(format!("{name}.gz"));
    let plain = folder.join(name);
    let found = [&plain, &packed].into_iter().find(|file| file.is_file());
    found.cloned().ok_or(DataError::Missing(plain))
}
