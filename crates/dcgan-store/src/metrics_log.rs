//! `metrics.jsonl` and `evaluations.jsonl`: one JSON object on each line, appended and never
//! rewritten.
//!
//! A line of the first is a [`MetricsRow`]: averages over the steps since the last multiple of the
//! log interval. A line of the second is an [`EvaluationRow`]. A crash can leave the beginning of a
//! last line; opening the log cuts it off, and its steps are reported again. Anything else that is
//! not a row means that the file is not this log, and it is refused and left alone.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[cfg(doc)]
use dcgan_core::evaluation::EvaluationRow;
use dcgan_core::metrics::MetricsRow;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::file;

/// The longest line, in bytes. A file with a longer one is refused. A row has about 400.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// A log that is open for appending rows of type `R`.
#[derive(Debug)]
pub struct MetricsLog<R = MetricsRow> {
    path: PathBuf,
    file: File,
    /// The bytes of the rows that are on disk.
    end: u64,
    /// True if the file may hold more than these.
    is_torn: bool,
    rows: PhantomData<fn(&R)>,
}

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The file cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// A complete line is not a row of metrics.
    #[error(
        "{path}: line {number} is not a line of metrics: {error}; move the file away to go on \
         without it"
    )]
    Row {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        number: usize,
        /// The cause.
        error: String,
    },
}

impl<R: Serialize + DeserializeOwned> MetricsLog<R> {
    /// Opens a log, or creates an empty one, and returns the rows that it holds.
    ///
    /// # Errors
    /// If the file cannot be read or written, or a line is not a row of metrics.
    pub fn open(path: &Path) -> Result<(Self, Vec<R>), MetricsError> {
        let file = file::open_in_place(path).map_err(|error| io_error(path, error))?;
        let (rows, end) = read_rows(path, &file)?;
        let mut log = Self { path: path.to_owned(), file, end, is_torn: true, rows: PhantomData };
        log.cut().map_err(|error| io_error(path, error))?;
        Ok((log, rows))
    }

    /// Appends rows, and waits until they are on disk.
    ///
    /// # Errors
    /// If they cannot be written. The log then holds what it held before.
    ///
    /// # Panics
    /// Never: every row can be written as JSON.
    pub fn append(&mut self, rows: &[R]) -> Result<(), MetricsError> {
        let mut text = Vec::new();
        for row in rows {
            serde_json::to_writer(&mut text, row).expect("numbers and digests are always JSON");
            text.push(b'\n');
        }
        self.append_text(&text).map_err(|error| io_error(&self.path, error))
    }

    fn append_text(&mut self, text: &[u8]) -> io::Result<()> {
        // Nothing is appended to what an earlier attempt may have left.
        self.cut()?;
        self.is_torn = true;
        let written = self.file.write_all(text).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // The disk may be full, with half a line on it. If the file cannot be cut now, it is
            // before the next row.
            let _ = self.cut();
        } else {
            self.end += text.len() as u64;
            self.is_torn = false;
        }
        written
    }

    /// Makes this log again what is at its path, if others have removed, replaced or changed the
    /// file. Rows that are still known stay, and whatever is in their place gets another name.
    /// Returns whether anything was to be done.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn restore(&mut self) -> Result<bool, MetricsError> {
        self.try_restore().map_err(|error| io_error(&self.path, error))
    }

    fn try_restore(&mut self) -> io::Result<bool> {
        let own = self.file.metadata()?;
        let found = fs::symlink_metadata(&self.path);
        let is_there = found.as_ref().is_ok_and(|found| file::is_same(found, &own));
        if is_there && (self.is_torn || own.len() == self.end) {
            return Ok(false);
        }
        // The open file may still have the rows, wherever its name is.
        self.file.seek(SeekFrom::Start(0))?;
        let rows = read_rows::<R>(&self.path, (&self.file).take(self.end));
        let intact = rows.as_ref().map_or(0, |(_, bytes)| *bytes);
        if is_there && rows.is_ok() {
            (self.end, self.is_torn) = (intact, true);
            self.cut()?;
            return Ok(true);
        }
        if found.is_ok() {
            file::move_aside(&self.path)?;
        }
        self.file.seek(SeekFrom::Start(0))?;
        let mut known = (&self.file).take(intact);
        file::write_by(&self.path, |file| io::copy(&mut known, file).map(drop))?;
        self.file = file::open_in_place(&self.path)?;
        (self.end, self.is_torn) = (intact, true);
        self.cut()?;
        Ok(true)
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Cuts off what is not a row, and goes on after the rows.
    fn cut(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.end)?;
            self.file.seek(SeekFrom::Start(self.end))?;
            self.is_torn = false;
        }
        Ok(())
    }
}

fn io_error(path: &Path, error: io::Error) -> MetricsError {
    MetricsError::Io { path: path.to_owned(), error }
}

/// Reads the rows of a log that another process may be writing; none if there is no file.
///
/// # Errors
/// If the file cannot be read, or a complete line is not a row of metrics.
pub fn read<R: DeserializeOwned>(path: &Path) -> Result<Vec<R>, MetricsError> {
    match file::open(path) {
        Ok(file) => Ok(read_rows(path, &file)?.0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io_error(path, error)),
    }
}

