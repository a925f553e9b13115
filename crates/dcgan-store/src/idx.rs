//! The IDX format of MNIST's images and those of its relatives, plain or packed with gzip.
//!
//! ```text
//! offset  bytes  content, numbers in big-endian order
//! 0       4      magic number: 0x803 for unsigned bytes in 3 dimensions
//! 4       4      number of images
//! 8, 12   4, 4   rows and columns
//! 16      ...    one byte for each pixel
//! ```
//!
//! The content decides what a file is, and not its name: browsers, archives and people rename
//! files.
//!
//! A damaged or hostile file can promise gigabytes. Memory is taken in small steps as the data
//! comes, so it grows with the bytes that really exist, and to no more than the data needs.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use crate::content;

/// The most bytes of data in a file; a longer one is refused. The images of EMNIST, the largest
/// known relative of MNIST, have 547 MB.
pub const PAYLOAD_BYTES_MAX: u64 = 1 << 30;
/// The bytes of a header.
pub const HEADER_BYTES: usize = 16;
/// How a file of images begins.
const MAGIC: [u8; 4] = [0, 0, 8, 3];
/// How a file of labels begins. The number of labels follows.
const LABELS_MAGIC: [u8; 4] = [0, 0, 8, 1];
/// The bytes of a header of labels.
const LABELS_HEADER_BYTES: usize = 8;

/// The bytes of a file that tell what it holds.
const HEAD_BYTES: u64 = 512;
/// Memory for pixels is taken in steps of this size.
const STEP_BYTES: u64 = 1 << 20;
/// A file may be packed twice: some servers pack what is packed already.
const LAYERS_MAX: usize = 2;

/// Grey images, one byte for each pixel: 0 is black, 255 is white.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// The number of images.
    pub count: usize,
    /// Pixels down.
    pub rows: usize,
    /// Pixels across.
    pub columns: usize,
    /// The pixels, `[count, rows, columns]`.
    pub pixels: Vec<u8>,
}

/// The fault of a file, with the expected and the found value, or with what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdxError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// The gzip data in the file cannot be unpacked.
    #[error("cannot be unpacked: {0}; the file is damaged or truncated: download it again")]
    Packed(io::Error),
    /// The file holds something else than images; says what.
    #[error("expected images in IDX format, found {0}")]
    Content(String),
    /// The labels are not those that were expected; says which, and what was found.
    #[error("expected {0}")]
    Labels(String),
    /// The file ends within its header.
    #[error(
        "expected a header of {expected} bytes, found {found} bytes: the file is truncated: \
         download it again"
    )]
    Header {
        /// Bytes of a header.
        expected: usize,
        /// Bytes of the file.
        found: usize,
    },
    /// The header promises no images, or images without pixels; holds the dimensions.
    #[error("expected at least one image of at least one pixel, found {0}")]
    Empty(String),
    /// The file has more than the allowed number of bytes, or its header promises that.
    #[error("expected at most {bytes_max} bytes of data, found {found}")]
    TooLarge {
        /// The allowed number of bytes.
        bytes_max: u64,
        /// The number of bytes that the file has or promises.
        found: u128,
    },
    /// The file is shorter than its header promises.
    #[error(
        "expected {expected} bytes of data, as its header says, found {found}: the file is \
         truncated: download it again"
    )]
    Truncated {
        /// Bytes of data that the header promises.
        expected: u64,
        /// Bytes of data in the file.
        found: u64,
    },
    /// The file is longer than its header promises.
    #[error("expected {expected} bytes of data, as its header says, found more")]
    Oversized {
        /// Bytes of data that the header promises.
        expected: u64,
    },
}

impl From<io::Error> for IdxError {
    fn from(error: io::Error) -> Self {
        // The system's errors have a number. The others are those of the unpacker.
        if error.raw_os_error().is_some() { Self::Io(error) } else { Self::Packed(error) }
    }
}

