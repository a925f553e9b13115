//! Starts a coordinator from its command line, and runs it to its end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ArgMatches;
use dcgan_core::ids::{RunId, Step};
use dcgan_core::protocol::coordinator::{
    CoordinatorConfig, CoordinatorMachine, OutputConfig, PersistedOutputs, Reason,
};
use dcgan_core::spec::{ObjectiveKind, RunSpec};
use dcgan_process::exit::{status, usage};
use dcgan_process::{logging, open_files, settings};
use dcgan_rpc::net::{self, Address, Places, Pulse};
use dcgan_rpc::services::Program;
use dcgan_store::run_dir::RunFile;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::args::Args;
use crate::config::{PartialConfig, RunConfig};
use crate::console::CONSOLE;
use crate::driver::{Disk, Driver};
use crate::input::{INPUTS_MAX, Input};
use crate::local_processes::{LocalProcesses, LocalSettings};
use crate::newest_checkpoint::NewestCheckpoint;
use crate::recorder::{self, OpenedRun, RunFiles};
use crate::resolve::{ResolvedRun, given_settings, resolve_run};
use crate::service::{self, Served, Workers};
use crate::writer;

/// The port without `--listen` and `--local`.
const DEFAULT_PORT: u16 = 7420;
/// At the very end, messages that are still on their way get this time to arrive.
const LAST_MESSAGES_MAX: Duration = Duration::from_secs(2);

