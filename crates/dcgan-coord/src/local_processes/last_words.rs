//! The last words of a process: in its log, or on its standard error.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use dcgan_store::file;
use serde_json::Value;

/// The bytes at the end of a log in which its last words are looked for.
const END_BYTES: u64 = 8 * 1024;

/// Returns the last words in a log, if it can be read and has any.
pub(super) fn in_log(path: &Path) -> Option<String> {
    in_text(&end_of(file::open(path).ok()?).ok()?)
}

fn end_of(mut log: File) -> io::Result<String> {
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(END_BYTES)))?;
    let mut bytes = Vec::new();
    log.take(END_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the last words in a text: its last error, which a hint may follow, or else its last
/// line.
pub(super) fn in_text(text: &str) -> Option<String> {
    let lines = || text.lines().rev().filter(|line| !line.trim().is_empty());
    let error = lines().find_map(|line| line.strip_prefix("error: ").map(str::to_owned));
    error.or_else(|| lines().next().map(|line| sentence(line).unwrap_or_else(|| line.to_owned())))
}

/// The sentence of a log line that is JSON.
fn sentence(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    line["fields"]["message"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_the_error_or_the_last_line() {
        let clap =
            "error: unexpected argument '--x' found\n\nFor more information, try '--help'.\n";
        let json = r#"{"level":"ERROR","fields":{"message":"--device: none","event":"x"}}"#;
        for (text, words) in [
            (clap, Some("unexpected argument '--x' found")),
            ("first\nlast\n\n", Some("last")),
            (json, Some("--device: none")),
            ("\n", None),
        ] {
            assert_eq!(in_text(text).as_deref(), words);
        }
    }

    #[test]
    fn a_long_log_is_read_from_its_end() {
        let log = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(log.path(), "é".repeat(END_BYTES as usize) + "\nerror: the last\n").unwrap();
        assert_eq!(in_log(log.path()).as_deref(), Some("the last"));
        assert_eq!(in_log(Path::new("/nowhere/at.all")), None);
    }
}
