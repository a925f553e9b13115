//! Rule 9, and how the coordinator finds out whom a complaint is about.

use dcgan_core::ids::{Generation, Phase, Position, Rank, ShardId};
use dcgan_core::protocol::coordinator::Notice;
use dcgan_core::protocol::message::{Complaint, FailedShards, ToWorker};

use crate::coordinator::Coordinator;
use crate::worker::Worker;

#[test]
fn rule_9_a_worker_complains_about_the_member_that_is_late_and_goes_on_doing_so() {
    let [mut a, _] = Worker::pair();
    // A worker that has not done its own part lacks nothing from anybody.
    assert_eq!(a.waits(1000), [""; 0]);
    a.computes();
    // Before it knows how long steps take here, it is patient.
    assert_eq!(a.waits(119), [""; 0]);
    assert_eq!(a.waits(1), ["report: generation 1 cannot go on: rank 1 is late"]);
    // It says so again after every hello, and whenever as much time has passed.
    assert_eq!(
        a.is_welcomed(),
        ["report: ready", "report: generation 1 cannot go on: rank 1 is late"]
    );
    assert_eq!(a.waits(120), ["report: generation 1 cannot go on: rank 1 is late"]);
}

#[test]
fn rule_9_a_worker_that_has_acknowledged_a_newer_fence_does_not_complain() {
    let [mut a, _] = Worker::pair();
    a.computes();
    a.hears(ToWorker::Fence(Generation(2)));
    assert_eq!(a.waits(1000), [""; 0], "the plan of generation 1 is over anyway");
}

#[test]
fn a_member_that_is_late_is_removed() {
    let mut coordinator = Coordinator::training("abc");
    // Workers are more patient than that: this cannot be true.
    assert_eq!(coordinator.complains('a', Complaint::Timeout(Rank(2))), [""; 0]);
    coordinator.passes(20.0, "abc");
    let lines = coordinator.complains('a', Complaint::Timeout(Rank(2)));
    assert_eq!(lines, ["a: fence 2", "b: fence 2", "c: fence 2"]);
    // Who is removed is decided when all have answered: b waits for c, too.
    coordinator.complains('b', Complaint::Timeout(Rank(2)));
    coordinator.acknowledges('a', 2, 0);
    coordinator.acknowledges('b', 2, 0);
    let lines = coordinator.acknowledges('c', 2, 0);
    assert_eq!(lines[..2], ["c: close", "store plan 2: a=0126 b=3457, from the initial state"]);
}

#[test]
fn a_broken_stream_is_tried_again_with_the_same_members() {
    let mut coordinator = Coordinator::training("abc");
    coordinator.report_steps("abc", 0, 1);
    let lines = coordinator.complains('a', Complaint::StreamBroken(Rank(2)));
    // A broken stream may be chance, so nobody is blamed.
    assert_eq!(lines, ["a: fence 2", "b: fence 2", "c: fence 2"]);
    for name in ['a', 'b'] {
        coordinator.acknowledges(name, 2, 1);
    }
    let lines = coordinator.acknowledges('c', 2, 1);
    assert_eq!(lines[0], "store plan 2: a=012 b=345 c=67, from the end of step 1");
}

#[test]
fn a_worker_says_which_of_its_shards_failed_once_all_are_computed() {
    let [mut a, _] = Worker::pair();
    assert_eq!(a.computes_nonsense(), ["report: generation 1 cannot go on: 2 shards failed"]);
}

#[test]
fn a_worker_whose_shard_another_worker_can_compute_is_evicted() {
    let mut coordinator = Coordinator::training("ab");
    // Not finite: is it the training, or the worker? The shard goes to another worker.
    let lines = coordinator.complains('a', failed(0));
    assert_eq!(lines, ["a: fence 2", "b: fence 2"]);
    coordinator.acknowledges('a', 2, 0);
    let lines = coordinator.acknowledges('b', 2, 0);
    assert_eq!(lines[0], "store plan 2: a=123 b=04567, from the initial state");
    // Worker b gets past the position, so the training is sound and a's machine is not.
    assert_eq!(coordinator.reports('b', 1), ["a: finish", "a: close", "b: fence 3"]);
    let is_loss = |notice: &Notice| matches!(notice, Notice::Lost { name, .. } if name == "a");
    assert!(coordinator.notices.iter().any(is_loss), "{:?}", coordinator.notices);
}

#[test]
fn a_shard_that_fails_on_two_workers_means_that_the_training_has_diverged() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.complains('a', failed(0));
    coordinator.acknowledges('a', 2, 0);
    coordinator.acknowledges('b', 2, 0);
    let lines = coordinator.complains('b', failed(0));
    assert_eq!(lines, ["a: finish", "b: finish"]);
}

/// A shard's vector is not finite in the first phase of the run.
fn failed(shard: u16) -> Complaint {
    Complaint::ShardsFailed(FailedShards {
        position: Position { step: 0, phase: Phase::DiscriminatorReal },
        shards: vec![ShardId(shard)],
        what: "it has numbers that are not finite".to_owned(),
    })
}
