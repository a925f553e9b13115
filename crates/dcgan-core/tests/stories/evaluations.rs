//! Rule 10: evaluations are computed beside the training, in parts, by whoever has time.

use std::sync::Arc;

use dcgan_core::evaluation::{EvaluationTask, PartId};
use dcgan_core::ids::{Generation, Position};
use dcgan_core::protocol::coordinator::{Event, Notice, Stop};
use dcgan_core::protocol::message::{FromWorker, ToWorker};

use crate::coordinator::Coordinator;
use crate::digest;
use crate::worker::{Worker, train_until};

/// The toy's evaluation has six pieces.
const PIECES: u16 = 6;

fn id(part: u16) -> PartId {
    PartId { step: 10, digest: digest(10), part }
}

/// Two workers that have finished step 10, with the checkpoint on disk. Each computes a piece.
fn evaluating() -> Coordinator {
    let mut coordinator = Coordinator::new(2, 1).with_evaluations();
    for name in ['a', 'b'] {
        coordinator.joins(name);
    }
    for name in ['a', 'b'] {
        coordinator.acknowledges(name, 1, 0);
    }
    coordinator.report_steps("ab", 0, 9);
    coordinator.reports('a', 10);
    let lines = coordinator.reports('b', 10);
    let asked: Vec<&String> = lines.iter().filter(|line| line.contains("evaluate")).collect();
    assert_eq!(asked, ["a: evaluate piece 0 of step 10", "b: evaluate piece 1 of step 10"]);
    coordinator.uploads(10);
    coordinator
}

fn computes(coordinator: &mut Coordinator, name: char, part: u16) -> Vec<String> {
    let result = Ok(vec![f64::from(part)]);
    coordinator.says(name, FromWorker::Evaluated { id: id(part), result })
}

#[test]
fn rule_10_a_worker_that_is_done_with_a_part_gets_the_next_one() {
    let mut coordinator = evaluating();
    // Worker a is faster than b, so it computes more of them.
    for part in [0, 2, 3, 4] {
        let next = if part == 0 { 2 } else { part + 1 };
        assert_eq!(
            computes(&mut coordinator, 'a', part),
            [format!("a: evaluate piece {next} of step 10")]
        );
    }
    assert_eq!(computes(&mut coordinator, 'a', 5), [""; 0], "piece 1 is still with b");
    // With the last piece, one worker combines them. The training is at step 12 meanwhile.
    coordinator.report_steps("ab", 10, 12);
    assert_eq!(
        computes(&mut coordinator, 'b', 1),
        [format!("a: evaluate combination {PIECES} of step 10")]
    );
    // Only what came before the step may be forgotten until its evaluation is on disk.
    assert_eq!(
        computes(&mut coordinator, 'a', PIECES),
        ["append the evaluation of step 10: [6.0]", "a: persisted 10", "b: persisted 10"]
    );
}

#[test]
fn rule_10_a_part_that_is_lost_with_its_worker_goes_to_another_one() {
    let mut coordinator = evaluating();
    coordinator.loses_stream_of('b');
    // Worker a has a part already. It gets that of b when it is done.
    let lines = coordinator.passes(1.1, "a");
    assert_eq!(lines, ["a: fence 2"]);
    assert_eq!(computes(&mut coordinator, 'a', 0), ["a: evaluate piece 1 of step 10"]);
    // A fence and a new plan change nothing of that.
    coordinator.acknowledges('a', 2, 10);
    assert_eq!(computes(&mut coordinator, 'a', 1), ["a: evaluate piece 2 of step 10"]);
}

#[test]
fn rule_10_a_part_that_takes_too_long_goes_to_another_worker() {
    let mut coordinator = evaluating();
    for part in [0, 2, 3, 4, 5] {
        computes(&mut coordinator, 'a', part);
    }
    // Piece 1 is with worker b, which computes gradients as if nothing were wrong.
    let mut lines = Vec::new();
    for step in 10..16 {
        lines.extend(coordinator.passes(10.2, "ab"));
        lines.extend(coordinator.report_steps("ab", step, step + 1));
    }
    assert_eq!(lines, ["a: evaluate piece 1 of step 10"]);
    // As long as b has not answered, it is asked for nothing else.
    let lines = coordinator.report_steps("ab", 16, 20);
    assert!(lines.contains(&"a: request the snapshot of step 20".to_owned()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("evaluate")), "{lines:?}");
    // Its answer counts, late as it is.
    let lines = computes(&mut coordinator, 'b', 1);
    assert_eq!(lines, ["a: evaluate combination 6 of step 10", "b: evaluate piece 0 of step 20"]);
}

