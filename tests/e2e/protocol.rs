//! The protocol, on the toy objective: the same processes without tensors.

use dcgan_core::ids::Digest;
use dcgan_core::protocol::message::PROTOCOL;
use dcgan_rpc::pb;
use dcgan_rpc::pb::coordinator_client::CoordinatorClient;
use tempfile::{TempDir, tempdir};

use crate::process::{COORD, Process, WORKER, signal};
use crate::run::{Coordinator, LocalWorker, last_digest, local, logged_steps, saved_steps};

const TOY: &str = "--objective toy --log-every 50 --checkpoint-every 50";
/// Over in a moment.
const SHORT: &str = "--steps 300";
/// Never over by itself.
const ENDLESS: &str = "--steps 1000000000";

/// What one worker gives that nobody interferes with.
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
        assert_eq!(saved_steps(folder.path()), [100, 150, 200, 250, 300], "the newest five");
    }
}

#[test]
fn a_worker_joins_and_another_leaves() {
    let folder = folder();
    let coordinator =
        Coordinator::start(folder.path(), &format!("--workers 1 {TOY} --steps 10000"));
    let first = coordinator.worker(folder.path(), "--name first");
    coordinator.process.wait_for("step 50/");
    let second = coordinator.worker(folder.path(), "--name second");
    coordinator.process.wait_for("generation 2 trains on first, second");
    first.signal("TERM");
    first.expect(143);
    coordinator.process.wait_for("lost worker first: it was told to stop");
    coordinator.process.expect(0);
    second.expect(0);
    assert_eq!(last_digest(folder.path()), undisturbed(10_000));
}

#[test]
fn below_the_minimum_the_run_waits_and_says_for_whom() {
    let folder = folder();
    let coordinator =
        Coordinator::start(folder.path(), &format!("--workers 2 --min-workers 2 {TOY} {ENDLESS}"));
    let staying = coordinator.worker(folder.path(), "--name staying");
    let dying = coordinator.worker(folder.path(), "--name dying");
    coordinator.process.wait_for("step 50/");
    dying.signal("KILL");
    coordinator.process.wait_for("waiting for 1 of 2 workers: worker dying last seen at step ");
    let newcomer = coordinator.worker(folder.path(), "--name newcomer");
    coordinator.process.wait_for("trains on staying, newcomer from step ");
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
    coordinator.process.wait_for("step 50/");
    let again = coordinator.same_port();
    // Killed, then moved by a cluster.
    coordinator.process.signal("KILL");
    assert_eq!(coordinator.process.wait().status, None);
    let second = Coordinator::start(folder.path(), &again);
    second.process.wait_for("all workers of generation 1 are back");
    second.process.wait_for(", digest ");
    second.process.signal("TERM");
    second.process.expect(143);
    let third = Coordinator::start(folder.path(), &again);
    third.process.wait_for(", digest ");
    third.process.signal("INT");
    third.process.expect(130);
    workers.into_iter().for_each(|worker| drop(worker.expect(0)));
    let steps = logged_steps(folder.path());
    assert!(steps.iter().zip(1..).all(|(&step, n)| step == 50 * n), "{steps:?}");
}

#[test]
fn a_run_ends_in_words_when_its_local_workers_are_spent() {
    let folder = folder();
    let coordinator = Process::start(
        COORD,
        folder.path(),
        &format!("--out run --local --workers 1 {TOY} {ENDLESS}"),
    );
    coordinator.wait_for("step 50/");
    for restart in 1..=4 {
        signal("KILL", &LocalWorker::find(folder.path(), "worker-0").process);
        if restart < 4 {
            coordinator.wait_for(&format!("starting worker-0 again ({restart} of 3)"));
            // The new process has said who it is once it has a plan.
            coordinator.wait_for(&format!("generation {} trains on worker-0", restart + 1));
        }
    }
    let text = coordinator.expect(1);
    let block = text.split_once("the run has failed: ").expect("there is a block").1;
    for part in [
        "too few workers are left: 0 can still run, and --min-workers is 1",
        "first:   worker-0 ended with signal: 9",
        "log:     run/logs/worker-0.log",
        "resume:  dcgan-coord --out run --local",
    ] {
        assert!(block.contains(part), "{part:?} is not in:\n{text}");
    }
    let longer = logged_steps(folder.path()).pop().unwrap() + 1000;
    assert_eq!(local(folder.path(), &format!("--steps {longer}")), undisturbed(longer));
}

#[test]
fn a_finished_run_says_so() {
    let folder = folder();
    local(folder.path(), &format!("--workers 1 {TOY} {SHORT}"));
    let text = crate::process::run(COORD, folder.path(), "--out run --local", 0);
    assert!(text.contains("this run has finished: 300 steps are done"), "{text}");
    assert_eq!(last_digest(folder.path()), undisturbed(300));
}

#[test]
fn a_worker_gives_up_without_a_coordinator() {
    let folder = folder();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let worker = Process::start(
        WORKER,
        folder.path(),
        &format!("--coordinator http://{nobody} --coordinator-timeout 1s"),
    );
    let text = worker.expect(1);
    assert!(
        text.contains(&format!("error: no coordinator for 1 s: cannot reach http://{nobody}")),
        "{text}"
    );
}

#[tokio::test]
async fn a_worker_of_another_version_is_refused_in_words() {
    let folder = folder();
    let coordinator = Coordinator::start(folder.path(), &format!("--workers 1 {TOY} {SHORT}"));
    let hello = pb::Hello {
        id: Some(pb::WorkerId { name: "old".to_owned(), incarnation: 1 }),
        protocol: 0,
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
    let versions = format!("protocol version 0 and the coordinator version {PROTOCOL}");
    assert_eq!(reason, format!("this worker speaks {versions}: use programs of one build"));
}
