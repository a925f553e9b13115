//! Rules 1 to 3: how the members of a run change.

use dcgan_core::ids::{Digest, Phase};
use dcgan_core::protocol::coordinator::Notice;

use crate::coordinator::{Coordinator, state, state_before};
use crate::digest;

#[test]
fn rule_1_every_change_of_the_members_is_a_fence_and_then_a_plan() {
    let mut coordinator = Coordinator::new(2, 1);
    // Two workers are expected. The first one waits.
    assert_eq!(coordinator.joins('a'), ["a: welcome, likely shards 0123", "a: persisted 0"]);
    // The second one completes the set, so both are asked where they are.
    assert_eq!(
        coordinator.joins('b'),
        ["b: welcome, likely shards 4567", "b: persisted 0", "a: fence 1", "b: fence 1"]
    );
    // No plan is made before both have answered: a worker that has not could still go on.
    assert_eq!(coordinator.acknowledges('a', 1, 0), [""; 0]);
    assert_eq!(
        coordinator.acknowledges('b', 1, 0),
        ["store plan 1: a=0123 b=4567, from the initial state", "a: plan 1", "b: plan 1"]
    );

    // A worker joins in the midst. Those that train are asked as well, and shards move to it.
    coordinator.report_steps("ab", 0, 3);
    assert_eq!(
        coordinator.joins('c'),
        [
            "c: welcome, likely shards 67",
            "c: persisted 0",
            "a: fence 2",
            "b: fence 2",
            "c: fence 2"
        ]
    );
    coordinator.acknowledges('a', 2, 3);
    coordinator.acknowledges('b', 2, 3);
    assert_eq!(
        coordinator.acknowledges('c', 2, 0),
        [
            "store plan 2: a=012 b=456 c=37, from the end of step 3",
            "a: plan 2",
            "b: plan 2",
            "c: plan 2"
        ]
    );
}

#[test]
fn rule_1_a_worker_that_does_not_answer_a_fence_is_not_in_the_plan() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.joins('c');
    coordinator.acknowledges('a', 2, 0);
    coordinator.acknowledges('b', 2, 0);
    // The newcomer lives, but does not answer. After three seconds the others go on without it.
    let lines = coordinator.passes(3.1, "abc");
    assert_eq!(
        lines,
        ["store plan 2: a=0123 b=4567, from the initial state", "a: plan 2", "b: plan 2"]
    );
    // Its late answer says that it is ready again. So that it does not cost the others three
    // seconds again and again, it waits for a second and for a step of the others, and has to
    // pass another trial.
    assert_eq!(coordinator.acknowledges('c', 2, 0), [""; 0]);
    coordinator.report_steps("ab", 0, 1);
    assert_eq!(coordinator.passes(1.0, "abc"), ["a: fence 3", "b: fence 3", "c: fence 3"]);
}

#[test]
fn rule_1_below_the_minimum_the_fence_stays_open() {
    let mut coordinator = Coordinator::new(2, 2);
    coordinator.joins('a');
    coordinator.joins('b');
    coordinator.acknowledges('a', 1, 0);
    coordinator.acknowledges('b', 1, 0);
    coordinator.loses_stream_of('b');
    // A closed control stream may come back within a second; then its worker is lost.
    assert_eq!(coordinator.passes(1.1, "a"), ["a: fence 2"]);
    // One worker of two has answered, so nothing happens, however long it takes ...
    assert_eq!(coordinator.acknowledges('a', 2, 5), [""; 0]);
    assert_eq!(coordinator.passes(60.0, "a"), [""; 0]);
    // ... until another worker comes.
    assert!(coordinator.joins('c').contains(&"c: fence 2".to_owned()));
    let lines = coordinator.acknowledges('c', 2, 0);
    assert_eq!(lines[0], "store plan 2: a=0123 c=4567, from the end of step 5");
}

