//! The verbs `grid` and `export`: pictures of a checkpoint's generator as files.

use std::fs::File;
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
    write(&args.out, |file| {
        file.write_all(&generator.picture(GridSize { rows, columns }, args.seed))
    })?;
    let (out, step) = (args.out.display(), generator.step);
    print(&format!("{out}: {rows} x {columns} digits of step {step}\n"));
    Ok(status::FINISHED)
}

/// Writes images as an IDX file, which every program that reads MNIST can read.
pub(crate) fn images(args: &ExportArgs) -> anyhow::Result<u8> {
    let generator = run_dir::load(&args.which)?;
    let count = args.count as usize;
    let batches = generator.generator.batches(count, args.seed, generator.seed);
    let is_packed = args.out.extension().is_some_and(|extension| extension == "gz");
    write(&args.out, |file| {
        if !is_packed {
            return encode(count, batches, file);
        }
        let mut encoder = GzEncoder::new(file, Compression::default());
        encode(count, batches, &mut encoder)?;
        encoder.finish().map(drop)
    })?;
    let (out, images) = (args.out.display(), counted(count, "image"));
    print(&format!("{out}: {images} of step {}\n", generator.step));
    Ok(status::FINISHED)
}

/// Encodes images as an IDX file. All of them may be more than the memory.
fn encode(
    count: usize,
    batches: impl Iterator<Item = Vec<u8>>,
    sink: &mut impl Write,
) -> io::Result<()> {
    // The pixels follow the header.
    idx::write_images(&Images { count, rows: SIDE, columns: SIDE, pixels: Vec::new() }, sink)?;
    for pixels in batches {
        sink.write_all(&pixels)?;
    }
    Ok(())
}

/// Writes a file, complete or not at all: the file may exist already, and the disk may be full.
/// What cannot be written is refused before anything is drawn.
fn write(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> anyhow::Result<()> {
    let written = if path.is_dir() {
        Err(io::ErrorKind::IsADirectory.into())
    } else {
        file::write_by(path, fill)
    };
    written.with_context(|| path.display().to_string())
}
