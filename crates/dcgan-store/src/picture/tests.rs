//! Pictures of every kind, made by the encoder of the tests or by another program.

use ::png::{BitDepth, ColorType, Encoder};
use proptest::prelude::*;

use super::*;

/// Pictures of 60 x 40 pixels with R = 40 + 3 x, G = 200 - 2 x and B = 60 + 4 y, as Pillow writes
/// them: with colours at half the resolution, progressive, grey, and in Adobe's CMYK.
const COLOUR: &[u8] = include_bytes!("samples/colour.jpg");
const PROGRESSIVE: &[u8] = include_bytes!("samples/progressive.jpg");
const GREY: &[u8] = include_bytes!("samples/grey.jpg");
const PRINT: &[u8] = include_bytes!("samples/print.jpg");

/// A PNG file of `width` pixels across.
fn png(width: u32, color: ColorType, depth: BitDepth, samples: &[u8]) -> Vec<u8> {
    png_with(width, color, depth, samples, |_| {})
}

fn png_with(
    width: u32,
    color: ColorType,
    depth: BitDepth,
    samples: &[u8],
    set: impl Fn(&mut Encoder<'_, &mut Vec<u8>>),
) -> Vec<u8> {
    let mut file = Vec::new();
    let line = color.samples() * width as usize * depth as usize / 8;
    let mut encoder = Encoder::new(&mut file, width, (samples.len() / line) as u32);
    encoder.set_color(color);
    encoder.set_depth(depth);
    set(&mut encoder);
    encoder.write_header().unwrap().write_image_data(samples).unwrap();
    file
}

/// The luma of the sample pictures at a place in them.
fn luma_at(x: f64, y: f64) -> f64 {
    0.299 * (40.0 + 3.0 * x) + 0.587 * (200.0 - 2.0 * x) + 0.114 * (60.0 + 4.0 * y)
}

#[test]
fn an_image_of_the_size_stays_as_it_is() {
    let pixels: Vec<u8> = (0..28 * 28).map(|i| (i * 7 % 256) as u8).collect();
    let file = png(28, ColorType::Grayscale, BitDepth::Eight, &pixels);
    assert_eq!(read(&file, 28).unwrap(), pixels);
}

#[test]
fn the_middle_square_is_scaled_by_its_areas() {
    let grey = |width, pixels: &[u8]| png(width, ColorType::Grayscale, BitDepth::Eight, pixels);
    // Four pixels each become one, rounded; the columns left and right are cut off.
    let wide = [9, 0, 100, 10, 20, 9, 9, 100, 100, 30, 43, 9, 9, 1, 2, 0, 0, 9, 9, 3, 4, 0, 1, 9];
    assert_eq!(read(&grey(6, &wide), 2).unwrap(), [75, 26, 3, 0]);
    // The row above and the row below are cut off, and the pixels in the middle count for both.
    let tall = [0, 0, 0, 90, 60, 30, 0, 0, 0, 9, 9, 9, 7, 7, 7];
    assert_eq!(read(&grey(3, &tall), 2).unwrap(), [53, 27, 6, 6]);
    // A small one is enlarged.
    assert_eq!(read(&grey(1, &[5]), 3).unwrap(), [5; 9]);
}

#[test]
fn colours_depths_palettes_and_transparency_become_grey() {
    use BitDepth::{Eight, One, Sixteen, Two};
    use ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
    let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]].concat();
    let luma = [76, 150, 29, 255];
    let read = |file: Vec<u8>| super::read(&file, 2).unwrap();
    assert_eq!(read(png(2, Rgb, Eight, &colours)), luma);
    let sixteen: Vec<u8> = colours.iter().flat_map(|&x| [x, x]).collect();
    assert_eq!(read(png(2, Rgb, Sixteen, &sixteen)), luma);
    assert_eq!(read(png(8, Grayscale, One, &[0xf0; 8])), [255, 0, 255, 0]);
    assert_eq!(
        read(png(2, GrayscaleAlpha, Eight, &[200, 255, 200, 0, 200, 128, 9, 1])),
        [200, 0, 100, 0]
    );
    let rgba = [255, 255, 255, 255, 255, 255, 255, 0, 255, 0, 0, 255, 255, 0, 0, 51];
    assert_eq!(read(png(2, Rgba, Eight, &rgba)), [255, 0, 76, 15]);
    let indexed =
        png_with(4, Indexed, Two, &[0b0000_0101, 0b0000_0101, 0b1010_1111, 0b1010_1111], |it| {
            it.set_palette(colours.clone());
            it.set_trns(vec![255, 0]);
        });
    assert_eq!(read(indexed), [76, 0, 29, 255]);
}

