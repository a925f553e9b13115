//! Faults at every edge of the protocol. At each point a process dies, stops, is slow or repeats a
//! message, its connections break, or bits flip in what it sends. No fault may change a bit of the
//! result.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use dcgan_core::ids::{Digest, Step};
use tempfile::tempdir;

use crate::events::Event;
use crate::network::Network;
use crate::process::{self, Process};
use crate::run::{Coordinator, PACED, last_digest, local, logged_steps};

/// The length of a run that ends soon.
const SHORT: Step = 100;
/// The length of a run that still trains when a newcomer joins late, because a worker paces it.
const LONG: Step = 600;

/// The fault that happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Dies,
    Stops,
    IsSlow,
    RepeatsAMessage,
    LosesConnections,
    HasBitsFlipped,
}

use Fault::{Dies, HasBitsFlipped, IsSlow, LosesConnections, RepeatsAMessage, Stops};

/// A point of the code: its name, and at which passage of it the fault happens.
type Point = (&'static str, u32);

/// A point in the worker's code, and a run in which a worker passes it.
struct WorkerCase {
    point: Point,
    /// The workers that have the fault. A test waits for the last of them.
    with_fault: &'static [&'static str],
    /// When the third worker joins.
    newcomer_joins: Joins,
    /// The length of the run.
    steps: Step,
}

#[derive(Clone, Copy)]
enum Joins {
    AtOnce,
    /// The other two have a state by then, which the newcomer copies.
    After(Step),
}

use Joins::{After, AtOnce};

/// The coordinator requests snapshots from the members in the order of their names, so this worker
/// is the first to upload one.
const FAULTY: &[&str] = &["faulty"];
const NEWCOMER: &[&str] = &["newcomer"];
/// The newcomer shows that it can copy a state by copying that of this member: of two members, the
/// third worker that comes is given the second by name.
const HONEST: &[&str] = &["honest"];

const WORKER_CASES: [WorkerCase; 13] = [
    case(("ready", 1), FAULTY, AtOnce, SHORT),
    case(("promise", 1), FAULTY, AtOnce, SHORT),
    case(("connect", 1), FAULTY, AtOnce, SHORT),
    case(("compute", 1), FAULTY, AtOnce, SHORT),
    case(("compute", 100), FAULTY, AtOnce, SHORT),
    case(("compute", 101), FAULTY, AtOnce, SHORT),
    case(("send-subtree", 2), FAULTY, AtOnce, SHORT),
    case(("send-subtree", 150), FAULTY, AtOnce, SHORT),
    case(("send-sum", 150), FAULTY, AtOnce, SHORT),
    case(("step-done", 40), FAULTY, AtOnce, SHORT),
    case(("upload", 1), FAULTY, AtOnce, SHORT),
    case(("copy", 1), NEWCOMER, After(60), LONG),
    case(("serve", 1), HONEST, After(60), LONG),
];

/// The points in the coordinator's code.
const COORDINATOR_POINTS: [Point; 10] = [
    ("welcome", 2),
    ("send-fence", 1),
    ("store-plan", 1),
    ("send-plan", 1),
    ("send-plan", 2),
    // Rows that are due while the disk is busy are one write, so that there may be two only.
    ("append-row", 2),
    ("written", 3),
    ("send-persisted", 3),
    ("request-snapshot", 2),
    ("save-checkpoint", 2),
];

const fn case(
    point: Point,
    with_fault: &'static [&'static str],
    newcomer_joins: Joins,
    steps: Step,
) -> WorkerCase {
    WorkerCase { point, with_fault, newcomer_joins, steps }
}

/// The digest of a run of this length by one worker without any fault. Each length is computed
/// once.
fn undisturbed(steps: Step) -> Digest {
    static DIGESTS: Mutex<BTreeMap<Step, Digest>> = Mutex::new(BTreeMap::new());
    let mut digests = DIGESTS.lock().unwrap();
    *digests
        .entry(steps)
        .or_insert_with(|| local(tempdir().unwrap().path(), &toy("--workers 1", steps)))
}

/// The arguments of a run with ten rows of metrics and ten checkpoints.
fn toy(arguments: &str, steps: Step) -> String {
    format!(
        "{arguments} --objective toy --log-every {0} --checkpoint-every {0} --steps {steps}",
        steps / 10
    )
}

