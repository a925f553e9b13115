//! Rules 7 and 8: what is written to the run directory, and when.

use dcgan_core::ids::{Digest, Generation, Position};
use dcgan_core::protocol::coordinator::{Event, Notice, Stop};
use dcgan_core::protocol::message::ToWorker;

use crate::coordinator::Coordinator;
use crate::worker::{Worker, train_until};

#[test]
fn rule_7_a_worker_holds_a_snapshot_of_every_step_boundary() {
    let mut pair = Worker::pair();
    train_until(&mut pair, Position::after(1));
    let [a, _] = &mut pair;
    // Rows, grids and checkpoints are due at every step of this run, so the snapshot is there.
    assert_eq!(a.hears(ToWorker::RequestSnapshot(1)), ["upload the snapshot of step 1"]);
    assert_eq!(a.hears(ToWorker::RequestSnapshot(7)), ["report: no snapshot of step 7"]);
    train_until(&mut pair, Position::after(2));
    let [a, _] = &mut pair;
    // Once everything up to a step is on disk, only the last finished step is kept.
    a.hears(ToWorker::Persisted(2));
    assert_eq!(a.hears(ToWorker::RequestSnapshot(1)), ["report: no snapshot of step 1"]);
    assert_eq!(a.hears(ToWorker::RequestSnapshot(2)), ["upload the snapshot of step 2"]);
}

#[test]
fn rule_7_a_damaged_snapshot_is_not_uploaded() {
    let mut pair = Worker::pair();
    train_until(&mut pair, Position::after(1));
    let [a, _] = &mut pair;
    a.machine.flip_a_bit(2);
    let lines = a.hears(ToWorker::RequestSnapshot(1));
    assert!(lines.contains(&"report: no snapshot of step 1".to_owned()), "{lines:?}");
}

#[test]
fn rule_7_an_early_end_makes_a_checkpoint_of_the_furthest_finished_step() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 4);
    assert_eq!(coordinator.handle(Event::Stop(Stop::Finish)), ["a: fence 2", "b: fence 2"]);
    // Worker a is a step ahead of b.
    coordinator.reports('a', 5);
    coordinator.acknowledges('a', 2, 5);
    assert_eq!(coordinator.acknowledges('b', 2, 4), ["a: request the snapshot of step 5"]);
    assert_eq!(coordinator.uploads(5), ["save the checkpoint of step 5", "a: finish", "b: finish"]);
}

#[test]
fn rule_7_a_person_gets_a_checkpoint_without_a_pause() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 3);
    // Two steps ahead, so that no worker has to wait and none has gone past it already.
    assert_eq!(
        coordinator.handle(Event::Checkpoint),
        ["a: retain the snapshot of step 5", "b: retain the snapshot of step 5"]
    );
    coordinator.report_steps("ab", 3, 4);
    coordinator.reports('a', 5);
    assert_eq!(coordinator.reports('b', 5), ["a: request the snapshot of step 5"]);
    assert!(coordinator.uploads(5).contains(&"save the checkpoint of step 5".to_owned()));
}

#[test]
fn rule_8_a_row_is_written_once_all_members_agree() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 9);
    assert_eq!(coordinator.reports('a', 10), [""; 0]);
    // The report that makes the members agree writes the row. A snapshot of the step is requested
    // from one of them, for the checkpoint. Only what came before may be forgotten until then.
    assert_eq!(
        coordinator.reports('b', 10),
        [
            "append the row of step 10",
            "a: request the snapshot of step 10",
            "a: persisted 9",
            "b: persisted 9"
        ]
    );
    // Workers hear that they may forget the step when the checkpoint is on disk as well.
    assert_eq!(
        coordinator.uploads(10),
        ["save the checkpoint of step 10", "a: persisted 10", "b: persisted 10"]
    );
    // A report that comes again changes nothing.
    assert_eq!(coordinator.reports('a', 10), [""; 0]);
}

#[test]
fn rule_8_steps_that_are_computed_again_are_compared() {
    let mut coordinator = Coordinator::training("a");
    coordinator.report_steps("a", 0, 10);
    // The coordinator dies after the row of step 10, before its checkpoint. The worker dies, too.
    coordinator.restarts();
    coordinator.joins('b');
    coordinator.passes(2.1, "b");
    coordinator.acknowledges('b', 2, 0);
    // The row is there already. The digests agree, so nothing is written and nobody is alarmed.
    let lines = coordinator.report_steps("b", 0, 10);
    assert_eq!(lines, ["b: request the snapshot of step 10", "b: persisted 9"]);
    let again = |notice: &Notice| matches!(notice, Notice::StepRecomputed(10));
    assert!(coordinator.notices.iter().any(again));
}

#[test]
fn rule_8_a_step_that_comes_out_differently_ends_the_run() {
    let mut coordinator = Coordinator::training("a");
    coordinator.report_steps("a", 0, 10);
    coordinator.restarts();
    coordinator.joins('b');
    coordinator.passes(2.1, "b");
    coordinator.acknowledges('b', 2, 0);
    coordinator.report_steps("b", 0, 9);
    assert_eq!(coordinator.reports_with('b', 10, Digest(0xBAD)), ["b: finish"]);
}

#[test]
fn rule_8_a_worker_repeats_its_reports_until_they_are_persisted() {
    let mut pair = Worker::pair();
    train_until(&mut pair, Position::after(2));
    let [a, _] = &mut pair;
    // The control stream broke. After the next hello everything is said again.
    assert_eq!(a.is_welcomed(), ["report: step 1 done", "report: step 2 done", "report: ready"]);
    a.hears(ToWorker::Persisted(1));
    assert_eq!(a.is_welcomed(), ["report: step 2 done", "report: ready"]);
    // It is said again under every plan, too: the coordinator may be another one (seed 1137).
    let state = a.machine.at();
    a.hears(ToWorker::Fence(Generation(2)));
    let plan = crate::worker::plan(2, "ab", "0011", state, "ab");
    let lines = a.hears(ToWorker::Plan(plan));
    assert!(lines.contains(&"report: step 2 done".to_owned()), "{lines:?}");
}
