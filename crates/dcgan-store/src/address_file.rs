//! The file `address` of a run directory: where the coordinator of the run listens.

use std::path::PathBuf;
use std::{fs, io};

use crate::file;
use crate::run_dir::{RunDirError, RunPaths, io_error};

/// The most bytes of the file. A larger one is damaged.
const ADDRESS_BYTES_MAX: u64 = 1024;

/// The file `address`, while the coordinator of a run listens there. Dropping it removes the file;
/// a coordinator that is killed leaves it behind.
#[derive(Debug)]
pub struct AddressFile(PathBuf);

impl AddressFile {
    /// Says in the run directory at which address its coordinator listens.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn publish(paths: &RunPaths, address: &str) -> Result<Self, RunDirError> {
        let path = paths.address();
        file::write(&path, format!("{address}\n").as_bytes())
            .map_err(|error| io_error(&path, error))?;
        Ok(Self(path))
    }
}

impl Drop for AddressFile {
    fn drop(&mut self) {
        // What is left behind leads to nobody.
        let _ = fs::remove_file(&self.0);
    }
}

/// Reads the address at which the coordinator of a run listens, or did when it was killed; `None`
/// if it has ended.
///
/// # Errors
/// If the file cannot be read, or is no text.
pub fn read_address(paths: &RunPaths) -> Result<Option<String>, RunDirError> {
    let path = paths.address();
    match file::read(&path, ADDRESS_BYTES_MAX).map(String::from_utf8) {
        Ok(Ok(text)) => Ok(Some(text.trim().to_owned())),
        Ok(Err(_)) => Err(RunDirError::Damaged { path, what: "not a text".to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(&path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_there_while_its_coordinator_is() {
        let folder = tempfile::tempdir().unwrap();
        let paths = RunPaths::new(folder.path());
        assert_eq!(read_address(&paths).unwrap(), None);
        let file = AddressFile::publish(&paths, "http://127.0.0.1:7420").unwrap();
        assert_eq!(read_address(&paths).unwrap().unwrap(), "http://127.0.0.1:7420");
        drop(file);
        assert_eq!(read_address(&paths).unwrap(), None);
    }
}
