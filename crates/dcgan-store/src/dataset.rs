//! Data sets: MNIST, which is built in; a file of images of another one, such as Fashion-MNIST,
//! KMNIST, QMNIST or EMNIST; or a folder of pictures.
//!
//! Training uses the training images alone. Labels and test sets are read for an evaluator only.

mod labelled;
mod pictures;
mod search;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use dcgan_core::random::{Purpose, RandomStream};
use dcgan_core::spec::sharding::Sharding;
use dcgan_core::spec::{DatasetInfo, ObjectiveKind};
use dcgan_core::state::digest;

pub use self::labelled::{Labelled, Split};
use self::pictures::{PICTURES_MAX, Pictures};
use self::search::FILES_MAX;
use crate::file;
use crate::idx::{self, HEADER_BYTES, IdxError, Images, PAYLOAD_BYTES_MAX};
use crate::picture::PictureError;

/// The training images of MNIST; see the README beside the file for its authors and licence.
const MNIST: &[u8] = include_bytes!("../mnist/train-images-idx3-ubyte.gz");

/// The rows and columns of the images that pictures become, which the networks are made for.
const IMAGE_SIDE: usize = 28;

/// Images of the synthetic data set.
const SYNTHETIC_IMAGES: usize = 4000;

/// A source of training images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// MNIST, which is built into the program.
    Mnist,
    /// A file of images, or a folder that holds one, or a folder of pictures.
    Path(PathBuf),
    /// 4000 random images of one pixel, for the toy objective.
    Synthetic,
}

/// The error for a data set that cannot be used. It says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// There is nothing at the path.
    #[error(
        "{0}: there is no such file or folder; mnist is the name of the data set that is built in, \
         and any other is the path of its file or folder"
    )]
    Missing(PathBuf),
    /// The path is an address.
    #[error("{0}: nothing is downloaded; download the file, and give its path")]
    Address(PathBuf),
    /// No file in the folder has training images, or is a picture.
    #[error(
        "{folder}: no file here holds training images in IDX format, such as \
         train-images-idx3-ubyte.gz, or is a PNG or JPEG picture; here are: {found}"
    )]
    NoImages {
        /// The folder that was searched.
        folder: PathBuf,
        /// The files of the folder, and what they hold.
        found: String,
    },
    /// Several files in the folder may be meant.
    #[error("{folder}: several files hold training images: {found}; give one of them to --data")]
    Several {
        /// The folder that was searched.
        folder: PathBuf,
        /// The files.
        found: String,
    },
    /// The folder has too many files.
    #[error(
        "{0}: more than {FILES_MAX} files, and no PNG or JPEG picture; give the file of images to \
         --data"
    )]
    TooManyFiles(PathBuf),
    /// The folder has too many pictures.
    #[error("{0}: more than {PICTURES_MAX} files; give a folder with fewer pictures to --data")]
    TooManyPictures(PathBuf),
    /// A picture cannot be used, or a folder of pictures cannot be read.
    #[error("{file}: {error}")]
    Picture {
        /// The file or folder.
        file: PathBuf,
        /// The fault.
        error: PictureError,
    },
    /// The folders of classes are not those that were expected; says which, and what was found.
    #[error("{folder}: expected {what}")]
    Classes {
        /// The folder of a split.
        folder: PathBuf,
        /// The expected and the found folders.
        what: String,
    },
    /// The folder has no pictures of a split.
    #[error(
        "{folder}: expected pictures in a folder {split} here, with a folder for each class in it"
    )]
    NoSplit {
        /// The folder of the data set.
        folder: PathBuf,
        /// The folder's name.
        split: &'static str,
    },
    /// A file cannot be read or is not a valid file of images.
    #[error("{file}: {error}")]
    File {
        /// The file.
        file: PathBuf,
        /// The fault.
        error: IdxError,
    },
    /// The images have another size than the objective is made for.
    #[error(
        "{file}: images of {found} pixels do not fit the networks, which are made for {expected}: \
         scale them to that size"
    )]
    Size {
        /// The file.
        file: PathBuf,
        /// Rows x columns of the images.
        found: String,
        /// Rows x columns of the objective's images.
        expected: String,
    },
}

/// The training images of a data set.
pub struct Dataset {
    /// The pixels, `[images, rows, columns]`.
    pixels: Vec<u8>,
    info: DatasetInfo,
    file: Option<PathBuf>,
    is_transposed: bool,
    left_out: Vec<PathBuf>,
}

impl Dataset {
    /// Reads the training images of a data set for an objective. With `transpose` rows and columns
    /// of each image change places; `None` leaves that to the name of the file or of its folder.
    ///
    /// # Errors
    /// If there is no file of training images, or more than one, or it is not a valid one, or does
    /// not fit the objective.
    pub fn load(
        source: &Source,
        transpose: Option<bool>,
        objective: ObjectiveKind,
    ) -> Result<Self, DataError> {
        let (file, images) = match source {
            Source::Synthetic => (None, synthetic()),
            Source::Mnist => {
                let file = Path::new("mnist (built in)");
                (None, read_images(file, MNIST)?)
            }
            Source::Path(path) => match find(path)? {
                Found::File(file) => {
                    let images = read_images(&file, open(&file)?)?;
                    (Some(file), images)
                }
                Found::Pictures(pictures) => {
                    return Self::of_pictures(&pictures, transpose.unwrap_or(false));
                }
            },
        };
        if let (Some(file), Some((rows, columns))) = (&file, objective.image_size())
            && (images.rows, images.columns) != (rows, columns)
        {
            return Err(DataError::Size {
                file: file.clone(),
                found: format!("{} x {}", images.rows, images.columns),
                expected: format!("{rows} x {columns}"),
            });
        }
        let is_transposed = transpose.unwrap_or_else(|| file.as_deref().is_some_and(is_emnist));
        Ok(Self::new(images, file, is_transposed))
    }

