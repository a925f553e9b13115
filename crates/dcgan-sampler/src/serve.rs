//! `dcgan-sampler serve`: follows, answers and shows, until it is told to stop.

use anyhow::Context;
use dcgan_process::exit::usage;
use dcgan_rpc::net::{self, Address};
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tonic::service::Routes;

use crate::args::ServeArgs;
use crate::newest::Newest;
use crate::{follow, page, run_dir, service};

/// Serves until a signal comes; gives the exit status.
pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<u8> {
    if let Some(coordinator) = &args.coordinator {
        coordinator.check(args.insecure).context("--coordinator").map_err(usage)?;
    }
    Address::from(args.http).check(args.insecure).context("--http").map_err(usage)?;
    Address::from(args.grpc).check(args.insecure).context("--grpc").map_err(usage)?;
    if let Some(run) = &args.run {
        run_dir::checkpoints(run).context("--run")?;
    }
    if args.exit_with_stdin {
        dcgan_process::lifeline::exit_with_stdin();
    }
    let network = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("network")
        .enable_all()
        .build()?;
    let status = network.block_on(serve(args));
    network.shutdown_background();
    status
}

async fn serve(args: &ServeArgs) -> anyhow::Result<u8> {
    let (signals_in, mut signals) = mpsc::channel(1);
    dcgan_process::signals::listen(move |signal| {
        // One is enough.
        let _ = signals_in.try_send(signal);
    })?;
    let http = net::listen(args.http).context("--http")?;
    let grpc = net::listen(args.grpc).context("--grpc")?;
    let page = Address::from(http.local_addr()?).to_string();
    tracing::info!(
        "the page is {page}; samples over gRPC at {}",
        Address::from(grpc.local_addr()?)
    );
    let newest = Newest::new();
    let routes = Routes::new(service::service(newest.clone()));
    let answers = net::serve(grpc, routes, &["dcgan.v1.Sampler"], std::future::pending());
    let shows = axum::serve(http, page::router(newest.clone()));
    let follows = async {
        match (&args.coordinator, &args.run) {
            (Some(coordinator), _) => follow::coordinator(coordinator.clone(), page, newest).await,
            (None, Some(run)) => follow::run_directory(run.clone(), newest).await,
            (None, None) => {}
        }
    };
    tokio::select! {
        ended = answers => Err(ended.err().map_or_else(|| anyhow::anyhow!("the gRPC server ended"), Into::into)),
        ended = async { shows.await } => Err(ended.err().map_or_else(|| anyhow::anyhow!("the HTTP server ended"), Into::into)),
        () = follows => Err(anyhow::anyhow!("there is nothing to follow")),
        Some(signal) = signals.recv() => Ok(signal.status()),
    }
}
