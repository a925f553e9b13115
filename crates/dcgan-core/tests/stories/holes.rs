//! Holes that the simulation found in earlier forms of the protocol, and how each is closed. The
//! seed in a story's comment, where there is one, is the run of `simulation/main.rs` that found it.

use dcgan_core::ids::{Digest, Generation, Rank};
use dcgan_core::protocol::coordinator::{Event, SavedCheckpoint, Stop};
use dcgan_core::protocol::message::{Complaint, FromWorker, ToWorker};
use dcgan_core::protocol::worker::{Event as WorkerEvent, StateCopy};

use crate::coordinator::{Coordinator, state};
use crate::digest;
use crate::worker::pair_and_successor;

#[test]
fn a_worker_that_was_late_for_a_fence_is_asked_by_the_one_that_is_open_now() {
    let mut coordinator = Coordinator::new(3, 2);
    for name in ['a', 'b', 'c'] {
        coordinator.joins(name);
    }
    coordinator.acknowledges('a', 1, 0);
    coordinator.acknowledges('b', 1, 0);
    let lines = coordinator.passes(3.1, "abc");
    assert_eq!(lines[0], "store plan 1: a=0123 b=4567, from the initial state");
    // Worker b is lost. Worker c has not answered yet, so it is not asked by the next fence ...
    coordinator.loses_stream_of('b');
    assert_eq!(coordinator.passes(1.1, "ac"), ["a: fence 2"]);
    coordinator.acknowledges('a', 2, 0);
    // ... and its late answer came while that one was open. Without the question that follows here,
    // two workers would wait for each other for ever.
    assert_eq!(coordinator.acknowledges('c', 1, 0), ["c: fence 2"]);
    let lines = coordinator.acknowledges('c', 2, 0);
    assert_eq!(lines[0], "store plan 2: a=0123 c=4567, from the initial state");
}

#[test]
fn reports_of_a_state_that_is_lost_are_no_agreement() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 9);
    // Worker a finishes step 10 and reports it. Then a bit flips in its memory, and it goes back to
    // the state of b.
    coordinator.reports('a', 10);
    coordinator.complains('a', Complaint::StateCorrupted("parameters".to_owned()));
    coordinator.acknowledges_with('a', 2, state(0, 0, digest(0)));
    let lines = coordinator.acknowledges('b', 2, 9);
    assert_eq!(lines[0], "store plan 2: b=4567 a=0123, from the end of step 9");
    // When b finishes step 10, a has not (again). Its old report must not count, or the coordinator
    // would write that all members have a state that one of them may never reach.
    assert_eq!(coordinator.reports('b', 10), [""; 0]);
    assert_eq!(
        coordinator.reports('a', 10)[..2],
        ["a: request the snapshot of step 10", "append the row of step 10"]
    );
}

#[test]
fn a_snapshot_that_was_given_up_is_due_again_when_the_members_come_by() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 10);
    // Seed 495. Neither of the members holds the snapshot of step 10 any more.
    let missing = FromWorker::SnapshotMissing(10);
    assert_eq!(coordinator.says('a', missing.clone()), ["b: request the snapshot of step 10"]);
    coordinator.says('b', missing);
    // Both lose their states, so the next plan starts earlier, and they compute step 10 once more.
    coordinator.complains('a', Complaint::StateCorrupted("parameters".to_owned()));
    coordinator.acknowledges_with('a', 2, state(0, 0, digest(0)));
    coordinator.acknowledges_with('b', 2, state(0, 0, digest(0)));
    let lines = coordinator.report_steps("ab", 0, 10);
    assert!(lines.contains(&"a: request the snapshot of step 10".to_owned()), "{lines:?}");
}

#[test]
fn a_broken_stream_is_not_forgotten_when_a_copy_arrives() {
    let ([mut a, _], mut c, plan) = pair_and_successor();
    c.hears(ToWorker::Plan(plan.clone()));
    // Seed 17804. While the copy is on its way, the stream of frames from a breaks.
    let broken = WorkerEvent::StreamBroken(Generation(2), Rank(0));
    assert_eq!(c.handle(broken), ["report: generation 2 cannot go on: the stream of rank 0 broke"]);
    a.handle(WorkerEvent::CopyAsked(Some(plan.start), 1));
    let state = (*a.served.pop().unwrap().unwrap()).clone();
    c.handle(WorkerEvent::Copied(Generation(2), Some(StateCopy { state, reports: Vec::new() })));
    // The copy mends nothing about the stream. After a hello the complaint is made again.
    let lines = c.is_welcomed();
    let again = "report: generation 2 cannot go on: the stream of rank 0 broke".to_owned();
    assert!(lines.contains(&again), "{lines:?}");
}