/// The option that makes a program have a fault at a point.
fn option(fault: Fault, (point, nth): Point) -> String {
    let action = match fault {
        Dies => "kill",
        // The test does the rest while the process is stopped.
        Stops | LosesConnections | HasBitsFlipped => "stop",
        IsSlow => "slow",
        RepeatsAMessage => "repeat",
    };
    format!("--fault {point}={action}@{nth}")
}

/// Waits until a process has stopped at its point, does the rest of the fault, and lets the process
/// go on. A process that merely stops goes on when `wait_until_missed` returns: another process
/// must have noticed that it is silent. Returns false if none has, because the run was over.
fn complete_the_fault(
    fault: Fault,
    network: &Network,
    stopped: &Process,
    wait_until_missed: impl FnOnce() -> bool,
) -> bool {
    let mut is_missed = true;
    match fault {
        // The process does these by itself.
        Dies | IsSlow | RepeatsAMessage => return true,
        Stops => {
            stopped.wait_until_stopped();
            is_missed = wait_until_missed();
        }
        LosesConnections => {
            stopped.wait_until_stopped();
            network.break_connections();
        }
        HasBitsFlipped => {
            stopped.wait_until_stopped();
            network.flip_bits();
        }
    }
    stopped.signal("CONT");
    is_missed
}

/// Asserts that the run directory is that of an undisturbed run.
fn check(folder: &Path, steps: Step, fault: Fault, point: Point) {
    assert_eq!(last_digest(folder), undisturbed(steps), "{fault:?} at {point:?}");
    let every_tenth: Vec<Step> = (1..=10).map(|n| steps / 10 * n).collect();
    assert_eq!(logged_steps(folder), every_tenth, "{fault:?} at {point:?}");
}

/// Starts a worker that reaches the coordinator through `control`, and that the other workers reach
/// through a relay of its own.
fn start_worker(network: &Network, folder: &Path, control: SocketAddr, arguments: &str) -> Process {
    let data = network.relay();
    let addresses = format!("--coordinator http://{control} --advertise {}", data.address);
    let worker = Process::start(process::WORKER, folder, &format!("{addresses} {arguments}"));
    data.leads_to(worker.wait_for_event("worker_started", &[]).field("listening"));
    worker
}

/// A case is tried so often until its fault happens.
const TRIES: usize = 5;

/// Trains with a coordinator and three workers that talk through a network. Some of the workers
/// have a fault. On a machine that is overloaded the run may be over before the fault has happened,
/// because the worker was away: that has shown nothing, and is done again.
fn run_with_a_faulty_worker(fault: Fault, case: &WorkerCase) {
    let has_happened = (0..TRIES).any(|_| try_with_a_faulty_worker(fault, case));
    // A fault that never happens is not the fault of a machine that is slow.
    assert!(has_happened, "{fault:?} at {:?} does not happen", case.point);
}

/// Returns false if the run was over before the fault had happened.
fn try_with_a_faulty_worker(fault: Fault, case: &WorkerCase) -> bool {
    let (folder, network) = (tempdir().unwrap(), Network::default());
    let here = folder.path();
    let coordinator = Coordinator::start(here, &toy("--workers 2", case.steps));
    let control = network.relay();
    control.leads_to(coordinator.address.trim_start_matches("http://"));

    // Start the workers, those of the case with the fault.
    let mut workers = BTreeMap::new();
    for name in ["honest", "faulty", "newcomer"] {
        if let ("newcomer", After(step)) = (name, case.newcomer_joins) {
            coordinator.process.wait_for_step(step);
        }
        let mut arguments = format!("--name {name}");
        if case.with_fault.contains(&name) {
            arguments += &format!(" {}", option(fault, case.point));
        } else if case.steps == LONG {
            arguments += &format!(" {PACED}");
        }
        workers.insert(name, start_worker(&network, here, control.address, &arguments));
    }

    // Let the fault happen, then the run must end as if nothing had happened.
    let name = *case.with_fault.last().unwrap();
    let is_stopped_by_fault = !matches!(fault, Dies | IsSlow | RepeatsAMessage);
    if is_stopped_by_fault && !workers[name].says_before_its_end("fault_stopped", &[]) {
        return false;
    }
    let is_missed = complete_the_fault(fault, &network, &workers[name], || {
        let silent = [("worker", name), ("cause", "silent")];
        coordinator.process.says_before_its_end("worker_lost", &silent)
    });
    if !is_missed {
        return false;
    }
    coordinator.process.expect(0);
    check(here, case.steps, fault, case.point);
    true
}

