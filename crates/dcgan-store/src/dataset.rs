//! Data sets: MNIST, which is built in, or a folder of IDX files such as Fashion-MNIST, KMNIST or
//! EMNIST.
//!
//! A folder holds up to four files with MNIST's names, plain or packed with gzip:
//!
//! ```text
//! train-images-idx3-ubyte[.gz]  the only file that is needed
//! train-labels-idx1-ubyte[.gz]
//! t10k-images-idx3-ubyte[.gz]
//! t10k-labels-idx1-ubyte[.gz]
//! ```
//!
//! Training uses neither labels nor the test set. They are checked if they exist, because a file
//! that does not fit the others is a mistake that should be noticed before the training, not after
//! it.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use dcgan_core::ids::{Digest, ShardId};
use dcgan_core::random::{Purpose, RandomStream};
use dcgan_core::spec::sharding::Sharding;
use dcgan_core::spec::{DatasetInfo, ObjectiveKind};
use dcgan_core::state::digest;
use flate2::read::MultiGzDecoder;

use crate::file;
use crate::idx::{self, IdxError, Images};

/// The files of a split: its images and its labels, by their names without `.gz`.
#[derive(Clone, Copy)]
struct Split {
    images: &'static str,
    labels: &'static str,
}

const TRAIN: Split = Split { images: "train-images-idx3-ubyte", labels: "train-labels-idx1-ubyte" };
const TEST: Split = Split { images: "t10k-images-idx3-ubyte", labels: "t10k-labels-idx1-ubyte" };

/// MNIST as it ships inside the project; see the README beside the files for its authors and
/// licence.
const MNIST: [(&str, &[u8]); 4] = [
    ("train-images-idx3-ubyte.gz", include_bytes!("../mnist/train-images-idx3-ubyte.gz")),
    ("train-labels-idx1-ubyte.gz", include_bytes!("../mnist/train-labels-idx1-ubyte.gz")),
    ("t10k-images-idx3-ubyte.gz", include_bytes!("../mnist/t10k-images-idx3-ubyte.gz")),
    ("t10k-labels-idx1-ubyte.gz", include_bytes!("../mnist/t10k-labels-idx1-ubyte.gz")),
];

/// Images of the synthetic data set.
const SYNTHETIC_IMAGES: usize = 4000;

/// A source of training images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// MNIST, which is built into the program.
    Mnist,
    /// A folder with files of the names above.
    Folder(PathBuf),
    /// 4000 random images of one pixel, for the toy objective.
    Synthetic,
}

/// Why a data set cannot be used; names the file.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The training images are missing.
    #[error("{folder}: there is no {name} and no {name}.gz")]
    Missing {
        /// The folder that was searched.
        folder: PathBuf,
        /// The name of the missing file, without `.gz`.
        name: &'static str,
    },
    /// A file cannot be read or is not a valid IDX file.
    #[error("{file}: {error}")]
    File {
        /// The file.
        file: PathBuf,
        /// The fault.
        error: IdxError,
    },
    /// Two files do not belong together.
    #[error("{file}: expected {expected}, as in {other}, found {found}")]
    Mismatch {
        /// The file that is checked.
        file: PathBuf,
        /// The file that it is checked against.
        other: PathBuf,
        /// The count of the other file.
        expected: String,
        /// The count of the checked file.
        found: String,
    },
}

/// The training images of a data set.
pub struct Dataset {
    images: Images,
    info: DatasetInfo,
}

impl Dataset {
    /// Reads the training images of a data set, and checks its other files if they exist.
    ///
    /// # Errors
    /// If the training images are missing, or a file is not what its name says or does not fit the
    /// others.
    pub fn load(source: &Source) -> Result<Self, DataError> {
        if *source == Source::Synthetic {
            return Ok(Self::new(synthetic()));
        }
        let Some(train) = read_split(source, TRAIN)? else {
            let folder = match source {
                Source::Folder(folder) => folder.clone(),
                Source::Mnist | Source::Synthetic => PathBuf::new(),
            };
            return Err(DataError::Missing { folder, name: TRAIN.images });
        };
        if let Some(test) = read_split(source, TEST)? {
            let (expected, found) = (size_of_images(&train.images), size_of_images(&test.images));
            if expected != found {
                return Err(DataError::Mismatch {
                    file: test.file,
                    other: train.file,
                    expected,
                    found,
                });
            }
        }
        Ok(Self::new(train.images))
    }

