//! At each edge of the protocol a process dies, stops, is slow or repeats itself, its connections break, or what it
//! sends arrives with other bits.

use std::sync::OnceLock;
use std::thread;

use dcgan_core::ids::{Digest, Step};
use tempfile::tempdir;

use crate::network::Network;
use crate::process::Process;
use crate::run::{Coordinator, last_digest, local, logged_steps};

/// A run that is over soon, and one that a newcomer finds in the midst.
const STEPS: [Step; 2] = [200, 2000];

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happens {
    Dies,
    Stops,
    IsSlow,
    RepeatsItself,
    LosesConnections,
    HasBitsFlipped,
}

use Happens::{Dies, HasBitsFlipped, IsSlow, LosesConnections, RepeatsItself, Stops};

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

/// Edges of the coordinator's.
const COORDINATOR: [(&str, u32); 9] = [
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

/// What one worker gives that nobody interferes with.
fn alone(steps: Step) -> Digest {
    static ALONE: OnceLock<[Digest; 2]> = OnceLock::new();
    let digests = ALONE.get_or_init(|| {
        STEPS.map(|steps| local(tempdir().unwrap().path(), &toy("--workers 1", steps)))
    });
    digests[usize::from(steps == STEPS[1])]
}

fn toy(arguments: &str, steps: Step) -> String {
    format!(
        "{arguments} --objective toy --log-every {0} --checkpoint-every {0} --steps {steps}",
        steps / 10
    )
}

/// The option with which it happens at a point.
fn fault(happens: Happens, (point, nth): (&str, u32)) -> String {
    let action = match happens {
        Dies => "kill",
        Stops | LosesConnections | HasBitsFlipped => "stop",
        IsSlow => "slow",
        RepeatsItself => "repeat",
    };
    format!("--fault {point}={action}@{nth}")
}

/// Does to a process that has stopped at a point what was meant; `noticed` is what another says of its silence.
fn meanwhile(
    happens: Happens,
    network: &Network,
    stopped: &Process,
    other: &Process,
    noticed: &str,
) {
    if !matches!(happens, Stops | LosesConnections | HasBitsFlipped) {
        return;
    }
    stopped.wait_until_stopped();
    match happens {
        LosesConnections => network.break_connections(),
        HasBitsFlipped => network.flip_bits(),
        _ => drop(other.wait_for(noticed)),
    }
    stopped.signal("CONT");
}

/// Trains on two workers, one of which has a fault, and a third; all talk through a network. If what happens is that a
/// state is copied, the third comes late.
fn with_a_worker(happens: Happens, point: (&str, u32)) {
    let copies = ["copy", "serve"].contains(&point.0);
    let steps = STEPS[usize::from(copies)];
    let (folder, network) = (tempdir().unwrap(), Network::default());
    let here = folder.path();
    let coordinator = Coordinator::start(here, &toy("--workers 2", steps));
    let door = network.relay();
    door.leads_to(coordinator.address.trim_start_matches("http://"));
    let join = |arguments: &str| {
        let relay = network.relay();
        let arguments = format!(
            "--coordinator http://{} --advertise {} {arguments}",
            door.address, relay.address
        );
        let worker = Process::start(crate::process::WORKER, here, &arguments);
        relay.leads_to(&worker.wait_for_word_after(") at "));
        worker
    };
    let fault = fault(happens, point);
    // Who copies is the newcomer; who serves is one of the others, or both.
    let (early, late) = if point.0 == "copy" { ("", &*fault) } else { (&*fault, "") };
    let honest = join(&format!("--name honest {}", if point.0 == "serve" { early } else { "" }));
    let faulty = join(&format!("--name faulty {early}"));
    if copies {
        coordinator.process.wait_for("step 200/");
    }
    let newcomer = join(&format!("--name newcomer {late}"));
    let (stopped, name) =
        if late.is_empty() { (&faulty, "faulty") } else { (&newcomer, "newcomer") };
    let noticed = format!("lost worker {name}: nothing heard of it for 3 s");
    meanwhile(happens, &network, stopped, &coordinator.process, &noticed);
    coordinator.process.expect(0);
    assert_eq!(last_digest(here), alone(steps), "{happens:?} at {point:?}");
    let lines: Vec<Step> = (1..=10).map(|n| steps / 10 * n).collect();
    assert_eq!(logged_steps(here), lines, "{happens:?} at {point:?}");
    drop((honest, faulty, newcomer));
}

/// Trains on two workers of a coordinator that has a fault, and is started again if it dies.
fn with_a_coordinator(happens: Happens, point: (&str, u32)) {
    let (folder, network) = (tempdir().unwrap(), Network::default());
    let here = folder.path();
    let toy = toy("--workers 2", STEPS[0]);
    let first = Coordinator::start(here, &format!("{toy} {}", fault(happens, point)));
    let door = network.relay();
    door.leads_to(first.address.trim_start_matches("http://"));
    let port = first.same_port();
    let join = |name| {
        Process::start(
            crate::process::WORKER,
            here,
            &format!("--coordinator http://{} --name {name}", door.address),
        )
    };
    let workers = ["a", "b"].map(join);
    // Whether it was welcomed before or not.
    meanwhile(
        happens,
        &network,
        &first.process,
        &workers[0],
        "the coordinator: nothing heard for 3 s",
    );
    let mut coordinator = first;
    if happens == Dies {
        assert_eq!(coordinator.process.wait().status, None, "at {point:?} it was killed");
        coordinator = Coordinator::start(here, &format!("{toy} {port}"));
    }
    coordinator.process.expect(0);
    workers.into_iter().for_each(|worker| drop(worker.expect(0)));
    assert_eq!(last_digest(here), alone(STEPS[0]), "{happens:?} at {point:?}");
    assert_eq!(
        logged_steps(here),
        (1..=10).map(|n| 20 * n).collect::<Vec<_>>(),
        "{happens:?} at {point:?}"
    );
}

#[test]
fn a_worker_dies_at_any_edge() {
    WORKER.into_iter().for_each(|point| with_a_worker(Dies, point));
}

#[test]
fn a_worker_is_slow_at_any_edge() {
    WORKER.into_iter().for_each(|point| with_a_worker(IsSlow, point));
}

#[test]
fn a_worker_repeats_itself_at_any_edge() {
    WORKER.into_iter().for_each(|point| with_a_worker(RepeatsItself, point));
}

#[test]
fn a_worker_stops_at_any_edge_and_goes_on() {
    // At the same time: it is mostly waiting.
    thread::scope(|scope| {
        for point in WORKER {
            scope.spawn(move || with_a_worker(Stops, point));
        }
    });
}

#[test]
fn connections_break_at_any_edge() {
    WORKER.into_iter().for_each(|point| with_a_worker(LosesConnections, point));
    COORDINATOR.into_iter().for_each(|point| with_a_coordinator(LosesConnections, point));
}

#[test]
fn bits_flip_on_their_way_at_any_edge() {
    WORKER.into_iter().for_each(|point| with_a_worker(HasBitsFlipped, point));
    COORDINATOR.into_iter().for_each(|point| with_a_coordinator(HasBitsFlipped, point));
}

#[test]
fn a_coordinator_dies_at_any_edge() {
    COORDINATOR.into_iter().for_each(|point| with_a_coordinator(Dies, point));
}

#[test]
fn a_coordinator_stops_at_any_edge_and_goes_on() {
    thread::scope(|scope| {
        for point in COORDINATOR {
            scope.spawn(move || with_a_coordinator(Stops, point));
        }
    });
}

#[test]
fn a_coordinator_is_slow_or_repeats_itself_at_any_edge() {
    for point in COORDINATOR {
        with_a_coordinator(IsSlow, point);
        if point.0.starts_with("send") || point.0 == "welcome" {
            with_a_coordinator(RepeatsItself, point);
        }
    }
}
