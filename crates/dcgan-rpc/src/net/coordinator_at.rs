//! The place where a program finds its coordinator: an address, or a file that has the address of
//! the moment.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{Address, InvalidAddress};

/// A file is named with this in front.
const FILE: &str = "file:";
/// The file of a run directory that has the address.
const NAME: &str = "address";

/// The place where the coordinator is found, as people write it: `http://HOST:PORT`, or
/// `file:RUN_DIR/address`, the file in which a coordinator keeps its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoordinatorAt {
    /// An address.
    Address(Address),
    /// A file with the address, which changes when the coordinator moves.
    File(PathBuf),
}

impl CoordinatorAt {
    /// Returns the address at which the coordinator is now. `read` reads the text of a file.
    ///
    /// # Errors
    /// If the file cannot be read, or has no address. The error names it.
    pub fn find(&self, read: impl Fn(&Path) -> io::Result<String>) -> io::Result<Address> {
        match self {
            Self::Address(address) => Ok(address.clone()),
            Self::File(path) => {
                let named = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
                let text = read(path).map_err(|error| match error.kind() {
                    kind @ io::ErrorKind::NotFound => {
                        let path = path.display();
                        io::Error::new(kind, format!("there is no {path} yet, or no more"))
                    }
                    kind => io::Error::new(kind, named(&error)),
                })?;
                text.parse().map_err(|error| {
                    io::Error::new(io::ErrorKind::InvalidData, named(&error as &InvalidAddress))
                })
            }
        }
    }
}

impl FromStr for CoordinatorAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix(FILE) {
            Some(path) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => text.parse().map(Self::Address).map_err(|error| with_tip(text, &error)),
        }
    }
}

/// The same error, with the right form of what looks like a path.
fn with_tip(text: &str, error: &InvalidAddress) -> String {
    let path = Path::new(text);
    if path.is_dir() {
        format!("{error}; for the file in this folder write {FILE}{}", path.join(NAME).display())
    } else if !text.contains("://") && text.contains('/') {
        format!("{error}; for a file that has the address write {FILE}{text}")
    } else {
        error.to_string()
    }
}

impl fmt::Display for CoordinatorAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::File(path) => write!(f, "{FILE}{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_is_found_at_its_address_or_by_a_file() {
        let at = |text: &str| text.parse::<CoordinatorAt>();
        let read = |path: &Path| match path.to_str() {
            Some("run/address") => Ok("http://127.0.0.1:7420".to_owned()),
            Some("run/config.toml") => Ok("seed = 5".to_owned()),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        for text in ["http://127.0.0.1:7420", "file:run/address"] {
            assert_eq!(at(text).unwrap().to_string(), text);
            assert_eq!(at(text).unwrap().find(read).unwrap().authority(), "127.0.0.1:7420");
        }
        for (text, error) in [
            ("file:gone", "there is no gone yet, or no more"),
            ("file:run/config.toml", "run/config.toml: expected an address such as"),
        ] {
            let found = at(text).unwrap().find(read).unwrap_err().to_string();
            assert!(found.starts_with(error), "{found}");
        }
        assert!(at("file:").is_err());
        assert!(at("run/address").unwrap_err().ends_with("write file:run/address"));
        assert!(at("/").unwrap_err().ends_with("write file:/address"));
        assert!(!at("ftp://host:1").unwrap_err().contains("file:"));
    }
}
