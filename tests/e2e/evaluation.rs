//! Evaluations: the same results for any number of workers, whatever happens to them.

use std::fs;
use std::path::Path;

use tempfile::tempdir;

use crate::process::{COORD, assert_names, run};
use crate::run::{Coordinator, local};

/// A run of the toy that evaluates the state after every hundredth step. It has few grids: workers
/// keep 16 snapshots while a coordinator gets no processor, and leave out what is older.
const EVALUATED: &str = "--objective toy --log-every 50 --checkpoint-every 100 --eval-every 100 \
                         --grid-every 1000 --steps 1000";

/// The lines of the log of evaluations, in the order of their steps.
fn evaluations(here: &Path) -> Vec<String> {
    let text = fs::read_to_string(here.join("run/evaluations.jsonl")).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let step = |line: &String| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        row["step"].as_u64().unwrap()
    };
    lines.sort_by_key(step);
    lines
}

#[test]
fn evaluations_are_the_same_for_any_number_of_workers_and_through_failures() {
    let alone = tempdir().unwrap();
    local(alone.path(), &format!("--workers 1 {EVALUATED}"));
    let expected = evaluations(alone.path());
    assert_eq!(expected.len(), 10, "{expected:?}");
    assert!(expected[0].starts_with(r#"{"step":100,"parameter_rms":"#), "{}", expected[0]);

    let together = tempdir().unwrap();
    local(together.path(), &format!("--workers 3 --threads 2 {EVALUATED}"));
    assert_eq!(evaluations(together.path()), expected);

    // A worker dies with a part, and the coordinator dies right after an evaluation is on disk.
    let folder = tempdir().unwrap();
    let here = folder.path();
    let arguments = format!("--workers 2 {EVALUATED}");
    let first = format!("{arguments} --fault append-evaluation=kill@3");
    let coordinator = Coordinator::start(here, &first);
    let a = coordinator.worker(here, "--name a");
    let b = coordinator.worker(here, "--name b --fault evaluate=kill@2");
    coordinator.process.wait_for_event("evaluated", &[]);
    let again = format!("{arguments} {}", coordinator.same_port());
    coordinator.process.wait();
    let again = Coordinator::start(here, &again);
    again.process.expect(0);
    a.expect(0);
    drop(b);
    assert_eq!(evaluations(here), expected);
}

#[test]
fn an_objective_without_an_evaluation_is_not_evaluated() {
    let folder = tempdir().unwrap();
    let refused = run(COORD, folder.path(), "--local --workers 1 --eval-every 10", 2);
    assert_names(refused.error(), &["--eval-every", "dcgan", "leave it out"]);
}