#[test]
fn rule_2_the_furthest_state_leads() {
    let mut coordinator = Coordinator::training("abc");
    coordinator.report_steps("abc", 0, 4);
    coordinator.loses_stream_of('c');
    assert_eq!(coordinator.passes(1.1, "ab"), ["a: fence 2", "b: fence 2"]);
    // Worker a has applied one phase more than b before it saw the fence. The run is a pure
    // function, so a is not wrong: b copies a's state and goes on from there.
    coordinator.acknowledges_with('a', 2, state_before(1, 5, Phase::DiscriminatorFake));
    let lines = coordinator.acknowledges('b', 2, 4);
    assert_eq!(
        lines[0],
        "store plan 2: a=0126 b=3457, from step 5, before phase discriminator-fake"
    );
}

#[test]
fn rule_2_a_state_of_a_newer_generation_leads_over_one_that_has_come_further() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 4);
    coordinator.joins('c');
    // Worker a was away, and went further in an older generation that nobody followed.
    coordinator.acknowledges_with('a', 2, state(0, 6, digest(6)));
    coordinator.acknowledges_with('b', 2, state(1, 4, digest(4)));
    let lines = coordinator.acknowledges('c', 2, 0);
    assert!(lines[0].ends_with("from the end of step 4"), "{lines:?}");
}

#[test]
fn rule_2_a_newer_checkpoint_leads_over_all_states() {
    let mut coordinator = Coordinator::training("a");
    coordinator.report_steps("a", 0, 10);
    coordinator.uploads(10);
    // The worker dies. One that has nothing takes its place.
    coordinator.loses_stream_of('a');
    coordinator.passes(1.1, "");
    coordinator.joins('b');
    let lines = coordinator.acknowledges('b', 2, 0);
    assert_eq!(lines[0], "store plan 2: b=01234567, from the end of step 10");
}

#[test]
fn rule_2_the_most_frequent_state_leads_where_states_differ() {
    let mut coordinator = Coordinator::training("abc");
    coordinator.report_steps("abc", 0, 4);
    coordinator.joins('d');
    let odd = Digest(0xBAD);
    coordinator.acknowledges_with('a', 2, state(1, 4, odd));
    coordinator.acknowledges('b', 2, 4);
    coordinator.acknowledges('c', 2, 4);
    let lines = coordinator.acknowledges('d', 2, 0);
    assert_eq!(lines[0], "store plan 2: b=34 c=67 a=01 d=25, from the end of step 4");
}

#[test]
fn rule_2_two_workers_that_differ_end_the_run() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.report_steps("ab", 0, 4);
    coordinator.joins('c');
    coordinator.acknowledges_with('a', 2, state(1, 4, Digest(0xBAD)));
    coordinator.acknowledges('b', 2, 4);
    // Nobody can tell which of the two is right, and states that differ are never summed.
    let lines = coordinator.acknowledges('c', 2, 0);
    assert_eq!(lines, ["a: finish", "b: finish", "c: finish"]);
}

#[test]
fn rule_3_a_plan_is_stored_before_anybody_hears_of_it() {
    let mut coordinator = Coordinator::new(1, 1);
    coordinator.joins('a');
    let lines = coordinator.acknowledges('a', 1, 0);
    // The driver executes commands in order and waits for the disk, so a coordinator that dies
    // between these two never makes another plan of the same generation.
    assert_eq!(lines, ["store plan 1: a=01234567, from the initial state", "a: plan 1"]);
}

#[test]
fn rule_3_a_coordinator_that_starts_again_adopts_workers_that_train_on() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.restarts();
    coordinator.joins('a');
    // Once all members of the stored plan are back and have promised nothing newer, the run goes on
    // as if nothing had happened: there is no fence and no new plan.
    let lines = coordinator.joins('b');
    assert_eq!(lines, ["b: welcome, likely shards 4567", "b: persisted 0"]);
    assert!(coordinator.notices.iter().any(|notice| matches!(notice, Notice::PlanAdopted(_))));
}

#[test]
fn rule_3_a_coordinator_whose_workers_have_ended_starts_as_a_new_run_does() {
    let mut coordinator = Coordinator::training("ab");
    coordinator.starts_again_without_workers();
    assert_eq!(coordinator.waits_for(), "gathering");
    coordinator.joins('a');
    // Nobody is missing that could come back, and no time makes one worker enough.
    coordinator.passes(10.0, "a");
    assert_eq!(coordinator.waits_for(), "gathering");
    let lines = coordinator.joins('b');
    assert_eq!(lines.last().map(String::as_str), Some("b: fence 2"), "{lines:?}");
}