#[test]
fn a_stop_right_after_a_restart_waits_for_the_workers_of_the_last_plan() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 4);
    coordinator.restarts();
    // A person stops the run before the workers are back. An end now would leave them alone, and
    // lose their steps.
    assert_eq!(coordinator.handle(Event::Stop(Stop::Finish)), [""; 0]);
    coordinator.joins('a');
    assert!(coordinator.joins('b').contains(&"b: fence 2".to_owned()));
}

#[test]
fn a_checkpoint_that_a_newer_one_overtakes_on_its_way_is_kept() {
    let mut coordinator = Coordinator::training("a");
    coordinator.report_steps("a", 0, 20);
    // Uploads travel in parallel. That of step 20 arrives first.
    assert_eq!(coordinator.uploads(20), ["save the checkpoint of step 20"]);
    assert_eq!(coordinator.uploads(10), ["save the checkpoint of step 10", "a: persisted 20"]);
}

#[test]
fn reports_that_are_repeated_are_no_progress() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 5);
    coordinator.complains('a', Complaint::StreamBroken(Rank(1)));
    coordinator.acknowledges('a', 2, 5);
    coordinator.acknowledges('b', 2, 5);
    // After every plan workers report again what led to its start. That is not a finished step of
    // generation 2, so the next complaint has to wait: without a pause, two workers that do not
    // reach each other would turn generations over as fast as the network allows.
    coordinator.repeats('a', 1, 5);
    assert_eq!(coordinator.complains('a', Complaint::StreamBroken(Rank(1))), [""; 0]);
    assert_eq!(coordinator.passes(1.1, "ab"), ["a: fence 3", "b: fence 3"]);
}

#[test]
fn a_checkpoint_that_cannot_be_read_is_needed_only_if_no_worker_has_its_state() {
    let unreadable = |newest: Option<SavedCheckpoint>| Event::Unreadable { step: 10, newest };
    let mut coordinator = Coordinator::training("a");
    coordinator.report_steps("a", 0, 10);
    coordinator.uploads(10);
    // A newcomer wants the checkpoint, and the file turns out to be damaged. A fence shows whether
    // the checkpoint is needed at all: the worker still has a state of its own.
    coordinator.loses_stream_of('a');
    coordinator.passes(1.1, "");
    coordinator.joins('b');
    coordinator.acknowledges('b', 2, 0);
    assert_eq!(coordinator.handle(unreadable(None)), ["b: fence 3"]);
    coordinator.acknowledges('b', 3, 0);
    // Nobody has the state of step 10, and no older checkpoint is intact: the run goes back to the
    // beginning, and its steps are compared with the rows that are on disk.
    assert_eq!(coordinator.generation(), 3);
    let lines = coordinator.report_steps("b", 0, 10);
    assert!(lines.contains(&"b: request the snapshot of step 10".to_owned()), "{lines:?}");
}

#[test]
fn a_worker_that_copied_another_state_speaks_for_that_one() {
    let mut coordinator = Coordinator::training("abc");
    let bad = Digest(0xBAD);
    // Worker c comes out of step 1 with another state than a and b.
    coordinator.reports('a', 1);
    coordinator.reports('b', 1);
    let lines = coordinator.reports_with('c', 1, bad);
    assert_eq!(lines, ["a: fence 2", "b: fence 2", "c: fence 2"]);
    coordinator.acknowledges('a', 2, 1);
    coordinator.acknowledges('b', 2, 1);
    coordinator.acknowledges_with('c', 2, state(1, 1, bad));
    // It copies the more frequent state, and reports that instead. Its first report is void: nobody
    // differs any more, and no other fence follows.
    assert_eq!(coordinator.repeats('c', 1, 1), [""; 0]);
    coordinator.report_steps("abc", 1, 9);
    coordinator.reports('a', 10);
    coordinator.reports('b', 10);
    assert_eq!(
        coordinator.reports('c', 10)[..2],
        ["a: request the snapshot of step 10", "append the row of step 10"]
    );
}

#[test]
fn fixed_shards_stay_when_a_plan_is_made_for_another_reason() {
    let mut coordinator = Coordinator::new(2, 1).with_fixed_shards();
    for name in ['a', 'b'] {
        coordinator.joins(name);
    }
    for name in ['a', 'b'] {
        coordinator.acknowledges(name, 1, 0);
    }
    // Worker b takes three times as long as a, for six seconds.
    for step in 1..=20 {
        coordinator.reports_after('a', step, 100.0);
        coordinator.reports_after('b', step, 300.0);
        assert!(!coordinator.passes(0.3, "ab").contains(&"a: fence 2".to_owned()));
    }
    // A person has asked that shards stay where they are. Speeds that were recorded all the same
    // once moved them at the next plan.
    coordinator.complains('a', Complaint::StreamBroken(Rank(1)));
    coordinator.acknowledges('a', 2, 20);
    assert_eq!(
        coordinator.acknowledges('b', 2, 20)[0],
        "store plan 2: a=0123 b=4567, from the end of step 20"
    );
}
