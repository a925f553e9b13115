//! Starts a coordinator from its command line, and runs it to its end.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use clap::ArgMatches;
use dcgan_core::ids::{RunId, Step};
use dcgan_core::protocol::coordinator::{
    CoordinatorConfig, CoordinatorMachine, EarlyEnd, Event, OutputConfig, PersistedOutputs, Reason,
};
use dcgan_core::spec::{ObjectiveKind, RunSpec};
use dcgan_core::state::digest;
use dcgan_core::words::counted;
use dcgan_process::exit::{status, usage};
use dcgan_process::settings::{self, Time, is_from_variable};
use dcgan_process::{logging, names, open_files, output};
use dcgan_rpc::net::{self, Address, ListenAddress, ListenError, Places, Pulse};
use dcgan_rpc::services::Program;
use dcgan_store::run_dir::{RunFile, RunPaths, read_run_file};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::args::Args;
use crate::config::{PartialConfig, RunConfig, cores};
use crate::console::CONSOLE;
use crate::driver::{Disk, Driver, Unsaved, describe_early_end};
use crate::ended::{self, Progress};
use crate::initial_weights::WeightsFile;
use crate::input::{INPUTS_MAX, Input};
use crate::local_processes::{LocalProcesses, LocalSettings, check_device};
use crate::newest_checkpoint::NewestCheckpoint;
use crate::recorder::{self, OpenedRun, RunFiles};
use crate::resolve::{ResolvedRun, check_out, given_settings, resolve_run};
use crate::service::{self, Served, Workers};
use crate::writer;

/// The port without `--listen` and `--local`.
const DEFAULT_PORT: u16 = 7420;
/// The time without `--workers-timeout`.
const WORKERS_TIMEOUT: Duration = Duration::from_secs(3600);
/// At the very end, messages that are still on their way get this time to arrive.
const LAST_MESSAGES_MAX: Duration = Duration::from_secs(2);

