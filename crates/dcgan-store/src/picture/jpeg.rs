//! JPEG files: grey, coloured (YCbCr, RGB) or for print (CMYK), baseline or progressive.

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{Grey, PictureError, check_size, damaged, luma};

/// The most pixels across or down that the format has.
const SIDE_MAX: usize = u16::MAX as usize;
/// The mark before the data of a scan.
const START_OF_SCAN: [u8; 2] = [0xff, 0xda];
/// The mark at the end of a picture.
const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];

/// Decodes a JPEG file.
pub(super) fn decode(content: &[u8]) -> Result<Grey, PictureError> {
    // The vector instructions of a processor need not round as another's do.
    let options = DecoderOptions::default()
        .set_use_unsafe(false)
        .set_strict_mode(true)
        .set_max_width(SIDE_MAX)
        .set_max_height(SIDE_MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(content), options);
    decoder.decode_headers().map_err(damaged)?;
    let (width, height) = decoder.dimensions().ok_or_else(|| damaged("its size is unknown"))?;
    check_size(width, height)?;
    // The decoder fills in what is missing of the last lines.
    if !has_end(content) {
        return Err(damaged("its end is missing"));
    }
    let samples = decoder.decode().map_err(damaged)?;
    if samples.len() != 3 * width * height {
        return Err(damaged("its colours are of an unknown kind"));
    }
    let pixels = samples.chunks_exact(3).map(|it| luma([it[0], it[1], it[2]])).collect();
    Ok(Grey { width, height, pixels })
}

/// Tells whether the last scan has an end. Neither mark occurs within a scan.
fn has_end(content: &[u8]) -> bool {
    let last = |mark: [u8; 2]| content.windows(2).rposition(|bytes| *bytes == mark);
    last(END_OF_IMAGE) > last(START_OF_SCAN)
}
