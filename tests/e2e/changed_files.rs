//! Files that others change while a run goes on: each change is noticed, said in one line, and
//! undone as far as possible. It ends neither the training nor an end in order.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tempfile::tempdir;

use crate::process::{COORD, Process, assert_names, run};
use crate::run::{
    Coordinator, PACED, last_digest, local, logged_steps, newest_manifest, saved_steps,
};

/// A run that goes on until it is stopped. No shard moves: a new plan would write `run.json`.
const ENDLESS: &str = "--workers 2 --fixed-shards --objective toy --steps 1000000000 \
                       --log-every 100 --checkpoint-every 1000000000";

/// Does something to files, by a shell.
fn shell(here: &Path, script: &str) {
    let mut shell = Command::new("sh");
    assert!(shell.args(["-ec", script]).current_dir(here).status().unwrap().success(), "{script}");
}

/// Starts a run that has a row and a checkpoint. Returns its coordinator and its workers.
fn start(here: &Path) -> (Process, [Process; 2]) {
    let coordinator = Coordinator::start(here, ENDLESS);
    let workers =
        ["a", "b"].map(|name| coordinator.worker(here, &format!("--name {name} {PACED}")));
    coordinator.process.wait_for_step(100);
    run(COORD, here, "checkpoint --run run", 0);
    (coordinator.process, workers)
}

/// Waits until all of these are written again. A look in the midst of a change finds a part of it.
fn wait_until_restored(process: &Process, names: &[&str]) {
    for name in names {
        process.wait_for_event_where(&format!("files_restored with {name}"), |event| {
            event.is("files_restored", &[])
                && event.field("names").split(", ").any(|restored| restored == *name)
        });
    }
}

/// Takes another checkpoint, ends the run in order, and checks its files. Its log begins with the
/// row of `first`.
fn stop(here: &Path, process: Process, first: Option<u64>) {
    run(COORD, here, "checkpoint --run run", 0);
    run(COORD, here, "stop --run run", 0);
    process.expect(0);
    run(COORD, here, "verify run", 0);
    let logged = logged_steps(here);
    assert!(logged.is_sorted_by(|one, next| one < next), "no row is there twice");
    assert!(first.is_none() || first == logged.first().copied(), "{:?}", logged.first());
    let told = run(COORD, here, "status --run run", 0).text;
    let step = newest_manifest(here).step;
    assert_names(&told, &[&format!("is stopped after step {step} of 1000000000")]);
}

#[test]
fn what_is_removed_or_changed_is_written_again() {
    let all = ["run.lock", "checkpoints", "grids", "logs", "address", "config.toml", "run.json"];
    let all: Vec<&str> = all.into_iter().chain(["metrics.jsonl"]).collect();
    for (changes, first) in [
        (
            vec![
                ("rm run/metrics.jsonl", vec!["metrics.jsonl"]),
                (": > run/run.json", vec!["run.json"]),
                ("rm run/address", vec!["address"]),
                ("echo seed = 1 > run/config.toml", vec!["config.toml"]),
                ("rm -r run/logs run/grids", vec!["grids", "logs"]),
                ("rm run/run.lock", vec!["run.lock"]),
                ("rm -r run/checkpoints", vec!["checkpoints"]),
            ],
            Some(100),
        ),
        (
            vec![
                ("mv run/metrics.jsonl run/metrics.jsonl.1", vec!["metrics.jsonl"]),
                ("rm run/run.json run/config.toml", vec!["config.toml", "run.json"]),
                ("echo http://127.0.0.1:1 > run/address", vec!["address"]),
            ],
            Some(100),
        ),
        (vec![(": > run/metrics.jsonl", vec!["metrics.jsonl"])], None),
        (vec![("mv run away", all.clone())], Some(100)),
        (vec![("mv run away && rm -r away", all)], Some(100)),
    ] {
        let folder = tempdir().unwrap();
        let here = folder.path();
        let (process, _workers) = start(here);
        for (change, names) in changes {
            shell(here, change);
            wait_until_restored(&process, &names);
        }
        stop(here, process, first);
    }
}

