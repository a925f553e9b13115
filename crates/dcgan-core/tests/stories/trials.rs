//! Rule 13: membership is earned.

use dcgan_core::ids::{Digest, Generation, Rank};
use dcgan_core::protocol::coordinator::Notice;
use dcgan_core::protocol::message::{Complaint, FromWorker, TrialTimes};

use crate::coordinator::{Coordinator, id, state};

/// A worker says what came of its attempt to reach another one.
fn probed(peer: char, result: Result<(), &str>) -> FromWorker {
    FromWorker::ProbeResult { peer: id(peer), result: result.map_err(str::to_owned) }
}

/// A worker says what came of its trial with the state of another one, which it copied in 0.8 s.
fn tried(donor: char, shard_ms: Result<f64, &str>) -> FromWorker {
    let result = shard_ms.map(|shard_ms| TrialTimes { copy_ms: 800.0, shard_ms });
    FromWorker::TrialResult { donor: id(donor), result: result.map_err(str::to_owned) }
}

/// The reasons for which workers wait outside, newest last, each with the worker's name.
fn outside(coordinator: &Coordinator) -> Vec<String> {
    let mut reasons = Vec::new();
    for notice in &coordinator.notices {
        if let Notice::Outside { name, why, .. } = notice {
            reasons.push(format!("{name}: {why}"));
        }
    }
    reasons
}

/// Workers a and b train, and c comes. Trials are told from then on.
fn newcomer() -> (Coordinator, Vec<String>) {
    let mut coordinator = Coordinator::training("ab").with_trials();
    coordinator.report_steps("ab", 0, 3);
    let lines = coordinator.joins('c');
    (coordinator, lines)
}

#[test]
fn rule_13_a_newcomer_and_each_member_reach_each_other_before_it_counts() {
    let (mut coordinator, lines) = newcomer();
    // Both directions of both pairs are tried, and a copy. The members train on meanwhile.
    assert_eq!(
        lines[2..],
        ["c: probe a", "a: probe c", "c: probe b", "b: probe c", "c: trial with b"]
    );
    assert_eq!(coordinator.says('c', probed('a', Ok(()))), [""; 0]);
    assert_eq!(coordinator.says('c', probed('b', Ok(()))), [""; 0]);
    assert_eq!(coordinator.says('a', probed('c', Ok(()))), [""; 0]);
    assert_eq!(coordinator.says('c', tried('b', Ok(100.0))), [""; 0]);
    // The last answer makes it a worker that counts.
    let lines = coordinator.says('b', probed('c', Ok(())));
    assert_eq!(lines, ["a: fence 2", "b: fence 2", "c: fence 2"]);
}

#[test]
fn rule_13_a_newcomer_at_a_wrong_address_waits_outside_and_disturbs_nobody() {
    let (mut coordinator, _) = newcomer();
    coordinator.says('c', probed('a', Ok(())));
    coordinator.says('c', probed('b', Ok(())));
    let answer = "worker b answers there";
    assert_eq!(coordinator.says('a', probed('c', Err(answer))), [""; 0]);
    let why = "c: worker a does not reach it at c:1: worker b answers there. If others reach it \
               elsewhere, start it with --advertise HOST:PORT";
    assert_eq!(outside(&coordinator), [why]);
    // After a pause it is tried again, and lets others in when the mistake is mended.
    let lines = coordinator.passes(1.1, "abc");
    assert_eq!(lines, ["c: probe a", "a: probe c", "c: probe b", "b: probe c", "c: trial with b"]);
    for (by, peer) in [('a', 'c'), ('b', 'c'), ('c', 'a'), ('c', 'b')] {
        coordinator.says(by, probed(peer, Ok(())));
    }
    let lines = coordinator.says('c', tried('b', Ok(100.0)));
    assert_eq!(lines, ["a: fence 2", "b: fence 2", "c: fence 2"]);
}

