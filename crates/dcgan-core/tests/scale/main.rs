//! Thousands of shards: how much the members do and keep. `cargo bench -p dcgan-core --bench
//! shards` shows how long it takes.

mod members;

use dcgan_core::ids::Position;
use dcgan_core::objective::Objective;
use dcgan_core::train::{Shard, train_step};
use members::Members;

const MEMBERS: u16 = 16;
/// The phases of a step.
const PHASES: usize = 3;

/// Asserts that all members have the state of an undisturbed run by one process.
fn assert_undisturbed(members: &Members, shards: u16, last_step: u64) {
    let toy = members::toy(shards);
    let partition = members::partition();
    let mut all = Shard::all(shards, |_| &partition);
    let mut state = toy.initial_state();
    for step in 1..=last_step {
        train_step(&toy, &mut all, &mut state, step, |_, _| {});
    }
    for machine in &members.machines {
        assert_eq!(machine.at().position, Position::after(last_step));
        assert_eq!(machine.at().digest, state.digest());
    }
}

#[test]
fn a_shard_is_computed_once_and_frames_do_not_become_more_with_the_shards() {
    for shards in [16, 1024, 4096] {
        let mut members = Members::new(shards, MEMBERS, 2, |_| {});
        members.train();
        assert_undisturbed(&members, shards, 2);
        assert_eq!(members.computed.len(), 2 * PHASES);
        assert!(members.computed.values().all(|&computed| computed == usize::from(shards)));
        // Each member sends its subtree sum to the owner of every other slice, and the sum of its
        // own slice to everybody.
        let hop = usize::from(MEMBERS * (MEMBERS - 1));
        assert_eq!(members.frames_sent, 2 * PHASES * 2 * hop);
    }
}

#[test]
fn after_a_loss_only_the_lost_shards_are_computed_although_few_vectors_are_kept() {
    let (shards, share) = (4096, 4096 / usize::from(MEMBERS));
    // Each member has 256 shards. The vectors of 16 of them, of 25 values each, may be kept.
    let kept_max = 16;
    let mut members =
        Members::new(shards, MEMBERS, 2, |machine| machine.keep_vectors_up_to(kept_max * 100));
    members.compute();
    for machine in &members.machines {
        assert_eq!(machine.kept_vectors(), kept_max);
    }
    members.lose_the_last();
    members.compute();
    for machine in &members.machines {
        // The 17 or 18 shards from the lost member fill no whole group.
        assert!(machine.kept_vectors() < kept_max, "{}", machine.kept_vectors());
    }
    members.train();
    assert_undisturbed(&members, shards, 2);
    let computed: Vec<usize> = members.computed.values().copied().collect();
    assert_eq!(computed[0], usize::from(shards) + share);
    assert!(computed[1..].iter().all(|&computed| computed == usize::from(shards)));
}
