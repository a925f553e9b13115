//! The files of this project, and problems found in them.

use std::path::Path;

use crate::arrows::output;

/// A text file of this project.
pub(crate) struct Source {
    /// Its path from the root of the project.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    /// Tells if the name of the file ends with one of these.
    pub(crate) fn has_extension(&self, extensions: &[&str]) -> bool {
        let extension = Path::new(&self.path).extension().unwrap_or_default();
        extensions.iter().any(|&wanted| extension == wanted)
    }
}

/// Reads the files that git tracks, and new ones that it does not ignore.
pub(crate) fn read() -> Vec<Source> {
    let list = output("git", &["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let paths = list.split('\0').filter(|path| !path.is_empty());
    // A file that was just deleted is still tracked, and a picture is no text.
    paths.filter_map(read_text).collect()
}

/// Reads the Rust files below a folder, such as `crates/`.
pub(crate) fn read_rust(folder: &str) -> Vec<Source> {
    let mut sources = read();
    sources.retain(|source| source.path.starts_with(folder) && source.has_extension(&["rs"]));
    assert!(!sources.is_empty(), "there are Rust files below {folder}");
    sources
}

fn read_text(path: &str) -> Option<Source> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()?;
    Some(Source { path: path.to_owned(), text })
}

/// Fails with all problems, if there are any.
pub(crate) fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "{} places:\n{}", problems.len(), problems.join("\n"));
}
