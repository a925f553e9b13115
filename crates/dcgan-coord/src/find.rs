//! Finds the coordinator that a verb is for: at an address, or by its run directory.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::ArgMatches;
use dcgan_core::ids::{RunId, WorkerId};
use dcgan_process::exit::usage;
use dcgan_process::names;
use dcgan_process::settings::is_from_variable;
use dcgan_rpc::net::{Address, Connector, CoordinatorAt};
use dcgan_rpc::pb;
use dcgan_store::address_file::{read_address, read_address_at};
use dcgan_store::no_run;
use dcgan_store::run_dir::{DEFAULT_ROOT, RunDirError, RunPaths, read_run_file};

use crate::admin;
use crate::args::CoordinatorArg;
use crate::ended::EndedRun;

/// The address of a coordinator without a flag, a variable or a run directory.
const DEFAULT_ADDRESS: &str = "http://127.0.0.1:7420";

/// A run, as its directory tells.
pub(crate) enum Found {
    /// Its coordinator listens here.
    Running(Address),
    /// A person has named none, and this folder has none: this one listens at the documented port.
    Elsewhere(Address),
    Ended(EndedRun),
}

/// The way in which a person has named a run.
enum Named {
    /// By its directory.
    Directory(PathBuf),
    /// By its coordinator.
    At(CoordinatorAt),
    /// Not at all.
    Default,
}

/// Finds the coordinator that the arguments of a verb name. Without them it is that of the run
/// directory `out`, which a variable gives, or else of `runs/dcgan`. Whoever listens at the
/// documented port may be another folder's run: it is told of, and nothing is done to it.
///
/// # Errors
/// If none is running there.
pub(crate) fn coordinator(
    given: &CoordinatorArg,
    matches: &ArgMatches,
    out: Option<&Path>,
    connector: &Connector,
) -> anyhow::Result<Address> {
    match coordinator_or_ended(given, matches, out, connector)? {
        Found::Running(address) => Ok(address),
        Found::Elsewhere(address) => {
            let elsewhere = admin::status_at(connector, &address).ok().flatten();
            Err(no_run(&address, elsewhere.as_ref()))
        }
        Found::Ended(ended) => {
            bail!("no coordinator is running: {}{}", ended.describe(), ended.how_to_go_on("; "))
        }
    }
}

/// Finds the coordinator that the arguments of a verb name, or else what has become of its run. For
/// a verb that only looks: without arguments and a run in this folder it may look at another one's.
///
/// # Errors
/// If the directory that they name is none of a run.
pub(crate) fn coordinator_or_ended(
    given: &CoordinatorArg,
    matches: &ArgMatches,
    out: Option<&Path>,
    connector: &Connector,
) -> anyhow::Result<Found> {
    match named(given, matches, out)? {
        Named::Directory(run) => {
            refuse_address(&run)?;
            look_into(&run, connector)
        }
        Named::At(address) => Ok(Found::Running(address.find(read_address_at)?)),
        Named::Default if Path::new(DEFAULT_ROOT).exists() => {
            look_into(Path::new(DEFAULT_ROOT), connector)
        }
        // A person who is inside of a run means that one.
        Named::Default if no_run::is_inside_of_run() => {
            Err(usage(RunDirError::no_run(Path::new(DEFAULT_ROOT))))
        }
        Named::Default => {
            let address: Address = DEFAULT_ADDRESS.parse()?;
            match admin::status_at(connector, &address) {
                Ok(None) => Err(no_run(&address, None)),
                // What answers otherwise than a coordinator is the verb's to report.
                Ok(Some(_)) | Err(_) => Ok(Found::Elsewhere(address)),
            }
        }
    }
}

/// The way in which the arguments of a verb name a run. Arguments beat variables.
fn named(
    given: &CoordinatorArg,
    matches: &ArgMatches,
    out: Option<&Path>,
) -> anyhow::Result<Named> {
    let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
    let [is_run_variable, is_address_variable] =
        ["run", "address"].map(|id| is_from_variable(matches, id));
    let run = given.run.clone().map(Named::Directory);
    let address = given.address.clone().map(Named::At);
    let mut arguments = [
        given.directory.clone().map(Named::Directory),
        run.filter(|_| !is_run_variable),
        address.filter(|_| !is_address_variable),
    ]
    .into_iter()
    .flatten();
    let mut variables = [
        given.run.clone().map(Named::Directory).filter(|_| is_run_variable),
        given.address.clone().map(Named::At).filter(|_| is_address_variable),
    ]
    .into_iter()
    .flatten();
    let of_out = || out.map_or(Named::Default, |out| Named::Directory(out.to_owned()));
    match (arguments.next(), arguments.next(), variables.next(), variables.next()) {
        (_, Some(_), _, _) => bail!(usage(anyhow!(
            "RUN_DIR, --run and --coordinator each name a coordinator: give one"
        ))),
        (Some(named), None, _, _) => Ok(named),
        (None, None, _, Some(_)) => {
            bail!(usage(anyhow!("--run and --coordinator both name a coordinator: give one")))
        }
        (None, None, Some(named), None) => Ok(named),
        (None, None, None, None) => Ok(of_out()),
    }
}

