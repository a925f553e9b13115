//! Rule 12: nothing is lost at the end.

use dcgan_core::ids::{Generation, Phase, Position};
use dcgan_core::protocol::coordinator::{Departure, Event, Notice, Stop};
use dcgan_core::protocol::message::{FromWorker, ToWorker};
use dcgan_core::protocol::worker;

use crate::coordinator::{Coordinator, state_before};
use crate::worker::Worker;

/// The end of a coordinator that has saved up to step 4.
const SAVED: &str = "exit: Stopped { saved: 4, lost: None }";

#[test]
fn rule_12_a_worker_that_leaves_stays_until_it_is_released() {
    let mut pair = Worker::pair();
    let [a, _] = &mut pair;
    assert_eq!(a.handle(worker::Event::Leave), ["report: leave"]);
    // It says so again to every coordinator, and goes on meanwhile.
    assert_eq!(a.is_welcomed().last().map(String::as_str), Some("report: leave"));
    let lines = a.hears(ToWorker::Fence(Generation(2)));
    assert!(lines.iter().any(|line| line.contains("fence 2")), "{lines:?}");
}

#[test]
fn rule_12_a_worker_that_leaves_is_released_by_the_plan_without_it() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 4);
    assert_eq!(coordinator.says('a', FromWorker::Leave), ["a: fence 2", "b: fence 2"]);
    assert_eq!(coordinator.acknowledges('a', 2, 4), [""; 0]);
    // Worker b has finished the same steps: nothing needs saving.
    assert_eq!(
        coordinator.acknowledges('b', 2, 4),
        ["a: finish", "a: close", "store plan 2: b=01234567, from the end of step 4", "b: plan 2"]
    );
}

#[test]
fn rule_12_the_last_worker_is_released_when_its_state_is_saved() {
    for is_drained in [false, true] {
        let mut coordinator = Coordinator::training("a");
        coordinator.report_steps("a", 0, 4);
        let lines = if is_drained {
            coordinator.handle(Event::Drain("a".to_owned()))
        } else {
            coordinator.says('a', FromWorker::Leave)
        };
        assert_eq!(lines, ["a: fence 2"]);
        assert_eq!(coordinator.acknowledges('a', 2, 4), ["a: request the snapshot of step 4"]);
        let saved = ["save the checkpoint of step 4", "a: finish", "a: close"];
        assert_eq!(coordinator.uploads(4), saved);
        // The next one goes on from there.
        coordinator.joins('b');
        let plan = "store plan 2: b=01234567, from the end of step 4";
        assert_eq!(coordinator.acknowledges('b', 2, 0)[0], plan);
    }
}

#[test]
fn rule_12_steps_that_are_computed_again_are_finished_steps() {
    let mut coordinator = Coordinator::training("a");
    coordinator.report_steps("a", 0, 10);
    coordinator.uploads(10);
    coordinator.report_steps("a", 10, 20);
    // It dies before the checkpoint of step 20 is saved. The row is.
    coordinator.loses_stream_of('a');
    coordinator.passes(6.0, "");
    coordinator.joins('b');
    coordinator.acknowledges('b', 2, 0);
    assert_eq!(coordinator.start(), Position::after(10));
    // People see where the run is, and a checkpoint that they ask for is one that comes soon.
    coordinator.report_steps("b", 10, 13);
    assert_eq!(coordinator.status().step, 13);
    let lines = coordinator.handle(Event::Checkpoint);
    assert_eq!(lines, ["b: retain the snapshot of step 15"]);
    // An end saves what there is.
    coordinator.handle(Event::Stop(Stop::Finish));
    let lines = coordinator.acknowledges('b', 3, 13);
    assert_eq!(lines, ["b: request the snapshot of step 13"]);
    assert_eq!(coordinator.uploads(13), ["save the checkpoint of step 13", "b: finish"]);
}

#[test]
fn rule_12_a_worker_that_stays_and_is_behind_does_not_release_the_others() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 4);
    coordinator.reports('a', 5);
    coordinator.says('a', FromWorker::Leave);
    coordinator.acknowledges('a', 2, 5);
    // Step 5 was reported, and only a has its state.
    let lines = coordinator.acknowledges_with('b', 2, state_before(1, 5, Phase::Generator));
    assert_eq!(lines, ["a: request the snapshot of step 5"]);
    let lines = coordinator.uploads(5);
    assert_eq!(lines[..3], ["save the checkpoint of step 5", "a: finish", "a: close"]);
    let plan = "store plan 2: b=01234567, from the end of step 5";
    assert!(lines.contains(&plan.to_owned()), "{lines:?}");
}

