//! The protocol, with the toy objective: the same processes without tensors.

use dcgan_core::ids::Digest;
use dcgan_core::protocol::message::PROTOCOL;
use dcgan_rpc::pb;
use dcgan_rpc::pb::coordinator_client::CoordinatorClient;
use tempfile::{TempDir, tempdir};

use crate::network::Network;
use crate::process::{COORD, Process, WORKER, assert_names, signal};
use crate::run::{Coordinator, LocalWorker, last_digest, local, logged_steps, saved_steps};

const TOY: &str = "--objective toy --log-every 50 --checkpoint-every 50";
/// A run that ends in a moment.
const SHORT: &str = "--steps 300";
/// A run that never ends by itself.
const ENDLESS: &str = "--steps 1000000000";

/// The digest of a run by one worker without any fault.
fn undisturbed(steps: u64) -> Digest {
    local(tempdir().unwrap().path(), &format!("--workers 1 {TOY} --steps {steps}"))
}

fn folder() -> TempDir {
    tempdir().unwrap()
}

#[test]
fn any_number_of_workers_and_threads_gives_the_same_bits() {
    let alone = undisturbed(300);
    for arguments in [
        "--workers 2",
        "--workers 3 --threads 2",
        "--workers 5",
        "--workers 8 --threads 3",
        "--workers 9",
    ] {
        let folder = folder();
        assert_eq!(
            local(folder.path(), &format!("{arguments} {TOY} {SHORT}")),
            alone,
            "{arguments}"
        );
        assert_eq!(logged_steps(folder.path()), [50, 100, 150, 200, 250, 300]);
        // On a loaded machine a checkpoint may be left out for the next one.
        let saved = saved_steps(folder.path());
        assert!(saved.len() <= 5 && saved.last() == Some(&300), "the newest five stay: {saved:?}");
    }
}

#[test]
fn a_worker_joins_and_another_leaves() {
    let folder = folder();
    let coordinator =
        Coordinator::start(folder.path(), &format!("--workers 1 {TOY} --steps 10000"));
    let first = coordinator.worker(folder.path(), "--name first");
    coordinator.process.wait_for_step(50);
    let second = coordinator.worker(folder.path(), "--name second");
    let plan_of_both = [("generation", "2"), ("members", "first,second")];
    coordinator.process.wait_for_event("plan", &plan_of_both);
    first.signal("TERM");
    first.expect(143);
    let left = [("worker", "first"), ("cause", "left")];
    coordinator.process.wait_for_event("worker_lost", &left);
    coordinator.process.expect(0);
    second.expect(0);
    assert_eq!(last_digest(folder.path()), undisturbed(10_000));
}

#[test]
fn a_run_with_too_few_workers_waits_and_names_those_that_are_missing() {
    let folder = folder();
    let coordinator =
        Coordinator::start(folder.path(), &format!("--workers 2 --min-workers 2 {TOY} {ENDLESS}"));
    let staying = coordinator.worker(folder.path(), "--name staying");
    let dying = coordinator.worker(folder.path(), "--name dying");
    coordinator.process.wait_for_step(50);
    dying.signal("KILL");
    let waiting = coordinator.process.wait_for_event("waiting", &[("reason", "below_minimum")]);
    assert_names(&waiting.message, &["waiting for 1 of 2 workers: ", "dying last seen at step "]);
    let newcomer = coordinator.worker(folder.path(), "--name newcomer");
    coordinator.process.wait_for_event("plan", &[("members", "staying,newcomer")]);
    coordinator.process.signal("INT");
    coordinator.process.expect(130);
    staying.expect(0);
    newcomer.expect(0);
}

#[test]
fn workers_train_on_without_their_coordinator() {
    let folder = folder();
    let coordinator = Coordinator::start(folder.path(), &format!("--workers 2 {TOY} {ENDLESS}"));
    let workers =
        ["a", "b"].map(|name| coordinator.worker(folder.path(), &format!("--name {name}")));
    coordinator.process.wait_for_step(50);
    let again = format!("--workers 2 {ENDLESS} {}", coordinator.same_port());
    // The first coordinator crashes.
    coordinator.process.signal("KILL");
    assert_eq!(coordinator.process.wait().status, None);
    let second = Coordinator::start(folder.path(), &again);
    second.process.wait_for_event("plan_adopted", &[]);
    second.process.wait_for_event("checkpoint_saved", &[]);
    // The second one is told to end, as a cluster does that moves it to another machine.
    second.process.signal("TERM");
    second.process.expect(143);
    let third = Coordinator::start(folder.path(), &again);
    third.process.wait_for_event("checkpoint_saved", &[]);
    third.process.signal("INT");
    third.process.expect(130);
    workers.into_iter().for_each(|worker| drop(worker.expect(0)));
    let steps = logged_steps(folder.path());
    assert!(steps.iter().zip(1..).all(|(&step, n)| step == 50 * n), "{steps:?}");
}

