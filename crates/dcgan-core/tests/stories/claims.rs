//! Rule 11: what a peer says is a claim.

use dcgan_core::ids::{Digest, Generation, Phase, Position, Rank, ShardId, Step};
use dcgan_core::metrics::StepDone;
use dcgan_core::protocol::coordinator::{Departure, Event, Notice, Stop};
use dcgan_core::protocol::message::{Complaint, FailedShards, FromWorker, ToWorker};
use dcgan_core::protocol::plan::StateRef;
use dcgan_core::protocol::worker::{Event as WorkerEvent, ReduceFrame, StateCopy};

use crate::coordinator::{Coordinator, id, state};
use crate::digest;
use crate::worker::{Worker, pair_and_successor, plan};

const NOTHING: [&str; 0] = [];

/// Asserts that worker c is expelled for what it says, in these words, and that a and b go on.
fn check_expelled(message: FromWorker, words: &str) {
    let mut coordinator = Coordinator::training("abc");
    coordinator.report_steps("abc", 0, 3);
    let lines = coordinator.says('c', message);
    assert_eq!(lines, ["c: turn away", "c: close", "a: fence 2", "b: fence 2"]);
    coordinator.acknowledges('a', 2, 3);
    let lines = coordinator.acknowledges('b', 2, 3);
    assert_eq!(lines[0], "store plan 2: a=0126 b=3457, from the end of step 3");
    let expected = format!("worker c at c:1 is expelled: it claimed {words}; it stays outside");
    let is_it = |notice: &Notice| notice.to_string().starts_with(&expected);
    assert!(coordinator.notices.iter().any(is_it), "{expected}: {:?}", coordinator.notices);
}

/// Asserts that a notice has these words.
fn assert_says(coordinator: &Coordinator, words: &str) {
    let notices = &coordinator.notices;
    assert!(notices.iter().any(|it| it.to_string().contains(words)), "{words}: {notices:?}");
}

/// The report of a step of generation 1.
fn step_done(step: Step) -> StepDone {
    StepDone {
        step,
        generation: Generation(1),
        world_size: 3,
        digest: digest(step),
        ends_run: false,
        metrics: vec![0.5; 6],
        step_ms: 1.0,
        allreduce_ms: 1.0,
    }
}

fn complaint(complaint: Complaint) -> FromWorker {
    FromWorker::Complaint { generation: Generation(1), complaint }
}

fn failed(step: Step, shards: &[u16]) -> FromWorker {
    let shards = shards.iter().copied().map(ShardId).collect();
    let position = Position { step, phase: Phase::Generator };
    let what = "it is not finite".to_owned();
    complaint(Complaint::ShardsFailed(FailedShards { position, shards, what }))
}

#[test]
fn rule_11_a_report_that_cannot_be_true_expels_the_worker_that_makes_it() {
    let check = |done: StepDone, words: &str| check_expelled(FromWorker::StepDone(done), words);
    check(step_done(101), "to have reached the end of step 101, but the last step is 100");
    check(
        step_done(0),
        "to have finished step 0 in generation 1, but steps and generations are counted from 1",
    );
    check(
        StepDone { generation: Generation(2), ..step_done(4) },
        "to be in generation 2, but the newest plan is 1",
    );
    check(StepDone { world_size: 2, ..step_done(4) }, "2 members in generation 1, but there are 3");
    check(StepDone { metrics: Vec::new(), ..step_done(4) }, "0 metrics of step 4, but there are 6");
    for (ms, said) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (-1.0, "-1")] {
        let words = format!("that step 4 took {said} ms, but a time is a finite number");
        let check = |done| {
            let mut coordinator = Coordinator::training("abc");
            coordinator.says('c', FromWorker::StepDone(done));
            let notices = &coordinator.notices;
            assert!(notices.iter().any(|it| it.to_string().contains(&words)), "{notices:?}");
        };
        check(StepDone { step_ms: ms, ..step_done(4) });
        check(StepDone { allreduce_ms: ms, ..step_done(4) });
    }
}

