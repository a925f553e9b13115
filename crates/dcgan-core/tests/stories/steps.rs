//! Rules 4 to 6: how members compute a step together.

use std::sync::Arc;

use dcgan_core::ids::{Digest, Generation, Phase, Position};
use dcgan_core::protocol::message::ToWorker;
use dcgan_core::protocol::plan::StateRef;
use dcgan_core::protocol::worker::{Event, StateCopy};

use crate::worker::{Worker, pair_and_successor, plan, train_until};

/// In the middle of the first step.
const SECOND_PHASE: Position = Position { step: 0, phase: Phase::DiscriminatorFake };

#[test]
fn a_phase_is_compute_reduce_update() {
    let [mut a, mut b] = Worker::pair();
    // A subtree of shards leaves as soon as it is complete. Each rank owns one slice of the vector,
    // which is one bucket here: a keeps its share of bucket 0, and sends that of bucket 1 to b.
    assert_eq!(a.computes_a_shard(), [""; 0]);
    assert_eq!(a.computes_a_shard(), ["send to rank 1: subtree (01) of bucket 1"]);
    assert_eq!(b.computes(), ["send to rank 0: subtree (23) of bucket 0"]);
    // The owner of a bucket finishes its sum, and sends that back.
    let (_, from_b) = b.outbox.pop_front().unwrap();
    assert_eq!(a.receives(1, from_b), ["send to rank 1: the sum of bucket 0"]);
    // With the sum of its own bucket and that of the other, b applies the update and goes on.
    let (_, from_a) = a.outbox.pop_front().unwrap();
    assert_eq!(b.receives(0, from_a), ["send to rank 0: the sum of bucket 1"]);
    let (_, from_a) = a.outbox.pop_front().unwrap();
    assert_eq!(
        b.receives(0, from_a),
        ["compute shards 23 at step 1, before phase discriminator-fake"]
    );
    assert_eq!(b.machine.at().position, SECOND_PHASE);
}

#[test]
fn a_finished_step_is_reported_and_nobody_waits_for_leave() {
    let mut pair = Worker::pair();
    train_until(&mut pair, Position { step: 0, phase: Phase::Generator });
    let [a, b] = &mut pair;
    a.computes();
    b.computes();
    let (_, from_b) = b.outbox.pop_front().unwrap();
    let (_, from_a) = a.outbox.pop_front().unwrap();
    a.receives(1, from_b);
    b.receives(0, from_a);
    let (_, sum) = b.outbox.pop_front().unwrap();
    let lines = a.receives(1, sum);
    // The next step begins at once. The coordinator hears of the step, and does not have to answer.
    let expected =
        ["report: step 1 done", "compute shards 01 at the end of step 1"].map(str::to_owned);
    assert_eq!(lines, expected);
}

#[test]
fn rule_1_a_worker_that_has_acknowledged_a_fence_applies_no_older_result() {
    let [mut a, mut b] = Worker::pair();
    a.computes();
    b.computes();
    let (_, from_b) = b.outbox.pop_front().unwrap();
    assert_eq!(
        a.hears(ToWorker::Fence(Generation(2))),
        ["report: acknowledge fence 2 with the initial state"]
    );
    // The last frame of the phase arrives. Applying it would take a beyond the state that it has
    // just told the coordinator, and the next plan might start from another one.
    assert_eq!(a.receives(1, from_b), [""; 0]);
    assert_eq!(a.machine.at().position, Position::after(0));
}

#[test]
fn rule_2_a_worker_copies_the_start_state_and_checks_it() {
    let ([mut a, _], mut c, plan) = pair_and_successor();
    assert_eq!(
        c.hears(ToWorker::Plan(Arc::clone(&plan))),
        ["connect to the members of plan 2 as rank 1", "copy the state of rank 0"]
    );
    a.handle(Event::CopyAsked(Some(plan.start), 7));
    let served = a.served.pop().unwrap().unwrap();

    // What arrives is another state than the plan's. The worker keeps its own, asks for a new
    // generation, and tries again a little later.
    let mut wrong = (*served).clone();
    wrong.tensor_mut(0)[0] += 1.0;
    let copy = StateCopy { state: wrong, reports: Vec::new() };
    assert_eq!(
        c.handle(Event::Copied(Generation(2), Some(copy))),
        ["report: generation 2 cannot go on: no copy of the start state"]
    );
    assert_eq!(c.machine.at().position, Position::after(0));
    assert_eq!(c.waits(1), ["copy the state of rank 0"]);

    // The right one is taken, and the step begins.
    let copy = StateCopy { state: (*served).clone(), reports: Vec::new() };
    assert_eq!(
        c.handle(Event::Copied(Generation(2), Some(copy))),
        ["report: copied the state of plan 2", "compute shards 23 at the end of step 1"]
    );
    assert_eq!(c.machine.at(), plan.start);
}

