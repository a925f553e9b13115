//! Workers that cannot do a member's work join two that train. These go on as if nobody had come,
//! and the log says who waits outside, why, and which option mends it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use tempfile::tempdir;

use crate::network::Network;
use crate::process::{Process, assert_names};
use crate::run::{Coordinator, local, logged_steps};

const TOY: &str = "--objective toy --log-every 50 --checkpoint-every 50";
/// A run that never ends by itself.
const ENDLESS: &str = "--steps 1000000000";

/// A web server: it answers every request by HTTP/1.
fn web_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let _ = client.read(&mut [0; 1024]);
            let _ = client.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    address
}

/// Starts a run, and two workers that train and are both needed.
fn two_honest_workers(here: &std::path::Path) -> (Coordinator, [Process; 2]) {
    let arguments = format!("--workers 2 --min-workers 2 {TOY} {ENDLESS}");
    let coordinator = Coordinator::start(here, &arguments);
    let honest = ["a", "b"].map(|name| {
        let worker = coordinator.worker(here, &format!("--name {name}"));
        coordinator.process.wait_for_event("worker_ready", &[("worker", name)]);
        worker
    });
    coordinator.process.wait_for_event("plan", &[("members", "a,b")]);
    coordinator.process.wait_for_step(50);
    (coordinator, honest)
}

#[test]
fn strangers_wait_outside_until_their_mistake_is_mended() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let (coordinator, honest) = two_honest_workers(here);
    let log = &coordinator.process;

    let of_a = honest[0].wait_for_event("worker_started", &[]).field("listening").to_owned();
    let web = web_server().to_string();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = (silent.local_addr().unwrap().to_string(), silent);
    let network = Network::default();
    let relay = network.relay();
    let relay_address = relay.address.to_string();
    // Nobody may listen on port 1.
    let cases = [
        ("nobody", "127.0.0.1:1", "cannot reach worker nobody"),
        ("alias", &of_a, "worker a answers there"),
        ("web", &web, ""),
        ("silent", &silent.0, "no answer for 3 s"),
        ("later", &relay_address, "no answer for 3 s"),
    ];
    let strangers = cases.map(|(name, address, why)| {
        let arguments = format!("--name {name} --advertise {address}");
        let stranger = coordinator.worker(here, &arguments);
        let fields = [("worker", name), ("address", address)];
        let outside = log.wait_for_event("worker_outside", &fields);
        assert_names(&outside.message, &[name, address, why, "--advertise HOST:PORT"]);
        stranger
    });

    // A worker that stops in the midst of its trial is lost, as any other that stops.
    let frozen = coordinator.worker(here, "--name frozen --fault trial=stop@1");
    frozen.wait_until_stopped();
    log.wait_for_event("worker_lost", &[("worker", "frozen"), ("cause", "silent")]);

    // The port of one begins to answer: it comes in, as the first of all that came.
    let later = &strangers[4];
    relay.leads_to(later.wait_for_event("worker_started", &[]).field("listening"));
    log.wait_for_event("worker_readmitted", &[("worker", "later")]);
    log.wait_for_event_where("a plan with three members", |event| {
        event.is("plan", &[]) && event.field("members").split(',').any(|name| name == "later")
    });

    coordinator.process.signal("INT");
    coordinator.process.expect(130);
    let steps = logged_steps(here).pop().unwrap() + 100;
    let undisturbed =
        local(tempdir().unwrap().path(), &format!("--workers 1 {TOY} --steps {steps}"));
    assert_eq!(local(here, &format!("--steps {steps}")), undisturbed);
}

#[test]
fn a_first_worker_with_a_wrong_address_does_not_keep_the_next_ones_waiting() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let arguments = format!("--workers 3 --min-workers 2 {TOY} --steps 300");
    let coordinator = Coordinator::start(here, &arguments);
    let _wrong = coordinator.worker(here, "--name wrong --advertise 127.0.0.1:1");
    coordinator.process.wait_for_event("worker_ready", &[("worker", "wrong")]);
    let honest = ["a", "b"].map(|name| coordinator.worker(here, &format!("--name {name}")));
    let outside = coordinator.process.wait_for_event("worker_outside", &[("worker", "wrong")]);
    assert_names(&outside.message, &["127.0.0.1:1", "--advertise HOST:PORT"]);
    coordinator.process.expect(0);
    honest.into_iter().for_each(|worker| drop(worker.expect(0)));
}
