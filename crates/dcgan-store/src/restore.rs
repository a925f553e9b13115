//! Undoes what others do to a run directory while its coordinator runs: files are removed, rotated
//! or replaced, and the whole directory may be moved away.
//!
//! A training that would end because of that, or go on without its files, would lose work. So the
//! coordinator looks before each write, and every second: what is missing is made again, and what
//! was changed is written again as it knows it. The directory that it continues is that of its run,
//! locked by itself: it never writes to one that another coordinator uses, or that belongs to
//! another run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::file::{self, Stamp};
use crate::run_dir::{RunDir, RunDirError, create_and_lock, create_folder, io_error, lock};
use crate::run_file::read_run_file;

/// The small files that are to stay as they were written last, by their paths.
#[derive(Debug, Default)]
pub(crate) struct KeptFiles(BTreeMap<PathBuf, KeptFile>);

#[derive(Debug)]
struct KeptFile {
    content: Vec<u8>,
    stamp: Option<Stamp>,
}

impl KeptFiles {
    /// Keeps a file that was just written.
    pub(crate) fn insert(&mut self, path: &Path, content: Vec<u8>) {
        let stamp = Stamp::of(path);
        self.0.insert(path.to_owned(), KeptFile { content, stamp });
    }
}

impl KeptFile {
    /// Writes the file again if it has another content. Returns whether it had.
    fn restore(&mut self, path: &Path) -> Result<bool, RunDirError> {
        if Stamp::of(path) == self.stamp {
            return Ok(false);
        }
        // Somebody may only have touched it.
        let found = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
        let is_same =
            found && file::read(path, self.content.len() as u64).is_ok_and(|it| it == self.content);
        if !is_same {
            file::write(path, &self.content).map_err(|error| io_error(path, error))?;
        }
        self.stamp = Stamp::of(path);
        Ok(!is_same)
    }
}

impl RunDir {
    /// Restores what others have removed or changed. Returns its names.
    ///
    /// # Errors
    /// If something cannot be written, or the directory is another run's or another coordinator's
    /// now.
    pub fn restore(&mut self) -> Result<Vec<String>, RunDirError> {
        let mut restored = Vec::new();
        if !self.has_its_lock() {
            self.lock_again()?;
            restored.push(self.paths.lock_file());
        }
        for folder in self.paths.folders() {
            // A link that leads nowhere may lead somewhere again.
            if fs::symlink_metadata(&folder).is_err() {
                create_folder(&folder)?;
                restored.push(folder);
            }
        }
        for (path, kept) in &mut self.kept.0 {
            if kept.restore(path)? {
                restored.push(path.clone());
            }
        }
        let names = restored.iter().filter_map(|path| path.strip_prefix(self.paths.root()).ok());
        Ok(names.map(|name| name.display().to_string()).collect())
    }

    fn has_its_lock(&self) -> bool {
        let there = fs::symlink_metadata(self.paths.lock_file());
        let own = self.lock.metadata();
        matches!((there, own), (Ok(there), Ok(own)) if file::is_same(&there, &own))
    }

    /// Locks the directory that is at the path now, if it is this run's or nobody's.
    fn lock_again(&mut self) -> Result<(), RunDirError> {
        let found = read_run_file(&self.paths).ok().flatten().map(|file| file.run);
        self.lock = match found {
            Some(run) if Some(run) != self.run => {
                let what = format!("the directory belongs to run {run} now");
                return Err(RunDirError::Damaged { path: self.paths.run_file(), what });
            }
            Some(_) => lock(&self.paths)?,
            None => create_and_lock(&self.paths)?,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dcgan_core::ids::RunId;

    use super::*;
    use crate::run_file::RunFile;

    fn open(root: &Path) -> RunDir {
        let (mut dir, _) = RunDir::open(root).unwrap();
        dir.save_config("seed = 5").unwrap();
        dir.save_run(&RunFile::new(RunId(7))).unwrap();
        dir
    }

    #[test]
    fn what_others_remove_or_change_is_restored() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("run");
        let mut dir = open(&root);
        assert!(dir.restore().unwrap().is_empty());

        fs::remove_dir(root.join("grids")).unwrap();
        fs::write(root.join("run.json"), "torn").unwrap();
        fs::write(folder.path().join("secret"), "seed = 5").unwrap();
        fs::remove_file(root.join("config.toml")).unwrap();
        std::os::unix::fs::symlink("../secret", root.join("config.toml")).unwrap();
        assert_eq!(dir.restore().unwrap(), ["grids", "config.toml", "run.json"]);
        assert!(fs::symlink_metadata(root.join("config.toml")).unwrap().is_file());

        fs::rename(&root, folder.path().join("away")).unwrap();
        let all = ["run.lock", "checkpoints", "grids", "logs", "config.toml", "run.json"];
        assert_eq!(dir.restore().unwrap(), all);
        assert_eq!(read_run_file(&dir.paths).unwrap(), Some(RunFile::new(RunId(7))));
        assert!(matches!(RunDir::open(&root), Err(RunDirError::Locked(_))));
    }

    #[test]
    fn a_directory_that_is_another_ones_now_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("run");
        let mut dir = open(&root);
        fs::rename(&root, folder.path().join("away")).unwrap();
        fs::create_dir(&root).unwrap();
        fs::write(root.join("thesis.tex"), "important").unwrap();
        assert!(matches!(dir.restore(), Err(RunDirError::Foreign(_))));

        fs::remove_file(root.join("thesis.tex")).unwrap();
        let (mut other, _) = RunDir::open(&root).unwrap();
        assert!(matches!(dir.restore(), Err(RunDirError::Locked(_))));
        other.save_run(&RunFile::new(RunId(8))).unwrap();
        drop(other);
        let refused = dir.restore().unwrap_err().to_string();
        assert!(refused.contains("belongs to run 0000000000000008 now"), "{refused}");
    }
}
