//! From the command line to a running coordinator, and to its end.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ArgMatches;
use dcgan_core::protocol::coordinator::{
    CoordinatorConfig, CoordinatorMachine, OutputConfig, Reason,
};
use dcgan_core::spec::ObjectiveKind;
use dcgan_process::exit::{status, usage};
use dcgan_rpc::net::{self, Address};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tonic::service::Routes;

use crate::args::Args;
use crate::config::RunConfig;
use crate::console::CONSOLE;
use crate::driver::{Driver, INPUTS_MAX, Input};
use crate::local_processes::{self, LocalProcesses};
use crate::recorder::Recorder;
use crate::resolve::{ResolvedRun, resolve_run};
use crate::service::{self, Served};

const DEFAULT_PORT: u16 = 7420;
/// CoordinatorAddress the very end, messages on their way may take so long.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// Runs a training to its end; gives the exit status.
pub(crate) fn run(args: &Args, matches: &ArgMatches) -> anyhow::Result<u8> {
    args.log.start(|| &CONSOLE);
    if let Some(fault) = args.fault.clone() {
        fault.arm();
    }
    if args.exit_with_stdin {
        dcgan_process::lifeline::exit_with_stdin();
    }

    let port = if args.local { 0 } else { DEFAULT_PORT };
    let listen = args.listen.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    Address::from(listen).check(args.insecure).context("--listen").map_err(usage)?;
    let ResolvedRun { root, config, given, dataset } = resolve_run(args, matches)?;
    let config_text = toml::to_string(&given)?;
    if args.dry_run {
        dcgan_process::print(&format!(
            "# {}\n{config_text}# {}\n",
            root.display(),
            describe(&config)
        ));
        return Ok(status::FINISHED);
    }

    let network = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("network")
        .enable_all()
        .build()?;
    let _inside = network.enter();
    let listener = net::listen(listen)?;
    let address = Address::from(listener.local_addr()?);
    let (record, persisted) = Recorder::open(&root, &config, &config_text)?;
    let reached = persisted.checkpoint.as_ref().map_or(0, |saved| saved.step);

    let (inputs_in, inputs) = mpsc::channel(INPUTS_MAX);
    let served = Served {
        partitions: service::partitions(&dataset, &config.sharding),
        checkpoints: record.checkpoints().clone(),
    };
    drop(dataset);
    let routes = Routes::new(service::service(served, inputs_in.clone()));
    let (shut_down, ending) = oneshot::channel::<()>();
    let ending = async { drop(ending.await) };
    let server = network.spawn(net::serve(listener, routes, &["dcgan.v1.Coordinator"], ending));
    let signals_in = inputs_in.clone();
    network.block_on(async {
        // A driver that is behind hears the next one.
        dcgan_process::signals::listen(move |signal| {
            drop(signals_in.try_send(Input::Signal(signal)))
        })
    })?;

    let settings = CoordinatorConfig {
        run: record.run().run,
        workers: config.workers,
        min_workers: config.min_workers,
        rebalance: !args.fixed_shards,
        output: OutputConfig {
            schedule: config.schedule,
            sharding: config.sharding,
            batch_size: config.spec.batch_size,
            learning_rate: config.spec.learning_rate,
        },
        fingerprint: record.run().fingerprint.clone(),
        plan: record.run().plan.clone(),
        persisted,
    };
    let start = Instant::now();
    let machine = CoordinatorMachine::new(start.elapsed(), settings);
    tracing::info!("run {} in {}: {}", record.run().run, root.display(), describe(&config));
    let is_finished = machine.reason() == Reason::Finishing;
    if is_finished {
        tracing::info!(
            "this run has finished: {reached} steps are done; give a greater length to go on"
        );
    } else {
        if reached > 0 {
            tracing::info!("going on after the checkpoint of step {reached}");
        }
        let others =
            if args.local { "" } else { "; start workers with: dcgan-worker --coordinator " };
        let there = if args.local { String::new() } else { address.to_string() };
        tracing::info!("listening on {address}{others}{there}");
    }
    let plan = local_processes::LocalSettings {
        coordinator: address,
        workers: config.workers,
        threads: config.threads,
        // The toy has nothing to draw.
        sampler: config.spec.objective == ObjectiveKind::Dcgan,
        logs: record.logs(),
    };
    let local = (args.local && !is_finished)
        .then(|| LocalProcesses::start(&plan, inputs_in))
        .transpose()?;
    CONSOLE.start_bar(reached, config.schedule.last_step, config.spec.batch_size);
    let driver = Driver::new(start, machine, config, record, local, args.local);
    let outcome = network.block_on(async {
        let outcome = driver.run(inputs).await;
        // What was said last, such as a plan, still reaches its workers.
        let _ = shut_down.send(());
        let _ = tokio::time::timeout(FAREWELL_MAX, server).await;
        outcome
    });
    CONSOLE.end_bar();
    network.shutdown_background();
    outcome
}

/// A run in one line.
fn describe(config: &RunConfig) -> String {
    let RunConfig { spec, sharding, schedule, workers, .. } = config;
    let s = if *workers == 1 { "" } else { "s" };
    format!(
        "{} on {} images, {} steps of {} images ({} an epoch), {} shards on {workers} worker{s}",
        spec.objective,
        spec.data.images,
        schedule.last_step,
        spec.batch_size,
        sharding.steps_per_epoch(),
        spec.shards,
    )
}
