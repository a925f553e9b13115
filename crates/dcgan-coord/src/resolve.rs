//! Reads and checks everything that a run depends on, before anything is started. A mistake is
//! refused while no port is bound and no file is created.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use clap::ArgMatches;
use dcgan_core::ids::Digest;
use dcgan_core::spec::{DatasetInfo, Difference, InitialWeights, ObjectiveKind, RunSpec};
use dcgan_core::words::counted;
use dcgan_process::exit::usage;
use dcgan_process::names;
use dcgan_store::dataset::{Dataset, Source};
use dcgan_store::evaluator_file::EvaluatorFile;
use dcgan_store::file;
use dcgan_store::run_dir::{
    self, DEFAULT_ROOT, FORMAT, RunDirError, RunFile, RunPaths, read_run_file,
};

use crate::args::{Args, Resume, Transpose};
use crate::config::{PartialConfig, RunConfig};
use crate::config_file::{read_config, read_saved_config};
use crate::initial_weights::WeightsFile;

/// Everything that a run depends on, checked.
pub(crate) struct ResolvedRun {
    /// The run directory, which may not exist yet.
    pub(crate) root: PathBuf,
    pub(crate) config: RunConfig,
    /// The configuration as the run directory keeps it: a TOML file.
    pub(crate) config_text: String,
    pub(crate) dataset: Dataset,
    /// The weights that it begins with, if its seed does not draw them.
    pub(crate) initial_weights: Option<WeightsFile>,
    /// The evaluator, if it is not built in.
    pub(crate) evaluator: Option<EvaluatorFile>,
}

/// The settings of the run that a directory belongs to.
struct SavedRun {
    settings: PartialConfig,
    spec: RunSpec,
}

/// Reads the settings that a person gives: flags and variables, then the file.
///
/// # Errors
/// For mistakes of usage, and if the file cannot be read.
pub(crate) fn given_settings(args: &Args, matches: &ArgMatches) -> anyhow::Result<PartialConfig> {
    let flags = args.given.clone().prefer_flags(matches);
    let Some(path) = &flags.config else {
        return Ok(flags);
    };
    let file = read_config(path).context("--config").map_err(usage)?;
    if file.config.is_some() {
        let path = path.display();
        bail!(usage(anyhow!("{path}: a configuration file cannot name another with config")));
    }
    flags.or(&file).map_err(usage)
}

/// Checks the given settings, and completes them by those of the run directory and by defaults.
///
/// # Errors
/// For mistakes of usage, and if a file cannot be read.
pub(crate) fn resolve_run(given: &PartialConfig) -> anyhow::Result<ResolvedRun> {
    let root = given.out.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_ROOT));
    refuse_used_directory(given.resume.unwrap_or_default(), &root)?;
    let paths = RunPaths::new(&root);
    let saved = read_saved(&paths).map_err(|error| of_out(&root, error))?;
    let mut merged = match &saved {
        Some(saved) => given.clone().or(&saved.settings.without_last_start()?).map_err(usage)?,
        None => given.clone(),
    };
    if let Some(saved) = &saved {
        refuse_lost_data(given, &saved.settings, &root)?;
    }
    let given_weights = read_weights(given, saved.as_ref(), &root)?;
    if let Some(weights) = &given_weights {
        merged.initial_weights = Some(InitialWeights::File(weights.digest));
    }
    // Load the data, and check the settings against it. What was guessed is kept with the run.
    let dataset = load_data(&merged)?;
    merged.transpose = Some(if dataset.is_transposed() { Transpose::Yes } else { Transpose::No });
    let objective = merged.objective.unwrap_or_default();
    let evaluator = find_evaluator(given, saved.as_ref(), &paths, objective, &dataset.info())?;
    let had_none = saved.as_ref().is_none_or(|saved| saved.settings.evaluator_digest.is_none());
    if evaluator.is_some() && had_none {
        // It was not evaluated for want of one.
        merged.eval_every = given.eval_every;
    }
    merged.evaluator_digest = evaluator.as_ref().map(EvaluatorFile::digest);
    let is_new = saved.is_none();
    // Other data may contradict settings that nobody gives now: that they are other data is the
    // mistake.
    if let Some(saved) = saved {
        let spec = merged.spec()?.build(dataset.info()).map_err(usage)?;
        refuse_other_run(&saved, &spec, merged.transpose, &root)?;
    }
    let (config, to_save) = merged.resolve(dataset.info()).map_err(usage)?;
    let initial_weights = match (given_weights, config.spec.initial_weights()) {
        (Some(weights), _) => Some(weights),
        (None, InitialWeights::Seed) => None,
        (None, InitialWeights::File(digest)) if is_new => bail!(usage(anyhow!(
            "initial-weights {digest}: give the file that has these weights as --init-from, such \
             as the initial.safetensors of the run that began with them"
        ))),
        (None, InitialWeights::File(digest)) => {
            let own = WeightsFile::of_run(&RunPaths::new(&root), digest);
            Some(own.context("give the weights that the run began with as --init-from")?)
        }
    };
    let config_text = toml::to_string(&to_save)?;
    Ok(ResolvedRun { root, config, config_text, dataset, initial_weights, evaluator })
}

