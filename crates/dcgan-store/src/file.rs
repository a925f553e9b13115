//! Files that are complete or absent, also after a crash.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Replaces a file as a whole: a reader of `path` finds the old content or the new, and never a
/// mix.
///
/// The content passes through a file beside it with the extension `tmp`.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    // The content must be on disk before the name points to it.
    write_through(&temporary, bytes)?;
    fs::rename(&temporary, path)?;
    sync_folder_of(path)
}

/// Writes a file and waits until its content is on disk.
pub(crate) fn write_through(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Waits until the names in the folder of `path` are on disk: a rename is durable only then.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}
