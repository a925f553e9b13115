//! Events in the life of a run: verbs of the coordinator, chaos, damaged files.

use std::fs;
use std::path::Path;

use tempfile::tempdir;

use crate::process::{COORD, Process, assert_names, run};
use crate::run::{Coordinator, local, logged_steps, saved_steps};

const TOY: &str = "--objective toy --log-every 50 --checkpoint-every 50";

/// Flips a bit of the state in the newest checkpoint.
fn flip_a_bit_of_the_newest_checkpoint(folder: &Path) {
    let step = saved_steps(folder).pop().unwrap();
    let file = folder.join(format!("run/checkpoints/step-{step:08}/state.safetensors"));
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn chaos_changes_no_bit() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let random = "chaos --seed 3 --kills 8 --coordinator-kills 2 --out here";
    // The exit status is 0 only if both runs have the same digest at every step.
    assert_names(&run(COORD, here, random, 0).text, &["the same at all "]);

    let all_die = "300 kill 0 0.1\n300 kill 1 0.1\n300 kill-coordinator 0\n";
    fs::write(here.join("all-die"), all_die).unwrap();
    let scheduled = run(COORD, here, "chaos --workers 2 --schedule all-die --steps 600", 0);
    assert_names(&scheduled.text, &["3 faults in ", "the same at all "]);

    fs::write(here.join("typo"), "300 kil 0 0.1\n").unwrap();
    let refused = run(COORD, here, "chaos --schedule typo", 2);
    let names = "typo: line 1: expected kill, stop, slow, cut, cut-off";
    assert_names(refused.error(), &[names]);
}

#[test]
fn status_checkpoint_drain_and_stop_work_while_the_run_trains() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(
        here,
        "--workers 2 --fixed-shards --objective toy --log-every 50 --checkpoint-every 1000000 \
         --steps 1000000000",
    );
    let staying = coordinator.worker(here, "--name staying");
    let leaving = coordinator.worker(here, "--name leaving");
    coordinator.process.wait_for_step(50);
    let ask = |verb: &str, status| {
        run(COORD, here, &format!("{verb} --coordinator {}", coordinator.address), status)
    };

    let status =
        || -> serde_json::Value { serde_json::from_str(&ask("status --json", 0).text).unwrap() };

    // Two workers train, and nothing is saved.
    let training = "training: generation 1, 2 workers";
    let shown = [training, " img/s, ", "no checkpoint yet", "staying", "rank 1", "127.0.0.1:"];
    assert_names(&ask("status", 0).text, &shown);
    let before = status();
    assert_eq!((&before["generation"], &before["reason_code"]), (&1.into(), &"training".into()));
    assert!(before["checkpoint"].is_null(), "{before}");

    ask("checkpoint", 0);
    let asked = coordinator.process.wait_for_event("checkpoint_requested", &[]);
    assert_names(asked.field("by"), &["@"]);
    let saved = coordinator.process.wait_for_event("checkpoint_saved", &[]);
    let step: u64 = saved.field("step").parse().unwrap();
    assert_eq!(saved_steps(here), [step]);

    let refused = ask("drain nobody", 2);
    let names = ["there is no worker nobody; there are: ", "leaving", "staying"];
    assert_names(refused.error(), &names);
    ask("drain leaving", 0);
    coordinator.process.wait_for_event("drain_requested", &[("worker", "leaving")]);
    leaving.expect(0).event("drained", &[]);
    let drained = [("worker", "leaving"), ("cause", "drained")];
    coordinator.process.wait_for_event("worker_lost", &drained);
    let plan_without_it = [("generation", "2"), ("members", "staying")];
    coordinator.process.wait_for_event("plan", &plan_without_it);

    let after = status();
    // If the one that left was ahead, its state is a checkpoint as well.
    let newest = saved_steps(here).into_iter().max();
    assert_eq!((&after["generation"], &after["checkpoint"]), (&2.into(), &newest.into()));
    assert_eq!(after["workers"][0]["name"], "staying");
    assert_eq!(after["workers"][0]["shards"].as_array().unwrap().len(), 8);
    let cause = after["recoveries"][0]["cause"].as_str().unwrap();
    assert_names(cause, &["leaving", "drained"]);

    assert_names(&ask("stop", 0).text, &["the run has ended"]);
    let ended = coordinator.process.expect(0);
    assert_names(ended.event("stop_requested", &[]).field("by"), &["@"]);
    ended.event("run_stopped", &[]);
    staying.expect(0);
    let unreachable = run(COORD, here, "status --coordinator http://127.0.0.1:1", 1);
    assert_names(unreachable.error(), &["cannot reach the coordinator at http://127.0.0.1:1"]);
}

