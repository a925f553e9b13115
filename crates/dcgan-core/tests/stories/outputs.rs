//! Rules 7 and 8: what is written to the run directory, and when.

use dcgan_core::ids::{Digest, Generation, Phase, Position};
use dcgan_core::protocol::coordinator::{Event, Notice, Stop};
use dcgan_core::protocol::message::ToWorker;

use crate::coordinator::{Coordinator, state_before};
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
    // Worker a is a phase ahead of b.
    coordinator.reports('a', 5);
    coordinator.acknowledges('a', 2, 5);
    let last_phase = state_before(1, 5, Phase::Generator);
    let lines = coordinator.acknowledges_with('b', 2, last_phase);
    assert_eq!(lines, ["a: request the snapshot of step 5"]);
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
            "a: request the snapshot of step 10",
            "append the row of step 10",
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

#[test]
fn rule_8_while_the_disk_is_slow_rows_gather_and_nobody_is_told_too_early() {
    let mut coordinator = Coordinator::training("a").with_slow_disk();
    // The row of step 10 is on its way to the disk until the story says that it is there.
    assert_eq!(
        coordinator.report_steps("a", 0, 30),
        [
            "a: request the snapshot of step 10",
            "a: request the snapshot of step 20",
            "a: request the snapshot of step 30"
        ]
    );
    assert_eq!(coordinator.writes(), ["append the row of step 10", "a: persisted 9"]);
    // The rows that were due in the meantime are one write. The checkpoints hold back the rest.
    assert_eq!(coordinator.writes(), ["append the rows of steps 20, 30"]);
    coordinator.uploads(10);
    assert_eq!(coordinator.writes(), ["save the checkpoint of step 10", "a: persisted 19"]);
}

#[test]
fn rule_8_rows_that_keep_coming_do_not_hold_up_a_checkpoint() {
    let mut coordinator = Coordinator::training("a").with_slow_disk();
    coordinator.report_steps("a", 0, 20);
    coordinator.uploads(10);
    assert_eq!(coordinator.writes()[0], "append the row of step 10");
    // The row of step 20 waits, too. It is not before the checkpoint.
    assert_eq!(coordinator.writes()[0], "save the checkpoint of step 10");
    coordinator.uploads(20);
    assert_eq!(coordinator.writes()[0], "append the row of step 20");
    assert_eq!(coordinator.writes()[0], "save the checkpoint of step 20");
}

#[test]
fn rule_8_of_the_checkpoints_that_wait_for_the_disk_the_oldest_are_left_out() {
    let mut coordinator = Coordinator::training("a").with_slow_disk();
    coordinator.report_steps("a", 0, 70);
    coordinator.writes();
    coordinator.writes();
    for step in [10, 20, 30, 40, 50, 60, 70] {
        coordinator.uploads(step);
    }
    // That of step 10 is on its way, and the run keeps five: so many may wait.
    assert!(coordinator.notices.contains(&Notice::CheckpointLeftOut(20)));
    assert_eq!(coordinator.writes(), ["save the checkpoint of step 10", "a: persisted 29"]);
    // A stop leaves out all but the last.
    coordinator.handle(Event::Stop(Stop::Finish));
    coordinator.acknowledges('a', 2, 70);
    assert!(coordinator.notices.contains(&Notice::CheckpointLeftOut(40)));
    // The others are said together, when the write comes to its end.
    coordinator.writes();
    assert!(coordinator.notices.contains(&Notice::MoreCheckpointsLeftOut { count: 2, last: 60 }));
    assert_eq!(
        coordinator.writes(),
        ["save the checkpoint of step 70", "a: persisted 70", "a: finish"]
    );
}

#[test]
fn rule_8_a_slow_disk_delays_a_plan_and_nothing_else() {
    let mut coordinator = Coordinator::training("a").with_slow_disk();
    coordinator.joins('b');
    coordinator.acknowledges('a', 2, 0);
    assert_eq!(coordinator.acknowledges('b', 2, 0), [""; 0], "plan 2 is on its way to the disk");
    assert_eq!(
        coordinator.writes(),
        ["store plan 2: a=0123 b=4567, from the initial state", "a: plan 2", "b: plan 2"]
    );
    // While a row is on its way, the loss of a worker is answered at once.
    coordinator.report_steps("ab", 0, 10);
    coordinator.loses_stream_of('b');
    assert_eq!(coordinator.passes(1.1, "a"), ["a: fence 3"]);
}

