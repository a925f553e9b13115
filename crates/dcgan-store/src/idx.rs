//! The IDX format of MNIST and its relatives: a big-endian header, then bytes.
//!
//! Nothing is allocated because a header says so: the payload is read up to the size that the header promises, and
//! memory grows with what is really there.

use std::io::{self, Read};

/// Larger data sets are refused: the whole of EMNIST has 547 MB.
pub const PAYLOAD_BYTES_MAX: u64 = 1 << 30;

/// Images, one byte a pixel, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// How many.
    pub count: usize,
    /// Pixels down.
    pub rows: usize,
    /// Pixels across.
    pub columns: usize,
    /// `count * rows * columns` bytes.
    pub pixels: Vec<u8>,
}

/// What is wrong with a file; says what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum IdxError {
    /// It cannot be read or unpacked.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is no IDX file of the kind.
    #[error("expected magic number {expected:#010x} ({what}), found {found:#010x}")]
    Magic {
        /// The kind's magic number.
        expected: u32,
        /// The kind in words.
        what: &'static str,
        /// The file's.
        found: u32,
    },
    /// It ends within its header.
    #[error("expected a header of {expected} bytes, found {found} bytes")]
    Header {
        /// Bytes of the kind's header.
        expected: usize,
        /// Bytes that are there.
        found: usize,
    },
    /// It has no items, or items without pixels.
    #[error("expected at least one item of at least one byte, found {0}")]
    Empty(String),
    /// Its header promises more than any data set has.
    #[error("expected at most {PAYLOAD_BYTES_MAX} bytes of data, found a header that promises {0}")]
    TooLarge(u128),
    /// It is shorter than its header says.
    #[error(
        "expected {expected} bytes of data, as its header says, found {found}: the file is truncated"
    )]
    Truncated {
        /// Bytes that the header promises.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// It is longer than its header says.
    #[error("expected {expected} bytes of data, as its header says, found more")]
    Oversized {
        /// Bytes that the header promises.
        expected: u64,
    },
}

const IMAGES: (u32, &str) = (0x0000_0803, "unsigned bytes in 3 dimensions");
const LABELS: (u32, &str) = (0x0000_0801, "unsigned bytes in 1 dimension");

/// Reads a file of images.
///
/// # Errors
/// If it is not exactly one.
pub fn read_images(source: impl Read) -> Result<Images, IdxError> {
    let ([count, rows, columns], pixels) = read(source, IMAGES)?;
    Ok(Images { count, rows, columns, pixels })
}

/// Reads a file of labels.
///
/// # Errors
/// If it is not exactly one.
pub fn read_labels(source: impl Read) -> Result<Vec<u8>, IdxError> {
    let ([_], labels) = read(source, LABELS)?;
    Ok(labels)
}

/// Writes images as a file.
///
/// # Errors
/// Those of `sink`.
pub fn write_images(images: &Images, sink: &mut impl io::Write) -> io::Result<()> {
    let header = [IMAGES.0, images.count as u32, images.rows as u32, images.columns as u32];
    for word in header {
        sink.write_all(&word.to_be_bytes())?;
    }
    sink.write_all(&images.pixels)
}

fn read<const DIMENSIONS: usize>(
    mut source: impl Read,
    (expected, what): (u32, &'static str),
) -> Result<([usize; DIMENSIONS], Vec<u8>), IdxError> {
    let header_bytes = 4 + 4 * DIMENSIONS;
    let mut header = Vec::new();
    source.by_ref().take(header_bytes as u64).read_to_end(&mut header)?;
    let word = |i: usize| {
        header.get(4 * i..4 * i + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    };
    if let Some(found) = word(0).filter(|&found| found != expected) {
        return Err(IdxError::Magic { expected, what, found });
    }
    let mut dimensions = [0; DIMENSIONS];
    for (i, dimension) in dimensions.iter_mut().enumerate() {
        let missing = IdxError::Header { expected: header_bytes, found: header.len() };
        *dimension = word(i + 1).ok_or(missing)? as usize;
    }
    let bytes: u128 = dimensions.iter().map(|&dimension| dimension as u128).product();
    if bytes == 0 {
        let text: Vec<String> = dimensions.iter().map(ToString::to_string).collect();
        return Err(IdxError::Empty(text.join(" x ")));
    }
    let expected = u64::try_from(bytes).ok().filter(|&bytes| bytes <= PAYLOAD_BYTES_MAX);
    let expected = expected.ok_or(IdxError::TooLarge(bytes))?;
    let mut payload = Vec::new();
    let found = source.take(expected + 1).read_to_end(&mut payload)? as u64;
    match found.cmp(&expected) {
        std::cmp::Ordering::Less => Err(IdxError::Truncated { expected, found }),
        std::cmp::Ordering::Equal => Ok((dimensions, payload)),
        std::cmp::Ordering::Greater => Err(IdxError::Oversized { expected }),
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
    fn what_is_written_is_read() {
        let images = Images { count: 3, rows: 2, columns: 5, pixels: (0..30).collect() };
        let mut bytes = Vec::new();
        write_images(&images, &mut bytes).unwrap();
        assert_eq!(read_images(&*bytes).unwrap(), images);
        assert_eq!(read_labels(&*file(0x801, &[4], 4)).unwrap(), [7; 4]);
    }

    #[test]
    fn a_wrong_file_is_told_by_what_was_expected_and_found() {
        let check = |bytes: Vec<u8>, text: &str| {
            assert_eq!(read_images(&*bytes).unwrap_err().to_string(), text)
        };
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
            "expected at most 1073741824 bytes of data, found a header that promises 79228162458924105385300197375",
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = read_images(&*bytes);
            let mut with_magic = 0x803u32.to_be_bytes().to_vec();
            with_magic.extend(bytes);
            let _ = read_images(&*with_magic);
        }
    }
}