/// Runs a training to its end. Returns the exit status of the program.
pub(crate) fn run(args: &Args, matches: &ArgMatches) -> anyhow::Result<u8> {
    // Resolve all settings. Nothing is bound or written if one of them is refused. The file may set
    // the format of the log, so the log begins after it; if the file is wrong, the flags alone do.
    let given = given_settings(args, matches);
    output::start()?;
    set_up_process(args, given.as_ref().unwrap_or(&args.given))?;
    let given = &given?;
    let is_local = given.local.unwrap_or_default();
    check_local_flags(given, matches)?;
    check_exposure(given)?;
    let ResolvedRun { root, config, config_text, dataset, initial_weights, evaluator } =
        resolve_run(given)?;
    // A child that does not know the name would only be started again and again.
    let http = resolve("--http", given.http.as_ref())?;
    if let Some(device) = given.device.as_ref().filter(|_| is_local) {
        check_device(device)?;
    }
    let network = network_runtime()?;
    let _entered = network.enter();
    // Another coordinator of the run has its port, too: what matters is that there is one.
    check_out(&root)?;
    refuse_fewer_steps(&root, &config)?;
    if let Some(http) = http.filter(|_| is_local) {
        // The sampler would only be started again and again.
        net::listen(http).map(drop).map_err(|error| anyhow!(error.at("--http")))?;
    }
    if given.dry_run.unwrap_or_default() {
        // The port is free, or will be taken, as without --dry-run.
        let listening = listen(given, &root)?.local_addr()?;
        let (description, plan) = (describe(&config), describe_start(&root, &config)?);
        let (root, address) = (root.display(), Address::of_server(listening));
        output::print_result(&format!(
            "# {root}\n{config_text}# {description}\n# listening on {address}\n# {plan}\n"
        ))?;
        return Ok(status::FINISHED);
    }

    // Bind the port and open the run directory.
    let listener = listen(given, &root)?;
    let listening = listener.local_addr()?;
    let address = Address::of_server(listening);
    let OpenedRun { mut recorder, files, run, are_workers_over, persisted, pending_grids } =
        recorder::open(&root, &config, &config_text, initial_weights.as_ref(), evaluator.as_ref())?;
    let resumed_at = persisted.checkpoint.as_ref().map_or(0, |saved| saved.step);
    let resume_arguments = resume_arguments(given);
    let _address_file = recorder.publish_address(&address.to_string(), &resume_arguments)?;

    // Start the producers of inputs: the service, the signals and the writer.
    let (inputs_sender, inputs) = mpsc::channel(INPUTS_MAX);
    let pulse = Pulse::default();
    let newest = NewestCheckpoint::new(files.checkpoints().clone());
    let workers = Arc::new(Workers::new());
    let served = Served {
        run: run.run,
        metrics: config.spec.objective().metric_names().len(),
        partitions: service::partitions(dataset, config.spec.sharding()),
        initial_weights: initial_weights.map(|WeightsFile { bytes, .. }| {
            let digest = digest::of_bytes(&bytes);
            (bytes, digest)
        }),
        evaluator: evaluator.map(|file| (file.digest(), file.into_bytes().into())),
        newest: newest.clone(),
        workers: Arc::clone(&workers),
    };
    let server = Server::start(listener, served, inputs_sender.clone(), &pulse);
    let requests = inputs_sender.clone();
    dcgan_process::signals::at_user_1(move || request_checkpoint(&requests));
    let unsaved = Unsaved::default();
    if is_local {
        let unsaved = unsaved.clone();
        dcgan_process::signals::before_second(move || unsaved.say_lost());
    }
    let signal = dcgan_process::signals::listen()?;
    let jobs = writer::start(recorder, inputs_sender.clone())?;

    // Build the machine from what is on disk.
    let start = Instant::now();
    let settings = machine_settings(given, &config, &run, are_workers_over, persisted);
    let machine = CoordinatorMachine::new(start.elapsed(), settings);
    let is_complete = machine.reason() == Reason::Finishing;
    let early = machine.early_end();
    let ends = is_complete.then_some(early);
    log_start(is_local, &config, &files, run.run, &address, resumed_at, ends);

    // Start the local processes. A run that is complete already has no work for them.
    let local = if is_local && !is_complete {
        let settings = local_settings(given, &config, &files, listening, http);
        Some(LocalProcesses::start(&settings, inputs_sender.clone())?)
    } else {
        None
    };

    // Run the driver to the end.
    CONSOLE.start_bar(resumed_at, config.schedule.last_step, config.spec.batch_size());
    let disk = Disk::new(files, newest, pending_grids, jobs, inputs_sender);
    let resume = ended::resume_command(&root, &resume_arguments);
    let driver = Driver::new(start, machine, config, run.run, disk, local, is_local)
        .with_services(workers, pulse)
        .with_resume_command(resume)
        .with_unsaved(unsaved)
        .with_workers_timeout(given.workers_timeout.map_or(WORKERS_TIMEOUT, |Time(time)| time));
    let status = network.block_on(async {
        let status = driver.run(inputs, signal).await;
        server.shut_down().await;
        status
    });
    CONSOLE.end_bar();
    network.shutdown_background();
    Ok(status)
}

/// Sets up what belongs to the process itself: its log, an injected fault, and its lifeline.
fn set_up_process(args: &Args, given: &PartialConfig) -> anyhow::Result<()> {
    let is_quiet = given.quiet.unwrap_or_default();
    let level = logging::level(is_quiet, given.verbose.unwrap_or_default())?;
    logging::start(given.log_format.unwrap_or_default(), level, || &CONSOLE);
    if is_quiet {
        CONSOLE.be_quiet();
    }
    settings::warn_of_unknown_variables(&RunSpec::setting_names());
    if let Some(fault) = args.fault.clone() {
        fault.arm();
    }
    if args.exit_with_stdin {
        dcgan_process::lifeline::exit_with_stdin();
    }
    Ok(())
}