#[test]
fn rule_3_a_plan_that_reached_one_member_reaches_all() {
    let [mut a, _] = Worker::pair();
    let next = plan(2, "ab", "0011", a.machine.at(), "ab");
    // The coordinator died while it announced plan 2, and only b heard of it. The stream that b
    // opens begins with its plan. A worker that has not answered that plan's fence ignores it ...
    assert_eq!(a.handle(Event::PeerPlan(Arc::clone(&next))), [""; 0]);
    // ... and one that has takes it from there.
    a.hears(ToWorker::Fence(Generation(2)));
    let lines = a.handle(Event::PeerPlan(next));
    assert_eq!(lines[0], "connect to the members of plan 2 as rank 0");
}

#[test]
fn rule_4_a_frame_of_an_older_generation_is_dropped() {
    let [mut a, mut b] = Worker::pair();
    b.computes();
    let (_, old) = b.outbox.pop_front().unwrap();
    let next = plan(2, "ab", "0011", a.machine.at(), "ab");
    for worker in [&mut a, &mut b] {
        worker.hears(ToWorker::Fence(Generation(2)));
        worker.hears(ToWorker::Plan(Arc::clone(&next)));
    }
    a.computes();
    assert_eq!(a.receives(1, old), [""; 0], "it was computed under generation 1");
    // The same sum, under the new generation, is what a waits for.
    let (_, new) = b.outbox.pop_front().unwrap();
    assert_eq!(a.receives(1, new), ["send to rank 1: the sum of bucket 0"]);
}

#[test]
fn rule_4_a_frame_of_the_next_phase_waits_for_its_turn() {
    let [mut a, mut b] = Worker::pair();
    a.computes();
    b.computes();
    let (_, from_a) = a.outbox.pop_front().unwrap();
    let (_, from_b) = b.outbox.pop_front().unwrap();
    a.receives(1, from_b);
    b.receives(0, from_a);
    let (_, sum_of_b) = b.outbox.pop_front().unwrap();
    let (_, sum_of_a) = a.outbox.pop_front().unwrap();
    // Worker b is faster: it applies the update, and sends its part of the next phase already.
    b.receives(0, sum_of_a);
    b.computes();
    let (_, ahead) = b.outbox.pop_front().unwrap();
    assert_eq!(a.receives(1, ahead), [""; 0]);
    // Once a is in that phase, the early frame counts: a needs only its own shards.
    a.receives(1, sum_of_b);
    assert_eq!(
        a.computes(),
        ["send to rank 1: the sum of bucket 0", "send to rank 1: subtree (01) of bucket 1"]
    );
}

#[test]
fn rule_5_a_flipped_bit_stays_at_home() {
    let [mut a, _] = Worker::pair();
    a.computes_a_shard();
    a.machine.flip_a_bit(2);
    // The state is hashed again before the last frame leaves, without which nobody can apply
    // anything. So the damaged gradients are not sent.
    assert_eq!(
        a.computes_a_shard(),
        ["report: generation 1 cannot go on: parameters has changed in memory"]
    );
    // The worker is left with the initial state, which everybody has, and says so at the fence.
    assert_eq!(
        a.hears(ToWorker::Fence(Generation(2))),
        ["report: acknowledge fence 2 with the initial state"]
    );
}

#[test]
fn rule_5_states_that_differ_are_never_summed() {
    let [mut a, mut b] = Worker::pair();
    a.computes();
    b.computes();
    let (_, mut frame) = b.outbox.pop_front().unwrap();
    frame.digest = Digest(0xBAD);
    assert_eq!(
        a.receives(1, frame),
        ["report: generation 1 cannot go on: the state of rank 1 is another"]
    );
    assert_eq!(a.machine.at().position, Position::after(0));
}

#[test]
fn rule_5_a_damaged_state_is_served_to_nobody() {
    let [mut a, _] = Worker::pair();
    let state = a.machine.at();
    a.machine.flip_a_bit(2);
    let lines = a.handle(Event::CopyAsked(Some(state), 1));
    assert!(lines.contains(&"serve nothing".to_owned()), "{lines:?}");
}

#[test]
fn rule_6_after_a_fence_only_lost_shards_are_computed() {
    let [mut a, mut b] = Worker::pair();
    a.computes();
    b.computes();
    // Worker b dies before a has its frames. Worker a takes b's shards over, and keeps its own
    // work: the vectors of shards 0 and 1 are still those of this state.
    let state = a.machine.at();
    a.hears(ToWorker::Fence(Generation(2)));
    assert_eq!(
        a.hears(ToWorker::Plan(plan(2, "a", "0000", state, "a"))),
        ["connect to the members of plan 2 as rank 0", "compute shards 23 at the initial state"]
    );
    a.computes_a_shard();
    assert_eq!(
        a.computes_a_shard(),
        ["compute shards 0123 at step 1, before phase discriminator-fake"]
    );
}

#[test]
fn rule_6_work_on_another_state_is_not_kept() {
    let mut pair = Worker::pair();
    train_until(&mut pair, Position::after(1));
    let [a, b] = &mut pair;
    a.computes();
    // The plan starts at another state of the same position, so a's vectors are of no use.
    let start = StateRef { digest: Digest(0xBAD), ..b.machine.at() };
    a.hears(ToWorker::Fence(Generation(2)));
    let lines = a.hears(ToWorker::Plan(plan(2, "ab", "0011", start, "b")));
    assert_eq!(lines, ["connect to the members of plan 2 as rank 0", "copy the state of rank 1"]);
}
