//! Grids of images as PNG files.

use dcgan_model::PIXELS;

/// The most images in a row or a column.
pub(crate) const SIDE_MAX: u32 = 32;
/// The size of the run's own grids.
pub(crate) const GRID: GridSize = GridSize { rows: 10, columns: 10 };

/// The pixels of an image, down and across.
const TILE: usize = 28;
/// The black pixels between two images, and around the grid.
const GAP: usize = 2;

/// The size of a grid, in images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GridSize {
    pub(crate) rows: u32,
    pub(crate) columns: u32,
}

impl GridSize {
    /// Returns the number of images in the grid.
    pub(crate) fn images(self) -> usize {
        self.rows as usize * self.columns as usize
    }
}

/// Encodes a grid of grey images, `[rows * columns, 28, 28]` with one byte for each pixel, as a
/// PNG. The images fill the grid row by row, with a gap around each.
///
/// # Panics
/// If the number of images does not fit the size.
pub(crate) fn png(images: &[u8], size: GridSize) -> Vec<u8> {
    encode(images, size, GAP)
}

/// Encodes a grid like [`png`], without gaps.
///
/// # Panics
/// If the number of images does not fit the size.
pub(crate) fn tiles(images: &[u8], size: GridSize) -> Vec<u8> {
    encode(images, size, 0)
}

fn encode(images: &[u8], size: GridSize, gap: usize) -> Vec<u8> {
    assert_eq!(images.len(), size.images() * PIXELS, "the images fill the grid");
    let (rows, columns) = (size.rows as usize, size.columns as usize);

    // Copy the images to their places, line by line.
    let pixels_of = |images: usize| gap + images * (TILE + gap);
    let (width, height) = (pixels_of(columns), pixels_of(rows));
    let mut canvas = vec![0; width * height];
    for (number, image) in images.chunks_exact(PIXELS).enumerate() {
        let (row, column) = (number / columns, number % columns);
        for (line, pixels) in image.chunks_exact(TILE).enumerate() {
            let y = gap + row * (TILE + gap) + line;
            let x = gap + column * (TILE + gap);
            canvas[y * width + x..][..TILE].copy_from_slice(pixels);
        }
    }

    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&canvas));
    written.expect("writing to memory does not fail");
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_is_at_its_place() {
        let images: Vec<u8> = (0..6u8).flat_map(|n| [n + 1; PIXELS]).collect();
        let file = png(&images, GridSize { rows: 2, columns: 3 });
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (92, 62));
        let at = |x: usize, y: usize| pixels[y * 92 + x];
        assert_eq!([at(2, 2), at(89, 29), at(32, 2), at(2, 32), at(62, 59)], [1, 3, 2, 4, 6]);
        assert_eq!([at(0, 0), at(30, 10), at(91, 61)], [0; 3]);
    }
}