/// Refuses settings that only the processes of `--local` have, without it. Variables may be meant
/// for other programs.
fn check_local_flags(given: &PartialConfig, matches: &ArgMatches) -> anyhow::Result<()> {
    let flags = [("http", given.http.is_some()), ("device", given.device.is_some())];
    for (flag, _) in flags.into_iter().filter(|(_, is_given)| *is_given) {
        if !given.local.unwrap_or_default() && !is_from_variable(matches, flag) {
            let program = if flag == "http" { "dcgan-sampler serve" } else { "dcgan-worker" };
            bail!(usage(anyhow!(
                "--{flag} is for the processes of --local; without it, give it to {program}"
            )));
        }
    }
    Ok(())
}

/// Refuses addresses that other machines can reach, if the user did not allow that.
fn check_exposure(given: &PartialConfig) -> anyhow::Result<()> {
    let is_insecure = given.insecure.unwrap_or_default();
    for (flag, address) in [("--listen", &given.listen), ("--http", &given.http)] {
        if let Some(address) = address {
            address.check(is_insecure).context(flag).map_err(usage)?;
        }
    }
    Ok(())
}

/// The address that a setting names, if it is given.
fn resolve(
    flag: &'static str,
    given: Option<&ListenAddress>,
) -> anyhow::Result<Option<SocketAddr>> {
    let resolved = given.map(ListenAddress::resolve).transpose();
    resolved.context(flag).map_err(usage)
}

/// Listens where the settings say. Without `--listen` a run has the address that it had before, if
/// that is free and of this machine alone, or the documented port. Several local runs may share a
/// machine: with `--local` it has a free port else.
fn listen(given: &PartialConfig, root: &Path) -> anyhow::Result<TcpListener> {
    if let Some(address) = resolve("--listen", given.listen.as_ref())? {
        return net::listen(address).map_err(taken);
    }
    // What cannot be read is no reason not to start.
    let run = read_run_file(&RunPaths::new(root)).ok().flatten();
    let before = run.and_then(|run| run.address?.strip_prefix("http://")?.parse().ok());
    let before = before.filter(|it: &SocketAddr| it.ip().is_loopback());
    if let Some(listener) = before.and_then(|address| net::listen(address).ok()) {
        return Ok(listener);
    }
    let listener = net::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)));
    if listener.is_err() && given.local.unwrap_or_default() {
        return net::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).map_err(taken);
    }
    listener.map_err(taken)
}

fn taken(error: ListenError) -> anyhow::Error {
    anyhow!(error.at("--listen"))
}

/// The runtime of the network and the driver. One thread is enough: no gradient passes through the
/// coordinator, and the processors are the workers'.
fn network_runtime() -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    Ok(builder.worker_threads(1).thread_name("network").enable_all().build()?)
}

/// The gRPC server, running.
struct Server {
    task: JoinHandle<anyhow::Result<()>>,
    shut_down: oneshot::Sender<()>,
}

impl Server {
    /// Starts to serve workers, samplers and people.
    fn start(
        listener: TcpListener,
        served: Served,
        inputs: mpsc::Sender<Input>,
        pulse: &Pulse,
    ) -> Self {
        let routes = service::routes(served, inputs);
        let (shut_down, asked) = oneshot::channel();
        let places = Places::new(open_files::raise_limit());
        let pulse = pulse.clone();
        let task = tokio::spawn(async move {
            // A sender that is dropped asks for the end, too.
            let ending = async { drop(asked.await) };
            let program = Program::Coordinator;
            Ok(net::serve(listener, routes, program, &places, pulse, ending).await?)
        });
        Self { task, shut_down }
    }

    /// Ends the server, after messages on their way, such as a last plan, have reached the workers.
    async fn shut_down(self) {
        // Nobody receives this if the server has failed and ended already.
        let _ = self.shut_down.send(());
        let _ = tokio::time::timeout(LAST_MESSAGES_MAX, self.task).await;
    }
}