#[test]
fn rule_13_a_pause_outside_grows() {
    let (mut coordinator, _) = newcomer();
    for (pause, step) in [(1.0, 3), (2.0, 4), (4.0, 5), (8.0, 6), (16.0, 7)] {
        coordinator.says('a', probed('c', Err("nobody is there")));
        coordinator.report_steps("ab", step, step + 1);
        assert_eq!(coordinator.passes(pause - 0.2, "abc"), [""; 0], "{pause}");
        assert_ne!(coordinator.passes(0.3, "abc"), [""; 0], "{pause}");
    }
}

#[test]
fn rule_13_a_newcomer_that_cannot_copy_tries_another_member_and_then_waits() {
    let (mut coordinator, _) = newcomer();
    // It may be the fault of b.
    let lines = coordinator.says('c', tried('b', Err("no whole copy in 10 s")));
    assert_eq!(lines, ["c: trial with a"]);
    coordinator.says('c', tried('a', Err("no whole copy in 10 s")));
    let why = "c: it cannot copy the state of worker a and compute a shard: no whole copy in 10 s";
    assert_eq!(outside(&coordinator), [why]);
}

#[test]
fn rule_13_a_newcomer_that_is_much_slower_than_the_members_waits_with_both_figures() {
    let (mut coordinator, _) = newcomer();
    // The members take 99 ms for four shards.
    coordinator.says('c', tried('b', Ok(251.0)));
    let reasons = outside(&coordinator);
    assert!(reasons[0].starts_with("c: it takes 251 ms for a shard, and the members take 25 ms"));
}

#[test]
fn rule_13_before_the_first_step_all_are_compared() {
    // The first one to come has a wrong address. It is not the later ones that have to wait.
    let mut coordinator = Coordinator::new(3, 2).with_trials();
    coordinator.joins('a');
    coordinator.joins('b');
    coordinator.joins('c');
    for (by, peer) in [('a', 'b'), ('a', 'c'), ('b', 'c'), ('c', 'b')] {
        assert_eq!(coordinator.says(by, probed(peer, Ok(()))), [""; 0]);
    }
    coordinator.says('b', probed('a', Err("nobody is there")));
    let lines = coordinator.says('c', probed('a', Err("nobody is there")));
    // It is sent fences, for it may have a state of use; but no plan counts on it.
    assert_eq!(lines, ["a: fence 1", "b: fence 1", "c: fence 1"]);
    coordinator.acknowledges('b', 1, 0);
    let lines = coordinator.acknowledges('c', 1, 0);
    assert_eq!(lines[0], "store plan 1: b=0123 c=4567, from the initial state");
    let is_a = |why: &String| why.starts_with("a: worker b does not reach it at a:1");
    assert!(outside(&coordinator).iter().any(is_a));
}

/// Workers a and b answer a fence after a step, and then c does, if its answer is waited for.
fn answer_fence(coordinator: &mut Coordinator, fence: u64, step: u64) -> Vec<String> {
    coordinator.acknowledges('a', fence, step);
    let lines = coordinator.acknowledges('b', fence, step);
    if lines.is_empty() { coordinator.acknowledges('c', fence, 0) } else { lines }
}

/// Fails plans of a, b and c by a complaint of a, until one begins with other members.
fn fail_plans(coordinator: &mut Coordinator, complaint: &Complaint) -> String {
    for fence in 3..=4 {
        coordinator.complains('a', complaint.clone());
        coordinator.passes(1.1, "abc");
        let lines = answer_fence(coordinator, fence, 3);
        if fence == 4 {
            return lines[0].clone();
        }
        assert!(lines[0].contains("c="), "once may be chance: {lines:?}");
    }
    unreachable!("two plans have failed")
}

#[test]
fn rule_13_two_plans_without_a_step_go_back_to_the_members_that_finished_one() {
    // Worker d is lost when c joins, so it may be for want of d that they finish no step.
    let mut coordinator = Coordinator::new(3, 2).with_plan_of("abd");
    coordinator.report_steps("abd", 0, 3);
    coordinator.loses_stream_of('d');
    coordinator.joins('c');
    answer_fence(&mut coordinator, 2, 3);
    coordinator.passes(3.1, "abc");
    let line = fail_plans(&mut coordinator, &Complaint::StreamBroken(Rank(2)));
    assert_eq!(line, "store plan 4: a=0126 b=3457, from the end of step 3");
    let why = "c: with it the members finished no step; worker a: it lost its connection to \
               worker c";
    assert_eq!(outside(&coordinator), [why]);
}