    fn new(images: Images) -> Self {
        let info = DatasetInfo {
            images: images.count,
            rows: images.rows,
            columns: images.columns,
            digest: digest::of_bytes(&images.pixels),
        };
        Self { images, info }
    }

    /// Returns what a training result depends on: the number of images, their size and their
    /// digest.
    pub fn info(&self) -> DatasetInfo {
        self.info
    }

    /// Splits the data set into one partition for each shard.
    pub fn partitions(&self, sharding: &Sharding) -> Partitions<'_> {
        Partitions { dataset: self, indices: sharding.partitions() }
    }
}

/// A data set that is split into partitions, one for each shard.
pub struct Partitions<'a> {
    dataset: &'a Dataset,
    /// The indices of each shard's images in the data set.
    indices: Vec<Vec<u32>>,
}

impl Partitions<'_> {
    /// Returns the pixels of a shard's images, `[images, rows, columns]`, with their digest; `None`
    /// if there is no such shard.
    pub fn pixels(&self, shard: ShardId) -> Option<(Vec<u8>, Digest)> {
        let indices = self.indices.get(usize::from(shard.0))?;
        let image_bytes = self.dataset.info.image_bytes();
        let mut pixels = Vec::with_capacity(indices.len() * image_bytes);
        for &index in indices {
            let start = index as usize * image_bytes;
            pixels.extend_from_slice(&self.dataset.images.pixels[start..start + image_bytes]);
        }
        let digest = digest::of_bytes(&pixels);
        Some((pixels, digest))
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

fn size_of_images(images: &Images) -> String {
    format!("images of {} x {}", images.rows, images.columns)
}

/// The images of a split, with the file that they were read from.
struct SplitImages {
    file: PathBuf,
    images: Images,
}

/// Reads the images of a split, and checks its labels if they exist; `None` if there are no images.
fn read_split(source: &Source, split: Split) -> Result<Option<SplitImages>, DataError> {
    let Some(SourceFile { path: file, reader }) = open(source, split.images)? else {
        return Ok(None);
    };
    let images =
        idx::read_images(reader).map_err(|error| DataError::File { file: file.clone(), error })?;

    if let Some(SourceFile { path: labels_file, reader }) = open(source, split.labels)? {
        let labels = idx::read_labels(reader)
            .map_err(|error| DataError::File { file: labels_file.clone(), error })?;
        if labels.len() != images.count {
            return Err(DataError::Mismatch {
                file: labels_file,
                other: file,
                expected: format!("{} items", images.count),
                found: format!("{} items", labels.len()),
            });
        }
    }
    Ok(Some(SplitImages { file, images }))
}

/// An open file of a source. Its reader unpacks it if it is packed.
struct SourceFile {
    path: PathBuf,
    reader: Box<dyn Read>,
}

/// Opens the file `name` of a source, or `name.gz`; `None` if neither exists.
fn open(source: &Source, name: &str) -> Result<Option<SourceFile>, DataError> {
    let packed_name = format!("{name}.gz");
    match source {
        Source::Synthetic => Ok(None),
        Source::Mnist => {
            let (_, bytes) = MNIST
                .into_iter()
                .find(|(file, _)| *file == packed_name)
                .expect("MNIST has both files of both splits");
            let path = Path::new("mnist (built in)").join(packed_name);
            Ok(Some(SourceFile { path, reader: Box::new(MultiGzDecoder::new(bytes)) }))
        }
        Source::Folder(folder) => {
            if let Some(file) = open_file(folder.join(name))? {
                return Ok(Some(SourceFile { path: folder.join(name), reader: Box::new(file) }));
            }
            let path = folder.join(packed_name);
            let Some(file) = open_file(path.clone())? else {
                return Ok(None);
            };
            Ok(Some(SourceFile { path, reader: Box::new(MultiGzDecoder::new(file)) }))
        }
    }
}

/// Opens a file; `None` if it does not exist.
fn open_file(path: PathBuf) -> Result<Option<BufReader<File>>, DataError> {
    match file::open(&path) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DataError::File { file: path, error: error.into() }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn images(count: u32, side: u32) -> Vec<u8> {
        let header = [0x803, count, side, side].into_iter().flat_map(u32::to_be_bytes);
        header.chain((0..count * side * side).map(|i| i as u8)).collect()
    }

    fn labels(count: u32) -> Vec<u8> {
        [0x801, count]
            .into_iter()
            .flat_map(u32::to_be_bytes)
            .chain((0..count).map(|i| i as u8))
            .collect()
    }

    fn load(files: &[(&str, Vec<u8>)]) -> Result<Dataset, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        let root = folder.path().display().to_string();
        Dataset::load(&Source::Folder(folder.path().to_owned()))
            .map_err(|e| e.to_string().replace(&root, "DIR"))
    }

    #[test]
    fn mnist_is_built_in() {
        let mnist = Dataset::load(&Source::Mnist).unwrap();
        let DatasetInfo { images, rows, columns, .. } = mnist.info();
        assert_eq!((images, rows, columns), (60_000, 28, 28));
        let sum: u64 = mnist.images.pixels.iter().map(|&p| u64::from(p)).sum();
        let mean = sum as f64 / mnist.images.pixels.len() as f64 / 255.0;
        assert!((mean - 0.13066).abs() < 1e-5, "{mean}");
    }

    #[test]
    fn a_folder_needs_training_images_only() {
        let set = load(&[("train-images-idx3-ubyte", images(5, 2))]).unwrap();
        assert_eq!(set.info().images, 5);
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&images(5, 2)).unwrap();
        let same = load(&[("train-images-idx3-ubyte.gz", packed.finish().unwrap())]).unwrap();
        assert_eq!(same.info(), set.info());
    }

    fn check(files: &[(&str, Vec<u8>)], expected: &str) {
        assert_eq!(load(files).err().unwrap(), expected);
    }

    #[test]
    fn an_error_names_the_wrong_file() {
        check(&[], "DIR: there is no train-images-idx3-ubyte and no train-images-idx3-ubyte.gz");
        check(
            &[("train-images-idx3-ubyte", images(5, 2)), ("train-labels-idx1-ubyte", labels(4))],
            "DIR/train-labels-idx1-ubyte: expected 5 items, as in DIR/train-images-idx3-ubyte, \
             found 4 items",
        );
        check(
            &[("train-images-idx3-ubyte", images(5, 2)), ("t10k-images-idx3-ubyte", images(5, 3))],
            "DIR/t10k-images-idx3-ubyte: expected images of 2 x 2, as in \
             DIR/train-images-idx3-ubyte, \
             found images of 3 x 3",
        );
        check(
            &[("train-images-idx3-ubyte.gz", images(5, 2))],
            "DIR/train-images-idx3-ubyte.gz: cannot be read: invalid gzip header",
        );
    }

    #[test]
    fn a_partition_holds_the_images_of_its_indices() {
        let set = load(&[("train-images-idx3-ubyte", images(9, 2))]).unwrap();
        let sharding = Sharding::new(1, 9, 2, 4).unwrap();
        let (pixels, digest) = set.partitions(&sharding).pixels(ShardId(1)).unwrap();
        let first = sharding.partitions()[1][0] as usize;
        assert_eq!(pixels[..4], set.images.pixels[4 * first..][..4]);
        assert_eq!(digest, digest::of_bytes(&pixels));
        assert!(set.partitions(&sharding).pixels(ShardId(2)).is_none());
    }
}