#[test]
fn nothing_is_written_through_a_link_that_takes_the_place_of_a_file() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    fs::write(here.join("secret"), "important").unwrap();
    let (process, _workers) = start(here);
    for name in ["metrics.jsonl", "address", "run.json"] {
        shell(here, &format!("mv run/{name} aside && ln -s ../secret run/{name}"));
        wait_until_restored(&process, &[name]);
    }
    stop(here, process, Some(100));
    assert_eq!(fs::read_to_string(here.join("secret")).unwrap(), "important");
}

#[test]
fn a_newest_checkpoint_that_is_cut_off_is_replaced_by_the_next() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let (process, _workers) = start(here);
    let step = *saved_steps(here).last().unwrap();
    shell(here, &format!("truncate -s 100 run/checkpoints/step-{step:08}/state.safetensors"));
    process.wait_for_event("checkpoint_damaged", &[("step", &step.to_string())]);
    process.wait_for_event_where("a later checkpoint_saved", |event| {
        event.is("checkpoint_saved", &[]) && event.field("step").parse::<u64>().unwrap() > step
    });
    process.signal("TERM");
    process.expect(143);
    assert!(saved_steps(here).last() > Some(&step));
}

#[test]
fn a_directory_that_another_run_has_taken_is_left_alone() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let (process, _workers) = start(here);
    // The other run has begun before its directory comes into this place.
    fs::create_dir(here.join("other")).unwrap();
    let other = local(&here.join("other"), "--workers 1 --objective toy --steps 100");
    // Both at once: the run would write a directory that is missing again.
    let exchange = || {
        let (run, other) = (here.join("run"), here.join("other/run"));
        renameat_with(CWD, run, CWD, other, RenameFlags::EXCHANGE).unwrap();
    };
    exchange();
    // It is noticed by a look at the files, or by the next write.
    process.wait_for_event_where("a directory that belongs to another run", |event| {
        event.message.contains("run.json: the directory belongs to run")
    });
    assert_eq!(last_digest(here), other);
    exchange();
    stop(here, process, Some(100));
}

#[test]
fn names_that_other_programs_leave_behind_disturb_nothing() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let names = [".DS_Store", "._x", "Thumbs.db", ".nfs0000", "lost+found"];
    let more = ["metrics.jsonl~", ".run.json.swp", "step-00000010 (copy)", "step-00000010.png~"];
    fs::create_dir(here.join("run")).unwrap();
    for name in names {
        fs::write(here.join("run").join(name), "x").unwrap();
    }
    let toy = "--workers 1 --objective toy --log-every 10 --checkpoint-every 10 --resume never";
    local(here, &format!("{toy} --steps 50"));
    let folders = ["run", "run/checkpoints", "run/checkpoints/step-00000050", "run/grids"];
    for folder in folders.into_iter().chain(["run/logs"]) {
        for name in names.into_iter().chain(more) {
            fs::write(here.join(folder).join(name), "x").unwrap();
        }
    }
    let digest = local(here, "--steps 100");
    run(COORD, here, "verify run", 0);
    assert_eq!(logged_steps(here).len(), 10);
    for folder in ["run", "run/checkpoints", "run/grids", "run/logs"] {
        for name in names.into_iter().chain(more) {
            assert!(here.join(folder).join(name).exists(), "{folder}/{name}");
        }
    }
    let alone = tempdir().unwrap();
    assert_eq!(local(alone.path(), &format!("{toy} --steps 100")), digest);
}

#[test]
fn a_check_of_the_files_finds_no_damage_while_a_run_removes_checkpoints() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let arguments = "--workers 1 --objective toy --log-every 1000 --checkpoint-every 1 \
                     --keep-checkpoints 1 --steps 1000000000";
    let coordinator = Coordinator::start(here, arguments);
    let _worker = coordinator.worker(here, "--name w");
    coordinator.process.wait_for_event("checkpoint_saved", &[]);
    for _ in 0..50 {
        run(COORD, here, "verify run", 0);
    }
}