/// Workers a and b take up to a second for a step, and c has joined them after a trial of a second.
fn newcomer_joins() -> Coordinator {
    let (mut coordinator, _) = newcomer();
    for (by, peer) in [('a', 'c'), ('b', 'c'), ('c', 'a'), ('c', 'b')] {
        coordinator.says(by, probed(peer, Ok(())));
    }
    coordinator.report_steps("ab", 3, 4);
    coordinator.passes(1.0, "abc");
    coordinator.report_steps("ab", 4, 12);
    coordinator.says('c', tried('b', Ok(100.0)));
    answer_fence(&mut coordinator, 2, 12);
    coordinator
}

/// The same, and c has copied the state.
fn newcomer_has_copied() -> Coordinator {
    let mut coordinator = newcomer_joins();
    assert_eq!(coordinator.says('c', FromWorker::Copied(Generation(2))), [""; 0]);
    coordinator
}

#[test]
fn rule_13_the_members_wait_for_a_copy_about_as_long_as_it_took_in_the_trial() {
    let mut coordinator = newcomer_joins();
    assert_eq!(coordinator.passes(2.3, "abc"), [""; 0]);
    // It took 0.8 s. The answer to the fence is not waited for.
    assert_eq!(coordinator.passes(0.2, "abc"), ["a: fence 3", "b: fence 3", "c: fence 3"]);
    let lines = answer_fence(&mut coordinator, 3, 12);
    assert_eq!(lines[0], "store plan 3: a=0123 b=4567, from the end of step 12");
    assert_eq!(outside(&coordinator), ["c: it copied no state in 2.4 s"]);
}

#[test]
fn rule_13_of_two_that_join_the_one_that_copies_for_ever_is_left_out() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 3);
    coordinator.joins('c');
    coordinator.joins('d');
    answer_fence(&mut coordinator, 2, 3);
    coordinator.acknowledges('d', 2, 0);
    coordinator.says('d', FromWorker::Copied(Generation(2)));
    coordinator.passes(0.3, "abcd");
    assert_eq!(outside(&coordinator), ["c: it copied no state in 0.3 s"]);
}

#[test]
fn rule_13_the_members_wait_for_a_newcomer_about_as_long_as_a_step_and_a_copy_take() {
    let mut coordinator = newcomer_has_copied();
    assert_eq!(coordinator.passes(2.7, "abc"), [""; 0]);
    // A copy took it 0.8 s, and a step takes up to a second. Its answer is not waited for.
    assert_eq!(coordinator.passes(0.5, "abc"), ["a: fence 3", "b: fence 3", "c: fence 3"]);
    let lines = answer_fence(&mut coordinator, 3, 12);
    assert_eq!(lines[0], "store plan 3: a=0123 b=4567, from the end of step 12");
    assert_eq!(outside(&coordinator), ["c: the members finished no step with it in 2.8 s"]);
}

#[test]
fn rule_13_a_newcomer_that_becomes_slow_is_left_out_and_a_member_is_waited_for() {
    let mut coordinator = newcomer_joins();
    coordinator.report_steps("abc", 12, 13);
    // Nothing is to be copied any more.
    let lines = coordinator.passes(2.1, "abc");
    assert_eq!(lines[..3], ["a: fence 3", "b: fence 3", "c: fence 3"]);

    let mut coordinator = newcomer_joins();
    coordinator.report_steps("abc", 12, 20);
    assert_eq!(coordinator.passes(29.0, "abc"), [""; 0]);
}

