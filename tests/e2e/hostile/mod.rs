//! Hostile clients: a run of the toy goes on while strangers, and workers that lie, send whatever
//! they can to its coordinator, to a worker and to a sampler.
//!
//! The methods and the content of the messages come from the descriptors of `proto/`: what is added
//! there is attacked as well. What a client could do to a run by asking for it is left out, such as
//! to stop it: that is for roles to forbid.
//!
//! The speed under attack is for people to look at:
//! `cargo test --release --test e2e -- hostile --nocapture` prints it.

mod calls;
mod liar;
mod rng;
mod sockets;
mod wire;

use std::time::{Duration, Instant};

use dcgan_rpc::pb;
use dcgan_rpc::pb::admin_client::AdminClient;
use dcgan_rpc::services::Program;
use tempfile::tempdir;
use tokio::task::JoinSet;

use crate::process::{Process, SAMPLER};
use crate::run::{Coordinator, PACED, local, newest_manifest};
use crate::services::connect;
use rng::Rng;
use wire::{Run, Wire};

/// A run that never ends by itself, with few rows.
const TOY: &str = "--objective toy --log-every 1000 --checkpoint-every 1000 --grid-every 1000";
/// The most memory that any process takes while it is attacked, in bytes. An undisturbed one takes
/// 30 MB.
const PEAK_BYTES_MAX: u64 = 192 << 20;
/// The most lines that a process writes while it is attacked.
const LINES_MAX: usize = 600;
/// The longest line, in bytes.
const LINE_BYTES_MAX: usize = 4096;
/// How long the speed is measured without an attack.
const CALM: Duration = Duration::from_secs(2);

/// A server that is attacked.
#[derive(Clone)]
struct Target {
    program: Program,
    /// The address, as `http://host:port`.
    address: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_on_under_hostile_clients() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &format!("--workers 2 {TOY} --steps 1000000000"));
    let workers =
        ["a", "b"].map(|name| coordinator.worker(here, &format!("--name {name} {PACED}")));
    let serve = format!(
        "serve --coordinator {} --http 127.0.0.1:0 --grpc 127.0.0.1:0",
        coordinator.address
    );
    let sampler = Process::start(SAMPLER, here, &serve);
    let started = workers[0].wait_for_event("worker_started", &[]);
    let fingerprint = started.field("fingerprint").to_owned();
    let listening = format!("http://{}", started.field("listening"));
    let sampler_started = sampler.wait_for_event("sampler_started", &[]);
    let page = sampler_started.field("page").to_owned();
    let targets = [
        Target { program: Program::Coordinator, address: coordinator.address.clone() },
        Target { program: Program::Worker, address: listening },
        Target { program: Program::Sampler, address: sampler_started.field("grpc").to_owned() },
    ];
    coordinator.process.wait_for_event("plan", &[("generation", "1")]);

    // The pace without an attack.
    let calm = pace(&coordinator.address, tokio::time::sleep(CALM)).await;
    let peaceful = workers.iter().chain([&coordinator.process, &sampler]);
    let lines: Vec<usize> = peaceful.map(|process| process.text().lines().count()).collect();

    // All at once, for as long as it takes.
    let began = Instant::now();
    let run = run(&coordinator.address, fingerprint).await;
    let mut attacks = JoinSet::new();
    for (target, seed) in targets.iter().zip(1..) {
        let (address, hold) = (target.address.clone(), sockets::HOLD);
        attacks.spawn_blocking(move || sockets::attack(&address, hold));
        attacks.spawn(calls::attack(target.clone(), Wire::read(), run.clone(), Rng::new(seed)));
    }
    attacks.spawn_blocking(move || sockets::attack(&page, sockets::HOLD));
    let address = coordinator.address.clone();
    attacks.spawn(liar::attack(address, Wire::read(), run.clone(), Rng::new(9)));
    let attack = async { while attacks.join_next().await.transpose().unwrap().is_some() {} };
    let attacked = pace(&coordinator.address, attack).await;
    println!(
        "{calm:.0} steps a second without an attack, {attacked:.0} with one of {:.0} s",
        began.elapsed().as_secs_f64()
    );

    // The run goes on. Nobody took much memory, or filled the log.
    let after = step(&coordinator.address).await;
    while step(&coordinator.address).await < after + 100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    coordinator.process.wait_for_event("false_claim", &[("worker", liar::NAME)]);
    for (process, before) in workers.iter().chain([&coordinator.process, &sampler]).zip(lines) {
        let peak = process.peak_memory();
        let written = process.text().lines().count() - before;
        println!("{}: peak {} MiB, {written} lines", process.title(), peak >> 20);
        assert!(peak < PEAK_BYTES_MAX, "{}: {} MiB", process.title(), peak >> 20);
        let longest = process.text().lines().map(str::len).max().unwrap();
        assert!(longest < LINE_BYTES_MAX, "{}: a line of {longest} bytes", process.title());
        assert!(written < LINES_MAX, "{}: {written} lines:\n{}", process.title(), process.text());
    }
    coordinator.process.signal("INT");
    coordinator.process.expect(130);
    for worker in workers {
        worker.expect(0);
    }

    // Its bits are those of a run that nobody has attacked.
    let last = newest_manifest(here);
    let alone = tempdir().unwrap();
    let undisturbed = local(alone.path(), &format!("--workers 1 {TOY} --steps {}", last.step));
    assert_eq!(last.state_digest, undisturbed);
}

/// Asks for all that a hostile client may know about the run.
async fn run(address: &str, fingerprint: String) -> Run {
    let status = status(address).await;
    Run { id: status.run, generation: status.generation, step: status.step, fingerprint }
}

async fn status(address: &str) -> pb::Status {
    let mut client = AdminClient::new(connect(address).await);
    client.get_status(pb::GetStatusRequest::default()).await.unwrap().into_inner()
}

async fn step(address: &str) -> u64 {
    status(address).await.step
}

/// The steps a second during something.
async fn pace(address: &str, during: impl Future<Output = ()>) -> f64 {
    let (first, began) = (step(address).await, Instant::now());
    during.await;
    (step(address).await - first) as f64 / began.elapsed().as_secs_f64()
}
