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

/// Returns whether this process was called in a run directory, or in a folder below one.
pub fn is_inside_of_run() -> bool {
    env::current_dir().is_ok_and(|here| here.ancestors().any(has_run))
}

fn why(root: &Path) -> String {
    if !root.exists() {
        return why_missing(&env::current_dir().unwrap_or_default());
    }
    if let Some(run) = root.ancestors().skip(1).map(or_here).find(|above| has_run(above)) {
        let step = step_of(root).map_or(String::new(), |step| {
            format!(" (dcgan-sampler takes a step as --checkpoint {step})")
        });
        let what = if root.is_dir() { "a part" } else { "a file" };
        return format!("it is {what} of the run {0}: give {0}{step}", run.display());
    }
    if !root.is_dir() {
        return "it is a file: give the directory of a run".to_owned();
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

/// Says where a run may be, if there is no such folder in `here`.
fn why_missing(here: &Path) -> String {
    match here.ancestors().find(|above| has_run(above)) {
        Some(run) if run == here => {
            "there is no such folder, but this one is a run directory: give . to mean it".to_owned()
        }
        Some(run) => {
            format!(
                "there is no such folder, but this one is a part of the run {0}: give {0}",
                run.display()
            )
        }
        None => format!(
            "there is no such folder (this is {}): change to the folder where the training was \
             started, or name its run directory",
            here.display()
        ),
    }
}

/// The folder that a path means: the one above a single name is this one.
fn or_here(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

fn has_run(folder: &Path) -> bool {
    RunPaths::new(folder).run_file().exists()
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
        assert_eq!(said("runs/a/run.json"), "it is a file of the run ./runs/a: give ./runs/a");
        fs::write(here.join("grid.png"), "").unwrap();
        assert_eq!(said("grid.png"), "it is a file: give the directory of a run");
        let missing = |path: &str| why_missing(&here.join(path));
        assert!(missing("runs/a").ends_with("but this one is a run directory: give . to mean it"));
        let inside = format!("a part of the run {0}: give {0}", here.join("runs/a").display());
        assert!(missing("runs/a/checkpoints").ends_with(&inside));
        fs::create_dir(here.join("empty")).unwrap();
        assert_eq!(said("empty"), "there is no run.json");
    }
}
