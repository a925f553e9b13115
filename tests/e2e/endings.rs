//! Endings: of whatever kind, while workers answer or do not, no finished step is lost, or its loss
//! is said and the exit status is 1.
//!
//! `DCGAN_ENDINGS=50` repeats each kind so often, for each time for which the workers are frozen;
//! `DCGAN_ENDINGS_OBJECTIVE=dcgan` does it on the real model, and `DCGAN_ENDINGS_KIND=Stop` only
//! that kind. Without, one quick round is done.

use std::path::Path;
use std::time::{Duration, Instant};

use dcgan_core::ids::Step;
use tempfile::tempdir;

use crate::network::Network;
use crate::process::{COORD, Ended, Process, assert_names, run};
use crate::run::{Coordinator, newest_manifest, saved_steps};

/// A way to end a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `dcgan-coord stop`.
    Stop,
    /// Ctrl-C to the coordinator.
    Interrupt,
    /// SIGTERM to the coordinator: it hands over.
    Terminate,
    /// SIGTERM to all processes, the workers first.
    All,
    /// SIGTERM to all processes, the coordinator first.
    AllCoordinatorFirst,
    /// SIGTERM to all workers but one, and then to that one, without the coordinator.
    AllButOne,
}

const KINDS: [Kind; 6] = [
    Kind::Stop,
    Kind::Interrupt,
    Kind::Terminate,
    Kind::All,
    Kind::AllCoordinatorFirst,
    Kind::AllButOne,
];

/// Arguments of a run that has no checkpoint unless its end makes one, and no plan unless workers
/// come and go.
fn arguments() -> String {
    let objective = std::env::var("DCGAN_ENDINGS_OBJECTIVE").unwrap_or("toy".to_owned());
    format!(
        "--workers 2 --fixed-shards --objective {objective} --log-every 1 --grid-every 1000000 \
         --checkpoint-every 1000000 --steps 1000000000"
    )
}

/// The step of the last row that a coordinator has printed: it was finished.
fn last_row(text: &str) -> Step {
    let rows = text.lines().filter_map(|line| line.split_once("step ")?.1.split_once('/'));
    rows.filter_map(|(step, _)| step.parse().ok()).max().unwrap_or(0)
}

/// Asserts that every step which was reported before the end is saved, or its loss is said.
fn assert_nothing_is_lost(here: &Path, ended: &Ended, in_order: i32) {
    let finished = last_row(&ended.text);
    assert!(finished > 0, "{}", ended.text);
    let saved = saved_steps(here).pop().unwrap_or(0);
    if saved >= finished {
        assert_eq!(ended.status, Some(in_order), "{}", ended.text);
        assert_eq!(newest_manifest(here).step, saved);
    } else {
        assert_eq!(ended.status, Some(1), "{saved} of {finished}: {}", ended.text);
        ended.event("steps_lost", &[("from", &(saved + 1).to_string())]);
        println!("lost: steps after {saved} of {finished}");
    }
}

/// Ends a run of two workers that are frozen for a time. Returns the step that is saved.
fn end(kind: Kind, frozen: Duration) -> Step {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &arguments());
    let again = format!("{} {}", arguments(), coordinator.same_port());
    let workers = ["a", "b"].map(|name| coordinator.worker(here, &format!("--name {name}")));
    coordinator.process.wait_for_step(3);
    let all = |name| workers.iter().for_each(|worker| worker.signal(name));
    if !frozen.is_zero() {
        all("STOP");
    }

    // End the run, and let the workers go on after some time.
    let since = Instant::now();
    let stop = (kind == Kind::Stop).then(|| {
        Process::start(COORD, here, &format!("stop --coordinator {}", coordinator.address))
    });
    match kind {
        Kind::Stop => {}
        Kind::Interrupt => coordinator.process.signal("INT"),
        Kind::Terminate => coordinator.process.signal("TERM"),
        Kind::All => {
            all("TERM");
            coordinator.process.signal("TERM");
        }
        Kind::AllCoordinatorFirst => {
            coordinator.process.signal("TERM");
            all("TERM");
        }
        Kind::AllButOne => workers[0].signal("TERM"),
    }
    #[expect(clippy::disallowed_methods, reason = "the workers are frozen for a time")]
    std::thread::sleep(frozen.saturating_sub(since.elapsed()));
    all("CONT");

    let [a, b] = workers;
    let in_order = match kind {
        Kind::Stop => 0,
        Kind::Interrupt => 130,
        _ => 143,
    };
    if kind == Kind::AllButOne {
        // The other one trains on, until it is the last to leave.
        a.expect(143);
        let plan = [("generation", "2"), ("members", "b")];
        if frozen < Duration::from_secs(3) {
            coordinator.process.wait_for_event("plan", &plan);
        }
        b.signal("TERM");
        b.expect(143);
        coordinator.process.wait_for_event("worker_lost", &[("worker", "b"), ("cause", "left")]);
        coordinator.process.signal("TERM");
        let ended = coordinator.process.expect(143);
        assert_nothing_is_lost(here, &ended, 143);
        return newest_manifest(here).step;
    }
    let ended = coordinator.process.wait();
    assert_nothing_is_lost(here, &ended, in_order);
    if let Some(stop) = stop {
        let status = ended.status.unwrap();
        assert_names(&stop.expect(status).text, &["the run has ended"]);
    }
    match kind {
        Kind::Stop | Kind::Interrupt => {
            a.expect(0);
            b.expect(0);
        }
        Kind::All | Kind::AllCoordinatorFirst => {
            a.expect(143);
            b.expect(143);
        }
        // They train on. A coordinator that is started again adopts them.
        _ => {
            let coordinator = Coordinator::start(here, &again);
            let stop = format!("stop --coordinator {}", coordinator.address);
            assert_names(&run(COORD, here, &stop, 0).text, &["the run has ended"]);
            coordinator.process.expect(0);
            a.expect(0);
            b.expect(0);
        }
    }
    let saved = newest_manifest(here).step;
    assert_names(&run(COORD, here, "verify run", 0).text, &["intact"]);
    saved
}

