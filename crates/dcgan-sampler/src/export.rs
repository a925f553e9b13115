//! The verbs `grid` and `export`: pictures of a checkpoint's generator as files.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;
use dcgan_core::words::counted;
use dcgan_process::exit::status;
use dcgan_process::print;
use dcgan_store::file;
use dcgan_store::idx::{self, Images};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::args::{ExportArgs, GridArgs};
use crate::picture::GridSize;
use crate::run_dir;

/// The pixels of an image, down and across.
const SIDE: usize = 28;

/// Writes one grid as a PNG file.
pub(crate) fn grid(args: &GridArgs) -> anyhow::Result<u8> {
    let GridArgs { rows, columns, .. } = *args;
    let generator = run_dir::load(&args.which)?;
    write(&args.out, &generator.picture(GridSize { rows, columns }, args.seed))?;
    let (out, step) = (args.out.display(), generator.step);
    print(&format!("{out}: {rows} x {columns} digits of step {step}\n"));
    Ok(status::FINISHED)
}

/// Writes images as an IDX file, which every program that reads MNIST can read.
pub(crate) fn images(args: &ExportArgs) -> anyhow::Result<u8> {
    let generator = run_dir::load(&args.which)?;
    let count = args.count as usize;
    let pixels = generator.generator.draw(count, args.seed, generator.seed);
    let images = Images { count, rows: SIDE, columns: SIDE, pixels };
    let is_packed = args.out.extension().is_some_and(|extension| extension == "gz");
    write(&args.out, &encode(&images, is_packed)?)?;
    let (out, images) = (args.out.display(), counted(count, "image"));
    print(&format!("{out}: {images} of step {}\n", generator.step));
    Ok(status::FINISHED)
}

/// Encodes images as an IDX file, packed with gzip or not.
fn encode(images: &Images, is_packed: bool) -> io::Result<Vec<u8>> {
    let mut file = Vec::new();
    idx::write_images(images, &mut file)?;
    if !is_packed {
        return Ok(file);
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&file)?;
    encoder.finish()
}

/// Writes a file, complete or not at all: the file may exist already, and the disk may be full.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    file::write(path, bytes).with_context(|| path.display().to_string())
}
