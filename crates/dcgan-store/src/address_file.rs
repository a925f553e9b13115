//! The file `address` of a run directory: where the coordinator of the run listens.

use std::path::Path;
use std::{fs, io};

use crate::file;
use crate::run_dir::{RunDir, RunDirError, RunPaths, io_error};
use crate::run_file::is_absent;

/// The most bytes of the file. A larger one is damaged.
const ADDRESS_BYTES_MAX: u64 = 1024;

/// The file `address`, while the coordinator of a run listens there. Dropping it removes the file;
/// a coordinator that is killed leaves it behind.
#[derive(Debug)]
pub struct AddressFile {
    paths: RunPaths,
    address: String,
}

impl RunDir {
    /// Says in the directory at which address its coordinator listens.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn publish_address(&mut self, address: &str) -> Result<AddressFile, RunDirError> {
        self.write_and_keep(&self.paths.address(), format!("{address}\n").into_bytes())?;
        Ok(AddressFile { paths: self.paths.clone(), address: address.to_owned() })
    }
}

impl Drop for AddressFile {
    fn drop(&mut self) {
        // Another run may have taken the place of this one.
        if read_address(&self.paths).is_ok_and(|found| found.as_ref() == Some(&self.address)) {
            // What is left behind leads to nobody.
            let _ = fs::remove_file(self.paths.address());
        }
    }
}

/// Reads the address at which the coordinator of a run listens, or did when it was killed; `None`
/// if it has ended.
///
/// # Errors
/// If the file cannot be read, or is no text.
pub fn read_address(paths: &RunPaths) -> Result<Option<String>, RunDirError> {
    let path = paths.address();
    match read_address_at(&path) {
        Ok(address) => Ok(Some(address)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(io_error(&path, error)),
    }
}

/// Reads an address file by its own path.
///
/// # Errors
/// If the file is missing, cannot be read, or is no text.
pub fn read_address_at(path: &Path) -> io::Result<String> {
    let text = String::from_utf8(file::read(path, ADDRESS_BYTES_MAX)?);
    let text = text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a text"))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_there_while_its_coordinator_is() {
        let folder = tempfile::tempdir().unwrap();
        let (mut dir, _) = RunDir::open(&folder.path().join("run")).unwrap();
        let paths = dir.paths().clone();
        assert_eq!(read_address(&paths).unwrap(), None);
        let file = dir.publish_address("http://127.0.0.1:7420").unwrap();
        assert_eq!(read_address(&paths).unwrap().unwrap(), "http://127.0.0.1:7420");
        drop(file);
        assert_eq!(read_address(&paths).unwrap(), None);

        let file = dir.publish_address("http://127.0.0.1:7420").unwrap();
        fs::write(paths.address(), "http://127.0.0.1:9\n").unwrap();
        drop(file);
        assert!(paths.address().exists(), "it is another coordinator's");
    }
}