/// A log that grows, read a part at a time.
#[derive(Debug)]
pub struct LogTail<R> {
    path: PathBuf,
    /// The file that was read: its device and its number there.
    file: Option<(u64, u64)>,
    /// The bytes of it that were read.
    end: u64,
    rows: PhantomData<fn() -> R>,
}

/// Rows that [`LogTail::read`] has found.
#[derive(Debug)]
pub enum NewRows<R> {
    /// These were added.
    Added(Vec<R>),
    /// The file is another one than before, or was cut: these are all that it has.
    All(Vec<R>),
}

impl<R: DeserializeOwned> LogTail<R> {
    /// The log at this path, of which nothing is read yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None, end: 0, rows: PhantomData }
    }

    /// Reads the rows that were added since the last time.
    ///
    /// # Errors
    /// If the file cannot be read, or a complete line is not a row of metrics.
    pub fn read(&mut self) -> Result<NewRows<R>, MetricsError> {
        let mut file = match file::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let was_there = self.file.take().is_some();
                self.end = 0;
                return Ok(if was_there { NewRows::All(vec![]) } else { NewRows::Added(vec![]) });
            }
            Err(error) => return Err(io_error(&self.path, error)),
        };
        let found = file.metadata().map_err(|error| io_error(&self.path, error))?;
        let id = (found.dev(), found.ino());
        let is_other = self.file.is_some_and(|known| known != id) || found.len() < self.end;
        if is_other {
            self.end = 0;
        }
        self.file = Some(id);
        if found.len() == self.end && !is_other {
            return Ok(NewRows::Added(Vec::new()));
        }
        file.seek(SeekFrom::Start(self.end)).map_err(|error| io_error(&self.path, error))?;
        let (rows, bytes) = read_rows(&self.path, &file)?;
        self.end += bytes;
        Ok(if is_other { NewRows::All(rows) } else { NewRows::Added(rows) })
    }
}

/// Reads the rows of a log, and counts the bytes that they take. A last line without a line end is
/// not a row.
pub(crate) fn read_rows<R: DeserializeOwned>(
    path: &Path,
    source: impl Read,
) -> Result<(Vec<R>, u64), MetricsError> {
    let mut reader = BufReader::new(source);
    let mut rows = Vec::new();
    let mut intact_bytes = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let limited = reader.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line);
        let bytes = limited.map_err(|error| io_error(path, error))? as u64;
        match row(&line) {
            Ok(Some(row)) => rows.push(row),
            Ok(None) => return Ok((rows, intact_bytes)),
            Err(error) => {
                let number = rows.len() + 1;
                return Err(MetricsError::Row { path: path.to_owned(), number, error });
            }
        }
        intact_bytes += bytes;
    }
}

