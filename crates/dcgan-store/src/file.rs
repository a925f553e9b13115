//! Opening, reading and replacing files, in folders that somebody else may have prepared.
//!
//! A run directory may come from anywhere, and a disk may give back anything. A name in it may be
//! that of a pipe that nobody writes to, of a device without an end, of a file of any size, or a
//! link to a file that belongs to somebody else. So only regular files of a known size are read,
//! nothing is written through a link, and what is written is complete or absent, also after a
//! crash.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

/// The end of the name of a file or folder that is being written or removed. Before it come a point
/// and 16 hexadecimal digits.
const TEMPORARY: &str = ".tmp";

/// The end of the name that a file gets which stands in the place of one of a run's.
const ASIDE: &str = ".aside";

/// Names that systems give, besides those that begin with a point.
const OF_SYSTEMS: [&str; 3] = ["lost+found", "Thumbs.db", "desktop.ini"];

/// The place, inode, size and time of a file, which tell that it is still the one that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp([u64; 3], [i64; 2]);

impl Stamp {
    /// The stamp of a file; `None` if it is missing or cannot be looked at. That of a link is its
    /// own.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::symlink_metadata(path).ok()?;
        let file = [metadata.dev(), metadata.ino(), metadata.size()];
        Some(Self(file, [metadata.mtime(), metadata.mtime_nsec()]))
    }
}

/// Returns whether two files are one.
pub(crate) fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Reads a regular file of at most `bytes_max` bytes.
///
/// # Errors
/// If it is missing, not a regular file, or larger.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let bytes = file.metadata()?.len();
    if bytes > bytes_max {
        return Err(too_large(bytes_max));
    }
    let mut content = Vec::with_capacity(bytes as usize);
    // Somebody may append to the file meanwhile.
    file.take(bytes_max + 1).read_to_end(&mut content)?;
    if content.len() as u64 > bytes_max { Err(too_large(bytes_max)) } else { Ok(content) }
}

fn too_large(bytes_max: u64) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("larger than {bytes_max} bytes"))
}

/// Opens a regular file for reading. Links are followed.
///
/// # Errors
/// If it is missing, or not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    // A device may do something when it is opened.
    check_regular(&fs::metadata(path)?)?;
    // If a pipe has taken the place of the file meanwhile, opening it must not wait.
    let file = File::options().read(true).custom_flags(flags(OFlags::NONBLOCK)).open(path)?;
    check_regular(&file.metadata()?)?;
    Ok(file)
}

/// Opens a regular file for reading and for writing over what it holds. If it is missing, it is
/// created, empty.
///
/// # Errors
/// If it cannot be opened, or is a link or anything else that is not a regular file.
pub fn open_in_place(path: &Path) -> io::Result<File> {
    open_for_writing(path, File::options().read(true).write(true))
}

/// Opens a regular file for appending. If it is missing, it is created.
///
/// # Errors
/// If it cannot be opened, or is a link or anything else that is not a regular file.
pub fn open_for_appending(path: &Path) -> io::Result<File> {
    open_for_writing(path, File::options().append(true))
}

fn open_for_writing(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => check_regular(&metadata)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let options = options.create(true).custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK));
    let file = options.open(path)?;
    check_regular(&file.metadata()?)?;
    Ok(file)
}

/// Flags of `open(2)`, as the standard library takes them.
fn flags(flags: OFlags) -> i32 {
    flags.bits() as i32
}

fn check_regular(metadata: &Metadata) -> io::Result<()> {
    let what = if metadata.is_file() {
        return Ok(());
    } else if metadata.is_dir() {
        return Err(Errno::ISDIR.into());
    } else if metadata.is_symlink() {
        "a link to another file, which is not written to"
    } else {
        "not a regular file"
    };
    Err(io::Error::new(ErrorKind::InvalidInput, what))
}

/// Replaces a file as a whole: a reader of `path` finds the old content or the new, and never a
/// mix. Waits until it is on disk.
///
/// # Errors
/// If it cannot be written. The old content stays then.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_by(path, |file| file.write_all(bytes))
}

/// Replaces a file like [`write`], with what a function writes to it.
///
/// # Errors
/// If it cannot be written. The old content stays then.
pub fn write_by(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let temporary = temporary(path);
    // The content must be on disk before the name points to it.
    let written = create_new(&temporary, fill).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The error that counts is the one before.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_folder_of(path)
}

/// Writes a file that does not exist yet, and waits until its content is on disk.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create_new(path, |file| file.write_all(bytes))
}

fn create_new(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    fill(&mut file)?;
    file.sync_all()
}

/// A name beside `path` for what is to become `path`, or to be removed. Nobody can know it before.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    beside(path, TEMPORARY)
}

/// Gives what is at `path`, which is somebody else's, another name. Returns that name.
pub(crate) fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = beside(path, ASIDE);
    fs::rename(path, &aside)?;
    Ok(aside)
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let random = RandomState::new().hash_one(());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{random:016x}{end}"));
    path.with_file_name(name)
}