#[test]
fn endings_lose_no_finished_step_or_say_so() {
    let rounds: Option<usize> = std::env::var("DCGAN_ENDINGS").ok().map(|it| it.parse().unwrap());
    let chosen = std::env::var("DCGAN_ENDINGS_KIND").unwrap_or_default();
    let frozen = if rounds.is_some() { vec![0, 2, 4, 10] } else { vec![0, 4] };
    for kind in KINDS.into_iter().filter(|kind| chosen.is_empty() || format!("{kind:?}") == chosen)
    {
        for &seconds in &frozen {
            // Without a number of rounds only what used to be lost is tried with frozen workers.
            if rounds.is_none() && seconds > 0 && kind != Kind::Stop && kind != Kind::All {
                continue;
            }
            for _ in 0..rounds.unwrap_or(1) {
                let since = Instant::now();
                let saved = end(kind, Duration::from_secs(seconds));
                let took = since.elapsed().as_secs_f64();
                println!("{kind:?}, frozen for {seconds} s: saved step {saved}, {took:.1} s");
            }
        }
    }
}

#[test]
fn a_loss_is_said_by_the_coordinator_and_by_stop() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &arguments());
    let workers = ["a", "b"].map(|name| coordinator.worker(here, &format!("--name {name}")));
    coordinator.process.wait_for_step(3);
    workers.iter().for_each(|worker| worker.signal("STOP"));
    let stop = format!("stop --coordinator {}", coordinator.address);
    let stop = Process::start(COORD, here, &stop);
    let waiting = coordinator.process.wait_for_event("waiting", &[("reason", "returning")]);
    assert_names(&waiting.message, &["steps 1 to ", "worker a", "worker b"]);
    // They never come back.
    drop(workers);
    let ended = coordinator.process.expect(1);
    let lost = ended.event("steps_lost", &[("from", "1"), ("saved", "0")]);
    let told = stop.expect(1);
    assert_names(&told.text, &[&format!("steps 1 to {} could not be saved", lost.field("to"))]);
}

#[test]
fn an_end_saves_steps_that_are_computed_again() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let arguments = arguments().replace("--workers 2", "--workers 1");
    let coordinator = Coordinator::start(here, &arguments);
    let first = coordinator.worker(here, "--name a");
    coordinator.process.wait_for_step(5000);
    first.signal("KILL");
    // Nothing is saved yet, so the next one begins with the first step.
    let second = coordinator.worker(here, "--name b");
    let again = coordinator.process.wait_for_event("step_recomputed", &[]);
    let reached = again.field("step").parse().unwrap();
    coordinator.process.signal("INT");
    coordinator.process.expect(130);
    second.expect(0);
    assert!(newest_manifest(here).step >= reached);
}

#[test]
fn a_second_signal_ends_a_coordinator_whose_driver_hangs() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &format!("{} --fault welcome=hang@1", arguments()));
    let worker = coordinator.worker(here, "--name a");
    worker.wait_for_event("waiting", &[]);
    coordinator.process.signal("INT");
    coordinator.process.signal("TERM");
    let status = coordinator.process.wait().status;
    assert!([Some(130), Some(143)].contains(&status), "{status:?}");
}

#[test]
fn a_signal_that_is_sent_twice_at_once_is_one() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Process::start(COORD, here, &format!("--out run --local {}", arguments()));
    coordinator.wait_for_step(3);
    coordinator.signal_twice("TERM");
    let ended = coordinator.expect(143);
    assert_nothing_is_lost(here, &ended, 143);
}

