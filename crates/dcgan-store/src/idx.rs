//! The IDX format of MNIST and its relatives.
//!
//! ```text
//! offset      bytes  content, numbers in big-endian order
//! 0           4      magic number: 0x803 for images, 0x801 for labels
//! 4           4      number of items
//! 8, 12       4, 4   rows and columns; images only
//! 16, or 8    ...    one byte for each pixel, or one for each label
//! ```
//!
//! A damaged or hostile header can promise gigabytes. Nothing is allocated because of a header: the
//! data is read up to the promised size, so memory grows with the bytes that really exist.

use std::cmp::Ordering;
use std::io::{self, Read};

/// The most bytes of data in a file; a longer one is refused. The images of EMNIST, the largest
/// known relative of MNIST, have 547 MB.
pub const PAYLOAD_BYTES_MAX: u64 = 1 << 30;

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

/// The fault of a file, with the expected and the found value.
#[derive(Debug, thiserror::Error)]
pub enum IdxError {
    /// The file cannot be read or unpacked.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The file is not an IDX file of the expected kind.
    #[error("expected magic number {expected:#010x} ({what}), found {found:#010x}")]
    Magic {
        /// The magic number of the expected kind.
        expected: u32,
        /// The expected kind in words.
        what: &'static str,
        /// The magic number of the file.
        found: u32,
    },
    /// The file ends within its header.
    #[error("expected a header of {expected} bytes, found {found} bytes")]
    Header {
        /// Bytes of a whole header.
        expected: usize,
        /// Bytes of the file.
        found: usize,
    },
    /// The header promises no items, or items without pixels; holds the dimensions.
    #[error("expected at least one item of at least one byte, found {0}")]
    Empty(String),
    /// The header promises more than [`PAYLOAD_BYTES_MAX`] bytes; holds the promised number.
    #[error("expected at most {PAYLOAD_BYTES_MAX} bytes of data, found a header that promises {0}")]
    TooLarge(u128),
    /// The file is shorter than its header promises.
    #[error(
        "expected {expected} bytes of data, as its header says, found {found}: the file is \
         truncated"
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

/// A kind of IDX file.
#[derive(Clone, Copy)]
struct Kind {
    magic: u32,
    what: &'static str,
}

const IMAGES: Kind = Kind { magic: 0x0000_0803, what: "unsigned bytes in 3 dimensions" };
const LABELS: Kind = Kind { magic: 0x0000_0801, what: "unsigned bytes in 1 dimension" };

/// Reads a file of images.
///
/// # Errors
/// If the source cannot be read or is not exactly one file of images.
pub fn read_images(source: impl Read) -> Result<Images, IdxError> {
    let ([count, rows, columns], pixels) = read(source, IMAGES)?;
    Ok(Images { count, rows, columns, pixels })
}

/// Reads a file of labels, one byte for each label.
///
/// # Errors
/// If the source cannot be read or is not exactly one file of labels.
pub fn read_labels(source: impl Read) -> Result<Vec<u8>, IdxError> {
    let ([_count], labels) = read(source, LABELS)?;
    Ok(labels)
}

/// Writes a file of images. Each of the three dimensions must fit into 32 bits.
///
/// # Errors
/// If the sink cannot be written.
pub fn write_images(images: &Images, sink: &mut impl io::Write) -> io::Result<()> {
    let header = [IMAGES.magic, images.count as u32, images.rows as u32, images.columns as u32];
    for word in header {
        sink.write_all(&word.to_be_bytes())?;
    }
    sink.write_all(&images.pixels)
}

/// Reads a file with any number of dimensions, into its dimensions and its data.
fn read<const DIMENSIONS: usize>(
    mut source: impl Read,
    kind: Kind,
) -> Result<([usize; DIMENSIONS], Vec<u8>), IdxError> {
    // Read the header. The magic number is checked first: the length of a file of another kind says
    // nothing.
    let header_bytes = 4 + 4 * DIMENSIONS;
    let mut header = Vec::new();
    source.by_ref().take(header_bytes as u64).read_to_end(&mut header)?;
    match word(&header, 0) {
        Some(found) if found != kind.magic => {
            return Err(IdxError::Magic { expected: kind.magic, what: kind.what, found });
        }
        _ => {}
    }
    let mut dimensions = [0; DIMENSIONS];
    for (index, dimension) in dimensions.iter_mut().enumerate() {
        let Some(number) = word(&header, index + 1) else {
            return Err(IdxError::Header { expected: header_bytes, found: header.len() });
        };
        *dimension = number as usize;
    }

    // Read one byte more than promised, to notice a file that is too long.
    let expected = payload_bytes(&dimensions)?;
    let mut payload = Vec::new();
    let found = source.take(expected + 1).read_to_end(&mut payload)? as u64;
    match found.cmp(&expected) {
        Ordering::Less => Err(IdxError::Truncated { expected, found }),
        Ordering::Equal => Ok((dimensions, payload)),
        Ordering::Greater => Err(IdxError::Oversized { expected }),
    }
}

/// Returns word `index` of a header; `None` if the header ends before it.
fn word(header: &[u8], index: usize) -> Option<u32> {
    let bytes = header.get(4 * index..4 * index + 4)?;
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Returns the bytes of data that a header with these dimensions promises.
fn payload_bytes(dimensions: &[usize]) -> Result<u64, IdxError> {
    // Three dimensions of 32 bits overflow 64 bits, but not 128.
    let bytes: u128 = dimensions.iter().map(|&dimension| dimension as u128).product();
    if bytes == 0 {
        let numbers: Vec<String> = dimensions.iter().map(ToString::to_string).collect();
        return Err(IdxError::Empty(numbers.join(" x ")));
    }
    match u64::try_from(bytes) {
        Ok(bytes) if bytes <= PAYLOAD_BYTES_MAX => Ok(bytes),
        _ => Err(IdxError::TooLarge(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(magic: u32, dimensions: &[u32], payload: usize) -> Vec<u8> {
        let header = std::iter::once(&magic).chain(dimensions).flat_map(|word| word.to_be_bytes());
        header.chain(std::iter::repeat_n(7, payload)).collect()
    }

    #[test]
    fn written_images_are_read_back() {
        let images = Images { count: 3, rows: 2, columns: 5, pixels: (0..30).collect() };
        let mut bytes = Vec::new();
        write_images(&images, &mut bytes).unwrap();
        assert_eq!(read_images(&*bytes).unwrap(), images);
        assert_eq!(read_labels(&*file(0x801, &[4], 4)).unwrap(), [7; 4]);
    }

    fn check(bytes: Vec<u8>, expected: &str) {
        assert_eq!(read_images(&*bytes).unwrap_err().to_string(), expected);
    }

    #[test]
    fn an_error_says_what_was_expected_and_what_was_found() {
        check(
            file(0x801, &[4], 4),
            "expected magic number 0x00000803 (unsigned bytes in 3 dimensions), found 0x00000801",
        );
        check(Vec::new(), "expected a header of 16 bytes, found 0 bytes");
        check(file(0x803, &[3, 2], 0), "expected a header of 16 bytes, found 12 bytes");
        check(
            file(0x803, &[0, 28, 28], 0),
            "expected at least one item of at least one byte, found 0 x 28 x 28",
        );
        check(
            file(0x803, &[3, 2, 2], 11),
            "expected 12 bytes of data, as its header says, found 11: the file is truncated",
        );
        check(
            file(0x803, &[3, 2, 2], 13),
            "expected 12 bytes of data, as its header says, found more",
        );
        check(
            file(0x803, &[u32::MAX; 3], 13),
            "expected at most 1073741824 bytes of data, found a header that promises \
             79228162458924105385300197375",
        );
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic(bytes: Vec<u8>) {
            let _ = read_images(&*bytes);
            let mut with_magic = 0x803u32.to_be_bytes().to_vec();
            with_magic.extend(bytes);
            let _ = read_images(&*with_magic);
        }
    }
}
