//! A process dies, stops, is slow or repeats itself at each edge of the protocol.

use dcgan_core::ids::Digest;
use tempfile::tempdir;

use crate::process::Process;
use crate::run::{Coordinator, last_digest, local, logged_steps};

const TOY: &str = "--objective toy --log-every 20 --checkpoint-every 20 --steps 200";

fn alone() -> Digest {
    static ALONE: std::sync::OnceLock<Digest> = std::sync::OnceLock::new();
    *ALONE.get_or_init(|| local(tempdir().unwrap().path(), &format!("--workers 1 {TOY}")))
}

/// Edges of the worker's part, and how often they are passed before it happens.
const WORKER: [(&str, u32); 13] = [
    ("ready", 1),
    ("promise", 1),
    ("connect", 1),
    ("compute", 1),
    ("compute", 100),
    ("compute", 101),
    ("send-part", 2),
    ("send-part", 150),
    ("send-sum", 150),
    ("step-done", 40),
    ("upload", 1),
    ("copy", 1),
    ("serve", 1),
];

/// Trains on two workers, one of which has a fault, and a third that joins later and copies the state.
fn train(fault: &str, meanwhile: impl FnOnce(&Coordinator, &Process)) {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &format!("--workers 2 {TOY}"));
    // Who copies is the newcomer; who serves is one of the others, or both.
    let (early, late) = if fault.starts_with("copy") { ("", fault) } else { (fault, "") };
    let with = |fault: &str| if fault.is_empty() { String::new() } else { format!(" --fault {fault}") };
    let honest = coordinator.worker(here, "--name honest");
    let faulty = coordinator.worker(here, &format!("--name faulty{}", with(early)));
    let newcomer = coordinator.worker(here, &format!("--name newcomer{}", with(late)));
    meanwhile(&coordinator, if late.is_empty() { &faulty } else { &newcomer });
    coordinator.process.expect(0);
    assert_eq!(last_digest(here), alone(), "{fault}");
    assert_eq!(logged_steps(here), (1..=10).map(|n| 20 * n).collect::<Vec<_>>(), "{fault}");
    drop((honest, faulty, newcomer));
}

#[test]
fn a_worker_dies_at_any_edge() {
    for (point, nth) in WORKER {
        train(&format!("{point}=kill@{nth}"), |_, _| {});
    }
}

#[test]
fn a_worker_is_slow_or_repeats_itself_at_any_edge() {
    for (point, nth) in WORKER {
        train(&format!("{point}=slow@{nth}"), |_, _| {});
        train(&format!("{point}=repeat@{nth}"), |_, _| {});
    }
}

#[test]
fn a_worker_stops_and_goes_on() {
    for (point, nth) in [("compute", 100), ("promise", 1), ("send-sum", 150)] {
        train(&format!("{point}=stop@{nth}"), |coordinator, faulty| {
            coordinator.process.wait_for("lost worker faulty: nothing heard of it for 3 s");
            faulty.signal("CONT");
        });
    }
}

#[test]
fn a_coordinator_dies_at_any_edge() {
    let points = [
        ("welcome", 2),
        ("send-fence", 1),
        ("store-plan", 1),
        ("send-plan", 1),
        ("send-plan", 2),
        ("append-line", 3),
        ("send-stored", 4),
        ("send-fetch", 2),
        ("save-checkpoint", 2),
    ];
    for (point, nth) in points {
        let folder = tempdir().unwrap();
        let here = folder.path();
        let first = Coordinator::start(here, &format!("--workers 2 {TOY} --fault {point}=kill@{nth}"));
        let port = first.same_port();
        let workers = ["a", "b"].map(|name| first.worker(here, &format!("--name {name}")));
        assert_eq!(first.process.wait().status, None, "{point} {nth}: it was killed");
        let second = Coordinator::start(here, &format!("--workers 2 {TOY} {port}"));
        second.process.expect(0);
        workers.into_iter().for_each(|worker| drop(worker.expect(0)));
        assert_eq!(last_digest(here), alone(), "{point} {nth}");
        assert_eq!(logged_steps(here), (1..=10).map(|n| 20 * n).collect::<Vec<_>>(), "{point} {nth}");
    }
}