#[test]
fn rule_11_a_complaint_that_cannot_be_true_expels_the_worker_that_makes_it() {
    check_expelled(
        failed(3, &[60000]),
        "shard 60000 as its own, but the plan gives it others, of 8 in all",
    );
    check_expelled(
        failed(3, &[0]),
        "shard 0 as its own, but the plan gives it others, of 8 in all",
    );
    check_expelled(
        failed(3, &[7, 6]),
        "failed shards without order or number, but each is named once, in order",
    );
    check_expelled(
        failed(200, &[6]),
        "to compute at step 201, before phase generator, but the plan leads from the initial \
         state to the end of step 100",
    );
    for rank in [2, 3] {
        let words = format!(
            "that rank {rank} is another member, but the plan has 3 members, and it has a rank \
             itself"
        );
        check_expelled(complaint(Complaint::StreamBroken(Rank(rank))), &words);
        check_expelled(complaint(Complaint::Timeout(Rank(rank))), &words);
    }
}

#[test]
fn rule_11_an_answer_to_a_fence_that_cannot_be_true_expels_the_worker_that_gives_it() {
    let answer = |generation, state| FromWorker::FenceAck {
        generation: Generation(generation),
        state: Some(state),
    };
    check_expelled(answer(9, state(1, 3, digest(3))), "to answer fence 9, but the newest is 2");
    check_expelled(
        answer(2, state(9, 3, digest(3))),
        "to be in generation 9, but the newest plan is 1",
    );
    check_expelled(
        answer(2, state(0, 3, digest(3))),
        "to have reached the end of step 3 without a plan, but without a plan a worker has the \
         initial state",
    );
    check_expelled(
        answer(2, state(1, 101, digest(3))),
        "to have reached the end of step 101, but the last step is 100",
    );
}

#[test]
fn rule_11_no_member_is_two_phases_ahead_of_the_others() {
    let mut coordinator = Coordinator::training("abc");
    coordinator.report_steps("abc", 0, 3);
    coordinator.complains('a', Complaint::StateCorrupted("parameters".to_owned()));
    coordinator.acknowledges('a', 2, 3);
    coordinator.acknowledges('b', 2, 3);
    // Every sum needs a and b: c cannot have gone on without them.
    let lines = coordinator.acknowledges('c', 2, 90);
    assert_eq!(lines[..2], ["c: turn away", "c: close"]);
    let lines = coordinator.passes(0.1, "ab");
    assert_eq!(lines[0], "store plan 2: a=0126 b=3457, from the end of step 3");
}

#[test]
fn rule_11_of_two_members_that_contradict_each_other_the_one_behind_is_believed() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 3);
    coordinator.complains('a', Complaint::StateCorrupted("parameters".to_owned()));
    coordinator.acknowledges('a', 2, 3);
    // Nobody knows which of the two is wrong, so nobody is expelled. What lies between is computed
    // again, to the same bits; a state that nobody can have would end the run.
    let lines = coordinator.acknowledges('b', 2, 90);
    assert_eq!(lines[0], "store plan 2: a=0123 b=4567, from the end of step 3");
}

#[test]
fn rule_11_only_members_speak_of_the_plan() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 3);
    for message in [
        FromWorker::StepDone(StepDone { world_size: 2, ..step_done(4) }),
        complaint(Complaint::CopyFailed),
        complaint(Complaint::Timeout(Rank(0))),
        FromWorker::FenceAck { generation: Generation(2), state: Some(state(1, 4, Digest(0xBAD))) },
    ] {
        coordinator.hello('s');
        assert_eq!(coordinator.says('s', message), ["s: turn away", "s: close"]);
        // The members notice nothing.
        assert_eq!(coordinator.passes(2.0, "ab"), [""; 0]);
        coordinator.says('a', FromWorker::Ready);
        coordinator = Coordinator::training("ab");
        coordinator.report_steps("ab", 0, 3);
    }
    // A report of an older generation may be one that a copy brought along. It counts for nothing.
    coordinator.complains('a', Complaint::StateCorrupted("parameters".to_owned()));
    coordinator.acknowledges('a', 2, 3);
    coordinator.acknowledges('b', 2, 3);
    coordinator.hello('s');
    let other = StepDone { digest: Digest(0xBAD), ..step_done(3) };
    assert_eq!(coordinator.says('s', FromWorker::StepDone(other)), [""; 0]);
}