#[test]
fn a_terminal_that_is_closed_ends_a_run_in_order() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let arguments = format!("--out run --local {}", arguments());
    let coordinator = Process::start(COORD, here, &arguments);
    coordinator.wait_for_step(3);
    coordinator.signal("HUP");
    let ended = coordinator.expect(129);
    assert_nothing_is_lost(here, &ended, 129);
}

#[test]
fn the_last_local_worker_is_not_drained_because_nobody_would_start_another() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let local = format!("--out run --local {}", arguments());
    let coordinator = Process::start(COORD, here, &local);
    coordinator.wait_for_step(3);
    let drained = run(COORD, here, "drain worker-0 run", 0);
    assert!(drained.text.ends_with("worker-0 has left the run"), "{}", drained.text);
    let refused = run(COORD, here, "drain worker-1 run", 1);
    let words = "worker-1 is the last worker: `dcgan-coord stop` ends the run with a checkpoint";
    assert_eq!(refused.error(), words);
    let told = run(COORD, here, "status run", 0).text;
    assert_names(&told, &["\nworker-0 is gone, after step ", ": it was drained\n"]);
    coordinator.signal("INT");
    let ended = coordinator.expect(130);
    assert_nothing_is_lost(here, &ended, 130);

    // Nor one that --min-workers needs.
    let coordinator = Process::start(COORD, here, &format!("{local} --min-workers 2"));
    coordinator.wait_for_event("plan", &[]);
    let refused = run(COORD, here, "drain worker-1 run", 1);
    let words = "worker-1 cannot leave: 1 worker would be left, and --min-workers is 2; ";
    assert_names(refused.error(), &[words]);
    // A start is no interruption.
    let told = run(COORD, here, "status run", 0).text;
    assert!(!told.contains("interruption") && !told.contains("is gone"), "{told}");
    coordinator.signal("INT");
    coordinator.expect(130);
}

#[test]
fn a_checkpoint_that_is_asked_for_at_the_end_is_answered_by_the_end() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &arguments());
    let workers = ["a", "b"].map(|name| coordinator.worker(here, &format!("--name {name}")));
    coordinator.process.wait_for_step(3);
    // The members hold back the checkpoint until the end is near.
    workers.iter().for_each(|worker| worker.signal("STOP"));
    let asked = ["checkpoint run", "drain a run"].map(|it| Process::start(COORD, here, it));
    coordinator.process.wait_for_event("checkpoint_requested", &[]);
    coordinator.process.wait_for_event("drain_requested", &[]);
    coordinator.process.signal("KILL");
    for asked in asked {
        let told = asked.expect(1);
        assert_names(told.error(), &["the run has ended meanwhile: run ", " was killed"]);
    }
    workers.iter().for_each(|worker| worker.signal("KILL"));
}

#[test]
fn a_stop_whose_connection_breaks_asks_again() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &arguments());
    let worker = coordinator.worker(here, "--name a");
    let other = coordinator.worker(here, "--name b");
    coordinator.process.wait_for_step(3);
    let network = Network::default();
    let relay = network.relay();
    relay.leads_to(coordinator.address.trim_start_matches("http://"));
    // The end waits for the workers, and meanwhile the connection of the person breaks.
    let workers = [&worker, &other];
    workers.iter().for_each(|worker| worker.signal("STOP"));
    let stop = Process::start(COORD, here, &format!("stop --coordinator http://{}", relay.address));
    coordinator.process.wait_for_event("stop_requested", &[]);
    network.break_connections();
    stop.wait_for_text("the connection to the coordinator broke");
    workers.iter().for_each(|worker| worker.signal("CONT"));
    assert_names(&stop.expect(0).text, &["the run has ended"]);
    coordinator.process.expect(0);
}

#[test]
fn draining_the_last_worker_saves_what_it_has() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &arguments().replace("--workers 2", "--workers 1"));
    let worker = coordinator.worker(here, "--name last");
    coordinator.process.wait_for_step(3);
    let drain = format!("drain last --coordinator {}", coordinator.address);
    let left = "worker last has left the run, which waits for another worker";
    assert_names(&run(COORD, here, &drain, 0).text, &[left]);
    let told = run(COORD, here, &format!("status --coordinator {}", coordinator.address), 0).text;
    let gone = ["waiting for 1 of 1 worker\n", "worker last is gone, after step "];
    assert_names(&told, &gone);
    let again = run(COORD, here, &drain, 2);
    assert_names(again.error(), &["worker last is gone", ": it was drained"]);
    worker.expect(0);
    let drained = [("worker", "last"), ("cause", "drained")];
    coordinator.process.wait_for_event("worker_lost", &drained);
    coordinator.process.signal("INT");
    let ended = coordinator.process.expect(130);
    assert_nothing_is_lost(here, &ended, 130);
}
