//! The verbs `grid`, `export` and `latents`: pictures of a checkpoint's generator as files, and the
//! latent vectors that they are drawn with.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use dcgan_core::spec::networks::LATENT_LEN;
use dcgan_core::words::counted;
use dcgan_process::exit::{status, usage};
use dcgan_process::print;
use dcgan_process::signals::{self, FirstSignal};
use dcgan_store::file;
use dcgan_store::idx::{self, Images};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::args::{CheckpointArg, ExportArgs, GridArgs, LatentsArgs};
use crate::newest::RunGenerator;
use crate::picture::GridSize;
use crate::{npy, run_dir};

/// The pixels of an image, down and across.
const SIDE: usize = 28;
/// The file that a grid is written to if a person names none.
const GRID_FILE: &str = "grid.png";

/// The endings of pictures.
const PICTURES: [&str; 7] = ["bmp", "gif", "jpeg", "jpg", "png", "tiff", "webp"];

/// Writes one grid as a PNG file.
pub(crate) fn grid(args: &GridArgs) -> anyhow::Result<u8> {
    let GridArgs { rows, columns, .. } = *args;
    let out = args.out.as_deref().unwrap_or(Path::new(GRID_FILE));
    // A person who names no file has not said that this one is to be replaced.
    if args.out.is_none() && out.symlink_metadata().is_ok() {
        bail!(usage(anyhow!("{GRID_FILE} exists already: give the file to write as --out")));
    }
    check_out(out)?;
    let ending = ending(out);
    if ending.as_ref().is_some_and(|ending| ending != "png") {
        bail!(usage(anyhow!(
            "--out: {}: a grid is a PNG file; give a name that ends in .png",
            out.display()
        )));
    }
    let generator = run_dir::load(&args.which)?;
    let what = format!("{rows} x {columns} digits of step {}", generator.step);
    write(out, &what, |file| {
        file.write_all(&generator.picture(GridSize { rows, columns }, args.seed))
    })
}

/// Writes images as an IDX file, which every program that reads MNIST can read, or as they were
/// before they became bytes.
pub(crate) fn images(args: &ExportArgs) -> anyhow::Result<u8> {
    check_out(&args.out)?;
    if ending(&args.out).is_some_and(|ending| PICTURES.contains(&&*ending)) {
        bail!(usage(anyhow!(
            "--out: {}: export writes IDX and .npy files, which are no pictures; 'grid' draws one",
            args.out.display()
        )));
    }
    let RunGenerator { step, seed: run_seed, generator } = run_dir::load(&args.which)?;
    let count = args.count as usize;
    let what = format!("{} of step {step}", counted(count, "image"));
    let extension = args.out.extension().and_then(OsStr::to_str);
    if extension == Some("npy") {
        let batches = generator.value_batches(count, args.seed, run_seed);
        return write(&args.out, &what, |file| npy::write(&[count, SIDE, SIDE], batches, file));
    }
    let batches = generator.batches(count, args.seed, run_seed);
    write(&args.out, &what, |file| {
        if extension != Some("gz") {
            return encode(count, batches, file);
        }
        let mut encoder = GzEncoder::new(file, Compression::default());
        encode(count, batches, &mut encoder)?;
        encoder.finish().map(drop)
    })
}

/// Writes the latent vectors of [`grid`] and [`images`] as a NumPy array.
pub(crate) fn latents(args: &LatentsArgs) -> anyhow::Result<u8> {
    check_out(&args.out)?;
    // With a seed, the run's own does not count.
    let run_seed = match args.seed {
        Some(_) => 0,
        None => run_dir::checkpoint(&args.run, CheckpointArg::Newest)?.manifest().config.seed(),
    };
    let count = args.count as usize;
    let mut latents = dcgan_model::latents(count, args.seed, run_seed);
    let vectors = std::iter::from_fn(|| {
        let vector: Vec<f32> = latents.by_ref().take(LATENT_LEN).collect();
        (!vector.is_empty()).then_some(vector)
    });
    write(&args.out, &counted(count, "latent vector"), |file| {
        let mut file = BufWriter::new(file);
        npy::write(&[count, LATENT_LEN], vectors, &mut file)?;
        file.flush()
    })
}

/// The ending of a file's name in lower case, if it has one.
fn ending(file: &Path) -> Option<String> {
    Some(file.extension()?.to_string_lossy().to_lowercase())
}

/// Refuses a file that cannot be written because of its path.
fn check_out(out: &Path) -> anyhow::Result<()> {
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let what = match folder {
        Some(folder) if !folder.is_dir() => format!("there is no folder {}", folder.display()),
        _ if out.is_dir() => "it is a folder".to_owned(),
        _ => return Ok(()),
    };
    bail!(usage(anyhow!("--out: {}: {what}", out.display())))
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

/// Writes a file, complete or not at all, and says `what` it is: the file may exist already, the
/// disk may be full, and a signal may come. Returns the exit status.
fn write(
    path: &Path,
    what: &str,
    fill: impl FnOnce(&mut UntilSignal<'_>) -> io::Result<()>,
) -> anyhow::Result<u8> {
    let signal = signals::listen()?;
    let written = file::write_by(path, |file| fill(&mut UntilSignal { file, signal: &signal }));
    let out = path.display();
    match (written, signal.peek()) {
        (Ok(()), _) => {
            print(&format!("{out}: {what}\n"));
            Ok(status::FINISHED)
        }
        (Err(_), Some(signal)) => {
            tracing::warn!(
                event = "not_written",
                %signal,
                "{out} was not written, because of {signal}"
            );
            Ok(signal.status())
        }
        (Err(error), None) => Err(error).with_context(|| format!("--out: {out}")),
    }
}

/// A file that takes nothing more once a signal has come. So its writer ends, and removes what it
/// has written.
struct UntilSignal<'a> {
    file: &'a mut File,
    signal: &'a FirstSignal,
}

impl Write for UntilSignal<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.signal.peek() {
            Some(signal) => Err(io::Error::other(signal.to_string())),
            None => self.file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