/// Reads the weights that a person gives for the beginning of the run.
fn read_weights(
    given: &PartialConfig,
    saved: Option<&SavedRun>,
    root: &Path,
) -> anyhow::Result<Option<WeightsFile>> {
    let Some(path) = &given.init_from else {
        return Ok(None);
    };
    let has_copy = saved.is_some_and(|run| run.spec.initial_weights() != InitialWeights::Seed);
    let weights = WeightsFile::read(path).map_err(|error| {
        let hint = match has_copy {
            true => format!("; {} has a copy: leave --init-from out to go on", root.display()),
            false => String::new(),
        };
        usage(anyhow!("--init-from: {error:#}{hint}"))
    })?;
    let WeightsFile { from, digest, .. } = &weights;
    let found = InitialWeights::File(*digest);
    if let Some(expected) = given.initial_weights.filter(|expected| *expected != found) {
        bail!(usage(anyhow!("--init-from: {from}: expected digest {expected}, found {digest}")));
    }
    tracing::info!(
        event = "initial_weights_read",
        from,
        %digest,
        "the run begins with the weights of {from}"
    );
    Ok(Some(weights))
}

/// The evaluator of a run: the one that is given, or else the one that the run keeps.
fn find_evaluator(
    given: &PartialConfig,
    saved: Option<&SavedRun>,
    paths: &RunPaths,
    objective: ObjectiveKind,
    data: &DatasetInfo,
) -> anyhow::Result<Option<EvaluatorFile>> {
    let kept = saved.and_then(|saved| saved.settings.evaluator_digest);
    let Some(path) = &given.evaluator else {
        return kept.map(|digest| kept_evaluator(paths, digest)).transpose();
    };
    let read = || -> anyhow::Result<EvaluatorFile> {
        ensure!(objective == ObjectiveKind::Dcgan, "the {objective} is judged without one");
        let evaluator = EvaluatorFile::read(path)?;
        evaluator.check_data(data)?;
        // Values by two evaluators in one log could not be told apart.
        let is_other = match saved {
            Some(saved) if kept.is_none() => saved.spec.has_built_in_evaluator(),
            _ => kept.is_some_and(|digest| digest != evaluator.digest()),
        };
        let root = paths.root().display();
        ensure!(
            !is_other,
            "{root} belongs to a run that is judged by another evaluator: leave this one out, or \
             choose another --out"
        );
        Ok(evaluator)
    };
    let evaluator = read().with_context(|| format!("--evaluator: {}", path.display()));
    evaluator.map(Some).map_err(usage)
}

/// Checks the evaluator that a run keeps, if its configuration says that it keeps one.
///
/// # Errors
/// If the file is missing or damaged.
pub(crate) fn check_evaluator(paths: &RunPaths) -> anyhow::Result<()> {
    // A configuration that cannot be read is for the next start to refuse.
    let digest = read_saved_config(paths).ok().and_then(|saved| saved.evaluator_digest);
    digest.map_or(Ok(()), |digest| kept_evaluator(paths, digest).map(drop))
}