#[test]
fn rule_12_everybody_is_told_to_stop_at_once_in_any_order() {
    // The workers are heard first, and the coordinator's own signal while it saves.
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 4);
    coordinator.says('a', FromWorker::Leave);
    coordinator.says('b', FromWorker::Leave);
    coordinator.acknowledges('a', 2, 4);
    assert_eq!(coordinator.acknowledges('b', 2, 4), ["a: request the snapshot of step 4"]);
    coordinator.handle(Event::Stop(Stop::HandOver));
    let released = ["a: finish", "a: close", "b: finish", "b: close", SAVED];
    assert_eq!(coordinator.uploads(4)[1..], released);

    // The coordinator is told first. It stays a second, so that it can release the workers.
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 4);
    coordinator.handle(Event::Stop(Stop::HandOver));
    coordinator.acknowledges('a', 2, 4);
    coordinator.acknowledges('b', 2, 4);
    assert_eq!(coordinator.uploads(4), ["save the checkpoint of step 4"]);
    coordinator.passes(0.5, "ab");
    coordinator.says('a', FromWorker::Leave);
    assert_eq!(coordinator.says('b', FromWorker::Leave), released);
}

#[test]
fn rule_12_a_coordinator_that_is_told_alone_hands_over() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 4);
    coordinator.handle(Event::Stop(Stop::HandOver));
    coordinator.acknowledges('a', 2, 4);
    coordinator.acknowledges('b', 2, 4);
    coordinator.uploads(4);
    let lines = coordinator.passes(1.1, "ab");
    let plan = "store plan 2: a=0123 b=4567, from the end of step 4";
    assert_eq!(lines, [plan, "a: plan 2", "b: plan 2", SAVED]);
}

#[test]
fn rule_12_a_coordinator_that_hands_over_stays_for_members_that_come_back() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 4);
    coordinator.handle(Event::Stop(Stop::HandOver));
    // Both are frozen, and a is back first.
    coordinator.passes(4.0, "");
    coordinator.joins('a');
    coordinator.acknowledges('a', 2, 4);
    coordinator.uploads(4);
    assert_eq!(coordinator.says('a', FromWorker::Leave), [""; 0]);
    coordinator.passes(0.5, "a");
    let lines = coordinator.joins('b');
    assert_eq!(lines.last().map(String::as_str), Some("b: fence 2"));
    coordinator.says('b', FromWorker::Leave);
    let released = ["a: finish", "a: close", "b: finish", "b: close", SAVED];
    assert_eq!(coordinator.acknowledges('b', 2, 4), released);
}

#[test]
fn rule_12_an_end_waits_for_a_member_that_was_here_a_moment_ago() {
    let mut coordinator = Coordinator::training("a");
    coordinator.report_steps("a", 0, 4);
    assert_eq!(coordinator.handle(Event::Stop(Stop::Finish)), ["a: fence 2"]);
    // It does not answer, and is lost. It is back after ten seconds, and not told of the end before
    // its state is saved.
    assert_eq!(coordinator.passes(10.0, ""), ["a: close"]);
    assert_eq!(coordinator.waits_for(), "returning");
    let lines = coordinator.joins('a');
    assert_eq!(lines, ["a: welcome, likely shards 01234567", "a: persisted 0", "a: fence 2"]);
    assert_eq!(coordinator.acknowledges('a', 2, 4), ["a: request the snapshot of step 4"]);
    assert_eq!(coordinator.uploads(4), ["save the checkpoint of step 4", "a: finish"]);
}

#[test]
fn rule_12_a_process_that_ends_with_the_run_is_not_lost() {
    let mut coordinator = Coordinator::training("a");
    coordinator.report_steps("a", 0, 4);
    coordinator.handle(Event::Stop(Stop::Finish));
    coordinator.acknowledges('a', 2, 4);
    assert_eq!(coordinator.uploads(4), ["save the checkpoint of step 4", "a: finish"]);
    assert_eq!(coordinator.handle(Event::ProcessEnded("a".to_owned())), [SAVED]);
}

#[test]
fn rule_12_a_member_that_comes_back_last_hears_that_the_run_is_over() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 4);
    coordinator.handle(Event::Stop(Stop::Finish));
    coordinator.passes(4.0, "");
    coordinator.joins('a');
    coordinator.acknowledges('a', 2, 4);
    assert_eq!(coordinator.uploads(4), ["save the checkpoint of step 4", "a: finish"]);
    coordinator.loses_stream_of('a');
    assert_eq!(coordinator.passes(0.5, ""), [""; 0]);
    assert!(coordinator.joins('b').contains(&"b: finish".to_owned()));
    coordinator.loses_stream_of('b');
    assert_eq!(coordinator.passes(1.0, ""), [SAVED]);
}

