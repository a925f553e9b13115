//! Signals that end nothing, and processes of containers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tempfile::tempdir;

use crate::process::{COORD, Process, SAMPLER, WORKER, run};
use crate::run::Coordinator;

const TOY: &str = "--objective toy --log-every 50 --checkpoint-every 1000000000";

#[test]
fn signals_of_a_cluster_end_no_program_and_one_asks_for_a_checkpoint() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &format!("--workers 1 {TOY} --steps 1000000000"));
    let worker = coordinator.worker(here, "--name w");
    let serve = format!(
        "serve --coordinator {} --http 127.0.0.1:0 --grpc 127.0.0.1:0",
        coordinator.address
    );
    let sampler = Process::start(SAMPLER, here, &serve);
    coordinator.process.wait_for_step(50);
    sampler.wait_for_event("sampler_started", &[]);
    for process in [&worker, &sampler] {
        for signal in ["USR1", "USR2"] {
            process.signal(signal);
            let name = format!("SIG{signal}");
            process.wait_for_event("signal_ignored", &[("signal", &name)]);
        }
    }
    coordinator.process.signal("USR2");
    coordinator.process.wait_for_event("signal_ignored", &[("signal", "SIGUSR2")]);
    coordinator.process.signal("USR1");
    coordinator.process.wait_for_event("checkpoint_requested", &[("by", "SIGUSR1")]);
    coordinator.process.wait_for_event("checkpoint_saved", &[]);
    run(COORD, here, "stop --run run", 0);
    coordinator.process.expect(0);
    worker.expect(0);
}

#[test]
fn workers_of_two_containers_with_one_host_name_train_together() {
    let unshare = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    let allowed = Command::new("unshare").args(unshare).arg("true").output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: process name spaces are not allowed here");
        return;
    }
    let folder = tempdir().unwrap();
    let here = folder.path();
    let program = here.join("contained");
    let script = format!("#!/bin/sh\nexec unshare {} {WORKER} \"$@\"\n", unshare.join(" "));
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let coordinator = Coordinator::start(here, &format!("--workers 2 {TOY} --steps 200"));
    let worker = || {
        let arguments = format!("--coordinator {}", coordinator.address);
        Process::start(program.to_str().unwrap(), here, &arguments)
    };
    let workers = [worker(), worker()];
    coordinator.process.expect(0);
    for worker in workers {
        worker.expect(0);
    }
}