/// Asks for a checkpoint because of SIGUSR1. Returns whether the driver will hear of it.
fn request_checkpoint(inputs: &mpsc::Sender<Input>) -> bool {
    let by = "SIGUSR1";
    tracing::info!(event = "checkpoint_requested", by, "{by} asks for a checkpoint");
    inputs.try_send(Input::Machine(Event::Checkpoint)).is_ok()
}

/// The configuration of the machine.
fn machine_settings(
    given: &PartialConfig,
    config: &RunConfig,
    run: &RunFile,
    are_workers_over: bool,
    persisted: PersistedOutputs,
) -> CoordinatorConfig {
    CoordinatorConfig {
        run: run.run,
        workers: config.workers,
        min_workers: config.min_workers,
        rebalance: !given.fixed_shards.unwrap_or_default(),
        output: OutputConfig {
            schedule: config.schedule,
            spec: config.spec.clone(),
            checkpoint_interval: config.checkpoint_interval,
            keep_checkpoints: config.keep_checkpoints,
        },
        fingerprint: run.fingerprint.clone(),
        plan: run.plan.clone(),
        // Workers of --local end with their coordinator.
        members_may_return: !given.local.unwrap_or_default() && !are_workers_over,
        persisted,
    }
}

/// The settings of the local processes.
fn local_settings(
    given: &PartialConfig,
    config: &RunConfig,
    files: &RunFiles,
    listening: SocketAddr,
    http: Option<SocketAddr>,
) -> LocalSettings {
    LocalSettings {
        coordinator: Address::on_this_machine(listening),
        workers: config.workers,
        threads: config.threads,
        // The toy has no pictures.
        sampler: config.spec.objective() == ObjectiveKind::Dcgan,
        logs: files.logs(),
        http,
        device: given.device.clone(),
        insecure: given.insecure.unwrap_or_default(),
        log_format: given.log_format.unwrap_or_default(),
        verbose: given.verbose.unwrap_or_default(),
    }
}

/// Logs which run this is, where it begins, and how workers join it. A run that is `complete` has
/// reached its last step, or ended early.
fn log_start(
    is_local: bool,
    config: &RunConfig,
    files: &RunFiles,
    run: RunId,
    address: &Address,
    resumed_at: Step,
    complete: Option<Option<EarlyEnd>>,
) {
    let RunConfig { spec, schedule, workers, .. } = config;
    let directory = files.root().display();
    tracing::info!(
        event = "run_opened",
        %run,
        %directory,
        "run {run} in {directory}: {}, {} of {} images, {}",
        spec.objective(),
        counted(schedule.last_step, "step"),
        spec.batch_size(),
        counted(*workers, "worker")
    );
    if let Some(Some(end)) = complete {
        let step = end.step;
        tracing::info!(
            event = "run_complete",
            step,
            "this run has ended early, with step {step} ({}): give --early-stopping 0 or a greater \
             number to go on, or another --out",
            describe_early_end(&end)
        );
        return;
    }
    if complete.is_some() {
        tracing::info!(
            event = "run_complete",
            step = resumed_at,
            "this run has done {}: give more --steps or --epochs, or another --out",
            counted(resumed_at, "step")
        );
        return;
    }
    log_idle(is_local, config);
    if resumed_at > 0 {
        tracing::info!(
            event = "run_resumed",
            step = resumed_at,
            "resuming after the checkpoint of step {resumed_at}"
        );
    }
    let hint = if is_local { String::new() } else { worker_hint(address) };
    tracing::info!(event = "listening", %address, "listening on {address}{hint}");
}

