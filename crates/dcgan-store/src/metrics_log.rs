//! `metrics.jsonl`: one object a line, appended and never rewritten. A torn last line, from a crash, is cut.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use dcgan_core::metrics::MetricsRow;

/// The open log.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

/// A log that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// It cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A line that is not the last is no line of metrics.
    #[error(
        "{path}: line {number} is not a line of metrics: {error}; move the file away to go on without it"
    )]
    Row {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        number: usize,
        /// Why.
        error: serde_json::Error,
    },
}

impl MetricsLog {
    /// Opens a log, or makes one; gives the lines that it holds.
    ///
    /// # Errors
    /// If it cannot be read, or holds something else.
    pub fn open(path: &Path) -> Result<(Self, Vec<MetricsRow>), MetricsError> {
        let io = |error| MetricsError::Io { path: path.to_owned(), error };
        let options =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = options.map_err(io)?;
        let (lines, intact_bytes) = read_lines(path, &file)?;
        file.set_len(intact_bytes).map_err(io)?;
        file.seek(SeekFrom::End(0)).map_err(io)?;
        Ok((Self { path: path.to_owned(), file }, lines))
    }

    /// Appends a line, and waits until it is on disk.
    ///
    /// # Errors
    /// If it cannot be written; the log then holds what it held.
    pub fn append(&mut self, line: &MetricsRow) -> Result<(), MetricsError> {
        let mut text = serde_json::to_vec(line).expect("numbers and digests are always JSON");
        text.push(b'\n');
        let before = self.file.stream_position();
        let written = before.and_then(|before| {
            let appended = self.file.write_all(&text).and_then(|()| self.file.sync_data());
            appended.inspect_err(|_| {
                let _ = self.file.set_len(before);
                let _ = self.file.seek(SeekFrom::Start(before));
            })
        });
        written.map_err(|error| MetricsError::Io { path: self.path.clone(), error })
    }
}

/// The lines of a log that somebody else writes.
///
/// # Errors
/// If it cannot be read, or holds something else.
pub fn read(path: &Path) -> Result<Vec<MetricsRow>, MetricsError> {
    match File::open(path) {
        Ok(file) => Ok(read_lines(path, &file)?.0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(MetricsError::Io { path: path.to_owned(), error }),
    }
}

/// The lines, and the bytes that they take; a last line without an end is not one.
fn read_lines(path: &Path, file: &File) -> Result<(Vec<MetricsRow>, u64), MetricsError> {
    let mut reader = BufReader::new(file);
    let (mut lines, mut intact_bytes) = (Vec::new(), 0);
    let mut text = String::new();
    loop {
        text.clear();
        let bytes = reader.read_line(&mut text);
        let bytes = bytes.map_err(|error| MetricsError::Io { path: path.to_owned(), error })?;
        if !text.ends_with('\n') {
            return Ok((lines, intact_bytes));
        }
        let number = lines.len() + 1;
        let line = serde_json::from_str(&text);
        lines.push(line.map_err(|error| MetricsError::Row {
            path: path.to_owned(),
            number,
            error,
        })?);
        intact_bytes += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SKETCH: &str = r#"{"step":40,"epoch":1,"d_loss_real":0.61,"d_loss_fake":0.64,"g_loss":0.83,"real_dacc":0.71,"fake_dacc":0.69,"gacc":0.28,"learning_rate":0.0002,"images_per_second":371.2,"step_ms":689.7,"allreduce_ms":4.1,"world_size":4,"generation":1,"state_digest":"9f1c0a5be27d4386"}"#;

    #[test]
    fn a_line_has_the_promised_fields_in_their_order() {
        let line: MetricsRow = serde_json::from_str(SKETCH).unwrap();
        assert_eq!(serde_json::to_string(&line).unwrap(), SKETCH);
    }

    #[test]
    fn a_torn_last_line_is_cut_and_the_log_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, format!("{SKETCH}\n{}", &SKETCH[..50])).unwrap();
        assert_eq!(read(&path).unwrap().len(), 1);
        let (mut log, lines) = MetricsLog::open(&path).unwrap();
        assert_eq!(lines.len(), 1);
        log.append(&lines[0]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{SKETCH}\n{SKETCH}\n"));
    }

    #[test]
    fn something_else_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, format!("{SKETCH}\nhello\n{SKETCH}\n")).unwrap();
        let error = MetricsLog::open(&path).unwrap_err().to_string();
        assert!(error.contains("line 2 is not a line of metrics"), "{error}");
        assert!(std::fs::read_to_string(&path).unwrap().contains("hello"));
    }
}