/// The evaluator in a run directory, which has this digest.
fn kept_evaluator(paths: &RunPaths, digest: Digest) -> anyhow::Result<EvaluatorFile> {
    let path = paths.evaluator();
    let read = || -> anyhow::Result<EvaluatorFile> {
        let evaluator = EvaluatorFile::read(&path)?;
        ensure!(evaluator.digest() == digest, "it is not the evaluator of this run");
        Ok(evaluator)
    };
    let hint = "give the file that it was made of to --evaluator again";
    read().map_err(|error| anyhow!("{}: {error:#}: {hint}", path.display()))
}

/// Checks that the run directory can be used, or created.
///
/// # Errors
/// A usage error if it is no place for one.
pub(crate) fn check_out(root: &Path) -> anyhow::Result<()> {
    run_dir::check(root).map_err(|error| of_out(root, error.into()))
}

/// Names the flag of an error about the run directory if another path is what mends it, or the
/// commands that do.
fn of_out(root: &Path, error: anyhow::Error) -> anyhow::Error {
    let cause = match error.downcast_ref() {
        Some(RunDirError::Io { error, .. }) => error,
        Some(RunDirError::Foreign(_)) => return usage(error.context("--out")),
        Some(RunDirError::Locked(_)) => {
            let (program, run) = (names::called(), names::quoted(&root.to_string_lossy()));
            return anyhow!(
                "{}: another coordinator is using this run directory: see it with `{program} \
                 status --run {run}`, end it with `{program} stop --run {run}`, or choose another \
                 --out",
                root.display()
            );
        }
        _ => return error,
    };
    match cause.kind() {
        ErrorKind::NotFound
        | ErrorKind::NotADirectory
        | ErrorKind::AlreadyExists
        | ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::InvalidFilename => {
            let file = root.ancestors().find(|path| path.exists() && !path.is_dir());
            let what = file.map_or_else(
                || format!("it cannot be made there: {cause}"),
                |file| format!("{} is not a folder", file.display()),
            );
            usage(anyhow!("--out: {}: {what}", root.display()))
        }
        _ => error,
    }
}

/// Loads the training images, and says which file they are of.
fn load_data(given: &PartialConfig) -> anyhow::Result<Dataset> {
    let transpose = match given.transpose.unwrap_or_default() {
        Transpose::Auto => None,
        Transpose::Yes => Some(true),
        Transpose::No => Some(false),
    };
    let objective = given.objective.unwrap_or_default();
    let dataset = Dataset::load(&given.source(), transpose, objective);
    let dataset = dataset.context("--data").map_err(usage)?;
    if let Some(file) = dataset.file() {
        let (file, transposed) = (file.display(), dataset.is_transposed());
        let how = match transpose {
            _ if !transposed => "",
            Some(_) => ", transposed",
            None => {
                ", transposed, because the name says EMNIST, which is stored so (--transpose no \
                 leaves them as they are)"
            }
        };
        tracing::info!(
            event = "data_loaded",
            %file,
            transposed,
            "the images are those of {file}{how}"
        );
    }
    if let Some(first) = dataset.left_out().first() {
        let (count, first) = (dataset.left_out().len(), first.display());
        tracing::info!(
            event = "files_left_out",
            count,
            %first,
            "left out as no PNG or JPEG picture: {}, such as {first}",
            counted(count, "file")
        );
    }
    Ok(dataset)
}

/// Refuses a run whose images are gone from where they were, unless their new place is given.
fn refuse_lost_data(
    given: &PartialConfig,
    saved: &PartialConfig,
    root: &Path,
) -> anyhow::Result<()> {
    let (None, Source::Path(data)) = (&given.data, saved.source()) else {
        return Ok(());
    };
    ensure!(
        data.exists(),
        usage(anyhow!(
            "the images of {} were in {}, where there is nothing now: give their new place as \
             --data",
            root.display(),
            data.display()
        ))
    );
    Ok(())
}