/// Trains with two workers and a coordinator that has a fault. A coordinator that dies is started
/// again.
fn run_with_a_faulty_coordinator(fault: Fault, point: Point) {
    let (folder, network) = (tempdir().unwrap(), Network::default());
    let here = folder.path();
    let toy = toy("--workers 2", SHORT);
    let mut coordinator = Coordinator::start(here, &format!("{toy} {}", option(fault, point)));
    let control = network.relay();
    control.leads_to(coordinator.address.trim_start_matches("http://"));
    let port = coordinator.same_port();
    let workers = ["a", "b"].map(|name| {
        let arguments = format!("--coordinator http://{} --name {name}", control.address);
        Process::start(process::WORKER, here, &arguments)
    });

    complete_the_fault(fault, &network, &coordinator.process, || {
        workers[0].wait_for_event_where("about the coordinator", misses_the_coordinator);
        true
    });
    if fault == Dies {
        assert_eq!(coordinator.process.wait().status, None, "at {point:?} it was killed");
        coordinator = Coordinator::start(here, &format!("{toy} {port}"));
    }
    coordinator.process.expect(0);
    for worker in workers {
        worker.expect(0);
    }
    check(here, SHORT, fault, point);
}

/// Tells if a worker's event says that the coordinator is silent. A worker that was welcomed has
/// lost the coordinator; one that was not yet welcomed still waits for it.
fn misses_the_coordinator(event: &Event) -> bool {
    let waits = event.is("waiting", &[]) && event.field("for").starts_with("the coordinator");
    waits || event.is("coordinator_lost", &[])
}

#[test]
fn a_worker_dies_at_any_edge() {
    WORKER_CASES.iter().for_each(|case| run_with_a_faulty_worker(Dies, case));
}

#[test]
fn a_worker_is_slow_at_any_edge() {
    WORKER_CASES.iter().for_each(|case| run_with_a_faulty_worker(IsSlow, case));
}

#[test]
fn a_worker_repeats_a_message_at_any_edge() {
    WORKER_CASES.iter().for_each(|case| run_with_a_faulty_worker(RepeatsAMessage, case));
}

#[test]
fn a_worker_stops_at_any_edge_and_goes_on() {
    // All cases at the same time, because each of them mostly waits.
    thread::scope(|scope| {
        for case in &WORKER_CASES {
            scope.spawn(move || run_with_a_faulty_worker(Stops, case));
        }
    });
}

#[test]
fn connections_break_at_any_edge() {
    WORKER_CASES.iter().for_each(|case| run_with_a_faulty_worker(LosesConnections, case));
    for point in COORDINATOR_POINTS {
        run_with_a_faulty_coordinator(LosesConnections, point);
    }
}

#[test]
fn bits_flip_between_processes_at_any_edge() {
    WORKER_CASES.iter().for_each(|case| run_with_a_faulty_worker(HasBitsFlipped, case));
    for point in COORDINATOR_POINTS {
        run_with_a_faulty_coordinator(HasBitsFlipped, point);
    }
}

#[test]
fn a_coordinator_dies_at_any_edge() {
    for point in COORDINATOR_POINTS {
        run_with_a_faulty_coordinator(Dies, point);
    }
}

#[test]
fn a_coordinator_stops_at_any_edge_and_goes_on() {
    thread::scope(|scope| {
        for point in COORDINATOR_POINTS {
            scope.spawn(move || run_with_a_faulty_coordinator(Stops, point));
        }
    });
}

#[test]
fn a_coordinator_is_slow_or_repeats_a_message_at_any_edge() {
    for point in COORDINATOR_POINTS {
        run_with_a_faulty_coordinator(IsSlow, point);
        // Only a message can be repeated, not a write to the disk.
        if point.0.starts_with("send") || point.0 == "welcome" {
            run_with_a_faulty_coordinator(RepeatsAMessage, point);
        }
    }
}