#[test]
fn a_checkpoint_that_nobody_can_take_yet_says_for_whom_it_waits() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(
        here,
        "--workers 2 --objective toy --checkpoint-every 1000000 --steps 1000000000",
    );
    let _first = coordinator.worker(here, "--name first");
    coordinator.process.wait_for_event("worker_ready", &[]);
    let waits = "waiting for 1 of 2 workers to start";
    let status = run(COORD, here, "status --run run", 0).text;
    assert_names(&status, &[waits, "first            ready "]);
    let asking = Process::start(COORD, here, "checkpoint --run run");
    asking.wait_for_text(waits);
    let _second = coordinator.worker(here, "--name second");
    assert_names(&asking.expect(0).text, &["checkpoint of step "]);
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_run_goes_on_from_the_one_before() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    local(here, &format!("--workers 1 {TOY} --steps 200"));
    let intact = run(COORD, here, "verify run", 0);
    assert_names(&intact.text, &["4 lines and 4 checkpoints are intact"]);
    assert_eq!(logged_steps(here), [50, 100, 150, 200]);
    flip_a_bit_of_the_newest_checkpoint(here);
    let damaged = run(COORD, here, "verify run", 1);
    assert_names(&damaged.text, &["step-00000200: state.safetensors: expected digest "]);

    let coordinator = Process::start(COORD, here, "--out run --local --steps 300");
    let skipped = coordinator.wait_for_event("checkpoint_skipped", &[]);
    assert_names(skipped.field("path"), &["step-00000200"]);
    coordinator.wait_for_event("step_recomputed", &[("step", "200")]);
    coordinator.expect(0);
    assert_eq!(logged_steps(here), [50, 100, 150, 200, 250, 300]);
    assert_names(&run(COORD, here, "verify run", 0).text, &["intact"]);
}

#[test]
fn a_checkpoint_that_is_damaged_later_is_noticed_when_it_is_needed() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &format!("--workers 1 {TOY} --steps 3000"));
    // It stops in the midst of the run, however fast that goes.
    let first = coordinator.worker(here, "--name first --fault step-done=stop@1000");
    // A checkpoint may be left out on a slow disk: any later one will do.
    coordinator.process.wait_for_event_where("a later checkpoint_saved", |event| {
        event.is("checkpoint_saved", &[]) && event.field("step") != "50"
    });
    // By the time that it is missed, the disk has taken what was on its way.
    coordinator.process.wait_for_event("worker_lost", &[("worker", "first")]);
    drop(first);
    flip_a_bit_of_the_newest_checkpoint(here);
    let second = coordinator.worker(here, "--name second");
    coordinator.process.wait_for_event("checkpoint_skipped", &[]);
    coordinator.process.wait_for_event("checkpoint_fell_back", &[]);
    coordinator.process.wait_for_event("step_recomputed", &[]);
    coordinator.process.expect(0);
    second.expect(0);
    assert_eq!(logged_steps(here), (1..=60).map(|n| 50 * n).collect::<Vec<_>>());
    assert_names(&run(COORD, here, "verify run", 0).text, &["intact"]);
}

#[test]
fn verify_tells_equal_runs_from_runs_that_differ() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    for (out, seed) in [("one", 22), ("same", 22), ("other", 23)] {
        let workers = if out == "same" { 3 } else { 1 };
        let arguments =
            format!("--out {out} --local --workers {workers} {TOY} --steps 100 --seed {seed}");
        run(COORD, here, &arguments, 0);
    }
    let equal = run(COORD, here, "verify one same", 0);
    let all_same = "the same at all 2 recorded steps, up to step 100";
    assert!(equal.text.starts_with(all_same), "{}", equal.text);
    run(COORD, here, "--out one --local --steps 150", 0);
    assert_names(&run(COORD, here, "verify one same", 0).text, &["; one goes on to step 150"]);
    let different = run(COORD, here, "verify one other", 1);
    let text = &different.text;
    assert!(text.starts_with("they differ first at step 50: one has "), "{text}");
    assert!(text.trim_end().ends_with("; first tensor, at step 50: generator.weight"), "{text}");
    assert!(!text.contains("step 100"), "it names the first step that differs");
    assert_names(run(COORD, here, "verify nowhere", 2).error(), &["nowhere: not a run directory"]);
}
