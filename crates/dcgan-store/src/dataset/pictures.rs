//! Folders of pictures: PNG and JPEG files, each of which becomes one image.
//!
//! The content of a file says whether it is a picture. Files that hold something else are left out
//! and counted, unless their name says that they are pictures: then something is wrong with them.
//!
//! A folder may have its pictures in folders for a training set and a test set, and these may have
//! a folder for each class. The order of the images is that of their paths, byte by byte, so it is
//! the same on every machine.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use dcgan_core::spec::networks::CLASSES;

use super::{DataError, IMAGE_SIDE, Split, is_hidden, lowercase};
use crate::content;
use crate::file;
use crate::idx::Images;
use crate::picture::{self, FILE_BYTES_MAX, PictureError};

/// The most files of a folder of pictures.
pub(super) const PICTURES_MAX: usize = 1_000_000;
/// Folders within folders are searched to this depth: a data set, its splits, their classes.
const DEPTH_MAX: usize = 3;
/// The bytes of a file that tell what it holds.
const HEAD_BYTES: u64 = 512;
/// The ends of the names of pictures.
const ENDINGS: [&str; 3] = ["png", "jpg", "jpeg"];

/// The pictures of a folder.
pub(super) struct Pictures {
    /// The folder of the pictures: the one that was named, or that of a split in it.
    pub(super) folder: PathBuf,
    /// The paths of the pictures from the folder, in order.
    names: Vec<PathBuf>,
    /// The paths of the files that hold something else, in order.
    pub(super) left_out: Vec<PathBuf>,
}

impl Split {
    /// The names of a folder for this split.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Training => &["train", "training"],
            Self::Test => &["test", "testing"],
        }
    }
}

impl Pictures {
    /// Finds the pictures to train on: those of the training set if the folder is split, else all.
    /// `None` if there are none.
    pub(super) fn find(folder: &Path) -> Result<Option<Self>, DataError> {
        let split = split_folder(folder, Split::Training)?;
        Self::all_in(split.unwrap_or_else(|| folder.to_owned()))
    }

    /// Finds the pictures of a split; `None` if the folder is not split or there are none.
    pub(super) fn of_split(folder: &Path, split: Split) -> Result<Option<Self>, DataError> {
        match split_folder(folder, split)? {
            Some(folder) => Self::all_in(folder),
            None => Ok(None),
        }
    }

    fn all_in(folder: PathBuf) -> Result<Option<Self>, DataError> {
        let mut files = Vec::new();
        list(&folder, Path::new(""), 0, &mut files)?;
        files.sort_by(|one, other| bytes(one).cmp(bytes(other)));
        let (mut names, mut left_out) = (Vec::new(), Vec::new());
        for name in files {
            let is_picture = is_picture(&folder.join(&name), &name)?;
            if is_picture { &mut names } else { &mut left_out }.push(name);
        }
        Ok((!names.is_empty()).then_some(Self { folder, names, left_out }))
    }

    /// Decodes the pictures. Each is in memory only while it is scaled.
    pub(super) fn read(&self) -> Result<Images, DataError> {
        let image_bytes = IMAGE_SIDE * IMAGE_SIDE;
        let count = self.names.len();
        let mut pixels = vec![0; count * image_bytes];
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let share = count.div_ceil(threads).max(1);
        let read = |(names, images): (&[PathBuf], &mut [u8])| -> Result<(), DataError> {
            names.iter().zip(images.chunks_exact_mut(image_bytes)).try_for_each(|(name, image)| {
                let file = self.folder.join(name);
                let read = file::read(&file, FILE_BYTES_MAX).map_err(PictureError::Io);
                let read = read.and_then(|content| picture::read(&content, IMAGE_SIDE));
                image.copy_from_slice(&read.map_err(|error| DataError::Picture { file, error })?);
                Ok(())
            })
        };
        thread::scope(|scope| {
            let shares = self.names.chunks(share).zip(pixels.chunks_mut(share * image_bytes));
            let running: Vec<_> = shares.map(|share| scope.spawn(move || read(share))).collect();
            // The first faulty picture is named, whichever thread is first.
            running.into_iter().try_for_each(|it| it.join().unwrap_or_else(|it| resume_unwind(it)))
        })?;
        Ok(Images { count, rows: IMAGE_SIDE, columns: IMAGE_SIDE, pixels })
    }