#[test]
fn rule_10_an_evaluation_that_nobody_can_compute_is_given_up_in_words() {
    let mut coordinator = evaluating();
    for name in ['a', 'b'] {
        let part = u16::from(name == 'b');
        let result = Err("the snapshot of step 10 is not here".to_owned());
        coordinator.says(name, FromWorker::Evaluated { id: id(part), result });
    }
    assert!(coordinator.notices.contains(&Notice::EvaluationGivenUp(10)));
    // An early end waits for none either.
    let mut coordinator = evaluating();
    coordinator.handle(Event::Stop(Stop::Finish));
    coordinator.acknowledges('a', 2, 10);
    coordinator.acknowledges('b', 2, 10);
    assert!(coordinator.notices.contains(&Notice::EvaluationGivenUp(10)));
}

/// Has worker a compute all that is left of the evaluation of a step, with this result.
fn finishes(coordinator: &mut Coordinator, step: u64, value: f64) {
    for part in 0..=PIECES {
        let id = PartId { step, digest: digest(step), part };
        coordinator.says('a', FromWorker::Evaluated { id, result: Ok(vec![value]) });
    }
}

#[test]
fn rule_10_people_are_told_when_an_evaluation_is_far_worse_than_the_best() {
    let mut coordinator = Coordinator::new(1, 1).with_evaluations().with_plan_of("a");
    let alarms = |coordinator: &Coordinator| -> Vec<String> {
        let notices = coordinator.notices.iter();
        let alarms = notices.filter(|it| it.code().starts_with("alarm"));
        alarms.map(ToString::to_string).collect()
    };
    for (step, value) in [(10, 6.0), (20, 11.0), (30, 20.0), (40, 30.0)] {
        coordinator.report_steps("a", step - 10, step);
        coordinator.uploads(step);
        finishes(&mut coordinator, step, value);
    }
    let began = "alarm at step 30: the parameters have become much greater (parameter_rms is \
                 20.000, and was 6.000 at best)";
    assert_eq!(alarms(&coordinator), [began]);
    coordinator.report_steps("a", 40, 50);
    coordinator.uploads(50);
    finishes(&mut coordinator, 50, 5.0);
    let passed = "the alarm of step 30 has passed at step 50: the parameters have become much \
                  greater";
    assert_eq!(alarms(&coordinator), [began, passed]);
}

/// Worker a of a pair that has finished step 1, and the task to compute piece 2 of its evaluation.
fn worker_with_task() -> (Worker, EvaluationTask) {
    let mut pair = Worker::pair();
    train_until(&mut pair, Position::after(1));
    let [a, _] = pair;
    let id = PartId { step: 1, digest: a.machine.at().digest, part: 2 };
    (a, EvaluationTask { id, pieces: Arc::default() })
}

#[test]
fn rule_10_a_part_survives_fences_and_is_computed_once() {
    let (mut a, task) = worker_with_task();
    assert_eq!(a.hears(ToWorker::Evaluate(task.clone())), ["evaluate part 2 of step 1"]);
    assert_eq!(a.hears(ToWorker::Evaluate(task.clone())), [""; 0], "it is begun already");
    a.hears(ToWorker::Fence(Generation(2)));
    let done = ["report: part 2 of the evaluation of step 1"];
    assert_eq!(a.evaluates(), done);
    // The report was lost, and the coordinator asks again: the result is still here.
    assert_eq!(a.hears(ToWorker::Evaluate(task)), done);
}

#[test]
fn rule_10_a_part_of_damaged_bytes_is_not_used() {
    let (mut a, task) = worker_with_task();
    a.hears(ToWorker::Evaluate(task.clone()));
    a.machine.flip_a_bit(3);
    assert_eq!(
        a.hears(ToWorker::RequestSnapshot(1)).last().unwrap(),
        "report: no snapshot of step 1"
    );
    a.evaluates();
    let lines = a.hears(ToWorker::Evaluate(EvaluationTask {
        id: PartId { part: 3, ..task.id },
        pieces: Arc::default(),
    }));
    let lost = "report: no part 3 of the evaluation of step 1: the snapshot of step 1 is not here";
    assert_eq!(lines, [lost]);
}

#[test]
fn rule_10_the_state_ends_a_run_before_its_schedule() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 13);
    // The state after step 14 says that the training has reached what it can. All members find
    // that, and say so in their reports. A row and a checkpoint are due there, as at any end.
    coordinator.reports_the_end('a', 14);
    let lines = coordinator.reports_the_end('b', 14);
    assert!(lines.contains(&"append the row of step 14".to_owned()), "{lines:?}");
    coordinator.uploads(10);
    let lines = coordinator.uploads(14);
    assert_eq!(
        lines,
        [
            "save the checkpoint of step 14",
            "a: persisted 14",
            "b: persisted 14",
            "a: finish",
            "b: finish"
        ]
    );
    // The checkpoint says so, too: a coordinator that starts again has nothing to train.
    coordinator.restarts();
    assert!(coordinator.hello('a').contains(&"a: finish".to_owned()));
}
