//! A grid of images as a PNG.

use dcgan_model::PIXELS;

/// Images in a row or a column, at most.
pub(crate) const SIDE_MAX: u32 = 32;
/// Rows and columns of the run's own grids.
pub(crate) const GRID: (u32, u32) = (10, 10);

/// Pixels down and across an image.
const TILE: usize = 28;
/// Pixels between images.
const GAP: usize = 2;

/// Rows of images of 28 x 28 pixels, one byte a pixel, one image after the other, as a greyscale PNG.
///
/// # Panics
/// If there are not `rows * columns` images.
pub(crate) fn png(images: &[u8], rows: u32, columns: u32) -> Vec<u8> {
    let (rows, columns) = (rows as usize, columns as usize);
    assert_eq!(images.len(), rows * columns * PIXELS, "a grid is full");
    let side = |tiles: usize| tiles * (TILE + GAP) + GAP;
    let (width, height) = (side(columns), side(rows));
    let mut canvas = vec![0; width * height];
    for (number, image) in images.chunks_exact(PIXELS).enumerate() {
        let (row, column) = (number / columns, number % columns);
        for (line, pixels) in image.chunks_exact(TILE).enumerate() {
            let y = GAP + row * (TILE + GAP) + line;
            let x = GAP + column * (TILE + GAP);
            canvas[y * width + x..][..TILE].copy_from_slice(pixels);
        }
    }
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width as u32, height as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&canvas));
    written.expect("writing to memory does not fail");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_has_its_place() {
        let images: Vec<u8> = (0..6u8).flat_map(|n| [n + 1; PIXELS]).collect();
        let file = png(&images, 2, 3);
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (92, 62));
        let at = |x: usize, y: usize| pixels[y * 92 + x];
        assert_eq!([at(2, 2), at(89, 29), at(32, 2), at(2, 32), at(62, 59)], [1, 3, 2, 4, 6]);
        assert_eq!([at(0, 0), at(30, 10), at(91, 61)], [0; 3]);
    }
}
