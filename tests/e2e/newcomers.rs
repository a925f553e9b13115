//! The first mishaps of a person who starts out: workers that cannot start, a stop that waits for a
//! full disk, a run that goes on the next day.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use tempfile::tempdir;

use crate::process::{COORD, Process, WORKER, assert_names, run, signal};
use crate::run::LocalWorker;

/// A local run that does not end by itself.
const LOCAL: &str = "--out run --local --objective toy --log-every 10 --steps 1000000000 \
                     --grid-every 1000000000 --checkpoint-every 1000000000";

fn status(here: &Path, arguments: &str) -> serde_json::Value {
    let status = run(COORD, here, &format!("status --json --run run {arguments}"), 0);
    serde_json::from_str(&status.text).unwrap()
}

#[test]
fn a_local_worker_with_a_wrong_setting_is_not_restarted_and_its_last_words_are_said() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    // The coordinator starts the programs beside it.
    let coordinator = here.join("dcgan-coord");
    fs::copy(COORD, &coordinator).unwrap();
    let worker = here.join("dcgan-worker");
    fs::write(&worker, "#!/bin/sh\necho 'error: --device: it is gone' >&2\nexit 2\n").unwrap();
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).unwrap();
    let process =
        Process::start(coordinator.to_str().unwrap(), here, &format!("{LOCAL} --workers 1"));
    let failed = process.expect(1);
    let failure = failed.event("run_failed", &[("cause", "out_of_workers")]);
    let first = "worker-0 ended with exit status: 2: --device: it is gone";
    assert_eq!(failure.field("first"), first);
    assert!(!failed.text.contains("child_restarted"), "{}", failed.text);
    assert!(!failed.text.contains("\"resume\""), "it would fail again: {}", failed.text);
}

#[test]
fn a_local_worker_that_is_given_up_is_gone_for_good() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let [coordinator, worker] = ["dcgan-coord", "dcgan-worker"].map(|name| here.join(name));
    fs::copy(COORD, &coordinator).unwrap();
    symlink(WORKER, &worker).unwrap();
    let process =
        Process::start(coordinator.to_str().unwrap(), here, &format!("{LOCAL} --workers 2"));
    process.wait_for_step(10);
    // It cannot be started again.
    fs::remove_file(&worker).unwrap();
    fs::write(&worker, "#!/bin/sh\nexit 2\n").unwrap();
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).unwrap();
    signal("KILL", &LocalWorker::find(here, "worker-1").process);
    process.wait_for_event("child_given_up", &[("child", "worker-1")]);
    let told = run(COORD, here, "status --run run", 0).text;
    let why = " s ago: its process has ended, and is not started again\n";
    assert_names(&told, &["\nworker-1 is gone, after step ", why]);
    let gone = &status(here, "")["gone"][0];
    assert_eq!((&gone["name"], &gone["code"]), (&"worker-1".into(), &"given_up".into()));
    let refused = run(COORD, here, "drain worker-0 run", 1);
    assert_names(refused.error(), &["worker-0 is the last worker: "]);
    process.signal("INT");
    process.expect(130);
}

#[test]
fn a_stop_that_waits_for_the_disk_says_so_and_a_second_signal_says_what_is_lost() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let process = Process::start(COORD, here, &format!("{LOCAL} --workers 1"));
    process.wait_for_step(10);
    // Nothing fits on the disk of the checkpoints.
    let checkpoints = here.join("run/checkpoints");
    fs::remove_dir(&checkpoints).unwrap();
    symlink(here.join("elsewhere"), &checkpoints).unwrap();
    process.signal("TERM");
    let costs = |text: &str| {
        let names = ["a second signal ends the coordinator at once, and step", "would be lost"];
        names.iter().all(|name| text.contains(name))
    };
    // The time grows, whatever else is written meanwhile.
    process.wait_for_event_where("a disk_waiting of 10 s", |event| {
        event.is("disk_waiting", &[])
            && event.field("seconds").parse::<u64>().is_ok_and(|seconds| seconds >= 10)
            && costs(&event.message)
    });
    let status = status(here, "");
    let reason = status["reason"].as_str().unwrap();
    assert_names(reason, &["stopping: ", "waiting for ", " s for the disk: cannot write "]);
    assert!(costs(reason), "{reason}");
    let stop = Process::start(COORD, here, "stop --run run");
    stop.wait_for_text(" s for the disk: cannot write the checkpoint");

    process.signal("TERM");
    let ended = process.expect(143);
    ended.event("steps_lost", &[("from", "1")]);
}

#[test]
fn a_local_run_that_goes_on_waits_for_all_its_workers_and_for_nobody_else() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let process = Process::start(COORD, here, &format!("{LOCAL} --workers 2"));
    process.wait_for_step(10);
    let running = status(here, "");
    process.signal("INT");
    process.expect(130);

    let ended = status(here, "");
    let keys = |status: &serde_json::Value| -> Vec<String> {
        status.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(keys(&ended), keys(&running));
    assert_eq!((&ended["state"], &ended["generation"]), (&"stopped".into(), &().into()));
    let text = run(COORD, here, "status --run run", 0).text;
    assert_names(&text, &["go on with: ", "--out run --local"]);

    let process = Process::start(COORD, here, &format!("{LOCAL} --workers 3"));
    let plan = process.wait_for_event("plan", &[]);
    let mut members: Vec<&str> = plan.field("members").split(',').collect();
    members.sort_unstable();
    assert_eq!(members, ["worker-0", "worker-1", "worker-2"]);
    process.signal("INT");
    let ended = process.expect(130);
    assert!(!ended.text.contains("reconnect"), "{}", ended.text);
}

#[test]
fn a_worker_that_waits_says_when_it_gives_up_and_one_that_is_released_says_so() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let lonely = "--coordinator http://127.0.0.1:1 --coordinator-timeout 1s";
    let ended = run(WORKER, here, lonely, 1);
    assert_names(&ended.event("waiting", &[]).message, &["(gives up after 1s)"]);

    let arguments = "--workers 2 --objective toy --log-every 10 --steps 1000000000";
    let coordinator = crate::run::Coordinator::start(here, arguments);
    let workers = ["a", "b"].map(|name| coordinator.worker(here, &format!("--name {name}")));
    coordinator.process.wait_for_step(10);
    let [a, _b] = workers;
    a.signal("TERM");
    let ended = a.expect(143);
    ended.event("released", &[("signal", "SIGTERM")]);
    assert!(!ended.text.contains("coordinator_lost"), "{}", ended.text);
}
