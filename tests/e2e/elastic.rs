//! What people do to a running training, and what happens to it: verbs, chaos, a disk that fails, damaged files.

use std::fs;
use std::path::Path;

use tempfile::tempdir;

use crate::process::{COORD, Process, run};
use crate::run::{Coordinator, last_digest, local, logged_steps, saved_steps};

const TOY: &str = "--objective toy --log-every 50 --checkpoint-every 50";

/// Changes a bit of the state of the newest checkpoint.
fn flip_a_bit_of_the_newest_checkpoint(folder: &Path) {
    let step = saved_steps(folder).pop().unwrap();
    let file = folder.join(format!("run/checkpoints/step-{step:08}/state.safetensors"));
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn chaos_changes_nothing() {
    let folder = tempdir().unwrap();
    let text =
        run(COORD, folder.path(), "chaos --seed 3 --kills 8 --coordinator-kills 2 --out here", 0);
    assert!(text.contains("the same at all "), "{text}");
    // Also when a person says what happens.
    fs::write(
        folder.path().join("all-die"),
        "300 kill 0 0.1\n300 kill 1 0.1\n300 kill-coordinator 0\n",
    )
    .unwrap();
    let text = run(COORD, folder.path(), "chaos --workers 2 --schedule all-die --steps 600", 0);
    assert!(text.contains("3 faults in ") && text.contains("the same at all "), "{text}");
    fs::write(folder.path().join("typo"), "300 kil 0 0.1\n").unwrap();
    let text = run(COORD, folder.path(), "chaos --schedule typo", 2);
    assert!(
        text.contains("error: typo: line 1: expected kill, stop, slow, cut or cut-off"),
        "{text}"
    );
}

#[test]
fn a_person_asks_and_acts() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(
        here,
        "--workers 2 --objective toy --log-every 50 --checkpoint-every 1000000 --steps 1000000000",
    );
    let staying = coordinator.worker(here, "--name staying");
    let leaving = coordinator.worker(here, "--name leaving");
    coordinator.process.wait_for("step 50/");
    let ask = |verb: &str, status| {
        run(COORD, here, &format!("{verb} --coordinator {}", coordinator.address), status)
    };

    let text = ask("status", 0);
    for part in [
        "generation 1",
        "training: generation 1, 2 workers",
        "no checkpoint yet",
        "staying",
        "rank 1",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    let text = ask("checkpoint", 0);
    let step = text
        .split("checkpoint of step ")
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap()
        .parse::<u64>()
        .unwrap();
    assert_eq!(saved_steps(here), [step]);

    let text = ask("drain nobody", 2);
    assert!(text.contains("error: there is no worker nobody; there are: "), "{text}");
    ask("drain leaving", 0);
    leaving.expect(0);
    coordinator.process.wait_for("lost worker leaving: it was drained");
    coordinator.process.wait_for("generation 2 trains on staying");

    let status: serde_json::Value = serde_json::from_str(&ask("status --json", 0)).unwrap();
    assert_eq!((&status["generation"], &status["checkpoint"]), (&2.into(), &step.into()));
    assert_eq!(status["workers"][0]["name"], "staying");
    assert_eq!(status["workers"][0]["shards"].as_array().unwrap().len(), 8);
    assert_eq!(status["recoveries"][0]["cause"], "lost worker leaving: it was drained");

    assert_eq!(ask("stop", 0), "the run has ended");
    coordinator.process.expect(0);
    staying.expect(0);
    let text = run(COORD, here, "status --coordinator http://127.0.0.1:1", 1);
    assert!(text.contains("error: cannot reach http://127.0.0.1:1"), "{text}");
}

#[test]
fn a_disk_that_fails_is_waited_for_while_workers_train_on() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &format!("--workers 1 {TOY} --steps 3000"));
    let (checkpoints, away) = (here.join("run/checkpoints"), here.join("run/away"));
    fs::rename(&checkpoints, &away).unwrap();
    let worker = coordinator.worker(here, "--name w");
    coordinator
        .process
        .wait_for("for the disk, workers train on: cannot save the checkpoint of step 50: ");
    fs::rename(away, checkpoints).unwrap();
    coordinator.process.wait_for("the disk works again");
    coordinator.process.expect(0);
    worker.expect(0);
    assert_eq!(logged_steps(here), (1..=60).map(|n| 50 * n).collect::<Vec<_>>());
    let alone = tempdir().unwrap();
    assert_eq!(last_digest(here), local(alone.path(), &format!("--workers 1 {TOY} --steps 3000")));
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_leads() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    local(here, &format!("--workers 1 {TOY} --steps 200"));
    assert!(run(COORD, here, "verify run", 0).contains("4 lines and 4 checkpoints are intact"));
    flip_a_bit_of_the_newest_checkpoint(here);
    let text = run(COORD, here, "verify run", 1);
    assert!(text.contains("step-00000200: state.safetensors: expected digest "), "{text}");

    let coordinator = Process::start(COORD, here, "--out run --local --steps 300");
    coordinator.wait_for("skipping a damaged checkpoint: ");
    coordinator.wait_for("step 200 was computed again, with the same digest");
    coordinator.expect(0);
    assert_eq!(logged_steps(here), [50, 100, 150, 200, 250, 300]);
    assert!(run(COORD, here, "verify run", 0).contains("intact"));
}

#[test]
fn a_checkpoint_that_is_damaged_later_is_noticed_when_it_is_needed() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &format!("--workers 1 {TOY} --steps 3000"));
    let first = coordinator.worker(here, "--name first");
    coordinator.process.wait_for("checkpoint of step 200");
    drop(first);
    coordinator.process.wait_for("lost worker first");
    flip_a_bit_of_the_newest_checkpoint(here);
    let second = coordinator.worker(here, "--name second");
    coordinator.process.wait_for("skipping a damaged checkpoint: ");
    coordinator.process.wait_for("which no worker has, cannot be read: going on after step ");
    coordinator.process.wait_for(" was computed again, with the same digest");
    coordinator.process.expect(0);
    second.expect(0);
    assert_eq!(logged_steps(here), (1..=60).map(|n| 50 * n).collect::<Vec<_>>());
    assert!(run(COORD, here, "verify run", 0).contains("intact"));
}

#[test]
fn runs_that_differ_are_told_apart() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    for (out, seed) in [("one", 22), ("same", 22), ("other", 23)] {
        let workers = if out == "same" { 3 } else { 1 };
        let arguments =
            format!("--out {out} --local --workers {workers} {TOY} --steps 100 --seed {seed}");
        run(COORD, here, &arguments, 0);
    }
    assert!(
        run(COORD, here, "verify one same", 0)
            .starts_with("the same at all 2 steps that both have, up to step 100")
    );
    let text = run(COORD, here, "verify one other", 1);
    assert!(text.starts_with("they differ first at step 50: one has "), "{text}");
    assert!(text.ends_with("; first tensor, at step 50: generator.weight"), "{text}");
    assert!(run(COORD, here, "verify nowhere", 2).contains("error: nowhere: not a run directory"));
}
