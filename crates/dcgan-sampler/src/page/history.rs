//! The history of a run as an animated GIF: its grids, one after the other.

use std::borrow::Cow;
use std::io::Cursor;

use dcgan_core::ids::Step;
use gif::{Encoder, Frame, Repeat};
use png::{BitDepth, ColorType, Decoder};

/// The most frames. Of more grids, evenly chosen ones are shown.
const FRAMES_MAX: usize = 120;
/// The time that a frame is shown, and the last one, in hundredths of a second.
const DELAYS: [u16; 2] = [12, 300];
/// The largest side of a grid, in pixels. One of 32 x 32 digits has 962.
const SIDE_MAX: u32 = 1024;

/// The steps whose grids are shown, in order, with the first and the last.
pub(super) fn chosen(steps: &[Step]) -> Vec<Step> {
    let Some(last) = steps.len().checked_sub(1) else {
        return Vec::new();
    };
    let frames = steps.len().min(FRAMES_MAX);
    (0..frames).map(|frame| steps[frame * last / (frames - 1).max(1)]).collect()
}

/// A grid as grey pixels.
struct Grid {
    width: u16,
    height: u16,
    pixels: Vec<u8>,
}

/// Makes the animation of grids that are PNG files. Those that are damaged, or of another size than
/// the first, are left out. `None` if it is not wanted any more; without a grid it is empty.
pub(super) fn gif(grids: &[Vec<u8>], is_wanted: &dyn Fn() -> bool) -> Option<Vec<u8>> {
    let mut file = Vec::new();
    let grids: Vec<Grid> = grids.iter().filter_map(|png| decode(png)).collect();
    let Some(Grid { width, height, .. }) = grids.first() else {
        return Some(file);
    };
    let (width, height) = (*width, *height);
    let palette: Vec<u8> = (0..=255).flat_map(|grey| [grey; 3]).collect();
    let mut encoder = Encoder::new(&mut file, width, height, &palette).ok()?;
    encoder.set_repeat(Repeat::Infinite).ok()?;
    let last = grids.len() - 1;
    for (number, grid) in grids.into_iter().enumerate() {
        if !is_wanted() {
            return None;
        }
        if (grid.width, grid.height) != (width, height) {
            continue;
        }
        let delay = DELAYS[usize::from(number == last)];
        let buffer = Cow::Owned(grid.pixels);
        encoder.write_frame(&Frame { width, height, delay, buffer, ..Frame::default() }).ok()?;
    }
    drop(encoder);
    Some(file)
}

/// Decodes a grid; `None` if it is none that this program would have drawn.
fn decode(png: &[u8]) -> Option<Grid> {
    let mut reader = Decoder::new(Cursor::new(png)).read_info().ok()?;
    let info = reader.info();
    let is_grey = info.color_type == ColorType::Grayscale && info.bit_depth == BitDepth::Eight;
    let (width, height) = (info.width, info.height);
    if !is_grey || width > SIDE_MAX || height > SIDE_MAX {
        return None;
    }
    let mut pixels = vec![0; reader.output_buffer_size()?];
    reader.next_frame(&mut pixels).ok()?;
    Some(Grid { width: width as u16, height: height as u16, pixels })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{GridSize, png};

    #[test]
    fn a_history_has_the_first_and_the_last_grid_and_no_more_than_fit() {
        assert_eq!(chosen(&[]), [] as [Step; 0]);
        assert_eq!(chosen(&[20]), [20]);
        assert_eq!(chosen(&[20, 40, 60]), [20, 40, 60]);
        let steps: Vec<Step> = (1..=1000).collect();
        let chosen = chosen(&steps);
        assert_eq!((chosen.len(), chosen[0], chosen[119]), (120, 1, 1000));
        assert!(chosen.is_sorted_by(|one, next| one < next));
    }

    #[test]
    fn grids_become_frames_and_what_is_none_is_left_out() {
        let grid = |grey: u8| png(&[grey; 784], GridSize { rows: 1, columns: 1 });
        let file = gif(&[grid(10), b"no picture".to_vec(), grid(200)], &|| true).unwrap();
        let mut decoder = gif::DecodeOptions::new().read_info(Cursor::new(file)).unwrap();
        let mut greys = Vec::new();
        while let Some(frame) = decoder.read_next_frame().unwrap() {
            // A pixel in the midst of the image.
            greys.push(frame.buffer[16 * 32 + 16]);
        }
        assert_eq!(greys, [10, 200]);
        assert!(gif(&[grid(10)], &|| false).is_none());
        assert_eq!(gif(&[], &|| true), Some(Vec::new()));
    }
}
