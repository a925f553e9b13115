//! The version of the formats of `run.json` and of the manifests, and what is made of another one.
//!
//! A file of an older version is read: a setting that did not exist when it was written has the
//! value with which the run goes on as it began (`dcgan_core::spec`). A file of a newer version is
//! refused and left alone. Neither is damaged.
//!
//! A file ends with a checksum over its text: without it, one flipped bit in the name of a setting
//! would look like a setting of a newer version, and one in a number like another number. Files of
//! the first versions have none, and newer versions are expected to write it in the same way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dcgan_core::ids::Digest;
use dcgan_core::spec::RunSpec;
use dcgan_core::state::digest;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

/// The version of the formats that this program writes.
///
/// 2: a reader refuses a specification with a setting that it does not know. The programs that
/// read only format 1 would take such a setting for no setting, and go on with other results.
pub const FORMAT: u32 = 2;

/// The error for a file of a newer version of this program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {what} is of a newer version of this program; use that version")]
pub struct Newer {
    path: PathBuf,
    what: String,
}

/// The error for a content that cannot be used.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// The content is not one that any version has written, for this reason.
    Damaged(String),
    /// The content is of a newer version.
    Newer(Newer),
    /// The content belongs to another run, which it says.
    Foreign(String),
}

impl Newer {
    /// The error for a file that has a setting which this version does not know.
    pub fn setting(path: &Path, key: &str) -> Self {
        Self { path: path.to_owned(), what: format!("the setting {key}") }
    }
}

/// The part of a file that says who can read it.
#[derive(Deserialize)]
struct Head {
    format: u32,
    /// The specification in a manifest.
    #[serde(default)]
    config: BTreeMap<String, IgnoredAny>,
    checksum: Option<Digest>,
}

/// A content with its checksum: the digest of the whole text, with zeros in the place of these 16
/// digits.
#[derive(Serialize)]
struct Sealed<'a, T> {
    #[serde(flatten)]
    content: &'a T,
    checksum: Digest,
}

/// The text of a file with this content.
///
/// # Panics
/// Never: manifests and plans can be written as JSON.
pub(crate) fn text<T: Serialize>(content: &T) -> String {
    let text = |checksum| {
        serde_json::to_string_pretty(&Sealed { content, checksum })
            .expect("manifests and plans are always JSON")
    };
    text(digest::of_bytes(text(Digest(0)).as_bytes()))
}

/// Checks a text against its checksum.
fn check(content: &[u8], checksum: Digest) -> Result<(), String> {
    let damaged = || "its checksum is wrong: it is damaged, or somebody has changed it".to_owned();
    let text = std::str::from_utf8(content).map_err(|_| damaged())?;
    let digits = checksum.to_string();
    let place = text.rfind(&digits).ok_or_else(damaged)?;
    let mut zeroed = content.to_vec();
    zeroed[place..place + digits.len()].fill(b'0');
    if digest::of_bytes(&zeroed) == checksum { Ok(()) } else { Err(damaged()) }
}

/// Reads the content of the file at `path`, of this version's format or an older one.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, content: &[u8]) -> Result<T, Unreadable> {
    let damaged = |error: serde_json::Error| Unreadable::Damaged(error.to_string());
    let Head { format, config, checksum } = serde_json::from_slice(content).map_err(damaged)?;
    if let Some(checksum) = checksum {
        check(content, checksum).map_err(Unreadable::Damaged)?;
    }
    // A newer file may lack what this version expects, so this comes first.
    if format > FORMAT {
        let newer = Newer { path: path.to_owned(), what: format!("format {format}") };
        return Err(Unreadable::Newer(newer));
    }
    if let Some(key) = config.keys().find(|key| !RunSpec::has_key(key)) {
        return Err(Unreadable::Newer(Newer::setting(path, key)));
    }
    serde_json::from_slice(content).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Content {
        format: u32,
        config: BTreeMap<String, u64>,
        size: u64,
        sum: f64,
    }

    fn content() -> Content {
        let config = BTreeMap::from([("seed".to_owned(), 5)]);
        Content { format: FORMAT, config, size: 1024, sum: 0.1 + 0.2 }
    }

    fn read(text: &[u8]) -> Result<Content, Unreadable> {
        parse(Path::new("file"), text)
    }

    #[test]
    fn no_flipped_bit_changes_the_content_or_passes_for_a_newer_version() {
        let text = text(&content());
        assert_eq!(read(text.as_bytes()).unwrap(), content());
        for bit in 0..8 * text.len() {
            let mut flipped = text.clone().into_bytes();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match read(&flipped) {
                Err(Unreadable::Damaged(_)) => {}
                // A checksum that lost its name is none, as in the first versions.
                Ok(read) if read == content() => {}
                other => panic!("{other:?} from {}", String::from_utf8_lossy(&flipped)),
            }
        }
    }

    #[test]
    fn a_newer_file_with_a_right_checksum_is_newer() {
        let newer = text(&Content { format: FORMAT + 1, ..content() });
        assert!(matches!(read(newer.as_bytes()), Err(Unreadable::Newer(_))));
        let config = BTreeMap::from([("warmup".to_owned(), 5)]);
        let newer = text(&Content { config, ..content() });
        assert!(matches!(read(newer.as_bytes()), Err(Unreadable::Newer(_))));
    }
}
