//! PNG files: grey, coloured or with a palette, of any depth, with or without transparency.

use std::io::Cursor;

use ::png::{Decoder, Limits, Transformations};

use super::{Grey, PIXELS_MAX, PictureError, check_size, damaged, luma};

/// Decodes a PNG file; of an animation, its still picture.
pub(super) fn decode(content: &[u8]) -> Result<Grey, PictureError> {
    // Four channels of two bytes, before they are reduced to one.
    let limits = Limits { bytes: 8 * PIXELS_MAX as usize };
    let mut decoder = Decoder::new_with_limits(Cursor::new(content), limits);
    // Palettes and few bits become one byte a channel, and so do two bytes.
    decoder.set_transformations(Transformations::normalize_to_color8());
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info().map_err(damaged)?;
    check_size(header.width as usize, header.height as usize)?;
    let mut reader = decoder.read_info().map_err(damaged)?;
    let bytes = reader.output_buffer_size().ok_or_else(|| damaged("its size is unknown"))?;
    let mut samples = vec![0; bytes];
    let frame = reader.next_frame(&mut samples).map_err(damaged)?;
    // The checksums of what is left, and the mark at the end.
    reader.finish().map_err(damaged)?;
    samples.truncate(frame.buffer_size());

    let pixels = match frame.color_type.samples() {
        1 => samples,
        2 => samples.chunks_exact(2).map(|it| over_black(it[0], it[1])).collect(),
        3 => samples.chunks_exact(3).map(|it| luma([it[0], it[1], it[2]])).collect(),
        _ => {
            let of = |it: &[u8]| over_black(luma([it[0], it[1], it[2]]), it[3]);
            samples.chunks_exact(4).map(of).collect()
        }
    };
    Ok(Grey { width: frame.width as usize, height: frame.height as usize, pixels })
}

/// A pixel of this opacity on a black ground.
fn over_black(grey: u8, alpha: u8) -> u8 {
    ((u32::from(grey) * u32::from(alpha) + 127) / 255) as u8
}