/// Reads a file of images with at most `bytes_max` bytes of data.
///
/// # Errors
/// If the source cannot be read or is not exactly one file of images.
pub fn read_images(source: impl BufRead, bytes_max: u64) -> Result<Images, IdxError> {
    let mut source = unpack(source, bytes_max)?;
    let head = read_head(&mut source)?;
    // The content is checked first: the length of another kind of file says nothing.
    if let Some(other) = describe_other(&head) {
        return Err(IdxError::Content(other));
    }
    let Some((header, rest)) = head.split_at_checked(HEADER_BYTES) else {
        return Err(IdxError::Header { expected: HEADER_BYTES, found: head.len() });
    };
    let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|byte| header[at + byte])) as usize;
    let [count, rows, columns] = [4, 8, 12].map(word);
    let bytes = data_bytes([count, rows, columns], bytes_max)?;
    let pixels = read_exactly(rest.chain(source), bytes)?;
    Ok(Images { count, rows, columns, pixels })
}

/// Reads a file of labels with at most `bytes_max` bytes of data: one byte for each image.
///
/// # Errors
/// If the source cannot be read or is not exactly one file of labels.
pub fn read_labels(source: impl BufRead, bytes_max: u64) -> Result<Vec<u8>, IdxError> {
    let mut source = unpack(source, bytes_max)?;
    let head = read_head(&mut source)?;
    if !head.starts_with(&LABELS_MAGIC) {
        let found = describe_other(&head).unwrap_or_else(|| "images".to_owned());
        return Err(IdxError::Labels(format!("labels in IDX format, found {found}")));
    }
    let Some((header, rest)) = head.split_at_checked(LABELS_HEADER_BYTES) else {
        return Err(IdxError::Header { expected: LABELS_HEADER_BYTES, found: head.len() });
    };
    let count = u32::from_be_bytes([4, 5, 6, 7].map(|byte| header[byte]));
    let bytes = data_bytes([count as usize, 1, 1], bytes_max)?;
    read_exactly(rest.chain(source), bytes)
}

/// Returns what a source holds, in words, if it is something else than images.
///
/// # Errors
/// If the source cannot be read.
pub(crate) fn other_content(source: impl BufRead) -> Result<Option<String>, IdxError> {
    Ok(describe_other(&read_head(&mut unpack(source, HEAD_BYTES)?)?))
}

fn read_head(source: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    source.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(head)
}

/// Returns what a file that begins like this holds, in words, if it is something else than images.
fn describe_other(head: &[u8]) -> Option<String> {
    let is_images = head.starts_with(&MAGIC) || (!head.is_empty() && MAGIC.starts_with(head));
    (!is_images).then(|| content::describe(head))
}

/// Writes a file of images. Each of the three dimensions must fit into 32 bits.
///
/// # Errors
/// If the sink cannot be written.
pub fn write_images(images: &Images, sink: &mut impl io::Write) -> io::Result<()> {
    sink.write_all(&MAGIC)?;
    for dimension in [images.count, images.rows, images.columns] {
        sink.write_all(&(dimension as u32).to_be_bytes())?;
    }
    sink.write_all(&images.pixels)
}

/// Unpacks a source if it is packed. No layer gives more than a file with `bytes_max` bytes of data
/// can have, and one byte to tell that there is more.
fn unpack<'a>(source: impl BufRead + 'a, bytes_max: u64) -> io::Result<Box<dyn BufRead + 'a>> {
    let mut source: Box<dyn BufRead + 'a> = Box::new(source);
    for _ in 0..LAYERS_MAX {
        if !source.fill_buf()?.starts_with(&content::GZIP) {
            break;
        }
        let unpacked = MultiGzDecoder::new(source).take(bytes_max + HEADER_BYTES as u64 + 1);
        source = Box::new(BufReader::new(unpacked));
    }
    Ok(source)
}

/// Returns the bytes of data that a header with these dimensions promises.
fn data_bytes(dimensions: [usize; 3], bytes_max: u64) -> Result<u64, IdxError> {
    // Three dimensions of 32 bits overflow 64 bits, but not 128.
    let found: u128 = dimensions.iter().map(|&dimension| dimension as u128).product();
    if found == 0 {
        return Err(IdxError::Empty(dimensions.map(|number| number.to_string()).join(" x ")));
    }
    match u64::try_from(found) {
        Ok(bytes) if bytes <= bytes_max => Ok(bytes),
        _ => Err(IdxError::TooLarge { bytes_max, found }),
    }
}