#[test]
fn rule_8_a_row_that_cannot_be_written_holds_up_no_plan() {
    let mut coordinator = Coordinator::training("ab").with_slow_disk();
    coordinator.report_steps("ab", 0, 10);
    coordinator.loses_stream_of('b');
    coordinator.passes(1.1, "a");
    coordinator.acknowledges('a', 2, 10);
    // The row of step 10 is on its way. Its file cannot be written at the moment.
    assert_eq!(coordinator.write_fails_once(), [""; 0]);
    let plan = coordinator.writes();
    assert!(plan[0].starts_with("store plan 2: a=01234567"), "{plan:?}");
    assert_eq!(plan[1], "a: plan 2");
    // The row is not lost, and takes the next one with it.
    coordinator.report_steps("a", 10, 20);
    coordinator.write_fails_once();
    assert_eq!(coordinator.writes()[0], "append the rows of steps 10, 20");
}

#[test]
fn rule_8_reports_do_not_pile_up_while_a_disk_hangs() {
    let coordinator = Coordinator::new(2, 1).with_steps(10_000).with_plan_of("ab");
    let mut coordinator = coordinator.with_slow_disk();
    for step in (0..9000).step_by(10) {
        coordinator.report_steps("ab", step, step + 10);
        coordinator.uploads(step + 10);
    }
    let reports = coordinator.in_mind("StepReport {");
    assert!((4096..4200).contains(&reports), "{reports}");
    // A worker that comes back reports all steps again, because none is on disk.
    coordinator.report_steps("a", 0, 9000);
    let reports = coordinator.in_mind("StepReport {");
    assert!((4096..4200).contains(&reports), "{reports}");
    assert_eq!(coordinator.writes()[0], "append the row of step 10");
    assert!(coordinator.writes()[0].starts_with("append the rows of steps 20, 30"));
}

#[test]
fn rule_8_what_can_never_be_written_is_given_up_or_ends_the_run() {
    let mut coordinator = Coordinator::training("a").with_slow_disk();
    coordinator.report_steps("a", 0, 10);
    coordinator.writes();
    coordinator.uploads(10);
    // The next checkpoint will do.
    assert_eq!(coordinator.cannot_write("checkpoints: not a folder"), ["a: persisted 10"]);
    let given_up = |notice: &Notice| matches!(notice, Notice::WriteGivenUp { .. });
    assert!(coordinator.notices.iter().any(given_up));
    // After the last checkpoint there is no next one.
    coordinator.report_steps("a", 10, 15);
    coordinator.handle(Event::Stop(Stop::Finish));
    coordinator.acknowledges('a', 2, 15);
    coordinator.uploads(15);
    assert_eq!(coordinator.cannot_write("checkpoints: not a folder"), ["a: finish"]);
}

#[test]
fn rule_7_a_checkpoint_is_due_by_time_as_well() {
    let mut coordinator = Coordinator::new(1, 1).with_checkpoints_every(3);
    coordinator.joins('a');
    coordinator.acknowledges('a', 1, 0);
    coordinator.report_steps("a", 0, 3);
    assert_eq!(coordinator.passes(2.0, "a"), [""; 0]);
    // As if a person had asked for one: two steps ahead, so that nobody waits.
    assert_eq!(coordinator.passes(1.1, "a"), ["a: retain the snapshot of step 5"]);
    let lines = coordinator.report_steps("a", 3, 5);
    assert_eq!(lines, ["a: request the snapshot of step 5"]);
    assert!(coordinator.uploads(5).contains(&"save the checkpoint of step 5".to_owned()));
    // Without a step in between none is due; the next one is when a step was finished.
    assert_eq!(coordinator.passes(4.0, "a"), [""; 0]);
    assert!(coordinator.reports('a', 6).contains(&"a: retain the snapshot of step 8".to_owned()));
}
