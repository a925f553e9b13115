//! A data set: MNIST, which is built in, or a folder of IDX files such as Fashion-MNIST, KMNIST or EMNIST.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use dcgan_core::ids::{Digest, ShardId};
use dcgan_core::random::{Purpose, RandomStream};
use dcgan_core::spec::sharding::Sharding;
use dcgan_core::spec::{DatasetInfo, ObjectiveKind, RunSpec};
use dcgan_core::state::digest;
use flate2::read::MultiGzDecoder;

use crate::idx::{self, IdxError, Images};

/// The usual names: images and labels of the training set, then of the test set. Each may end in `.gz`.
const FILES: [(&str, &str); 2] = [
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
];

/// MNIST as it ships inside the project; see the README beside the files for its authors and licence.
const MNIST: [(&str, &[u8]); 4] = [
    ("train-images-idx3-ubyte.gz", include_bytes!("../mnist/train-images-idx3-ubyte.gz")),
    ("train-labels-idx1-ubyte.gz", include_bytes!("../mnist/train-labels-idx1-ubyte.gz")),
    ("t10k-images-idx3-ubyte.gz", include_bytes!("../mnist/t10k-images-idx3-ubyte.gz")),
    ("t10k-labels-idx1-ubyte.gz", include_bytes!("../mnist/t10k-labels-idx1-ubyte.gz")),
];

/// Where training images come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// MNIST, built in.
    Mnist,
    /// A folder with files of the usual names.
    Folder(PathBuf),
    /// One pixel an image, for the toy objective.
    Synthetic,
}

/// A data set that cannot be used; names the file.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file that is needed is not there.
    #[error("{folder}: there is no {name} and no {name}.gz")]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// The file.
        name: &'static str,
    },
    /// A file is wrong.
    #[error("{file}: {error}")]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        error: IdxError,
    },
    /// Two files do not belong together.
    #[error("{file}: expected {expected}, as in {other}, found {found}")]
    Mismatch {
        /// The file that is checked.
        file: PathBuf,
        /// The file that it is checked against.
        other: PathBuf,
        /// What the other has.
        expected: String,
        /// What the file has.
        found: String,
    },
}

/// Training images, and the partitions that they are split into.
pub struct Dataset {
    images: Images,
    described: DatasetInfo,
}

impl Dataset {
    /// Reads a data set. Only the training images are needed; labels and the test set are checked if they are there.
    ///
    /// # Errors
    /// If a file is missing, is not what its name says, or does not belong to the others.
    pub fn load(source: &Source) -> Result<Self, DataError> {
        let images = match source {
            Source::Synthetic => return Ok(Self::new(synthetic())),
            Source::Mnist | Source::Folder(_) => read_split(source, FILES[0])?,
        };
        let Some((train_file, train)) = images else {
            let folder =
                if let Source::Folder(folder) = source { folder.clone() } else { PathBuf::new() };
            return Err(DataError::Missing { folder, name: FILES[0].0 });
        };
        if let Some((file, test)) = read_split(source, FILES[1])? {
            let shape = |images: &Images| format!("images of {} x {}", images.rows, images.columns);
            let (expected, found) = (shape(&train), shape(&test));
            if expected != found {
                return Err(DataError::Mismatch { file, other: train_file, expected, found });
            }
        }
        Ok(Self::new(train))
    }

    fn new(images: Images) -> Self {
        let Images { count, rows, columns, ref pixels } = images;
        let described =
            DatasetInfo { images: count, rows, columns, digest: digest::of_bytes(pixels) };
        Self { images, described }
    }

    /// What results depend on.
    pub fn described(&self) -> DatasetInfo {
        self.described
    }

    /// The partitions of all shards.
    pub fn partitions(&self, sharding: &Sharding) -> Partitions<'_> {
        Partitions { dataset: self, indices: sharding.partitions() }
    }
}

/// A data set's split into partitions.
pub struct Partitions<'a> {
    dataset: &'a Dataset,
    indices: Vec<Vec<u32>>,
}

impl Partitions<'_> {
    /// The pixels of a shard's images, one after the other, with their digest. None if there is no such shard.
    pub fn pixels(&self, shard: ShardId) -> Option<(Vec<u8>, Digest)> {
        let indices = self.indices.get(usize::from(shard.0))?;
        let image_bytes = self.dataset.described.image_bytes();
        let image = |&index: &u32| {
            &self.dataset.images.pixels[index as usize * image_bytes..][..image_bytes]
        };
        let pixels: Vec<u8> = indices.iter().flat_map(image).copied().collect();
        let digest = digest::of_bytes(&pixels);
        Some((pixels, digest))
    }
}

/// The data set that an objective is trained on by default.
pub fn default_source(objective: ObjectiveKind) -> Source {
    match objective {
        ObjectiveKind::Dcgan => Source::Mnist,
        ObjectiveKind::Toy => Source::Synthetic,
    }
}

/// Bytes of the largest partition of a spec, for limits.
pub fn partition_bytes_max(spec: &RunSpec) -> usize {
    spec.data.images.div_ceil(usize::from(spec.shards)) * spec.data.image_bytes()
}