/// Reads a source that must have exactly `expected` more bytes.
fn read_exactly(mut source: impl Read, expected: u64) -> Result<Vec<u8>, IdxError> {
    let mut bytes = Vec::new();
    loop {
        let found = bytes.len() as u64;
        let step = STEP_BYTES.min(expected - found);
        if step == 0 {
            break;
        }
        bytes.reserve_exact(step as usize);
        if (source.by_ref().take(step).read_to_end(&mut bytes)? as u64) < step {
            return Err(IdxError::Truncated { expected, found: bytes.len() as u64 });
        }
    }
    match source.take(1).read_to_end(&mut Vec::new())? {
        0 => Ok(bytes),
        _ => Err(IdxError::Oversized { expected }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(dimensions: &[u32], data: usize) -> Vec<u8> {
        let header = [0x803].iter().chain(dimensions).flat_map(|word| word.to_be_bytes());
        header.chain(std::iter::repeat_n(7, data)).collect()
    }

    fn read(bytes: &[u8]) -> Result<Images, IdxError> {
        read_images(bytes, PAYLOAD_BYTES_MAX)
    }

    #[test]
    fn written_images_are_read_back() {
        let images = Images { count: 3, rows: 2, columns: 5, pixels: (0..30).collect() };
        let mut bytes = Vec::new();
        write_images(&images, &mut bytes).unwrap();
        assert_eq!(read(&bytes).unwrap(), images);
    }

    #[test]
    fn pixels_take_no_more_memory_than_they_need() {
        let data = 2 * STEP_BYTES as usize + 784;
        for (promised, expected) in [(data, data), (data + 1, 0), (1 << 30, 0)] {
            let bytes = file(&[promised as u32, 1, 1], data);
            let pixels = read(&bytes).map_or(Vec::new(), |images| images.pixels);
            assert_eq!((pixels.len(), pixels.capacity()), (expected, expected));
        }
    }

    #[test]
    fn an_error_says_what_was_expected_and_what_was_found() {
        let check = |bytes: Vec<u8>, expected: &str| {
            assert_eq!(read(&bytes).unwrap_err().to_string(), expected);
        };
        let header = "expected a header of 16 bytes, found 12 bytes: the file is truncated: \
                      download it again";
        check(file(&[3, 2], 0), header);
        check(
            file(&[0, 28, 28], 0),
            "expected at least one image of at least one pixel, found 0 x 28 x 28",
        );
        check(
            file(&[3, 2, 2], 11),
            "expected 12 bytes of data, as its header says, found 11: the file is truncated: \
             download it again",
        );
        check(file(&[3, 2, 2], 13), "expected 12 bytes of data, as its header says, found more");
        check(
            file(&[u32::MAX; 3], 13),
            "expected at most 1073741824 bytes of data, found 79228162458924105385300197375",
        );
    }

    /// A source that gives a byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let bytes = buffer.len().min(1);
            self.0.read(&mut buffer[..bytes])
        }
    }

    #[test]
    fn the_content_is_told_however_it_comes() {
        let labels = BufReader::with_capacity(1, Slow(&[0, 0, 8, 1, 0, 0, 0, 1, 7]));
        let error = read_images(labels, 9).unwrap_err().to_string();
        assert_eq!(error, "expected images in IDX format, found labels: give the file of images");
        let bytes = file(&[1, 1, 3], 3);
        let images = BufReader::with_capacity(2, Slow(&bytes));
        assert_eq!(read_images(images, 9).unwrap().pixels, [7; 3]);
    }

    #[test]
    fn labels_are_read_and_other_content_is_named() {
        let read = |bytes: &[u8]| read_labels(bytes, 9).map_err(|error| error.to_string());
        let labels = [&LABELS_MAGIC[..], &[0, 0, 0, 2, 7, 3]].concat();
        assert_eq!(read(&labels), Ok(vec![7, 3]));
        let expected = "expected labels in IDX format, found images";
        assert_eq!(read(&file(&[1, 1, 1], 1)), Err(expected.to_owned()));
        assert!(read(&labels[..9]).unwrap_err().contains("the file is truncated"));
        assert!(read(&labels[..7]).unwrap_err().starts_with("expected a header of 8 bytes"));
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic(bytes: Vec<u8>) {
            let _ = read(&bytes);
            let _ = read_labels(&bytes[..], 99);
            let _ = read_labels(&[&LABELS_MAGIC[..], &bytes].concat()[..], 99);
            let _ = read(&[&MAGIC[..], &bytes].concat());
        }
    }
}