#[test]
fn rule_11_nobody_has_finished_a_step_before_the_first_plan() {
    let mut coordinator = Coordinator::new(2, 1);
    coordinator.hello('s');
    let lines = coordinator.says('s', FromWorker::StepDone(step_done(1)));
    assert_eq!(lines, ["s: turn away", "s: close"]);
}

#[test]
fn rule_11_an_expelled_worker_may_come_back_after_a_pause_that_grows() {
    let mut coordinator = Coordinator::training("ab");
    for pause in [1.0, 2.0, 4.0] {
        coordinator.hello('s');
        coordinator.says('s', FromWorker::StepDone(step_done(101)));
        assert_eq!(coordinator.hello('s'), ["s: turn away"]);
        coordinator.passes(pause - 0.2, "ab");
        assert_eq!(coordinator.hello('s'), ["s: turn away"]);
        coordinator.passes(0.3, "ab");
    }
    assert_eq!(coordinator.joins('s')[0], "s: welcome, likely shards 67");
    let notices = coordinator.notices.iter().filter(|notice| {
        matches!(notice, Notice::Lost { name, why: Departure::FalseClaim(_) } if name == "s")
    });
    assert_eq!(notices.count(), 3);
}

#[test]
fn rule_11_a_name_belongs_to_the_worker_that_is_heard() {
    let mut coordinator = Coordinator::training("ab");
    // Another process has the name of a, by mistake or not, and has started later. It waits.
    assert_eq!(coordinator.hello_as('x', 'a', u64::MAX), ["x: turn away"]);
    assert_eq!(coordinator.passes(2.0, "ab"), [""; 0]);
    let taken = coordinator.notices.iter().filter(|it| matches!(it, Notice::NameTaken(_)));
    assert_eq!(taken.count(), 1);
    // When nothing was heard from a for 3 s, the name is free.
    coordinator.passes(3.1, "b");
    assert_eq!(coordinator.hello_as('x', 'a', u64::MAX)[0], "x: welcome, likely shards 0123");
}

#[test]
fn rule_11_the_first_plan_decides_the_fingerprint_and_not_the_first_hello() {
    let mut coordinator = Coordinator::new(2, 1);
    coordinator.hello_with('s', "nonsense");
    coordinator.says('s', FromWorker::Ready);
    coordinator.joins('a');
    assert_eq!(coordinator.reason(), "waiting for 1 of 2 workers to start");
    let lines = coordinator.joins('b');
    assert_eq!(lines[2..], ["a: fence 1", "b: fence 1", "s: fence 1"]);
    for name in ['s', 'a'] {
        coordinator.acknowledges(name, 1, 0);
    }
    let lines = coordinator.acknowledges('b', 1, 0);
    assert_eq!(
        lines[..3],
        ["s: refuse", "s: close", "store plan 1: a=0123 b=4567, from the initial state"]
    );
    // From now on it is the run's, also after a restart.
    assert_eq!(coordinator.hello_with('s', "nonsense"), ["s: refuse"]);
}

#[test]
fn rule_11_what_an_early_end_saves_is_what_the_answers_vouch_for() {
    let mut coordinator = Coordinator::training("abc");
    coordinator.report_steps("abc", 0, 3);
    coordinator.handle(Event::Stop(Stop::Finish));
    for name in ['a', 'b', 'c'] {
        coordinator.acknowledges(name, 2, 3);
    }
    // One report is enough before an early end, but not of a step that nobody has.
    assert_eq!(coordinator.says('c', FromWorker::StepDone(step_done(4))), [""; 0]);
    coordinator.uploads(3);
    assert!(coordinator.says('a', FromWorker::Leave).contains(&"a: finish".to_owned()));
}