/// Says that workers or threads are more than can compute at the same time.
fn log_idle(is_local: bool, config: &RunConfig) {
    let RunConfig { spec, workers, threads, .. } = config;
    let shards = usize::from(spec.shards());
    if *workers > shards {
        tracing::info!(
            event = "spare_workers",
            workers,
            shards,
            "{} for {}: the others wait as spares",
            counted(*workers, "worker"),
            counted(shards, "shard")
        );
    }
    let cores = cores();
    let computing = (*workers).min(shards) * usize::from(*threads);
    if is_local && computing > cores {
        tracing::info!(
            event = "few_cores",
            threads = computing,
            cores,
            "{} on {}: fewer --workers or --threads train as fast",
            counted(computing, "computing thread"),
            counted(cores, "core")
        );
    }
}

/// The command that starts a worker, for people to copy.
fn worker_hint(address: &Address) -> String {
    // A worker refuses an address outside its machine without this flag, too.
    let insecure = if address.check(false).is_err() { " --insecure" } else { "" };
    let worker = names::called_beside("dcgan-worker");
    format!("; start workers with: {worker} --coordinator {address}{insecure}")
}

/// The arguments of the command that goes on with the run, for people to copy: all but the run
/// directory.
fn resume_arguments(given: &PartialConfig) -> String {
    let mut arguments = Vec::new();
    let mut add = |text: String| arguments.push(text);
    if given.local.unwrap_or_default() {
        add("--local".to_owned());
    }
    for (flag, address) in [("listen", &given.listen), ("http", &given.http)] {
        if let Some(address) = address {
            add(format!("--{flag} {address}"));
        }
    }
    if let Some(device) = &given.device {
        add(format!("--device {}", names::quoted(device)));
    }
    if given.insecure.unwrap_or_default() {
        add("--insecure".to_owned());
    }
    // These hold for one start, and the next one is to do what this one would have done.
    let numbers = [
        ("epochs", given.epochs.map(NonZeroU64::get)),
        ("steps", given.steps.map(NonZeroU64::get)),
        ("workers", given.workers.map(|workers| workers.get().into())),
        ("threads", given.threads.map(|threads| threads.get().into())),
    ];
    for (flag, number) in numbers {
        if let Some(number) = number {
            add(format!("--{flag} {number}"));
        }
    }
    arguments.join(" ")
}

/// Describes a run in one line.
fn describe(config: &RunConfig) -> String {
    let RunConfig { spec, schedule, workers, .. } = config;
    format!(
        "{} on {} images, {} of {} images ({} an epoch), {} on {}",
        spec.objective(),
        spec.data().images,
        counted(schedule.last_step, "step"),
        spec.batch_size(),
        spec.sharding().steps_per_epoch(),
        counted(spec.shards(), "shard"),
        counted(*workers, "worker"),
    )
}

/// Refuses a start that asks for fewer steps than the run has done: a run that was stopped before
/// its end would be taken for finished from then on.
fn refuse_fewer_steps(root: &Path, config: &RunConfig) -> anyhow::Result<()> {
    let Progress { step: done, ends_run, .. } = ended::progress(&RunPaths::new(root))?;
    let asked = config.schedule.last_step;
    ensure!(
        ends_run || done <= asked,
        usage(anyhow!(
            "the run in {} has done {}, and this start asks for {asked}: give more --steps or \
             --epochs, or another --out",
            root.display(),
            counted(done, "step")
        ))
    );
    Ok(())
}

/// Describes in one line what a start with these settings would do.
fn describe_start(root: &Path, config: &RunConfig) -> anyhow::Result<String> {
    let paths = RunPaths::new(root);
    if read_run_file(&paths)?.is_none() {
        return Ok("a new run would begin".to_owned());
    }
    let Progress { step, ends_run, .. } = ended::progress(&paths)?;
    let last_step = config.schedule.last_step;
    Ok(match step {
        0 => "the run would begin at step 1: it has no checkpoint".to_owned(),
        _ if ends_run || step >= last_step => format!("the run has done {}", counted(step, "step")),
        _ => format!("the run would go on after step {step}"),
    })
}
