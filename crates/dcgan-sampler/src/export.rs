//! `dcgan-sampler grid` and `export`: pictures of a checkpoint's generator as files.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use dcgan_process::exit::status;
use dcgan_process::print;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::args::{ExportArgs, GridArgs};
use crate::run_dir;

/// Of IDX files with images: unsigned bytes in three dimensions.
const IDX_IMAGES: u32 = 0x803;
const SIDE: u32 = 28;

/// Writes one grid.
pub(crate) fn grid(args: &GridArgs) -> anyhow::Result<u8> {
    let source = run_dir::load(&args.which)?;
    write(&args.out, &source.picture(args.rows, args.columns, args.seed))?;
    let (out, step) = (args.out.display(), source.step);
    print(&format!("{out}: {} x {} digits of step {step}\n", args.rows, args.columns));
    Ok(status::FINISHED)
}

/// Writes images in IDX format.
pub(crate) fn images(args: &ExportArgs) -> anyhow::Result<u8> {
    let source = run_dir::load(&args.which)?;
    let images = source.generator.draw(args.count as usize, args.seed, source.seed);
    let bytes: Vec<u8> = [IDX_IMAGES, args.count, SIDE, SIDE]
        .into_iter()
        .flat_map(u32::to_be_bytes)
        .chain(images)
        .collect();
    let packed = args.out.extension().is_some_and(|extension| extension == "gz");
    write(&args.out, &if packed { pack(&bytes)? } else { bytes })?;
    print(&format!("{}: {} images of step {}\n", args.out.display(), args.count, source.step));
    Ok(status::FINISHED)
}

fn pack(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// Writes a file, complete or not at all.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let name =
        path.file_name().with_context(|| format!("{}: not the name of a file", path.display()))?;
    let temporary = path.with_file_name(format!(".{}.tmp", name.to_string_lossy()));
    let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    written
        .inspect_err(|_| drop(fs::remove_file(&temporary)))
        .with_context(|| path.display().to_string())
}
