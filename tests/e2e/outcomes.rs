//! How the last start of a run has ended, as its directory tells it.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;

use crate::process::{COORD, Process, assert_names, run};
use crate::run::{Coordinator, newest_manifest};

const TOY: &str = "--objective toy --log-every 50 --checkpoint-every 50";
const LOCAL: &str = "--out run --local --workers 1";

/// The state of the run, and what else is told of it.
fn told(here: &Path, state: &str) -> Value {
    let told = run(COORD, here, "status --run run --json", 0).text;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["state"], state, "{told}");
    told
}

#[test]
fn a_script_tells_a_run_that_was_stopped_from_one_that_has_finished() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let start = |steps: u64| {
        let process = Process::start(COORD, here, &format!("{LOCAL} {TOY} --steps {steps}"));
        process.wait_for_event("listening", &[]);
        process
    };
    let step_saved = || newest_manifest(here).step;

    let process = start(1_000_000_000);
    process.wait_for_step(100);
    told(here, "running");
    process.signal("TERM");
    process.expect(143);
    let stopped = told(here, "stopped");
    assert_eq!((&stopped["cause"], &stopped["step"]), (&"SIGTERM".into(), &step_saved().into()));

    let process = start(1_000_000_000);
    run(COORD, here, "stop --run run", 0);
    process.expect(0);
    let by = told(here, "stopped");
    assert!(by["cause"].as_str().unwrap().contains('@'), "{by}");
    assert_eq!(by["directory"], here.join("run").display().to_string());
    assert_eq!((&by["workers"], &by["generation"]), (&Value::Array(vec![]), &Value::Null));

    // A start that asks for fewer steps has nothing to do, and changes nothing.
    let fewer = run(COORD, here, &format!("{LOCAL} {TOY} --steps 50"), 2);
    let done = format!("has done {} steps, and this start asks for 50: give more", by["step"]);
    assert_names(fewer.error(), &[&done]);
    assert_eq!(told(here, "stopped"), by);
    let go_on = "; go on with: ";
    assert_names(run(COORD, here, "stop --run run", 1).error(), &["is stopped after", go_on]);

    // The end of an earlier start is not that of one that was killed.
    let process = start(1_000_000_000);
    process.signal("KILL");
    process.wait();
    let killed = told(here, "killed");
    assert_eq!((&killed["is_finished"], &killed["cause"]), (&false.into(), &Value::Null));
    assert_names(&run(COORD, here, "status --run run", 0).text, &["was killed"]);

    let last = step_saved() + 100;
    start(last).expect(0);
    let finished = told(here, "finished");
    assert_eq!((&finished["is_finished"], &finished["step"]), (&true.into(), &last.into()));

    // Nor is it if the run has finished before.
    let process = start(1_000_000_000);
    process.signal("KILL");
    process.wait();
    told(here, "killed");
}

#[test]
fn a_run_that_has_failed_says_why_afterwards() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let coordinator = Coordinator::start(here, &format!("--workers 1 {TOY} --steps 100"));
    let checkpoints = here.join("run/checkpoints");
    fs::remove_dir(&checkpoints).unwrap();
    fs::write(&checkpoints, "not a folder").unwrap();
    let worker = coordinator.worker(here, "--name w");
    coordinator.process.expect(1);
    worker.expect(1);
    fs::remove_file(&checkpoints).unwrap();
    let failed = told(here, "failed");
    let cause = failed["cause"].as_str().unwrap();
    assert_names(cause, &["cannot write the checkpoint of step 100"]);
    let go_on = "go on with: ";
    assert_names(&run(COORD, here, "status --run run", 0).text, &["has failed", cause, go_on]);
}
