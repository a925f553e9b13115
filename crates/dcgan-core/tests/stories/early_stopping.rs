//! Rule 14: a run may end by its evaluations, with the same step whatever happens.

use dcgan_core::evaluation::PartId;
use dcgan_core::ids::Position;
use dcgan_core::protocol::coordinator::Notice;
use dcgan_core::protocol::message::{FromWorker, ToWorker};

use crate::coordinator::Coordinator;
use crate::digest;
use crate::worker::{Worker, train_until};

/// The parts of the toy's evaluation: six pieces and their combination.
const PARTS: u16 = 7;

/// Worker a computes all of the evaluation of a step, with this result.
fn evaluates(coordinator: &mut Coordinator, step: u64, value: f64) -> Vec<String> {
    let mut lines = Vec::new();
    for part in 0..PARTS {
        let id = PartId { step, digest: digest(step), part };
        let result = Ok(vec![value]);
        lines.extend(coordinator.says('a', FromWorker::Evaluated { id, result }));
    }
    lines.retain(|line| !line.contains("evaluate "));
    lines
}

/// A worker that trains a run which ends after one evaluation that is no better. Evaluations are
/// due every ten steps.
fn training() -> Coordinator {
    let mut coordinator = Coordinator::new(1, 1).with_early_stopping(1);
    let lines = coordinator.joins('a');
    assert!(lines.contains(&"a: train through 20".to_owned()), "{lines:?}");
    coordinator.acknowledges('a', 1, 0);
    coordinator
}

#[test]
fn rule_14_members_train_through_the_next_evaluation_and_no_further() {
    let mut coordinator = training();
    coordinator.report_steps("a", 0, 10);
    coordinator.uploads(10);
    // Worker a has come to step 20, and its evaluation of step 10 is not there. Whether step 20 is
    // the last one is not known, so it is not logged yet, and nobody is blamed for the wait.
    let lines = coordinator.report_steps("a", 10, 20);
    assert!(!lines.iter().any(|line| line.contains("row")), "{lines:?}");
    let status = coordinator.status();
    assert_eq!(status.reason.code(), "evaluating");
    assert_eq!(coordinator.passes(100.0, "a"), [""; 0]);
    // With the verdict it goes on.
    let lines = evaluates(&mut coordinator, 10, 6.0);
    let expected = [
        "append the evaluation of step 10: [6.0]",
        "a: train through 30",
        "append the row of step 20",
    ];
    for line in expected {
        assert!(lines.contains(&line.to_owned()), "{line} is not in {lines:?}");
    }
}

#[test]
fn rule_14_the_run_ends_one_evaluation_after_the_one_that_is_no_better() {
    let mut coordinator = training();
    for (step, value) in [(10, 6.0), (20, 5.0), (30, 5.0)] {
        coordinator.report_steps("a", step - 10, step);
        coordinator.uploads(step);
        evaluates(&mut coordinator, step, value);
    }
    let ends = Notice::EndsEarly { step: 40, patience: 1, best: best() };
    assert!(coordinator.notices.contains(&ends), "{:?}", coordinator.notices);
    coordinator.report_steps("a", 30, 40);
    coordinator.uploads(40);
    let lines = evaluates(&mut coordinator, 40, 1.0);
    assert_eq!(lines.last().unwrap(), "a: finish");
    // A coordinator that starts again finds the same.
    coordinator.restarts();
    assert!(coordinator.hello('a').contains(&"a: finish".to_owned()));
}

fn best() -> String {
    "parameter_rms 5.0000 after step 20".to_owned()
}

#[test]
fn rule_14_no_checkpoint_replaces_one_before_an_evaluation_that_is_awaited() {
    let mut coordinator = training().with_checkpoint_requested();
    coordinator.report_steps("a", 0, 10);
    coordinator.uploads(10);
    let lines = coordinator.report_steps("a", 10, 19);
    assert!(!lines.iter().any(|line| line.contains("request the snapshot")), "{lines:?}");
}

#[test]
fn rule_14_members_go_back_before_an_evaluation_that_nobody_can_compute() {
    let mut coordinator = training();
    coordinator.report_steps("a", 0, 10);
    coordinator.uploads(10);
    coordinator.report_steps("a", 10, 12);
    let id = PartId { step: 10, digest: digest(10), part: 0 };
    let result = Err("the snapshot of step 10 is not here".to_owned());
    let lines = coordinator.says('a', FromWorker::Evaluated { id, result });
    assert_eq!(lines, ["a: train through 10", "a: fence 2"]);
    assert!(coordinator.notices.contains(&Notice::EvaluationLost(10)));
    // The worker has gone back to the initial state, and the checkpoint leads.
    let lines = coordinator.acknowledges('a', 2, 0);
    assert!(lines.contains(&"a: plan 2".to_owned()), "{lines:?}");
    assert_eq!(coordinator.start(), Position::after(10));
}

#[test]
fn rule_14_a_worker_waits_at_its_horizon_and_goes_back_behind_a_lost_evaluation() {
    let mut pair = Worker::pair_with_early_stopping();
    // Evaluations are due after each step, so the first horizon is step 2.
    train_until(&mut pair, Position::after(2));
    let [mut a, mut b] = pair;
    assert!(a.jobs_are_done() && b.jobs_are_done());
    assert!(a.machine.waits_for().unwrap().contains("evaluation"));
    let lines = a.hears(ToWorker::TrainThrough(3));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("compute shards"), "{lines:?}");
    // The evaluation of step 1 is lost: what comes after it is of no use.
    b.hears(ToWorker::TrainThrough(1));
    assert_eq!(b.machine.at().position, Position::after(0));
}