#[test]
fn rule_13_a_member_that_becomes_much_slower_waits_outside() {
    let mut coordinator = newcomer_joins();
    coordinator.report_steps("abc", 12, 20);
    coordinator.report_steps("ab", 20, 22);
    // Once may be chance, if it does not take long.
    assert_eq!(coordinator.reports_after('c', 21, 2_000.0), [""; 0]);
    let lines = coordinator.reports_after('c', 22, 2_000.0);
    assert_eq!(lines, ["a: fence 3", "b: fence 3", "c: fence 3"]);
    let reasons = outside(&coordinator);
    assert!(reasons[0].starts_with("c: it takes 1000 ms for a shard"), "{reasons:?}");
}

#[test]
fn rule_13_a_member_for_which_the_others_wait_for_seconds_waits_outside_at_once() {
    let mut coordinator = newcomer_joins();
    coordinator.report_steps("abc", 12, 20);
    coordinator.report_steps("ab", 20, 21);
    let lines = coordinator.reports_after('c', 21, 4_000.0);
    assert_eq!(lines, ["a: fence 3", "b: fence 3", "c: fence 3"]);
}

#[test]
fn rule_13_those_that_have_failed_before_join_one_by_one() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 3);
    // Of c and d, which join together, one computes for ever, and nobody knows which.
    coordinator.joins('c');
    coordinator.joins('d');
    answer_fence(&mut coordinator, 2, 3);
    let lines = coordinator.acknowledges('d', 2, 0);
    assert!(lines[0].contains(" c=") && lines[0].contains(" d="), "{lines:?}");
    for newcomer in ['c', 'd'] {
        coordinator.says(newcomer, FromWorker::Copied(Generation(2)));
    }
    coordinator.passes(0.7, "abcd");
    answer_fence(&mut coordinator, 3, 3);
    assert_eq!(outside(&coordinator).len(), 2);
    coordinator.report_steps("ab", 3, 4);
    coordinator.passes(1.1, "abcd");
    let mut lines = answer_fence(&mut coordinator, 4, 4);
    lines.extend(coordinator.acknowledges('d', 4, 0));
    let is_plan_of_c = |line: &String| line.contains(" c=") && !line.contains(" d=");
    assert!(lines.iter().any(is_plan_of_c), "{lines:?}");
    // It keeps up, and so the other one may try.
    coordinator.report_steps("abc", 4, 11);
    assert_eq!(coordinator.generation(), 4);
    let lines = coordinator.report_steps("abc", 11, 12);
    assert_eq!(lines, ["a: fence 5", "b: fence 5", "c: fence 5", "d: fence 5"]);
}

#[test]
fn rule_13_a_member_of_which_nobody_gets_the_start_state_goes() {
    let mut coordinator = Coordinator::training("abc");
    // Worker c says that it is a phase ahead. It is a member, so it may be true.
    let mut far = state(1, 0, Digest(0xBAD));
    far.position = far.position.next();
    coordinator.joins('d');
    coordinator.acknowledges('a', 2, 0);
    coordinator.acknowledges('b', 2, 0);
    coordinator.acknowledges_with('c', 2, far);
    coordinator.passes(3.1, "abcd");
    // Nobody gets that state, in two plans.
    for fence in 3..=4 {
        coordinator.complains('a', Complaint::CopyFailed);
        coordinator.complains('b', Complaint::CopyFailed);
        coordinator.passes(1.1, "abcd");
        coordinator.acknowledges('a', fence, 0);
        coordinator.acknowledges('b', fence, 0);
        coordinator.acknowledges_with('c', fence, far);
    }
    let reasons = outside(&coordinator);
    let is_c = |why: &&String| why.starts_with("c: with it the members finished no step");
    assert!(reasons.last().is_some_and(|why| is_c(&why)), "{reasons:?}");
    assert_eq!(coordinator.generation(), 4);
}

#[test]
fn rule_13_members_that_finish_no_step_and_say_nothing_are_asked_again() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 3);
    assert_eq!(coordinator.passes(29.0, "ab"), [""; 0]);
    assert_eq!(coordinator.passes(1.1, "ab"), ["a: fence 2", "b: fence 2"]);
    let is_stalled = |notice: &Notice| matches!(notice, Notice::Stalled(30));
    assert!(coordinator.notices.iter().any(is_stalled));
}