/// Reads one line; `None` if it is torn, or there is none.
fn row<R: DeserializeOwned>(line: &[u8]) -> Result<Option<R>, String> {
    if line.len() as u64 > LINE_BYTES_MAX {
        return Err(format!("it has more than {LINE_BYTES_MAX} bytes"));
    }
    match line {
        [.., b'\n'] => serde_json::from_slice(line).map(Some).map_err(|error| error.to_string()),
        // The beginning of a row, or zeros where a file system has lost it.
        [] | [b'{' | 0, ..] => Ok(None),
        _ => Err("it has no end, and does not begin as a row does".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line as `docs/run-directory.md` promises it.
    const LINE: &str = concat!(
        r#"{"step":40,"epoch":1,"d_loss_real":0.61,"d_loss_fake":0.64,"g_loss":0.83,"#,
        r#""real_dacc":0.71,"fake_dacc":0.69,"gacc":0.28,"learning_rate":0.0002,"#,
        r#""images_per_second":371.2,"step_ms":689.7,"allreduce_ms":4.1,"world_size":4,"#,
        r#""generation":1,"state_digest":"9f1c0a5be27d4386"}"#,
    );

    #[test]
    fn a_line_has_the_promised_fields_in_their_order() {
        let row: MetricsRow = serde_json::from_str(LINE).unwrap();
        assert_eq!(serde_json::to_string(&row).unwrap(), LINE);
    }

    #[test]
    fn an_incomplete_last_line_is_cut_and_the_log_continues() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, format!("{LINE}\n{}", &LINE[..50])).unwrap();
        assert_eq!(read::<MetricsRow>(&path).unwrap().len(), 1);
        let (mut log, rows) = MetricsLog::<MetricsRow>::open(&path).unwrap();
        assert_eq!(rows.len(), 1);
        log.append(&rows).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{LINE}\n{LINE}\n"));
    }

    #[test]
    fn a_file_that_is_not_a_log_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, format!("{LINE}\nhello\n{LINE}\n")).unwrap();
        let error = MetricsLog::<MetricsRow>::open(&path).unwrap_err().to_string();
        assert!(error.contains("line 2 is not a line of metrics"), "{error}");
        assert!(std::fs::read_to_string(&path).unwrap().contains("hello"));

        std::fs::write(&path, "a token without a line end").unwrap();
        let error = MetricsLog::<MetricsRow>::open(&path).unwrap_err().to_string();
        assert!(error.contains("line 1 is not a line of metrics: it has no end"), "{error}");
        assert!(std::fs::read_to_string(&path).unwrap().contains("token"));
    }

    #[test]
    fn a_torn_line_may_hold_anything_and_a_line_without_an_end_is_not_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        for torn in [&b"{\"step\":\xff\xfe"[..], &[0; 300]] {
            std::fs::write(&path, [LINE.as_bytes(), b"\n", torn].concat()).unwrap();
            let (_, rows) = MetricsLog::<MetricsRow>::open(&path).unwrap();
            assert_eq!(rows.len(), 1);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{LINE}\n"));
        }
        File::options().write(true).open(&path).unwrap().set_len(200 << 30).unwrap();
        for error in [
            MetricsLog::<MetricsRow>::open(&path).unwrap_err().to_string(),
            read::<MetricsRow>(&path).unwrap_err().to_string(),
        ] {
            assert!(error.contains("line 2 is not a line of metrics: it has more than"), "{error}");
        }
    }

    #[test]
    fn a_log_goes_on_with_what_is_known_whatever_others_do_to_its_file() {
        let row: MetricsRow = serde_json::from_str(LINE).unwrap();
        for (change, known, asides) in [
            ("", 2, 0),
            ("rm metrics.jsonl", 2, 0),
            ("mv metrics.jsonl old", 2, 0),
            ("mv metrics.jsonl old; echo hello > metrics.jsonl", 2, 1),
            ("mv metrics.jsonl old; ln -s old metrics.jsonl", 2, 1),
            ("mv metrics.jsonl old; mkdir metrics.jsonl", 2, 1),
            ("truncate -s 0 metrics.jsonl", 0, 0),
            ("truncate -s 500 metrics.jsonl", 1, 0),
            ("echo hello >> metrics.jsonl", 2, 0),
            ("echo hello > metrics.jsonl", 0, 1),
            ("mv metrics.jsonl old; truncate -s 500 old", 1, 0),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("metrics.jsonl");
            let (mut log, _) = MetricsLog::open(&path).unwrap();
            log.append(&[row.clone(), row.clone()]).unwrap();
            let mut shell = std::process::Command::new("sh");
            shell.args(["-c", change]).current_dir(folder.path());
            assert!(shell.status().unwrap().success());
            assert_eq!(log.restore().unwrap(), !change.is_empty(), "{change}");
            assert!(!log.restore().unwrap(), "{change}");
            log.append(std::slice::from_ref(&row)).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text, format!("{LINE}\n").repeat(known + 1), "{change}");
            let names = std::fs::read_dir(folder.path()).unwrap().flatten();
            let aside = names.filter(|it| it.path().extension().is_some_and(|it| it == "aside"));
            assert_eq!(aside.count(), asides, "{change}");
        }
    }

    #[test]
    fn a_log_that_grows_is_read_a_part_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut tail = LogTail::<MetricsRow>::new(path.clone());
        let added = |found: NewRows<MetricsRow>| match found {
            NewRows::Added(rows) => rows.len(),
            NewRows::All(_) => panic!("it is the same file"),
        };
        assert_eq!(added(tail.read().unwrap()), 0);
        std::fs::write(&path, format!("{LINE}\n{}", &LINE[..50])).unwrap();
        assert_eq!(added(tail.read().unwrap()), 1);
        assert_eq!(added(tail.read().unwrap()), 0);
        let mut file = File::options().append(true).open(&path).unwrap();
        write!(file, "{}\n{LINE}\n", &LINE[50..]).unwrap();
        assert_eq!(added(tail.read().unwrap()), 2);
        // Cut, replaced, removed.
        std::fs::write(&path, format!("{LINE}\n")).unwrap();
        assert!(matches!(tail.read().unwrap(), NewRows::All(rows) if rows.len() == 1));
        std::fs::write(folder.path().join("new"), format!("{LINE}\n{LINE}\n")).unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        assert!(matches!(tail.read().unwrap(), NewRows::All(rows) if rows.len() == 2));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(tail.read().unwrap(), NewRows::All(rows) if rows.is_empty()));
        assert_eq!(added(tail.read().unwrap()), 0);
    }

    #[test]
    fn what_a_failed_append_has_left_is_cut_before_the_next_row() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let row: MetricsRow = serde_json::from_str(LINE).unwrap();
        let (mut log, _) = MetricsLog::open(&path).unwrap();
        log.append(std::slice::from_ref(&row)).unwrap();
        // An append wrote more than a row, failed, and its text could not be cut off.
        let torn = [LINE.as_bytes(), b"\n", LINE.as_bytes()].concat();
        log.file.write_all(&torn).unwrap();
        log.is_torn = true;
        log.append(std::slice::from_ref(&row)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{LINE}\n{LINE}\n"));
    }
}
