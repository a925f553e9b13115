//! Before anything is started: the configuration is read, resolved and refused, while no port is bound and no file
//! made.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ArgMatches;
use dcgan_process::exit::usage;
use dcgan_store::dataset::Dataset;
use dcgan_store::run_dir::{RunPaths, read_run_file};

use crate::args::{Args, Resume};
use crate::config::{PartialConfig, RunConfig};

/// What a run is about to be.
pub(crate) struct ResolvedRun {
    pub(crate) root: PathBuf,
    pub(crate) config: RunConfig,
    /// To be saved.
    pub(crate) given: PartialConfig,
    pub(crate) dataset: Dataset,
}

/// Reads and checks everything that a run depends on.
///
/// # Errors
/// Mistakes of usage.
pub(crate) fn resolve_run(args: &Args, matches: &ArgMatches) -> anyhow::Result<ResolvedRun> {
    let root = args.out.clone().unwrap_or_else(|| PathBuf::from("runs/dcgan"));
    let paths = RunPaths::new(&root);
    if args.resume == Resume::Never && !is_empty(&root)? {
        bail!(usage(anyhow::anyhow!(
            "{}: not empty, and --resume never begins a new run",
            root.display()
        )));
    }
    let flags = args.given.clone().prefer_flags(matches);
    let file = match &args.config {
        Some(path) => read(path).map_err(usage)?,
        None => PartialConfig::default(),
    };
    let saved = match read_run_file(&paths)? {
        Some(_) => Some(read(&paths.config())?),
        None => None,
    };
    // What the data set was is compared, not taken over.
    let saved_data = saved.as_ref().and_then(|saved| saved.data_set);
    let given =
        PartialConfig { data_set: None, ..flags.or(file).or(saved.clone().unwrap_or_default()) };
    let dataset = Dataset::load(&given.source()).context("--data").map_err(usage)?;
    let config = given.resolve(dataset.info()).map_err(usage)?;
    if let (Some(saved), Some(data)) = (saved, saved_data) {
        let differences = saved.spec(data).differences(&config.spec);
        if !differences.is_empty() {
            let list: Vec<String> = differences.iter().map(ToString::to_string).collect();
            let list = list.join("; ");
            let root = root.display();
            bail!(usage(anyhow::anyhow!(
                "{root} belongs to a run with other settings: {list}; choose another --out"
            )));
        }
    }
    let given = config.to_given(given.data);
    Ok(ResolvedRun { root, config, given, dataset })
}

fn read(path: &Path) -> anyhow::Result<PartialConfig> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    toml::from_str(&text).map_err(|error| {
        // One line: the message, and where.
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        anyhow::anyhow!("{}: line {line}: {}", path.display(), error.message())
    })
}

fn is_empty(root: &Path) -> anyhow::Result<bool> {
    match std::fs::read_dir(root) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).with_context(|| root.display().to_string()),
    }
}