    /// The names of the classes, in order: those of the folders that the pictures are in.
    pub(super) fn classes(&self) -> Result<Vec<&OsStr>, DataError> {
        let fault = |what| DataError::Classes { folder: self.folder.clone(), what };
        let mut classes: Vec<&OsStr> = Vec::new();
        for name in &self.names {
            let class = class_of(name).ok_or_else(|| {
                fault(format!("a folder for each class, found {} beside them", name.display()))
            })?;
            // The pictures of a class follow each other.
            if classes.last() != Some(&class) {
                classes.push(class);
            }
        }
        // Their order is not that of the paths: "a-b/1" comes before "a/1".
        classes.sort_unstable();
        if classes.len() > CLASSES {
            let found = classes.len();
            return Err(fault(format!("at most {CLASSES} folders of classes, found {found}")));
        }
        Ok(classes)
    }

    /// The class of each picture: the place of its folder in `classes`.
    pub(super) fn labels(&self, classes: &[&OsStr]) -> Result<Vec<u8>, DataError> {
        // A picture that is in no folder has no class.
        self.classes()?;
        let label = |class: &OsStr| classes.iter().position(|other| *other == class);
        let labels = self.names.iter().map(|name| {
            class_of(name).and_then(label).map(|label| label as u8).ok_or_else(|| {
                let what = format!("the classes of the training set, found {}", name.display());
                DataError::Classes { folder: self.folder.clone(), what }
            })
        });
        labels.collect()
    }
}

/// The folder that a picture is in, if it is not the folder of the data set.
fn class_of(name: &Path) -> Option<&OsStr> {
    let mut parts = name.iter();
    let first = parts.next()?;
    parts.next().map(|_| first)
}

/// The folder of a split, if there is one.
fn split_folder(folder: &Path, split: Split) -> Result<Option<PathBuf>, DataError> {
    let mut found: Vec<PathBuf> = entries(folder)?;
    found.retain(|path| {
        let name = path.file_name().map(|name| lowercase(Path::new(name))).unwrap_or_default();
        split.names().contains(&&*name) && path.is_dir()
    });
    found.sort();
    Ok(found.into_iter().next())
}

/// Adds the files of a folder and of the folders in it, whose path from `root` is `within`. Links
/// to folders are not followed: they may lead back.
fn list(
    root: &Path,
    within: &Path,
    depth: usize,
    files: &mut Vec<PathBuf>,
) -> Result<(), DataError> {
    for path in entries(&root.join(within))? {
        let Some(name) = path.file_name().map(|name| within.join(name)) else {
            continue;
        };
        let is_folder = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        if !is_folder {
            files.push(name);
        } else if depth < DEPTH_MAX {
            list(root, &name, depth + 1, files)?;
        }
        if files.len() > PICTURES_MAX {
            return Err(DataError::TooManyPictures(root.to_owned()));
        }
    }
    Ok(())
}

/// The entries of a folder that are not hidden, in no order.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let fault =
        |error| DataError::Picture { file: folder.to_owned(), error: PictureError::Io(error) };
    let entries = fs::read_dir(folder).map_err(fault)?;
    let entries = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut entries: Vec<PathBuf> = entries.collect::<Result<_, _>>().map_err(fault)?;
    entries.retain(|path| !path.file_name().is_some_and(is_hidden));
    Ok(entries)
}

/// Tells whether a file is a picture.
///
/// # Errors
/// If its name says so, and its content does not.
fn is_picture(file: &Path, name: &Path) -> Result<bool, DataError> {
    let mut head = Vec::new();
    let read = file::open(file).and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head));
    if read.is_ok() && picture::is_picture(&head) {
        return Ok(true);
    }
    let ending = name.extension().map(|end| lowercase(Path::new(end))).unwrap_or_default();
    if !ENDINGS.contains(&&*ending) {
        return Ok(false);
    }
    let error = match read {
        Ok(_) => PictureError::Content(content::describe(&head)),
        Err(error) => PictureError::Io(error),
    };
    Err(DataError::Picture { file: file.to_owned(), error })
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