#[test]
fn rule_11_a_directory_that_is_older_than_its_workers_catches_up() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 3);
    coordinator.restarts();
    // The plan on disk is that of generation 1, restored from a backup. A stranger cannot know of a
    // newer one; a member can.
    assert_eq!(coordinator.hello_in('s', 7), ["s: turn away"]);
    coordinator.hello_in('a', 7);
    coordinator.says('a', FromWorker::Ready);
    coordinator.hello_in('b', 7);
    let lines = coordinator.says('b', FromWorker::Ready);
    assert_eq!(lines, ["a: fence 8", "b: fence 8"]);
    coordinator.acknowledges_with('a', 8, state(7, 9, digest(9)));
    let lines = coordinator.acknowledges_with('b', 8, state(7, 9, digest(9)));
    assert_eq!(lines[0], "store plan 8: a=0123 b=4567, from the end of step 9");
    assert_eq!(coordinator.hello_in('s', 9), ["s: turn away"]);
}

#[test]
fn rule_11_an_overtaken_message_is_no_lie() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 3);
    coordinator.complains('a', Complaint::StreamBroken(Rank(1)));
    coordinator.acknowledges('a', 2, 3);
    coordinator.acknowledges('b', 2, 3);
    let StateRef { position, .. } = state(1, 3, digest(3));
    for message in [
        complaint(Complaint::Timeout(Rank(40))),
        FromWorker::StepDone(step_done(2)),
        FromWorker::FenceAck { generation: Generation(1), state: Some(state(0, 0, digest(0))) },
        FromWorker::SnapshotMissing(77),
        FromWorker::StateDiffered { position, tensor: "parameters".to_owned() },
        FromWorker::ProbeResult { peer: id('z'), result: Ok(()) },
    ] {
        assert_eq!(coordinator.says('a', message), [""; 0]);
    }
}

#[test]
fn rule_11_a_worker_closes_the_stream_of_a_coordinator_that_cannot_be_right() {
    let [mut a, _] = Worker::pair();
    let start = a.machine.at();
    let mut check = |message: ToWorker, words: &str| {
        let line = format!("close the session: it claimed {words}");
        assert_eq!(a.hears(message), [line]);
    };
    check(
        ToWorker::Fence(Generation(u64::MAX)),
        "generation 18446744073709551615, but the newest fence was 1",
    );
    check(
        ToWorker::Persisted(4),
        "that everything up to step 4 is on disk, but the last step is 3",
    );
    check(
        ToWorker::Plan(plan(2, "ab", "00111", start, "ab")),
        "a plan with 5 shards, but the run has 4",
    );
    let beyond = StateRef { position: Position::after(9), ..start };
    check(
        ToWorker::Plan(plan(2, "ab", "0011", beyond, "ab")),
        "a plan that starts from the end of step 9, but the last step is 3",
    );
    // It has not moved, and goes on.
    assert_eq!(a.machine.promised(), Generation(1));
    assert!(!a.computes().is_empty());
}

#[test]
fn rule_11_frames_of_the_next_phase_are_kept_once() {
    let [mut a, mut b] = Worker::pair();
    a.computes();
    b.computes();
    let (_, frame) = b.outbox.pop_front().unwrap();
    let kept = a.machine.kept_for_others();
    let ahead = ReduceFrame { position: frame.position.next(), ..frame };
    for _ in 0..100 {
        assert_eq!(a.receives(1, ahead.clone()), [""; 0]);
    }
    assert_eq!(a.machine.kept_for_others(), kept + 1);
    // What is no part of that phase is not kept, whoever says that it comes from b.
    let mut wrong = ahead.clone();
    wrong.bucket_sum.bucket = 99;
    assert_eq!(
        a.receives(1, wrong),
        ["report: generation 1 cannot go on: the stream of rank 1 broke"]
    );
    for stranger in [0, 2, u16::MAX] {
        assert_eq!(a.receives(stranger, ahead.clone()), [""; 0]);
        let broken = WorkerEvent::StreamBroken(Generation(1), Rank(stranger));
        assert_eq!(a.handle(broken), [""; 0]);
    }
    assert_eq!(a.machine.kept_for_others(), kept + 1);
}