/// Refuses a run directory that holds something already, if the user asked for that.
fn refuse_used_directory(resume: Resume, root: &Path) -> anyhow::Result<()> {
    let is_empty = || file::is_empty(root).with_context(|| root.display().to_string());
    if resume == Resume::Never && !is_empty()? {
        bail!(usage(anyhow!(
            "{}: not empty, and --resume never was given; choose another --out, or leave \
             --resume out to continue the run in it",
            root.display()
        )));
    }
    Ok(())
}

/// The settings of the run that a directory belongs to, if it belongs to one.
fn read_saved(paths: &RunPaths) -> anyhow::Result<Option<SavedRun>> {
    let Some(run) = read_run_file(paths)? else {
        return Ok(None);
    };
    let path = paths.config();
    let settings = read_saved_config(paths)?;
    let data_set = settings.data_set.with_context(|| format!("{}: no data-set", path.display()))?;
    let spec = settings.spec()?.build_saved(data_set);
    let spec = spec.with_context(|| path.display().to_string())?;
    let mut completed = settings.clone().with_spec(&spec)?;
    // A run that was begun before there was a choice has its images as they are stored.
    completed.transpose.get_or_insert(Transpose::No);
    log_if_older(run.format, &settings, &completed, paths.root())?;
    Ok(Some(SavedRun { settings: completed, spec }))
}

/// The run that a directory belongs to, and the configuration of its last start.
///
/// # Errors
/// If it belongs to none, or its files cannot be read.
pub(crate) fn read_run(paths: &RunPaths) -> anyhow::Result<(RunFile, RunConfig)> {
    let no_run = || RunDirError::no_run(paths.root());
    let run = read_run_file(paths)?.ok_or_else(no_run)?;
    let settings = read_saved_config(paths)?;
    let data_set =
        settings.data_set.with_context(|| format!("{}: no data-set", paths.config().display()))?;
    let (config, _) = settings.resolve(data_set)?;
    Ok((run, config))
}

/// Says that a run was begun by an older version, if it was, and how it goes on.
fn log_if_older(
    format: u32,
    saved: &PartialConfig,
    completed: &PartialConfig,
    root: &Path,
) -> anyhow::Result<()> {
    let saved = saved.table()?;
    let new = completed.table()?.into_iter().filter(|(key, _)| !saved.contains_key(key));
    let new: Vec<String> = new.map(|(key, value)| format!("{key} = {value}")).collect();
    if format == FORMAT && new.is_empty() {
        return Ok(());
    }
    let settings = match &*new {
        [] => "with the settings that it has".to_owned(),
        new => format!("as that version did it: {}", new.join(", ")),
    };
    let root = root.display();
    tracing::info!(
        event = "older_run",
        format,
        "{root}: an older version of this program began this run (format {format}); it goes on \
         {settings}"
    );
    Ok(())
}

/// Refuses settings that would change the result of the run that a directory belongs to.
fn refuse_other_run(
    saved: &SavedRun,
    spec: &RunSpec,
    transpose: Option<Transpose>,
    root: &Path,
) -> anyhow::Result<()> {
    let differences = saved.spec.differences(spec);
    if differences.is_empty() {
        return Ok(());
    }
    // A person has given the weights by their file.
    let in_words = |difference: &Difference| match &*difference.name {
        "initial-weights" => {
            let Difference { saved, given, .. } = difference;
            format!("weights of --init-from: saved {saved}, given {given}")
        }
        _ => difference.to_string(),
    };
    let mut list: Vec<String> = differences.iter().map(in_words).collect();
    let has_copy = saved.spec.initial_weights() != InitialWeights::Seed;
    if has_copy && differences.iter().any(|difference| difference.name == "initial-weights") {
        list.push("without --init-from it goes on as it began".to_owned());
    }
    // Other data may be the same images, transposed.
    if let (Some(saved), Some(given)) = (saved.settings.transpose, transpose)
        && saved != given
    {
        list.push(format!("transpose: saved {saved}, given {given}"));
    }
    bail!(usage(anyhow!(
        "{} belongs to a run with other settings: {}; choose another --out",
        root.display(),
        list.join("; ")
    )));
}