/// The error if a person names no run and this folder has none. `elsewhere` is the status of the
/// run at the documented address, if there is one.
fn no_run(address: &Address, elsewhere: Option<&pb::Status>) -> anyhow::Error {
    let Some(status) = elsewhere else {
        return usage(anyhow!(
            "no run here: there is no {DEFAULT_ROOT}, and nobody listens at {address}; start one \
             with '{} --local', or name one with --run RUN_DIR",
            names::called()
        ));
    };
    let directory = match &*status.directory {
        "" => String::new(),
        directory => format!(" ({directory})"),
    };
    let command = names::called_with_arguments();
    usage(anyhow!(
        "there is no run in {DEFAULT_ROOT}; one listens at {address}{directory}: to mean it, use \
         `{command} --coordinator {address}`"
    ))
}

/// Refuses an address in the place of a run directory.
fn refuse_address(run: &Path) -> anyhow::Result<()> {
    let text = run.to_string_lossy();
    if !run.exists() && text.parse::<Address>().is_ok() {
        bail!(usage(anyhow!(
            "{text} is no run directory: give an address as --coordinator {text}"
        )));
    }
    Ok(())
}

/// Refuses a run directory in the place of a worker's name.
///
/// # Errors
/// A usage error if this is one.
pub(crate) fn refuse_run_as_worker(name: &str) -> anyhow::Result<()> {
    let is_run = || read_run_file(&RunPaths::new(name)).is_ok_and(|file| file.is_some());
    if !WorkerId::is_name(name) || is_run() {
        bail!(usage(anyhow!(
            "{name} is no name of a worker: give one before the run directory, as in 'drain \
             worker-1 {}'; `{} status` lists them",
            names::quoted(name),
            names::called()
        )));
    }
    Ok(())
}

/// The runs that the arguments of `verify` name: the one to check, and one to compare it with.
///
/// # Errors
/// If they are three.
pub(crate) fn runs_to_verify(
    positions: [&Option<PathBuf>; 2],
    run: Option<&PathBuf>,
    matches: &ArgMatches,
    out: Option<&Path>,
) -> anyhow::Result<(PathBuf, Option<PathBuf>)> {
    let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
    let [first, other] = positions.map(Clone::clone);
    match (run, first, other) {
        (Some(_), Some(_), Some(_)) if !is_from_variable(matches, "run") => {
            bail!(usage(anyhow!("--run names the run to check: give one run to compare it with")))
        }
        (Some(run), first, None) if !is_from_variable(matches, "run") => Ok((run.clone(), first)),
        (_, Some(first), other) => Ok((first, other)),
        (Some(run), None, other) => Ok((run.clone(), other)),
        (None, None, other) => Ok((out.unwrap_or(Path::new(DEFAULT_ROOT)).to_owned(), other)),
    }
}

fn look_into(root: &Path, connector: &Connector) -> anyhow::Result<Found> {
    match address_in(root, connector)? {
        Some(address) => Ok(Found::Running(address)),
        None => Ok(Found::Ended(EndedRun::read(root)?)),
    }
}

/// The address of the coordinator that uses a run directory, if one does.
fn address_in(root: &Path, connector: &Connector) -> anyhow::Result<Option<Address>> {
    let paths = RunPaths::new(root);
    let Some(text) = read_address(&paths)? else {
        return Ok(None);
    };
    let address: Address = text.parse().with_context(|| format!("{}/address", root.display()))?;
    // A coordinator that was killed leaves its address behind, and another run may be there now.
    // One that does not answer is the verb's to report.
    let own = read_run_file(&paths)?.map(|file| file.run);
    let found = admin::status_at(connector, &address);
    let is_own = |status: Option<pb::Status>| {
        let run = status.map(|status| RunId(status.run));
        run.is_some() && run == own
    };
    Ok(found.map_or(true, is_own).then_some(address))
}
