//! Checks that bytes are a PNG file, before they are kept as a grid.
//!
//! Any program that follows a run may send them. The pixels are not decoded: that is for whoever
//! looks at the picture.

use flate2::Crc;

/// The largest grid that is kept, in bytes. One of 10 x 10 digits has less than 100 kB.
pub const PNG_BYTES_MAX: usize = 1024 * 1024;
/// The largest width and height of a grid, in pixels. A grid of 32 x 32 digits has 962.
const SIDE_MAX: u32 = 4096;

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A chunk of a PNG file.
struct Chunk<'a> {
    name: &'a [u8],
    data: &'a [u8],
}

/// Checks that these bytes are one PNG file of a size that a grid may have.
///
/// # Errors
/// What is wrong.
pub fn check(bytes: &[u8]) -> Result<(), String> {
    if bytes.len() > PNG_BYTES_MAX {
        return Err(format!("larger than {PNG_BYTES_MAX} bytes"));
    }
    let mut rest = bytes.strip_prefix(SIGNATURE).ok_or("not a PNG file")?;
    let header = take_chunk(&mut rest).filter(|chunk| chunk.name == b"IHDR");
    let (width, height) = header.and_then(size).ok_or("a PNG file without a header")?;
    if ![width, height].iter().all(|side| (1..=SIDE_MAX).contains(side)) {
        return Err(format!("{width} x {height} pixels; a grid has at most {SIDE_MAX} a side"));
    }
    let mut has_pixels = false;
    while let Some(chunk) = take_chunk(&mut rest) {
        has_pixels |= chunk.name == b"IDAT";
        if chunk.name == b"IEND" && rest.is_empty() && has_pixels {
            return Ok(());
        }
    }
    Err("a PNG file that is damaged or cut off".to_owned())
}

/// Takes the next chunk; `None` if there is none, or its checksum is wrong.
fn take_chunk<'a>(rest: &mut &'a [u8]) -> Option<Chunk<'a>> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (content, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize + 4)?;
    let (checksum, after) = after.split_first_chunk::<4>()?;
    let mut crc = Crc::new();
    crc.update(content);
    if crc.sum() != u32::from_be_bytes(*checksum) {
        return None;
    }
    *rest = after;
    let (name, data) = content.split_at(4);
    Some(Chunk { name, data })
}

/// The width and height in the chunk at the beginning of a file.
fn size(header: Chunk<'_>) -> Option<(u32, u32)> {
    let (width, rest) = header.data.split_first_chunk::<4>()?;
    let (height, _) = rest.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*width), u32::from_be_bytes(*height)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let content = [name, data].concat();
        let mut crc = Crc::new();
        crc.update(&content);
        let length = data.len() as u32;
        [&length.to_be_bytes(), &content[..], &crc.sum().to_be_bytes()].concat()
    }

    fn file(width: u32, height: u32) -> Vec<u8> {
        let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
        let header = chunk(b"IHDR", &[&size[..], &[8, 0, 0, 0, 0]].concat());
        [SIGNATURE, &header, &chunk(b"IDAT", b"pixels"), &chunk(b"IEND", b"")].concat()
    }

    #[test]
    fn a_whole_file_passes_and_each_change_of_a_bit_is_noticed() {
        let whole = file(302, 302);
        assert_eq!(check(&whole), Ok(()));
        for cut in 0..whole.len() {
            check(&whole[..cut]).unwrap_err();
        }
        for bit in 0..8 * whole.len() {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            check(&damaged).unwrap_err();
        }
        check(&[&whole[..], b"more"].concat()).unwrap_err();
    }

    #[test]
    fn a_picture_that_no_grid_has_is_refused_in_words() {
        let refused = |bytes: &[u8]| check(bytes).unwrap_err();
        assert_eq!(refused(b"<html>"), "not a PNG file");
        assert!(refused(&file(1, 100_000)).starts_with("1 x 100000 pixels"));
        assert!(refused(&file(0, 1)).starts_with("0 x 1 pixels"));
        assert!(refused(&vec![0; PNG_BYTES_MAX + 1]).starts_with("larger than"));
    }
}