#[test]
fn rule_11_the_coordinators_plan_replaces_one_that_a_peer_made_up() {
    let [mut a, _] = Worker::pair();
    let state = a.machine.at();
    a.hears(ToWorker::Fence(Generation(2)));
    // A plan without this worker cannot have led a member here.
    let without = plan(2, "bc", "0011", state, "bc");
    assert_eq!(a.handle(WorkerEvent::PeerPlan(without)), [""; 0]);
    let forged = plan(2, "ac", "0001", state, "ac");
    let lines = a.handle(WorkerEvent::PeerPlan(forged));
    assert_eq!(lines[0], "connect to the members of plan 2 as rank 0");
    let right = plan(2, "ba", "0011", state, "ba");
    let lines = a.hears(ToWorker::Plan(right.clone()));
    assert_eq!(lines[0], "connect to the members of plan 2 as rank 1");
    // A plan that is only repeated changes nothing.
    assert_eq!(a.hears(ToWorker::Plan(right)), [""; 0]);
}

#[test]
fn rule_11_a_worker_repeats_no_report_that_it_could_not_have_made() {
    let ([mut a, _], mut c, plan) = pair_and_successor();
    c.hears(ToWorker::Plan(plan.clone()));
    a.handle(WorkerEvent::CopyAsked(Some(plan.start), 1));
    let state = (*a.served.pop().unwrap().unwrap()).clone();
    let right = StepDone { digest: plan.start.digest, world_size: 2, ..step_done(1) };
    let reports = vec![
        StepDone { step: 2, ..right.clone() },
        StepDone { step: 0, ..right.clone() },
        StepDone { generation: Generation(2), ..right.clone() },
        StepDone { step_ms: f32::NAN, ..right.clone() },
        StepDone { digest: Digest(0xBAD), ..right.clone() },
    ];
    let copy = StateCopy { state: state.clone(), reports };
    let lines = c.handle(WorkerEvent::Copied(Generation(2), Some(copy)));
    assert!(!lines.iter().any(|line| line.contains("done")), "{lines:?}");

    let mut d = Worker::new('c');
    d.hears(ToWorker::Fence(Generation(2)));
    d.hears(ToWorker::Plan(plan));
    let copy = StateCopy { state, reports: vec![right] };
    let lines = d.handle(WorkerEvent::Copied(Generation(2), Some(copy)));
    assert_eq!(lines[0], "report: step 1 done");
}

#[test]
fn rule_11_a_member_that_withholds_its_reports_is_expelled() {
    let mut coordinator = Coordinator::training("abc");
    coordinator.report_steps("abc", 0, 3);
    // No report of step 4 could be on its way still: c has said nothing of it for 20 s.
    coordinator.report_steps("ab", 3, 5);
    assert_eq!(coordinator.passes(19.0, "abc"), NOTHING);
    let lines = coordinator.passes(1.5, "abc");
    assert_eq!(lines, ["c: turn away", "c: close", "a: fence 2", "b: fence 2"]);
    let words = "not to have finished step 4, but most members finished step 5 20 s ago";
    assert_says(&coordinator, words);
}

#[test]
fn rule_11_a_member_that_withholds_the_report_of_the_last_step_is_expelled() {
    let mut coordinator = Coordinator::new(3, 1).with_steps(5).with_plan_of("abc");
    coordinator.report_steps("abc", 0, 4);
    coordinator.report_steps("ab", 4, 5);
    let lines = coordinator.passes(20.5, "abc");
    assert_eq!(lines[..2], ["c: turn away", "c: close"]);
}

#[test]
fn rule_11_a_state_that_was_not_reported_leads_no_plan() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 3);
    coordinator.report_steps("b", 3, 5);
    // Worker b stops. What a says to have, it has reported no more than the step that b lacks.
    coordinator.says('b', FromWorker::Leave);
    coordinator.acknowledges('b', 2, 5);
    let lines = coordinator.acknowledges('a', 2, 5);
    assert_eq!(lines[..2], ["a: turn away", "a: close"]);
    let words = "to have finished step 5 without a report of it";
    assert_says(&coordinator, words);
}

#[test]
fn rule_11_a_report_that_is_late_for_all_costs_nobody_anything() {
    let mut coordinator = Coordinator::training("abc");
    coordinator.report_steps("abc", 0, 3);
    // Nobody has finished step 5, so c may still be at work on step 4.
    coordinator.report_steps("ab", 3, 4);
    assert_eq!(coordinator.passes(25.0, "abc"), NOTHING);
}