#[test]
fn jpeg_files_of_every_kind_are_close_to_the_picture() {
    for (name, file) in
        [("colour", COLOUR), ("progressive", PROGRESSIVE), ("grey", GREY), ("print", PRINT)]
    {
        let image = read(file, 28).unwrap();
        for (place, &found) in image.iter().enumerate() {
            // The middle of what the pixel covers: 40/28 pixels, from column 10.
            let at = |place: usize| (place as f64 + 0.5) * 40.0 / 28.0 - 0.5;
            let expected = luma_at(10.0 + at(place % 28), at(place / 28));
            let error = (f64::from(found) - expected).abs();
            assert!(error < 4.0, "{name}, pixel {place}: {found}, expected {expected}");
        }
    }
}

#[test]
fn a_picture_has_the_same_bits_everywhere() {
    use dcgan_core::state::digest;
    let digests = [COLOUR, PROGRESSIVE, GREY, PRINT]
        .map(|file| digest::of_bytes(&read(file, 28).unwrap()).to_string());
    // The luma of the first three is stored alike.
    let luma = "741c0cb3a2591815";
    assert_eq!(digests, [luma, luma, luma, "73bbf11e2c8126a9"]);
}

#[test]
fn what_is_no_picture_says_what_it_is() {
    let refused = |file: &[u8]| read(file, 28).unwrap_err().to_string();
    assert_eq!(
        refused(b"<html>"),
        "expected a PNG or JPEG picture, found an HTML page: download the file again"
    );
    assert_eq!(
        refused(b""),
        "expected a PNG or JPEG picture, found an empty file: download it again"
    );
    let whole = png(28, ColorType::Grayscale, BitDepth::Eight, &[7; 28 * 28]);
    for file in [&*whole, COLOUR, PROGRESSIVE, GREY, PRINT] {
        for cut in [12, file.len() / 2, file.len() - 2] {
            let refused = refused(&file[..cut]);
            assert!(refused.starts_with("cannot be decoded: "), "{cut}: {refused}");
            assert!(!refused.contains('\n'), "{refused}");
        }
    }
}

#[test]
fn a_picture_that_promises_very_many_pixels_is_refused_before_memory_is_taken() {
    let mut file = png(1, ColorType::Grayscale, BitDepth::Eight, &[0]);
    // The header's size and checksum.
    file[16..24].copy_from_slice(&[0, 0, 0x80, 0, 0, 0, 0x80, 0]);
    let mut crc = flate2::Crc::new();
    crc.update(&file[12..29]);
    file[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    let words = "expected a picture of at most 16000000 pixels, found 32768 x 32768: scale it down";
    assert_eq!(read(&file, 28).unwrap_err().to_string(), words);
    let mut file = GREY.to_vec();
    let frame = file.windows(2).position(|bytes| bytes == [0xff, 0xc0]).unwrap();
    file[frame + 5..frame + 9].copy_from_slice(&[0x80, 0, 0x80, 0]);
    assert_eq!(read(&file, 28).unwrap_err().to_string(), words);
}

proptest! {
    #[test]
    fn no_damage_causes_a_panic(
        kind in 0usize..5,
        place: prop::sample::Index,
        bytes in proptest::collection::vec(any::<u8>(), 1..9),
    ) {
        let png = png(9, ColorType::Rgb, BitDepth::Eight, &[7; 243]);
        let mut file = [COLOUR, PROGRESSIVE, GREY, PRINT, &png][kind].to_vec();
        let begin = place.index(file.len());
        for (byte, value) in file[begin..].iter_mut().zip(bytes) {
            *byte = value;
        }
        let _ = read(&file, 28);
    }
}
