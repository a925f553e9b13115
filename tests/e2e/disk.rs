//! A disk that is slow, hangs, fails or refuses: nothing but the files waits for it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use tempfile::tempdir;

use crate::events::Event;
use crate::process::{COORD, Process, assert_names, run};
use crate::run::{Coordinator, PACED, last_digest, local, logged_steps, saved_steps};

/// Short runs of the toy.
const TOY: &str = "--objective toy --log-every 50 --checkpoint-every 50";

fn status(here: &Path, coordinator: &Coordinator) -> serde_json::Value {
    let arguments = format!("status --json --coordinator {}", coordinator.address);
    serde_json::from_str(&run(COORD, here, &arguments, 0).text).unwrap()
}

/// Waits until the coordinator says this of the disk. A disk of tests may also be slow by itself.
fn wait_for_disk(coordinator: &Process, words: &[&str]) -> Event {
    coordinator.wait_for_event_where(&words.join(" ... "), |event| {
        let says_so = words.iter().all(|word| event.message.contains(word));
        event.is("disk_waiting", &[]) && says_so
    })
}

#[test]
fn the_coordinator_waits_for_a_disk_that_fails_and_the_workers_train_on() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &format!("--workers 1 {TOY} --steps 1000"));
    // The checkpoints lie on another disk, which is away.
    let (checkpoints, elsewhere) = (here.join("run/checkpoints"), here.join("elsewhere"));
    fs::remove_dir(&checkpoints).unwrap();
    symlink(&elsewhere, &checkpoints).unwrap();
    let worker = coordinator.worker(here, &format!("--name w {PACED}"));
    // A loaded machine may have replaced the first checkpoint by a later one before it fails.
    wait_for_disk(&coordinator.process, &["cannot write the checkpoint of step "]);
    fs::create_dir(elsewhere).unwrap();
    coordinator.process.wait_for_event("disk_recovered", &[]);
    coordinator.process.expect(0);
    worker.expect(0);
    assert_eq!(logged_steps(here), (1..=20).map(|n| 50 * n).collect::<Vec<_>>());
    let alone = tempdir().unwrap();
    assert_eq!(last_digest(here), local(alone.path(), &format!("--workers 1 {TOY} --steps 1000")));
}

#[test]
fn a_disk_that_hangs_holds_up_neither_training_nor_people() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    // The first checkpoint never comes to its end. On a loaded machine it may be a later one that
    // has replaced that of step 50.
    let arguments = format!("--workers 1 {TOY} --steps 1000000 --fault save-checkpoint=hang@1");
    let coordinator = Coordinator::start(here, &arguments);
    let worker = coordinator.worker(here, &format!("--name w {PACED}"));
    let words = ["it has not written the checkpoint of step "];
    let waiting = wait_for_disk(&coordinator.process, &words);
    let logged = logged_steps(here);

    // The run goes on, and says so.
    let before = status(here, &coordinator);
    coordinator.process.wait_for_event_where("a second disk_waiting", |event| {
        event.is("disk_waiting", &[]) && event.field("seconds") != waiting.field("seconds")
    });
    let after = status(here, &coordinator);
    assert_eq!(after["reason_code"], "training");
    assert!(after["step"].as_u64() > before["step"].as_u64(), "{before} {after}");
    assert_eq!(logged_steps(here), logged, "later rows wait behind the checkpoint");

    // A first signal waits for the disk, and says so. A second one does not.
    coordinator.process.signal("INT");
    coordinator.process.wait_for_event("waiting", &[("reason", "stopping")]);
    coordinator.process.signal("INT");
    coordinator.process.expect(130);
    drop(worker);
}

#[test]
fn a_slow_disk_leaves_out_checkpoints_that_newer_ones_replace_and_no_row() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let arguments = "--workers 1 --objective toy --log-every 1 --checkpoint-every 1 --steps 500 \
                     --fault save-checkpoint=slow@1";
    let coordinator = Coordinator::start(here, arguments);
    let worker = coordinator.worker(here, "--name w");
    coordinator.process.wait_for_event("checkpoint_left_out", &[]);
    coordinator.process.expect(0);
    worker.expect(0);
    assert_eq!(logged_steps(here), (1..=500).collect::<Vec<_>>());
    // Snapshots may overtake each other, so one checkpoint more than is kept may be left.
    let verified = run(COORD, here, "verify run", 0);
    assert_names(&verified.text, &["500 lines and ", "checkpoints are intact"]);
    let kept = saved_steps(here);
    assert!(kept.contains(&500) && kept.len() < 10, "{kept:?}");
}

#[test]
fn a_file_in_the_place_of_a_folder_is_not_waited_for() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &format!("--workers 1 {TOY} --steps 500"));
    let checkpoints = here.join("run/checkpoints");
    fs::remove_dir(&checkpoints).unwrap();
    fs::write(&checkpoints, "not a folder").unwrap();
    let worker = coordinator.worker(here, "--name w");
    // The run goes on without a checkpoint, but not to its end: nothing would be left of it.
    coordinator.process.wait_for_event("write_given_up", &[]);
    let failed = coordinator.process.expect(1);
    let failure = failed.event("run_failed", &[("cause", "cannot_write")]);
    assert_names(&failure.message, &["cannot write the checkpoint of step 500"]);
    worker.expect(1);
    assert_eq!(logged_steps(here), (1..=10).map(|n| 50 * n).collect::<Vec<_>>());
}

#[test]
fn a_row_that_cannot_be_written_keeps_nobody_from_replacing_a_worker() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    // The coordinator may write files of 8 KiB: soon no row fits into the log any more, and all
    // other files do.
    let program = here.join("limited");
    let script = format!("#!/bin/bash\nulimit -f 8\nexec {COORD} \"$@\"\n");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let arguments = "--out run --listen 127.0.0.1:0 --workers 2 --objective toy --log-every 10 \
                     --grid-every 1000000000 --checkpoint-every 1000000000 --steps 1000000000";
    let process = Process::start(program.to_str().unwrap(), here, arguments);
    let address = process.wait_for_event("listening", &[]).field("address").to_owned();
    let coordinator = Coordinator { process, address };
    let worker = coordinator.worker(here, &format!("--name a {PACED}"));
    let other = coordinator.worker(here, &format!("--name b {PACED}"));
    let waiting = wait_for_disk(&coordinator.process, &["row", "File too large"]);
    drop(other);
    coordinator.process.wait_for_event("plan", &[("members", "a")]);
    let before = status(here, &coordinator)["step"].as_u64();
    coordinator.process.wait_for_event_where("a second disk_waiting", |event| {
        event.is("disk_waiting", &[]) && event.field("seconds") != waiting.field("seconds")
    });
    assert!(status(here, &coordinator)["step"].as_u64() > before);
    drop(worker);
}