/// Runs a training to its end. Returns the exit status of the program.
pub(crate) fn run(args: &Args, matches: &ArgMatches) -> anyhow::Result<u8> {
    // Resolve all settings. Nothing is bound or written if one of them is refused. The file may set
    // the format of the log, so the log begins after it; if the file is wrong, the flags alone do.
    let given = given_settings(args, matches);
    set_up_process(args, given.as_ref().unwrap_or(&args.given));
    let given = &given?;
    let is_local = given.local.unwrap_or_default();
    let listen = listen_address(given)?;
    let ResolvedRun { root, config, config_text, dataset } = resolve_run(given)?;
    if given.dry_run.unwrap_or_default() {
        let (root, description) = (root.display(), describe(&config));
        dcgan_process::print(&format!("# {root}\n{config_text}# {description}\n"));
        return Ok(status::FINISHED);
    }

    // Bind the port and open the run directory.
    let network = network_runtime()?;
    let _entered = network.enter();
    let listener = net::listen(listen)?;
    let listening = listener.local_addr()?;
    let address = Address::from(listening);
    let OpenedRun { recorder, files, run, persisted, pending_grids } =
        recorder::open(&root, &config, &config_text)?;
    let resumed_at = persisted.checkpoint.as_ref().map_or(0, |saved| saved.step);

    // Start the producers of inputs: the service, the signals and the writer.
    let (inputs_sender, inputs) = mpsc::channel(INPUTS_MAX);
    let pulse = Pulse::default();
    let newest = NewestCheckpoint::new(files.checkpoints().clone());
    let workers = Arc::new(Workers::new());
    let served = Served {
        run: run.run,
        metrics: config.spec.objective().metric_names().len(),
        partitions: service::partitions(&dataset, config.spec.sharding()),
        newest: newest.clone(),
        workers: Arc::clone(&workers),
    };
    // The partitions are made. Both together would take twice the memory.
    drop(dataset);
    let server = Server::start(listener, served, inputs_sender.clone(), &pulse);
    let signal = dcgan_process::signals::listen()?;
    let jobs = writer::start(recorder, inputs_sender.clone())?;

    // Build the machine from what is on disk.
    let start = Instant::now();
    let settings = machine_settings(given, &config, &run, persisted);
    let machine = CoordinatorMachine::new(start.elapsed(), settings);
    let is_complete = machine.reason() == Reason::Finishing;
    log_start(is_local, &config, &files, run.run, &address, resumed_at, is_complete);

    // Start the local processes. A run that is complete already has no work for them.
    let local = if is_local && !is_complete {
        let settings = local_settings(given, &config, &files, listening);
        Some(LocalProcesses::start(&settings, inputs_sender.clone())?)
    } else {
        None
    };

    // Run the driver to the end.
    CONSOLE.start_bar(resumed_at, config.schedule.last_step, config.spec.batch_size());
    let disk = Disk::new(files, newest, pending_grids, jobs, inputs_sender);
    let driver = Driver::new(start, machine, config, run.run, disk, local, is_local)
        .with_services(workers, pulse);
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
fn set_up_process(args: &Args, given: &PartialConfig) {
    logging::start(given.log_format.unwrap_or_default(), args.log_level, || &CONSOLE);
    settings::warn_of_unknown_variables(&RunSpec::setting_names());
    if let Some(fault) = args.fault.clone() {
        fault.arm();
    }
    if args.exit_with_stdin {
        dcgan_process::lifeline::exit_with_stdin();
    }
}

/// The address to listen on.
///
/// # Errors
/// If other machines can reach it and the user did not allow that.
fn listen_address(given: &PartialConfig) -> anyhow::Result<SocketAddr> {
    // Several local runs may share a machine, so each takes a free port.
    let port = if given.local.unwrap_or_default() { 0 } else { DEFAULT_PORT };
    let listen = given.listen.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let is_insecure = given.insecure.unwrap_or_default();
    Address::from(listen).check(is_insecure).context("--listen").map_err(usage)?;
    Ok(listen)
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

/// The configuration of the machine.
fn machine_settings(
    given: &PartialConfig,
    config: &RunConfig,
    run: &RunFile,
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
        persisted,
    }
}

/// The settings of the local processes.
fn local_settings(
    given: &PartialConfig,
    config: &RunConfig,
    files: &RunFiles,
    listening: SocketAddr,
) -> LocalSettings {
    LocalSettings {
        coordinator: on_this_machine(listening).into(),
        workers: config.workers,
        threads: config.threads,
        // The toy has no pictures.
        sampler: config.spec.objective() == ObjectiveKind::Dcgan,
        logs: files.logs(),
        insecure: given.insecure.unwrap_or_default(),
        log_format: given.log_format.unwrap_or_default(),
    }
}

/// The address at which processes of this machine reach a server that listens there.
fn on_this_machine(listening: SocketAddr) -> SocketAddr {
    // Nobody can connect to "all interfaces".
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

/// Logs which run this is, where it begins, and how workers join it.
fn log_start(
    is_local: bool,
    config: &RunConfig,
    files: &RunFiles,
    run: RunId,
    address: &Address,
    resumed_at: Step,
    is_complete: bool,
) {
    let directory = files.root().display();
    tracing::info!(
        event = "run_opened",
        %run,
        %directory,
        "run {run} in {directory}: {}",
        describe(config)
    );
    if is_complete {
        tracing::info!(
            event = "run_complete",
            step = resumed_at,
            "this run is complete ({resumed_at} steps); give a greater --steps or --epochs to \
             continue it, or another --out for a new run"
        );
        return;
    }
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

/// The command that starts a worker, for people to copy.
fn worker_hint(address: &Address) -> String {
    // A worker refuses an address outside its machine without this flag, too.
    let insecure = if address.check(false).is_err() { " --insecure" } else { "" };
    format!("; start workers with: dcgan-worker --coordinator {address}{insecure}")
}

/// Describes a run in one line.
fn describe(config: &RunConfig) -> String {
    let RunConfig { spec, schedule, workers, .. } = config;
    let plural = if *workers == 1 { "" } else { "s" };
    format!(
        "{} on {} images, {} steps of {} images ({} an epoch), {} shards on {workers} \
         worker{plural}",
        spec.objective(),
        spec.data().images,
        schedule.last_step,
        spec.batch_size(),
        spec.sharding().steps_per_epoch(),
        spec.shards(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_processes_reach_a_coordinator_that_listens_on_all_interfaces() {
        for (listening, reached) in [
            ("0.0.0.0:7420", "127.0.0.1:7420"),
            ("[::]:7420", "[::1]:7420"),
            ("10.0.0.1:7420", "10.0.0.1:7420"),
            ("127.0.0.1:7420", "127.0.0.1:7420"),
        ] {
            assert_eq!(on_this_machine(listening.parse().unwrap()).to_string(), reached);
        }
    }
}
