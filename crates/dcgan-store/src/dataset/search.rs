//! The search for the file of training images in a folder.
//!
//! A file with MNIST's name is taken. Otherwise the content of the files counts, and then their
//! names: a file of images is one of the training set if its name says so, or if it is alone.

use std::fs;
use std::io::{self, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use super::{DataError, is_hidden, lowercase};
use crate::file;
use crate::idx::{self, IdxError};

/// The most files that are looked at in a folder and the folders in it.
pub(super) const FILES_MAX: usize = 1000;
/// The most files that are listed in a message.
const LISTED_MAX: usize = 3;

/// The names that are looked for first. Some archives unpack to a folder for each file.
const NAMES: [&str; 3] = [
    "train-images-idx3-ubyte",
    "train-images-idx3-ubyte.gz",
    "train-images-idx3-ubyte/train-images-idx3-ubyte",
];

/// A file, or a folder that is not searched.
struct Entry {
    /// The path from the searched folder.
    name: PathBuf,
    /// The content in words, if it is something else than images.
    other: Option<String>,
}

/// Finds the file of training images that a path means: the file itself, or one in the folder.
pub(super) fn find(path: &Path) -> Result<PathBuf, DataError> {
    let fault = |error| DataError::File { file: path.to_owned(), error: IdxError::Io(error) };
    let is_folder = match fs::metadata(path) {
        Ok(metadata) => metadata.is_dir(),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(fault(error)),
        Err(_) if path.to_string_lossy().contains("://") => {
            return Err(DataError::Address(path.to_owned()));
        }
        Err(_) => return Err(DataError::Missing(path.to_owned())),
    };
    if !is_folder {
        return Ok(path.to_owned());
    }
    if let Some(file) = NAMES.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
        return Ok(file);
    }
    let names = list(path).map_err(fault)?;
    if names.len() > FILES_MAX {
        return Err(DataError::TooManyFiles(path.to_owned()));
    }
    let look = |name: PathBuf| Entry { other: look(&path.join(&name)), name };
    choose(path, &names.into_iter().map(look).collect::<Vec<_>>())
}

/// Lists the files of a folder and of the folders in it, and stops when there are too many. Hidden
/// ones are left out.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for name in names(folder)? {
        // A folder may belong to somebody else, such as lost+found.
        let inner = folder.join(&name).is_dir().then(|| names(&folder.join(&name)));
        match inner {
            Some(Ok(inner)) => files.extend(inner.into_iter().map(|file| name.join(file))),
            _ => files.push(name),
        }
        if files.len() > FILES_MAX {
            break;
        }
    }
    files.sort();
    Ok(files)
}

/// Returns the first names in a folder that are not hidden, one more than are looked at.
fn names(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if !is_hidden(&name) {
            names.push(PathBuf::from(name));
        }
        if names.len() > FILES_MAX {
            break;
        }
    }
    Ok(names)
}

/// Returns what a file holds, in words, if that is something else than images.
fn look(path: &Path) -> Option<String> {
    if path.is_dir() {
        return Some("a folder, which is not searched".to_owned());
    }
    let file = file::open(path).map_err(IdxError::Io);
    let other = file.and_then(|file| idx::other_content(BufReader::new(file)));
    other.unwrap_or_else(|error| Some(error.to_string()))
}

/// Chooses the file of training images.
fn choose(folder: &Path, entries: &[Entry]) -> Result<PathBuf, DataError> {
    let images = entries.iter().filter(|entry| entry.other.is_none());
    let (training, mut others): (Vec<_>, Vec<_>) = images.partition(|entry| entry.has("train"));
    others.retain(|entry| !entry.has("t10k") && !entry.has("test"));
    let found = if training.is_empty() { others } else { training };
    // A plain file counts, and not the packed one that it was unpacked from.
    let has_plain = |packed: &Entry| {
        let is_packed = packed.name.extension().is_some_and(|end| end == "gz");
        is_packed && found.iter().any(|entry| entry.name == packed.name.with_extension(""))
    };
    let candidates: Vec<&Entry> = found.iter().copied().filter(|entry| !has_plain(entry)).collect();
    let folder = folder.to_owned();
    match &*candidates {
        [entry] => Ok(folder.join(&entry.name)),
        [] => Err(DataError::NoImages { folder, found: describe(entries) }),
        several => {
            let names = several.iter().map(|entry| entry.name.display().to_string());
            Err(DataError::Several { folder, found: shortened(names.collect()) })
        }
    }
}

/// Lists the first entries with what they hold, in words. Those that hold the same are together, so
/// that no advice is given twice.
fn describe(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "no files".to_owned();
    }
    let mut entries: Vec<&Entry> = entries.iter().collect();
    entries.sort_by_key(|entry| !entry.has("train"));
    let rest = entries.split_off(LISTED_MAX.min(entries.len()));
    let mut groups: Vec<(&str, Vec<String>)> = Vec::new();
    for entry in entries {
        let what = entry.other.as_deref().unwrap_or("images of a test set");
        let name = entry.name.display().to_string();
        match groups.iter_mut().find(|(other, _)| *other == what) {
            Some((_, names)) => names.push(name),
            None => groups.push((what, vec![name])),
        }
    }
    let groups = groups.into_iter().map(|(what, names)| format!("{} ({what})", names.join(", ")));
    let rest = (!rest.is_empty()).then(|| format!("{} more", rest.len()));
    groups.chain(rest).collect::<Vec<_>>().join(", ")
}

/// Joins the first items of a list.
fn shortened(mut items: Vec<String>) -> String {
    let count = items.len();
    items.truncate(LISTED_MAX);
    if count > LISTED_MAX {
        items.push(format!("{} more", count - LISTED_MAX));
    }
    items.join(", ")
}

impl Entry {
    /// Tells whether the name has this word in it.
    fn has(&self, word: &str) -> bool {
        lowercase(&self.name).contains(word)
    }
}
