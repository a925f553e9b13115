//! Sets a worker up: its network, its server, its session with the coordinator, and the driver.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use dcgan_collective::{EVENTS_MAX, Membership};
use dcgan_core::ids::{Generation, WorkerId};
use dcgan_core::protocol::message::{Hello, PROTOCOL};
use dcgan_core::words::worker;
use dcgan_model::DeviceChoice;
use dcgan_process::exit::{status, usage};
use dcgan_process::open_files;
use dcgan_rpc::net::{self, Address, Connector, CoordinatorAt, Places, Pulse};
use dcgan_rpc::services::Program;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tonic::service::Routes;

use crate::args::Args;
use crate::client::Client;
use crate::driver::Driver;
use crate::input::INPUTS_MAX;
use crate::session::CoordinatorSession;
use crate::waiting::Waiting;

/// The pause between two attempts to find the coordinator.
const RESOLVE_PAUSE: Duration = Duration::from_millis(250);

/// Trains until the coordinator says that the run is over, and returns the exit status.
///
/// # Errors
/// If a setting is wrong, or the worker cannot take part in the run (any longer).
pub(crate) fn run(args: &Args) -> anyhow::Result<u8> {
    // Refuse wrong settings before anything is bound or started.
    args.check_exposure()?;
    let fingerprint = dcgan_model::fingerprint(args.device).context("--device").map_err(usage)?;
    if args.check {
        return Ok(status::FINISHED);
    }
    let id = WorkerId { name: args.name(), incarnation: incarnation() };

    // Listen for the other workers. Their addresses go through the coordinator, in the hello.
    let network = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("network")
        .enable_all()
        .build()?;
    let (inputs_in, inputs) = mpsc::channel(INPUTS_MAX);
    let (events_in, events) = mpsc::channel(EVENTS_MAX);
    let membership = Arc::new(Membership::default());
    let (listener, advertised) = network.block_on(listen(args))?;
    let listening = listener.local_addr()?;
    let pulse = Pulse::default();
    let service = dcgan_collective::service(id.clone(), Arc::clone(&membership), events_in.clone());
    serve_members(&network, listener, Routes::new(service), pulse.clone());
    let signal = dcgan_process::signals::listen()?;
    log_started(&id, listening, &advertised, &fingerprint);
    warn_of_slow_processor(args.device);

    // Connect to the coordinator, and drive the state machine on this thread.
    let client = Client::new(Connector::new(args.insecure), args.coordinator.clone(), id.clone());
    start_session(CoordinatorSession {
        client: client.clone(),
        hello: Hello {
            run: None,
            id: id.clone(),
            protocol: PROTOCOL,
            fingerprint,
            address: advertised.authority(),
            plan: Generation(0),
            promised: Generation(0),
        },
        give_up_after: args.coordinator_timeout.0,
        driver: inputs_in.clone(),
    })?;
    let runtime = network.handle().clone();
    let driver =
        Driver::new(args, id, client, membership, runtime, inputs_in, events_in).with_pulse(pulse);
    let outcome = driver.run(inputs, events, signal);
    network.shutdown_background();
    outcome
}

/// Returns the number that distinguishes this process from earlier ones with the same name: the
/// present time, in microseconds of Unix time.
fn incarnation() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_micros() as u64
}

/// Listens for other workers, and returns the address that they are told. Both can depend on the
/// coordinator's address, which may not be there yet when a whole cluster starts at once.
async fn listen(args: &Args) -> anyhow::Result<(TcpListener, Address)> {
    let mut waiting = Waiting::reported_at_once().giving_up_after(args.coordinator_timeout.0);
    loop {
        let error = match try_listen(args) {
            Ok(listening) => return Ok(listening),
            Err(error) => error,
        };
        // Only a coordinator that is not found is an I/O error. A port in use would stay in use.
        if !error.is::<std::io::Error>() {
            return Err(error);
        }
        let coordinator = &args.coordinator;
        if waiting.is_over() {
            return Err(error.context(format!("cannot find {coordinator}")));
        }
        waiting.report(|| match coordinator {
            CoordinatorAt::File(_) => format!("the address of the coordinator: {error}"),
            CoordinatorAt::Address(_) => {
                format!("the address of {coordinator}, which this machine does not know: {error}")
            }
        });
        tokio::time::sleep(RESOLVE_PAUSE).await;
    }
}

fn try_listen(args: &Args) -> anyhow::Result<(TcpListener, Address)> {
    let listener = net::listen(args.listen_address()?);
    let listener = listener.map_err(|error| anyhow!(error.at("--listen")))?;
    let advertised = args.advertised(listener.local_addr()?)?;
    Ok((listener, advertised))
}

/// Answers other members, on the network's thread.
fn serve_members(network: &Runtime, listener: TcpListener, routes: Routes, pulse: Pulse) {
    let places = Places::new(open_files::raise_limit());
    network.spawn(async move {
        net::serve(listener, routes, Program::Worker, &places, pulse, pending()).await
    });
}

/// Runs the session on a thread and a runtime of its own.
fn start_session(session: CoordinatorSession) -> std::io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || runtime.block_on(session.run()))?;
    Ok(())
}

fn log_started(id: &WorkerId, listening: SocketAddr, advertised: &Address, fingerprint: &str) {
    let process = std::process::id();
    let advertised = advertised.authority();
    let elsewhere = if advertised == listening.to_string() {
        String::new()
    } else {
        format!(", which other workers reach at {advertised}")
    };
    tracing::info!(
        event = "worker_started",
        worker = id.name,
        process,
        %listening,
        advertised,
        fingerprint,
        "{} (process {process}) at {listening}{elsewhere}; arithmetic: {fingerprint}",
        worker(&id.name)
    );
}

fn warn_of_slow_processor(device: DeviceChoice) {
    if device.lacks_vectors() {
        tracing::warn!(
            event = "slow_processor",
            "this processor has no AVX2 and FMA, or hides them: a step takes many times as long as \
             with them"
        );
    }
}
