//! Pictures as people have them, PNG and JPEG files of any size, as small grey images.
//!
//! The conversion is the one that is usual before a training (torchvision's `Resize`, `CenterCrop`
//! and `Grayscale`):
//!
//! 1. Each pixel becomes its luma by ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, on a black ground
//!    where it is transparent.
//! 2. The square in the middle is cut out: nothing is stretched, and no border is added.
//! 3. The square is scaled by its areas: each pixel of the result is the mean of what it covers.
//!
//! All of it is computed in whole numbers, so a file gives the same bits on every machine, and a
//! grey image that has the size already stays as it is. A picture that a camera has turned by a
//! note in the file (EXIF) is not turned.
//!
//! A file may come from anywhere: its size is known before memory is taken for it.

mod jpeg;
mod png;
#[cfg(test)]
mod tests;

use std::io;

use crate::content;

/// The most bytes of a file.
pub const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The most pixels of a picture: those of 4000 x 4000. Decoding takes up to 8 bytes for each.
pub const PIXELS_MAX: u64 = 16_000_000;
/// How a PNG file begins.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
/// How a JPEG file begins.
const JPEG: &[u8] = b"\xff\xd8\xff";

/// The weights of red, green and blue in the luma, in 65536ths.
const LUMA: [u32; 3] = [19_595, 38_470, 7_471];

/// The error for a file that is not a picture which can be used. It says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The file holds something else; says what.
    #[error("expected a PNG or JPEG picture, found {0}")]
    Content(String),
    /// The picture has too many pixels.
    #[error(
        "expected a picture of at most {PIXELS_MAX} pixels, found {width} x {height}: scale it down"
    )]
    Size {
        /// Pixels across.
        width: u64,
        /// Pixels down.
        height: u64,
    },
    /// The picture cannot be decoded, for this reason.
    #[error("cannot be decoded: {0}; the file is damaged, truncated or of a rare kind")]
    Damaged(String),
}

/// A grey picture, one byte for each pixel.
struct Grey {
    width: usize,
    height: usize,
    /// `[height, width]`
    pixels: Vec<u8>,
}

/// Tells whether a file that begins like this is a picture, by its first bytes.
pub(crate) fn is_picture(head: &[u8]) -> bool {
    head.starts_with(PNG) || head.starts_with(JPEG)
}

/// Reads the content of a PNG or JPEG file as a grey image of `side` x `side` pixels.
///
/// # Errors
/// If it is none, has too many pixels, or is damaged.
pub fn read(content: &[u8], side: usize) -> Result<Vec<u8>, PictureError> {
    let grey = if content.starts_with(PNG) {
        png::decode(content)?
    } else if content.starts_with(JPEG) {
        jpeg::decode(content)?
    } else {
        return Err(PictureError::Content(content::describe(content)));
    };
    Ok(scaled(&grey, side))
}

/// Checks the size of a picture before memory is taken for it.
fn check_size(width: usize, height: usize) -> Result<(), PictureError> {
    let (width, height) = (width as u64, height as u64);
    match width.checked_mul(height) {
        Some(1..=PIXELS_MAX) => Ok(()),
        _ => Err(PictureError::Size { width, height }),
    }
}

/// The error of a decoder, in one line.
fn damaged(error: impl ToString) -> PictureError {
    let text = error.to_string();
    PictureError::Damaged(text.lines().next().unwrap_or_default().trim_end_matches('.').to_owned())
}

/// The luma of a colour.
fn luma([red, green, blue]: [u8; 3]) -> u8 {
    let sum: u32 = LUMA.iter().zip([red, green, blue]).map(|(w, x)| w * u32::from(x)).sum();
    ((sum + (1 << 15)) >> 16) as u8
}

/// The square in the middle of a picture, scaled to `side` x `side` pixels.
fn scaled(picture: &Grey, side: usize) -> Vec<u8> {
    let Grey { width, height, pixels } = picture;
    let square = *width.min(height);
    let (left, top) = ((width - square) / 2, (height - square) / 2);
    // In units in which a pixel of the picture has an area of side x side.
    let area = (square * square) as u64;
    let mut image = Vec::with_capacity(side * side);
    for row in 0..side {
        for column in 0..side {
            let mut sum = 0;
            for (y, weight_y) in covered(row, square, side) {
                let line = &pixels[(top + y) * width + left..][..square];
                let of_line = covered(column, square, side)
                    .map(|(x, weight_x)| weight_x as u64 * u64::from(line[x]))
                    .sum::<u64>();
                sum += weight_y as u64 * of_line;
            }
            image.push(((sum + area / 2) / area) as u8);
        }
    }
    image
}

/// The pixels that pixel `place` of the result covers in one direction, each with the length that
/// is covered, in `side`ths.
fn covered(place: usize, square: usize, side: usize) -> impl Iterator<Item = (usize, usize)> {
    let (begin, end) = (place * square, (place + 1) * square);
    (begin / side..end.div_ceil(side)).map(move |pixel| {
        let (from, to) = (begin.max(pixel * side), end.min((pixel + 1) * side));
        (pixel, to - from)
    })
}
