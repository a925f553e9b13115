//! The readers of files without the files, for `fuzz/`.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::checkpoint::Manifest;
use crate::format;
use crate::metrics_log;
use crate::run_dir::RunFile;

/// Reads the content of a `run.json`; `None` if it is refused.
pub fn run_file(content: &[u8]) -> Option<RunFile> {
    format::parse(Path::new("run.json"), content).ok()
}

/// Reads the content of a `manifest.json`; `None` if it is refused.
pub fn manifest(content: &[u8]) -> Option<Manifest> {
    format::parse(Path::new("manifest.json"), content).ok()
}

/// Reads the content of a log of rows `R`, and counts the bytes of the rows; `None` if it is
/// refused.
pub fn rows<R: DeserializeOwned>(content: &[u8]) -> Option<(Vec<R>, u64)> {
    metrics_log::read_rows(Path::new("metrics.jsonl"), content).ok()
}

/// Writes the text of either of the first two.
pub fn text(content: &impl Serialize) -> String {
    format::text(content)
}