/// Returns whether a name is one that [`temporary`] gives.
fn is_temporary(name: &OsStr) -> bool {
    let middle = name.to_str().and_then(|name| name.strip_suffix(TEMPORARY)?.rsplit_once('.'));
    middle.is_some_and(|(_, random)| {
        random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Removes what crashes have left behind in a folder: files and folders with temporary names.
///
/// # Errors
/// The first error, after everything else is removed.
pub(crate) fn remove_remains(folder: &Path) -> io::Result<()> {
    let mut result = Ok(());
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if is_temporary(&entry.file_name()) {
            result = result.and(remove(&entry.path()));
        }
    }
    result
}

/// Returns whether a folder has no entries, or does not exist. What systems and other programs
/// leave in any folder, such as `.DS_Store` and `lost+found`, does not count.
///
/// # Errors
/// If the folder cannot be read.
pub fn is_empty(folder: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        let is_hidden = name.as_encoded_bytes().starts_with(b".");
        if !is_hidden && !OF_SYSTEMS.iter().any(|of_system| name == *of_system) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes a file, a folder with everything in it, or a link.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

/// Puts the folder `new` in the place of `path`. Returns the name that the old one has now.
///
/// At any time there is one of the two at `path`, if the file system can exchange names; most can.
pub(crate) fn exchange(new: &Path, path: &Path) -> io::Result<PathBuf> {
    match renameat_with(CWD, new, CWD, path, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(new.to_owned()),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            let old = temporary(path);
            fs::rename(path, &old)?;
            fs::rename(new, path)?;
            Ok(old)
        }
        Err(error) => Err(error.into()),
    }
}

/// Creates a folder and those above it, if they are missing, and waits until their names are on
/// disk.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        create_folder(above)?;
    }
    match fs::create_dir(path) {
        // Somebody else may have created it at the same time.
        Err(error) if error.kind() != ErrorKind::AlreadyExists || !path.is_dir() => Err(error),
        _ => sync_folder_of(path),
    }
}

/// Waits until the names in the folder of `path` are on disk: a rename is durable only then.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    match File::open(folder.unwrap_or(Path::new(".")))?.sync_all() {
        // Some file systems of networks cannot do that with a folder. They have no better way.
        Err(error) if is_unsupported(&error) => Ok(()),
        result => result,
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    [Errno::INVAL, Errno::NOTSUP, Errno::NOSYS]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{FileType, Mode, mknodat};

    use super::*;

    fn make_pipe(path: &Path) {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    #[test]
    fn nothing_is_read_but_regular_files_of_an_allowed_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "12345").unwrap();
        symlink(path("file"), path("link")).unwrap();
        symlink("/dev/zero", path("zeros")).unwrap();
        make_pipe(&path("pipe"));
        fs::create_dir(path("folder")).unwrap();
        File::create(path("huge")).unwrap().set_len(200 << 30).unwrap();

        assert_eq!(read(&path("file"), 5).unwrap(), b"12345");
        assert_eq!(read(&path("link"), 5).unwrap(), b"12345");
        for (name, error) in [
            ("file", "larger than 4 bytes"),
            ("huge", "larger than 4 bytes"),
            ("zeros", "not a regular file"),
            ("pipe", "not a regular file"),
            ("folder", "Is a directory (os error 21)"),
        ] {
            assert_eq!(read(&path(name), 4).unwrap_err().to_string(), error, "{name}");
        }
    }

    #[test]
    fn nothing_is_written_through_a_link_or_into_a_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("secret"), "important").unwrap();
        make_pipe(&path("pipe"));
        for target in ["secret", "pipe", "missing"] {
            let link = path("link");
            symlink(path(target), &link).unwrap();
            for open in [open_in_place, open_for_appending] {
                let error = open(&link).unwrap_err().to_string();
                assert!(error.starts_with("a link to another file"), "{target}: {error}");
                let error = open(&path("pipe")).unwrap_err().to_string();
                assert_eq!(error, "not a regular file");
            }
            // What is replaced is the link.
            write(&link, b"new").unwrap();
            assert_eq!(fs::read_to_string(&link).unwrap(), "new");
            assert!(!path("missing").exists());
            fs::remove_file(&link).unwrap();
        }
        assert_eq!(fs::read_to_string(path("secret")).unwrap(), "important");
        open_for_appending(&path("new")).unwrap();
        assert!(path("new").exists());
    }

    #[test]
    fn a_write_that_fails_leaves_nothing_behind_and_remains_are_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        fs::create_dir(&target).unwrap();
        assert_eq!(write(&target, b"new").unwrap_err().kind(), ErrorKind::IsADirectory);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        fs::write(temporary(&target), "torn").unwrap();
        fs::create_dir(temporary(&target)).unwrap();
        fs::write(folder.path().join("thesis.tmp"), "important").unwrap();
        remove_remains(folder.path()).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["target", "thesis.tmp"]);
    }
}
