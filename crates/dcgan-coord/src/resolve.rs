//! Reads and checks everything that a run depends on, before anything is started. A mistake is
//! refused while no port is bound and no file is created.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::ArgMatches;
use dcgan_core::spec::RunSpec;
use dcgan_process::exit::usage;
use dcgan_store::dataset::Dataset;
use dcgan_store::run_dir::{RunPaths, read_run_file};

use crate::args::{Args, Resume};
use crate::config::{PartialConfig, RunConfig};

/// The run directory without `--out`.
const DEFAULT_ROOT: &str = "runs/dcgan";

/// Everything that a run depends on, checked.
pub(crate) struct ResolvedRun {
    /// The run directory, which may not exist yet.
    pub(crate) root: PathBuf,
    pub(crate) config: RunConfig,
    /// The configuration as the run directory keeps it: a TOML file.
    pub(crate) config_text: String,
    pub(crate) dataset: Dataset,
}

/// Reads and checks everything that a run depends on.
///
/// # Errors
/// For mistakes of usage, and if a file cannot be read.
pub(crate) fn resolve_run(args: &Args, matches: &ArgMatches) -> anyhow::Result<ResolvedRun> {
    let root = args.out.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_ROOT));
    refuse_used_directory(args.resume, &root)?;
    // Merge the settings: flags and variables, then the file, then those of the run directory.
    let flags = args.given.clone().prefer_flags(matches);
    let file = match &args.config {
        Some(path) => read_config(path).map_err(usage)?,
        None => PartialConfig::default(),
    };
    let saved = read_saved(&RunPaths::new(&root))?;
    let merged = flags.or(file).or(saved.clone().unwrap_or_default());
    // The data set that was used is compared below, never taken over.
    let given = PartialConfig { data_set: None, ..merged };
    // Load the data, and check the settings against it.
    let dataset = Dataset::load(&given.source()).context("--data").map_err(usage)?;
    let config = given.resolve(dataset.info()).map_err(usage)?;
    if let Some(saved) = saved {
        refuse_other_run(&saved, &config.spec, &root)?;
    }
    let config_text = toml::to_string(&config.to_partial(given.data))?;
    Ok(ResolvedRun { root, config, config_text, dataset })
}

/// Refuses a run directory that holds something already, if the user asked for that.
fn refuse_used_directory(resume: Resume, root: &Path) -> anyhow::Result<()> {
    if resume == Resume::Never && !is_empty(root)? {
        bail!(usage(anyhow!(
            "{}: not empty, and --resume never was given; choose another --out, or leave \
             --resume out to continue the run in it",
            root.display()
        )));
    }
    Ok(())
}

/// The configuration of the run that a directory belongs to, if it belongs to one.
fn read_saved(paths: &RunPaths) -> anyhow::Result<Option<PartialConfig>> {
    match read_run_file(paths)? {
        Some(_) => Ok(Some(read_config(&paths.config())?)),
        None => Ok(None),
    }
}

/// Refuses settings that would change the result of the run that a directory belongs to.
fn refuse_other_run(saved: &PartialConfig, spec: &RunSpec, root: &Path) -> anyhow::Result<()> {
    let Some(saved_data) = saved.data_set else {
        return Ok(());
    };
    let differences = saved.spec(saved_data).differences(spec);
    if differences.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = differences.iter().map(ToString::to_string).collect();
    bail!(usage(anyhow!(
        "{} belongs to a run with other settings: {}; choose another --out",
        root.display(),
        list.join("; ")
    )));
}

/// Reads a configuration file.
fn read_config(path: &Path) -> anyhow::Result<PartialConfig> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    toml::from_str(&text).map_err(|error| {
        // The library's message takes several lines. Ours is one: the file, the line, the mistake.
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        anyhow!("{}: line {line}: {}", path.display(), error.message())
    })
}

/// True if a folder has no entries, or does not exist.
fn is_empty(root: &Path) -> anyhow::Result<bool> {
    match std::fs::read_dir(root) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).with_context(|| root.display().to_string()),
    }
}