#[test]
fn rule_12_steps_that_an_end_cannot_save_are_said() {
    let mut coordinator = Coordinator::training("a");
    coordinator.report_steps("a", 0, 4);
    coordinator.handle(Event::Stop(Stop::Finish));
    let lines = coordinator.passes(19.9, "");
    assert_eq!(lines, ["a: close"]);
    let lost = "exit: Stopped { saved: 0, lost: Some(LostSteps { first: 1, last: 4 }) }";
    assert_eq!(coordinator.passes(0.2, ""), [lost]);
}

#[test]
fn rule_12_a_member_that_is_lost_while_it_sends_its_state_is_waited_for() {
    let mut coordinator = Coordinator::training("a");
    coordinator.report_steps("a", 0, 4);
    coordinator.handle(Event::Stop(Stop::Finish));
    coordinator.acknowledges('a', 2, 4);
    coordinator.passes(5.0, "");
    assert_eq!(coordinator.waits_for(), "returning");
    let lines = coordinator.joins('a');
    assert!(lines.contains(&"a: request the snapshot of step 4".to_owned()), "{lines:?}");
    // It may have finished another step since: it is asked once more.
    assert_eq!(coordinator.uploads(4), ["save the checkpoint of step 4", "a: fence 2"]);
    assert_eq!(coordinator.acknowledges('a', 2, 4), ["a: finish"]);
}

#[test]
fn a_start_is_no_interruption_and_a_loss_before_it_is_not_the_cause_of_the_next() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 4);
    coordinator.restarts();
    coordinator.joins('a');
    coordinator.hello('b');
    coordinator.handle(Event::ProcessEnded("b".to_owned()));
    coordinator.passes(6.0, "a");
    coordinator.acknowledges('a', 2, 4);
    assert_eq!(coordinator.generation(), 2);
    assert_eq!(coordinator.status().recoveries, []);
    coordinator.report_steps("a", 4, 5);
    coordinator.joins('c');
    let causes: Vec<String> =
        coordinator.status().recoveries.into_iter().map(|one| one.cause).collect();
    assert_eq!(causes, ["worker c joins"]);
}

#[test]
fn rule_12_nobody_waits_for_a_process_that_has_ended() {
    let mut coordinator = Coordinator::training("a");
    coordinator.report_steps("a", 0, 4);
    coordinator.handle(Event::ProcessEnded("a".to_owned()));
    let lost = "exit: Stopped { saved: 0, lost: Some(LostSteps { first: 1, last: 4 }) }";
    assert_eq!(coordinator.handle(Event::Stop(Stop::Finish)), [lost]);
}

#[test]
fn rule_12_an_end_before_the_first_step_waits_for_nothing() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.handle(Event::Stop(Stop::Finish));
    coordinator.acknowledges('a', 2, 0);
    assert_eq!(coordinator.acknowledges('b', 2, 0), ["a: finish", "b: finish"]);
    // Also while the run waits for its first workers.
    let mut coordinator = Coordinator::new(4, 1);
    coordinator.joins('a');
    coordinator.handle(Event::Stop(Stop::Finish));
    assert_eq!(coordinator.acknowledges('a', 1, 0), ["a: finish"]);
}

#[test]
fn rule_12_a_spare_that_leaves_interrupts_nobody() {
    let mut coordinator = Coordinator::new(2, 1);
    coordinator.joins('a');
    assert_eq!(coordinator.says('a', FromWorker::Leave), ["a: finish", "a: close"]);
    let mut coordinator = Coordinator::training("abcdefgh");
    coordinator.joins('i');
    assert_eq!(coordinator.says('i', FromWorker::Leave), ["i: finish", "i: close"]);
}

#[test]
fn rule_12_a_worker_that_is_drained_while_it_is_silent_leaves_when_it_is_back() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 4);
    coordinator.handle(Event::Drain("a".to_owned()));
    coordinator.acknowledges('b', 2, 4);
    let lines = coordinator.passes(3.2, "b");
    assert!(lines.contains(&"b: plan 2".to_owned()), "{lines:?}");
    let lost = Notice::Lost { name: "a".to_owned(), why: Departure::Silent };
    assert!(coordinator.notices.contains(&lost));
    let lines = coordinator.joins('a');
    assert_eq!(lines[lines.len() - 2..], ["a: finish", "a: close"]);
}
