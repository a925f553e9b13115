//! Addresses: what a run tells others, where it is found, and what is said at a wrong port.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;

use tempfile::tempdir;

use crate::process::{COORD, Process, SAMPLER, WORKER, assert_names, run};
use crate::run::{Coordinator, PACED, last_digest, local};

const TOY: &str = "--objective toy --log-every 50 --checkpoint-every 50";

#[test]
fn a_run_is_found_by_its_directory_while_it_runs_and_afterwards() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &format!("--workers 1 {TOY} --steps 1000000000"));
    let address = fs::read_to_string(here.join("run/address")).unwrap();
    assert_eq!(address.trim(), coordinator.address);
    let worker = coordinator.worker(here, "--name a");
    coordinator.process.wait_for_step(50);
    assert_names(&run(COORD, here, "status --run run", 0).text, &["training: generation 1"]);
    let status = run(COORD, here, "status --run run --json", 0).text;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let opened = coordinator.process.wait_for_event("run_opened", &[]);
    assert_eq!(status["run"], opened.field("run"));
    assert_names(&run(COORD, here, "stop --run run", 0).text, &["the run has ended"]);
    let ended = coordinator.process.expect(0);
    worker.expect(0);
    assert!(!here.join("run/address").exists());

    // The command that goes on with the run is the one that was called.
    let stopped = ended.event("run_stopped", &[]);
    assert_names(&stopped.message, &[&format!("{COORD} --out run --listen 127.0.0.1:0")]);
    let step = stopped.field("step");
    let told = run(COORD, here, "status --run run", 0).text;
    assert_names(&told, &[&format!("is stopped after step {step} of 1000000000")]);
    let refused = run(COORD, here, "stop --run run", 1);
    assert_names(refused.error(), &["no coordinator is running", "is stopped after step"]);

    // A coordinator that was killed leaves its address behind.
    fs::write(here.join("run/address"), "http://127.0.0.1:1\n").unwrap();
    assert_names(&run(COORD, here, "status --run run", 0).text, &["is stopped after step"]);
    let step: u64 = step.parse().unwrap();
    local(here, &format!("--steps {}", step + 50));
    let told = run(COORD, here, "status --run run --json", 0).text;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["is_finished"], &told["step"]), (&true.into(), &(step + 50).into()));
    let nothing = run(COORD, here, "status --run nowhere", 2);
    assert_names(nothing.error(), &["nowhere: not a run directory: there is no such folder"]);
}

#[test]
fn a_local_run_needs_no_number_of_workers_and_its_commands_can_be_pasted() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let arguments = ["--local", "--objective", "toy", "--steps", "20", "--out", "my run"];
    let output = std::process::Command::new(COORD)
        .args(arguments)
        .current_dir(here)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    let cores = std::thread::available_parallelism().unwrap().get().min(8);
    assert_names(&log, &[&format!("steps of 256 images, {cores} worker")]);
}

#[test]
fn a_wrong_port_says_what_it_is() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &format!("--workers 2 {TOY} --steps 1000000000"));
    let worker = coordinator.worker(here, "--name a");
    let listening = worker.wait_for_event("worker_started", &[]).field("listening").to_owned();
    let status = run(COORD, here, &format!("status --coordinator {listening}"), 1);
    let words = "this is the address of a worker, and the request is for a coordinator";
    assert_names(status.error(), &[words]);
    let lost = format!("--coordinator {listening} --name lost");
    let lost = Process::start(WORKER, here, &lost);
    lost.wait_for_event_where(words, |event| event.message.contains(words));

    // A browser at the port of a worker, and of the coordinator.
    for (port, what) in [(&listening, "a worker"), (&coordinator.address, "a coordinator")] {
        let mut browser = TcpStream::connect(port.trim_start_matches("http://")).unwrap();
        browser.write_all(b"GET / HTTP/1.1\r\nHost: dcgan\r\n\r\n").unwrap();
        let mut answer = String::new();
        browser.read_to_string(&mut answer).unwrap();
        assert_names(&answer, &["400 Bad Request", &format!("the port of {what}"), "gRPC"]);
    }

    // A page where a coordinator should be.
    let serve = format!(
        "serve --coordinator {} --http 127.0.0.1:0 --grpc localhost:0",
        coordinator.address
    );
    let sampler = Process::start(SAMPLER, here, &serve);
    let started = sampler.wait_for_event("sampler_started", &[]);
    let page = run(COORD, here, &format!("status --coordinator {}", started.field("page")), 1);
    assert_names(page.error(), &["what answers there speaks no gRPC"]);
    let samples = run(COORD, here, &format!("status --coordinator {}", started.field("grpc")), 1);
    assert_names(samples.error(), &["this is the address of a sampler"]);
}

#[test]
fn a_run_without_workers_ends_after_a_time() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let arguments = format!("--workers 1 {TOY} --steps 1000000000 --workers-timeout 1s");
    let coordinator = Coordinator::start(here, &arguments);
    let worker = coordinator.worker(here, "--name a");
    coordinator.process.wait_for_step(50);
    worker.signal("KILL");
    let ended = coordinator.process.expect(1);
    assert_names(&ended.text, &["no worker was connected for 1s (--workers-timeout)"]);
}

#[test]
fn a_worker_that_follows_the_address_file_finds_a_coordinator_on_another_port() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let arguments = format!("--workers 1 {TOY} --steps 500");
    let coordinator = Coordinator::start(here, &arguments);
    let follow = format!("--coordinator file:run/address --name w {PACED}");
    let worker = Process::start(WORKER, here, &follow);
    let serve = "serve --coordinator file:run/address --http 127.0.0.1:0 --grpc 127.0.0.1:0";
    let sampler = Process::start(SAMPLER, here, serve);
    coordinator.process.wait_for_step(50);
    let before = coordinator.address.clone();
    coordinator.process.signal("KILL");
    coordinator.process.wait();
    // Another program has its port.
    let _taken = TcpListener::bind(before.trim_start_matches("http://")).unwrap();
    let second = Coordinator::start(here, &arguments);
    assert_ne!(second.address, before);
    second.process.wait_for_event("sampler_page", &[]);
    second.process.expect(0);
    worker.expect(0);
    drop(sampler);
    let alone = tempdir().unwrap();
    let digest = local(alone.path(), &format!("--workers 1 {TOY} --steps 500"));
    assert_eq!(last_digest(here), digest);
}

#[test]
fn a_resumed_run_has_the_address_that_it_had_before() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    // Nothing says where to listen.
    let program = here.join("unasked");
    fs::write(&program, format!("#!/bin/sh\nDCGAN_LISTEN= exec {COORD} \"$@\"\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let address = |steps: u64| {
        let arguments = format!("--out run --local --workers 1 {TOY} --steps {steps}");
        let ended = run(program.to_str().unwrap(), here, &arguments, 0);
        ended.event("listening", &[]).field("address").to_owned()
    };
    let first = Coordinator::start(here, &format!("--workers 1 {TOY} --steps 50"));
    first.process.signal("INT");
    first.process.expect(130);
    assert_eq!(address(100), first.address);
    // Somebody else may have the port.
    let _taken = TcpListener::bind(first.address.trim_start_matches("http://")).unwrap();
    assert_ne!(address(150), first.address);
}
