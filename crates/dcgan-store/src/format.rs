//! The version of the formats of `run.json` and of the manifests, and what is made of another one.
//!
//! A file of an older version is read: a setting that did not exist when it was written has the
//! value with which the run goes on as it began (`dcgan_core::spec`). A file of a newer version is
//! refused and left alone. Neither is damaged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dcgan_core::spec::RunSpec;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

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
}

/// The part of a file that says who can read it.
#[derive(Deserialize)]
struct Head {
    format: u32,
    /// The specification in a manifest.
    #[serde(default)]
    config: BTreeMap<String, IgnoredAny>,
}

/// Reads the content of the file at `path`, of this version's format or an older one.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, content: &[u8]) -> Result<T, Unreadable> {
    let damaged = |error: serde_json::Error| Unreadable::Damaged(error.to_string());
    let Head { format, config } = serde_json::from_slice(content).map_err(damaged)?;
    // A newer file may lack what this version expects, so this comes first.
    let newer = |what| Unreadable::Newer(Newer { path: path.to_owned(), what });
    if format > FORMAT {
        return Err(newer(format!("format {format}")));
    }
    if let Some(key) = config.keys().find(|key| !RunSpec::has_key(key)) {
        return Err(newer(format!("the setting {key}")));
    }
    serde_json::from_slice(content).map_err(damaged)
}
