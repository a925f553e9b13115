//! The verb `serve`: follows a run, answers requests and shows a page, until a signal comes.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use dcgan_process::exit::usage;
use dcgan_process::open_files;
use dcgan_rpc::net::{self, Address, Connector, CoordinatorAt, ListenAddress, Places, Pulse};
use dcgan_rpc::services::Program;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tonic::service::Routes;

use crate::args::{DEFAULT_GRPC, DEFAULT_HTTP, ServeArgs};
use crate::newest::Newest;
use crate::page::{Cache, ShownRun};
use crate::watch::{View, Watcher};
use crate::{follow, page, run_dir, service};

/// The most runs that the page shows side by side.
const RUNS_MAX: usize = 2;
/// The time between two beats for health checks.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Serves until a signal comes, and returns the exit status.
///
/// # Errors
/// If a setting is wrong, a port is in use, or a server fails.
pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<u8> {
    check(args)?;
    if args.exit_with_stdin {
        dcgan_process::lifeline::exit_with_stdin();
    }
    let network = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("network")
        .enable_all()
        .build()?;
    let status = network.block_on(serve(args));
    // A picture that is being drawn is not waited for.
    network.shutdown_background();
    status
}

/// Refuses wrong settings, before anything is bound.
fn check(args: &ServeArgs) -> anyhow::Result<()> {
    if args.coordinator.is_some() && !args.run.is_empty() {
        bail!(usage(anyhow!("--coordinator and --run both say what to follow: give one")));
    }
    if args.run.len() > RUNS_MAX {
        bail!(usage(anyhow!("--run: the page shows {RUNS_MAX} runs at most")));
    }
    // An address that comes from a file is checked when it is connected to.
    if let Some(CoordinatorAt::Address(coordinator)) = &args.coordinator {
        coordinator.check(args.insecure).context("--coordinator").map_err(usage)?;
    }
    args.http.check(args.insecure).context("--http").map_err(usage)?;
    args.grpc.check(args.insecure).context("--grpc").map_err(usage)?;
    for run in &args.run {
        run_dir::checkpoints(run).context("--run")?;
    }
    Ok(())
}

/// Listens on an address, or on another port of it if that one is taken and may be replaced.
fn listen(
    flag: &'static str,
    address: &ListenAddress,
    or_free: bool,
) -> anyhow::Result<TcpListener> {
    let address = address.resolve().context(flag).map_err(usage)?;
    let listener = match net::listen(address) {
        Err(_) if or_free => net::listen(SocketAddr::new(address.ip(), 0)),
        result => result,
    };
    listener.map_err(|error| {
        // Who follows a run of --local by hand finds its ports taken.
        if [DEFAULT_HTTP, DEFAULT_GRPC].map(str::to_owned).contains(&address.to_string()) {
            return anyhow!(
                "{flag}: {error}: a run with --local has a page already; for another one give \
                 --http 127.0.0.1:0 --grpc 127.0.0.1:0"
            );
        }
        anyhow!(error.at(flag))
    })
}

async fn serve(args: &ServeArgs) -> anyhow::Result<u8> {
    // Listen for signals and on both ports.
    let mut signal = dcgan_process::signals::listen()?;
    let http = listen("--http", &args.http, args.or_free_port)?;
    let grpc = listen("--grpc", &args.grpc, args.or_free_port)?;
    let page = Address::of_server(http.local_addr()?).to_string();
    let grpc_address = Address::of_server(grpc.local_addr()?);
    tracing::info!(
        event = "sampler_started",
        page,
        grpc = %grpc_address,
        "the page is {page}; samples over gRPC at {grpc_address}"
    );

    // Serve both, and follow the runs. Each of these goes on for ever, unless it fails.
    let shown = follow(args, &page);
    let newest = shown[0].newest.clone();
    let routes = Routes::new(service::service(newest));
    let places = Places::new(open_files::raise_limit());
    let pulse = Pulse::default();
    let grpc_server = net::serve(grpc, routes, Program::Sampler, &places, pulse.clone(), pending());
    let http_server = net::serve_pages(http, page::router(shown), &places);
    tokio::select! {
        ended = grpc_server => {
            ended?;
            Err(anyhow!("the gRPC server ended"))
        }
        ended = http_server => {
            ended?;
            Err(anyhow!("the HTTP server ended"))
        }
        never = beat(&pulse) => match never {},
        signal = signal.take() => Ok(signal.status()),
    }
}

/// Beats as long as the task that serves and follows is not blocked.
async fn beat(pulse: &Pulse) -> Infallible {
    let mut beats = tokio::time::interval(BEAT_INTERVAL);
    loop {
        beats.tick().await;
        pulse.beat();
    }
}

/// Follows the coordinator or the run directories that the command line names, each in tasks of its
/// own.
fn follow(args: &ServeArgs, page: &str) -> Vec<ShownRun> {
    let connector = Connector::new(args.insecure);
    let shown = |view: View| ShownRun {
        view: Arc::new(view),
        newest: Newest::new(args.weights.map(Into::into)),
        directory: None,
        cache: Cache::default(),
    };
    if let Some(at) = &args.coordinator {
        let run = shown(View::of_coordinator(at));
        let (view, newest) = (Arc::clone(&run.view), run.newest.clone());
        let watcher = Watcher::new(view, newest, connector.clone(), Some(at.clone()), None);
        tokio::spawn(watcher.run());
        let (at, page, newest) = (at.clone(), page.to_owned(), run.newest.clone());
        tokio::spawn(follow::coordinator(connector, at, page, newest));
        return vec![run];
    }
    // Whoever may read the directory may ask its coordinator, wherever that is.
    let connector = Connector::new(true);
    let of_directory = |directory: &PathBuf| {
        let run =
            ShownRun { directory: Some(directory.clone()), ..shown(View::of_directory(directory)) };
        let (view, newest) = (Arc::clone(&run.view), run.newest.clone());
        let directory = directory.clone();
        let watcher = Watcher::new(view, newest, connector.clone(), None, Some(directory.clone()));
        tokio::spawn(watcher.run());
        tokio::spawn(follow::run_directory(directory, run.newest.clone()));
        run
    };
    args.run.iter().map(of_directory).collect()
}