    /// Reads a folder of pictures. They stand upright whatever the folder is called.
    fn of_pictures(pictures: &Pictures, transpose: bool) -> Result<Self, DataError> {
        let set = Self::new(pictures.read()?, Some(pictures.folder.clone()), transpose);
        Ok(Self { left_out: pictures.left_out.clone(), ..set })
    }

    fn new(images: Images, file: Option<PathBuf>, is_transposed: bool) -> Self {
        let images = if is_transposed { transposed(images) } else { images };
        let Images { count, rows, columns, pixels } = images;
        let digest = digest::of_bytes(&pixels);
        let info = DatasetInfo { images: count, rows, columns, digest };
        Self { pixels, info, file, is_transposed, left_out: Vec::new() }
    }

    /// Returns what a training result depends on: the number of images, their size and their
    /// digest.
    pub fn info(&self) -> DatasetInfo {
        self.info
    }

    /// Returns the file of the images, or the folder of the pictures; `None` if they are built in.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Returns the files in the folder of the pictures that are none, by their paths from there.
    pub fn left_out(&self) -> &[PathBuf] {
        &self.left_out
    }

    /// Returns whether rows and columns of each image have changed places.
    pub fn is_transposed(&self) -> bool {
        self.is_transposed
    }

    /// Returns the pixels, `[images, rows, columns]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Sorts the images by partitions, and returns their pixels: the partition of the first shard,
    /// then that of the second, and so on.
    ///
    /// A data set may fill most of the memory that there is, so it is sorted in place.
    pub fn into_partitions(mut self, sharding: &Sharding) -> Vec<u8> {
        let mut sources = sharding.partitions().concat();
        reorder(&mut self.pixels, self.info.image_bytes(), &mut sources);
        self.pixels
    }
}

/// Returns the data set that an objective is trained on by default.
pub fn default_source(objective: ObjectiveKind) -> Source {
    match objective {
        ObjectiveKind::Dcgan => Source::Mnist,
        ObjectiveKind::Toy => Source::Synthetic,
    }
}

/// Makes the data set of the toy objective: the same random pixels on every machine.
fn synthetic() -> Images {
    let uniforms = RandomStream::new(0, Purpose::Data, 0, 0).uniforms(SYNTHETIC_IMAGES);
    let pixels = uniforms.map(|u| (u * 256.0) as u8).collect();
    Images { count: SYNTHETIC_IMAGES, rows: 1, columns: 1, pixels }
}

/// The images that a path means.
enum Found {
    /// A file in IDX format.
    File(PathBuf),
    /// A folder of pictures.
    Pictures(Pictures),
}

/// Finds the training images that a path means. Pictures are looked for in a folder that has no
/// other images.
fn find(path: &Path) -> Result<Found, DataError> {
    match search::find(path) {
        Ok(file) => Ok(Found::File(file)),
        Err(error @ (DataError::NoImages { .. } | DataError::TooManyFiles(_))) => {
            Pictures::find(path)?.map(Found::Pictures).ok_or(error)
        }
        Err(error) => Err(error),
    }
}

fn open(path: &Path) -> Result<impl BufRead, DataError> {
    let fault = |error| DataError::File { file: path.to_owned(), error };
    let file = file::open(path).map_err(|error| fault(IdxError::Io(error)))?;
    let found = file.metadata().map_err(|error| fault(IdxError::Io(error)))?.len();
    // A packed file may be so large too, and pack little.
    let bytes_max = PAYLOAD_BYTES_MAX + HEADER_BYTES as u64;
    if found > bytes_max {
        return Err(fault(IdxError::TooLarge { bytes_max, found: found.into() }));
    }
    Ok(BufReader::new(file))
}

fn read_images(file: &Path, source: impl BufRead) -> Result<Images, DataError> {
    let images = idx::read_images(source, PAYLOAD_BYTES_MAX);
    images.map_err(|error| DataError::File { file: file.to_owned(), error })
}

/// Returns whether a file is one of EMNIST, whose images are stored transposed, by its own name and
/// that of its folder.
fn is_emnist(file: &Path) -> bool {
    file.iter().rev().take(2).any(|name| lowercase(name.as_ref()).contains("emnist"))
}

/// Returns whether a name is hidden: such files are made by programs, and not for people.
fn is_hidden(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with('.')
}

fn lowercase(name: &Path) -> String {
    name.to_string_lossy().to_lowercase()
}

/// Exchanges rows and columns of each image.
fn transposed(mut images: Images) -> Images {
    let Images { rows, columns, .. } = images;
    let mut before = vec![0; rows * columns];
    for image in images.pixels.chunks_exact_mut(rows * columns) {
        before.copy_from_slice(image);
        for (place, pixel) in image.iter_mut().enumerate() {
            let (column, row) = (place / rows, place % rows);
            *pixel = before[row * columns + column];
        }
    }
    Images { rows: columns, columns: rows, ..images }
}

/// Moves image `sources[place]` to each `place`. `sources` must be a permutation; afterwards each
/// image is its own source.
fn reorder(pixels: &mut [u8], image_bytes: usize, sources: &mut [u32]) {
    let bytes_of = |image: usize| image * image_bytes..(image + 1) * image_bytes;
    // A permutation consists of cycles. The first image of each makes room for the others.
    for first in 0..sources.len() {
        let image = pixels[bytes_of(first)].to_vec();
        let mut place = first;
        loop {
            let source = std::mem::replace(&mut sources[place], place as u32) as usize;
            if source == first {
                break;
            }
            pixels.copy_within(bytes_of(source), place * image_bytes);
            place = source;
        }
        pixels[bytes_of(place)].copy_from_slice(&image);
    }
}