fn synthetic() -> Images {
    let count = 4000;
    let pixels = RandomStream::new(0, Purpose::Data, 0, 0)
        .uniforms(count)
        .map(|u| (u * 256.0) as u8)
        .collect();
    Images { count, rows: 1, columns: 1, pixels }
}

/// Reads the images of a split, and checks its labels; none if there are no images.
fn read_split(
    source: &Source,
    (images, labels): (&'static str, &'static str),
) -> Result<Option<(PathBuf, Images)>, DataError> {
    let Some((file, reader)) = open(source, images)? else {
        return Ok(None);
    };
    let images =
        idx::read_images(reader).map_err(|error| DataError::File { file: file.clone(), error })?;
    if let Some((labels_file, reader)) = open(source, labels)? {
        let labels = idx::read_labels(reader);
        let labels =
            labels.map_err(|error| DataError::File { file: labels_file.clone(), error })?;
        if labels.len() != images.count {
            let items = |n: usize| format!("{n} items");
            let (expected, found) = (items(images.count), items(labels.len()));
            return Err(DataError::Mismatch { file: labels_file, other: file, expected, found });
        }
    }
    Ok(Some((file, images)))
}

type FileReader = Box<dyn Read>;

/// Opens a file of a source by its usual name, unpacked if need be.
fn open(source: &Source, name: &str) -> Result<Option<(PathBuf, FileReader)>, DataError> {
    let packed = format!("{name}.gz");
    match source {
        Source::Synthetic => Ok(None),
        Source::Mnist => {
            let (_, bytes) =
                MNIST.into_iter().find(|(file, _)| *file == packed).unwrap_or_default();
            let file = Path::new("mnist (built in)").join(packed);
            Ok(Some((file, Box::new(MultiGzDecoder::new(bytes)))))
        }
        Source::Folder(folder) => {
            for file in [folder.join(name), folder.join(&packed)] {
                let verify_checksum = match File::open(&file) {
                    Ok(verify_checksum) => BufReader::new(verify_checksum),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => {
                        return Err(DataError::File { file, error: error.into() });
                    }
                };
                let is_packed = file.extension().is_some_and(|extension| extension == "gz");
                let reader: FileReader = if is_packed {
                    Box::new(MultiGzDecoder::new(verify_checksum))
                } else {
                    Box::new(verify_checksum)
                };
                return Ok(Some((file, reader)));
            }
            Ok(None)
        }
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
        let DatasetInfo { images, rows, columns, .. } = mnist.described();
        assert_eq!((images, rows, columns), (60_000, 28, 28));
        let sum: u64 = mnist.images.pixels.iter().map(|&p| u64::from(p)).sum();
        let mean = sum as f64 / mnist.images.pixels.len() as f64 / 255.0;
        assert!((mean - 0.13066).abs() < 1e-5, "{mean}");
    }

    #[test]
    fn a_folder_needs_training_images_only() {
        let set = load(&[("train-images-idx3-ubyte", images(5, 2))]).unwrap();
        assert_eq!(set.described().images, 5);
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&images(5, 2)).unwrap();
        let same = load(&[("train-images-idx3-ubyte.gz", packed.finish().unwrap())]).unwrap();
        assert_eq!(same.described(), set.described());
    }

    #[test]
    fn wrong_files_are_named() {
        let check =
            |files: &[(&str, Vec<u8>)], text: &str| assert_eq!(load(files).err().unwrap(), text);
        check(&[], "DIR: there is no train-images-idx3-ubyte and no train-images-idx3-ubyte.gz");
        check(
            &[("train-images-idx3-ubyte", images(5, 2)), ("train-labels-idx1-ubyte", labels(4))],
            "DIR/train-labels-idx1-ubyte: expected 5 items, as in DIR/train-images-idx3-ubyte, found 4 items",
        );
        check(
            &[("train-images-idx3-ubyte", images(5, 2)), ("t10k-images-idx3-ubyte", images(5, 3))],
            "DIR/t10k-images-idx3-ubyte: expected images of 2 x 2, as in DIR/train-images-idx3-ubyte, \
             found images of 3 x 3",
        );
        check(
            &[("train-images-idx3-ubyte.gz", images(5, 2))],
            "DIR/train-images-idx3-ubyte.gz: cannot be read: invalid gzip header",
        );
    }

    #[test]
    fn partitions_hold_the_images_of_their_indices() {
        let set = load(&[("train-images-idx3-ubyte", images(9, 2))]).unwrap();
        let sharding = Sharding::new(1, 9, 2, 4).unwrap();
        let (pixels, digest) = set.partitions(&sharding).pixels(ShardId(1)).unwrap();
        let first = sharding.partitions()[1][0] as usize;
        assert_eq!(pixels[..4], set.images.pixels[4 * first..][..4]);
        assert_eq!(digest, digest::of_bytes(&pixels));
        assert!(set.partitions(&sharding).pixels(ShardId(2)).is_none());
    }
}
