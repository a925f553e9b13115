//! Why a path is no run directory, for the person who has named it or has named none.

use std::path::Path;
use std::{env, fs};

use dcgan_core::ids::Step;

use crate::run_dir::{RunDirError, RunPaths};

/// The most runs that are named.
const NAMED_MAX: usize = 5;

impl RunDirError {
    /// Returns the error for a path without a run, which says where one may be.
    pub fn no_run(root: &Path) -> Self {
        Self::NoRun { root: root.to_owned(), why: why(root) }
    }
}

fn why(root: &Path) -> String {
    if !root.exists() {
        let here = env::current_dir().unwrap_or_default();
        return format!(
            "there is no such folder (this is {}): change to the folder where the training was \
             started, or name its run directory",
            here.display()
        );
    }
    if let Some(run) = root.ancestors().skip(1).find(|above| has_run(above)) {
        let step = step_of(root).map_or(String::new(), |step| {
            format!(" (dcgan-sampler takes a step as --checkpoint {step})")
        });
        return format!("it is a part of the run {0}: give {0}{step}", run.display());
    }
    match &*runs_in(root) {
        [] => "there is no run.json".to_owned(),
        [run] => format!("there is no run.json, but a run in {run}: give that"),
        runs => {
            let named = &runs[..runs.len().min(NAMED_MAX)];
            let more = if named.len() < runs.len() { ", ..." } else { "" };
            format!("there is no run.json; the runs in it are {}{more}", named.join(", "))
        }
    }
}

fn has_run(folder: &Path) -> bool {
    !folder.as_os_str().is_empty() && RunPaths::new(folder).run_file().exists()
}

/// The step of a folder with the name of a checkpoint.
fn step_of(folder: &Path) -> Option<Step> {
    folder.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()
}

/// The run directories in a folder, by their paths and in order.
fn runs_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let runs = entries.map(|entry| entry.path()).filter(|path| has_run(path));
    let mut runs: Vec<String> = runs.map(|path| path.display().to_string()).collect();
    runs.sort();
    runs
}

#[cfg(test)]
mod tests {
    use dcgan_core::ids::RunId;

    use super::*;
    use crate::run_dir::{RunDir, RunFile};

    #[test]
    fn a_path_that_is_no_run_directory_says_where_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        let said = |path: &str| {
            let error = RunDirError::no_run(&here.join(path)).to_string();
            let (path, why) = error.split_once(": not a run directory: ").unwrap();
            assert!(path.starts_with(&here.display().to_string()), "{path}");
            why.replace(&here.display().to_string(), ".")
        };
        assert!(said("runs/dcgan").starts_with("there is no such folder (this is /"));
        for run in ["runs/b", "runs/a", "one/c"] {
            let (mut dir, _) = RunDir::open(&here.join(run)).unwrap();
            dir.save_run(&RunFile::new(RunId(7))).unwrap();
        }
        assert_eq!(said("runs"), "there is no run.json; the runs in it are ./runs/a, ./runs/b");
        assert_eq!(said("one"), "there is no run.json, but a run in ./one/c: give that");
        fs::create_dir(here.join("runs/a/checkpoints/step-00000040")).unwrap();
        assert_eq!(
            said("runs/a/checkpoints/step-00000040"),
            "it is a part of the run ./runs/a: give ./runs/a (dcgan-sampler takes a step as \
             --checkpoint 40)"
        );
        fs::create_dir(here.join("empty")).unwrap();
        assert_eq!(said("empty"), "there is no run.json");
    }
}
