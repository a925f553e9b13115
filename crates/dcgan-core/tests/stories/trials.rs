//! Rule 13: membership is earned.

use dcgan_core::ids::{Digest, Rank};
use dcgan_core::protocol::coordinator::Notice;
use dcgan_core::protocol::message::{Complaint, FromWorker};

use crate::coordinator::{Coordinator, id, state};

/// A worker says what came of its attempt to reach another one.
fn probed(peer: char, result: Result<(), &str>) -> FromWorker {
    FromWorker::ProbeResult { peer: id(peer), result: result.map_err(str::to_owned) }
}

/// A worker says what came of its trial with the state of another one.
fn tried(donor: char, result: Result<f64, &str>) -> FromWorker {
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

/// Fails plans of a, b and c by a complaint of a, until one begins with other members.
fn fail_plans(coordinator: &mut Coordinator, complaint: &Complaint) -> String {
    for fence in 3..=4 {
        coordinator.complains('a', complaint.clone());
        coordinator.passes(1.1, "abc");
        for name in ['a', 'b'] {
            coordinator.acknowledges(name, fence, 3);
        }
        let lines = coordinator.acknowledges('c', fence, 0);
        if fence == 4 {
            return lines[0].clone();
        }
        assert!(lines[0].contains("c="), "once may be chance: {lines:?}");
    }
    unreachable!("two plans have failed")
}

#[test]
fn rule_13_two_plans_without_a_step_go_back_to_the_members_that_finished_one() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 3);
    coordinator.joins('c');
    for name in ['a', 'b'] {
        coordinator.acknowledges(name, 2, 3);
    }
    coordinator.acknowledges('c', 2, 0);
    let line = fail_plans(&mut coordinator, &Complaint::StreamBroken(Rank(2)));
    assert_eq!(line, "store plan 4: a=0123 b=4567, from the end of step 3");
    let why = "c: with it the members finished no step; worker a: it lost its connection to \
               worker c";
    assert_eq!(outside(&coordinator), [why]);
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
