//! The verbs `grid`, `export` and `latents`: pictures of a checkpoint's generator as files, and the
//! latent vectors that they are drawn with.

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

/// The endings of IDX files, besides none.
const IDX: [&str; 3] = ["idx", "idx3-ubyte", "ubyte"];
/// The ending of a NumPy array.
const NUMPY: &str = "npy";
/// The ending of a packed IDX file.
const PACKED: &str = "gz";
/// The endings of what `export` writes.
const ENDINGS: [&str; 5] = [IDX[0], IDX[1], IDX[2], NUMPY, PACKED];
/// The endings of pictures.
const PICTURES: [&str; 7] = ["bmp", "gif", "jpeg", "jpg", "png", "tiff", "webp"];

/// Writes one grid as a PNG file.
pub(crate) fn grid(args: &GridArgs) -> anyhow::Result<u8> {
    let GridArgs { rows, columns, .. } = *args;
    let out = args.out.as_deref().unwrap_or(Path::new(GRID_FILE));
    let run = &args.which.run;
    if ending(run).is_some_and(|ending| PICTURES.contains(&&*ending)) && !run.is_dir() {
        let run = run.display();
        bail!(usage(anyhow!("{run} is no run directory: give the file to write as --out {run}")));
    }
    // A person who names no file has not said that this one is to be replaced.
    if args.out.is_none() && out.symlink_metadata().is_ok() {
        bail!(usage(anyhow!("{GRID_FILE} exists already: give the file to write as --out")));
    }
    check_out(out, &["png"], "a grid is a PNG file; give a name that ends in .png")?;
    let generator = run_dir::load(&args.which)?;
    let what = format!("{rows} x {columns} digits of step {}", generator.step);
    write(out, &what, |file| {
        file.write_all(&generator.picture(GridSize { rows, columns }, args.seed))
    })
}

/// Writes images as an IDX file, which every program that reads MNIST can read, or as they were
/// before they became bytes.
pub(crate) fn images(args: &ExportArgs) -> anyhow::Result<u8> {
    let ending_of_out = ending(&args.out);
    let is_packed = ending_of_out.as_deref() == Some(PACKED);
    let is_picture = ending_of_out.as_deref().is_some_and(|it| PICTURES.contains(&it));
    let tip = if is_picture { "; 'grid' draws a picture" } else { "" };
    let formats = "export writes IDX files, whose names end in -ubyte, .idx or .gz, and NumPy \
                   arrays, which end in .npy";
    check_out(&args.out, &ENDINGS, &format!("{formats}{tip}"))?;
    if is_packed && ending(&args.out.with_extension("")).is_some_and(|it| !IDX.contains(&&*it)) {
        bail!(usage(anyhow!("--out: {}: what ends in .gz is an IDX file", args.out.display())));
    }
    let RunGenerator { step, seed: run_seed, generator, .. } = run_dir::load(&args.which)?;
    let count = args.count as usize;
    let what = format!("{} of step {step}", counted(count, "image"));
    if ending_of_out.as_deref() == Some(NUMPY) {
        let batches = generator.value_batches(count, args.seed, run_seed);
        return write(&args.out, &what, |file| npy::write(&[count, SIDE, SIDE], batches, file));
    }
    let batches = generator.batches(count, args.seed, run_seed);
    write(&args.out, &what, |file| {
        if !is_packed {
            return encode(count, batches, file);
        }
        let mut encoder = GzEncoder::new(file, Compression::default());
        encode(count, batches, &mut encoder)?;
        encoder.finish().map(drop)
    })
}

/// Writes the latent vectors of [`grid`] and [`images`] as a NumPy array.
pub(crate) fn latents(args: &LatentsArgs) -> anyhow::Result<u8> {
    check_out(&args.out, &[NUMPY], "latents writes NumPy arrays, whose names end in .npy")?;
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

/// Refuses a file that cannot be written because of its path, or whose ending is another than one
/// of these or none. `formats` says which there are.
pub(crate) fn check_out(out: &Path, endings: &[&str], formats: &str) -> anyhow::Result<()> {
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let what = match folder {
        Some(folder) if !folder.is_dir() => format!("there is no folder {}", folder.display()),
        _ if out.is_dir() => "it is a folder".to_owned(),
        _ if out == Path::new("-") => {
            "there is no output to standard output; give a file".to_owned()
        }
        // What is written takes the place of what stands there, which nobody means for a device.
        _ if out.is_symlink() => "it is a link; give the file that it leads to".to_owned(),
        _ if out.exists() && !out.is_file() => "it is no regular file".to_owned(),
        _ if ending(out).is_some_and(|ending| !endings.contains(&&*ending)) => formats.to_owned(),
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