#[test]
fn a_run_fails_with_an_explanation_when_its_local_worker_has_crashed_too_often() {
    let folder = folder();
    let coordinator = Process::start(
        COORD,
        folder.path(),
        &format!("--out run --local --workers 1 {TOY} {ENDLESS}"),
    );
    coordinator.wait_for_step(50);
    for restart in 1..=4 {
        signal("KILL", &LocalWorker::find(folder.path(), "worker-0").process);
        if restart < 4 {
            let (attempt, generation) = (restart.to_string(), (restart + 1).to_string());
            let restarted = [("child", "worker-0"), ("attempt", &attempt)];
            coordinator.wait_for_event("child_restarted", &restarted);
            // The log names the new process by the time that it has a plan.
            let planned = [("generation", &*generation), ("members", "worker-0")];
            coordinator.wait_for_event("plan", &planned);
        }
    }
    let failed = coordinator.expect(1);
    failed.event("child_given_up", &[("child", "worker-0")]);
    let failure = failed.event("run_failed", &[("cause", "out_of_workers")]);
    assert_names(failure.field("first"), &["worker-0 ended with signal: 9"]);
    assert_names(failure.field("log"), &["run/logs/worker-0.log"]);
    assert_names(failure.field("saved"), &["checkpoint"]);
    assert_names(failure.field("resume"), &["dcgan-coord --out run --local"]);
    let longer = logged_steps(folder.path()).pop().unwrap() + 1000;
    assert_eq!(local(folder.path(), &format!("--steps {longer}")), undisturbed(longer));
}

#[test]
fn a_run_that_is_complete_is_not_trained_again() {
    let folder = folder();
    local(folder.path(), &format!("--workers 1 {TOY} {SHORT}"));
    let again = crate::process::run(COORD, folder.path(), "--out run --local --steps 300", 0);
    again.event("run_complete", &[("step", "300")]);
    assert_eq!(last_digest(folder.path()), undisturbed(300));
}

#[test]
fn a_worker_gives_up_without_a_coordinator() {
    let folder = folder();
    // Bound, so that no other program gets the port, but nobody listens.
    let port = tokio::net::TcpSocket::new_v4().unwrap();
    port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let nobody = port.local_addr().unwrap();
    let worker = Process::start(
        WORKER,
        folder.path(),
        &format!("--coordinator http://{nobody} --coordinator-timeout 1s"),
    );
    let gave_up = worker.expect(1);
    let reason = format!("no coordinator for 1 s: cannot reach the coordinator at http://{nobody}");
    assert_names(gave_up.error(), &[&reason]);
}

#[tokio::test]
async fn a_worker_with_another_protocol_version_is_refused_with_both_versions() {
    let folder = folder();
    let coordinator = Coordinator::start(folder.path(), &format!("--workers 1 {TOY} {SHORT}"));
    let hello = pb::Hello {
        id: Some(pb::WorkerId { name: "old".to_owned(), incarnation: 1 }),
        protocol: 1,
        ..Default::default()
    };
    let message =
        pb::WorkerMessage { kind: Some(pb::worker_message::Kind::Hello(hello)), checksum: 0 };
    let mut client = CoordinatorClient::connect(coordinator.address.clone()).await.unwrap();
    let mut answers = client.control(tokio_stream::once(message)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().kind;
    let Some(pb::coordinator_message::Kind::Refused(pb::Refused { reason })) = answer else {
        panic!("expected a refusal, found {answer:?}");
    };
    let versions = format!("protocol version 1 and the coordinator version {PROTOCOL}");
    assert_eq!(reason, format!("this worker speaks {versions}: use programs of one build"));
    coordinator.process.wait_for_event("worker_refused", &[]);
}

/// A hello of another version cannot be checked, so a damaged one can pass for such a hello.
#[test]
fn a_worker_that_is_refused_once_asks_again() {
    let folder = folder();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &format!("--workers 1 {TOY} {SHORT}"));
    let network = Network::default();
    let relay = network.relay();
    relay.leads_to(coordinator.address.trim_start_matches("http://"));
    network.change_once(|bytes| {
        // The number of the version, between the tags of its field and of the fingerprint's.
        let version = [0x18, PROTOCOL as u8, 0x22];
        let Some(at) = bytes.windows(version.len()).position(|it| it == version) else {
            return false;
        };
        bytes[at + 1] += 1;
        // The first letter of the fingerprint, so that the number is not all that is wrong.
        bytes[at + 4] ^= 1;
        true
    });
    let worker = Process::start(WORKER, here, &format!("--coordinator {}", relay.address));
    let waiting = worker.wait_for_event("waiting", &[]);
    let newer = format!("this worker speaks protocol version {}", PROTOCOL + 1);
    assert_names(waiting.field("for"), &["refused this worker", &newer, "asking again"]);
    coordinator.process.expect(0).event("worker_refused", &[]);
    worker.expect(0);
}
