//! Lies told to both machines while they train: rule 11 of `docs/protocol.md`.

use dcgan_core::protocol::coordinator::{Notice, Outcome};

use crate::reference::Reference;
use crate::rng::Rng;
use crate::world::{Setup, World};

/// The number of lies in a run.
const LIES: usize = 40;

/// Runs a training in which a liar speaks up. Gives whether somebody was expelled for it.
fn run(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    let setup = Setup {
        shards: [3, 5, 8, 12][rng.below(4)],
        workers: 3,
        min_workers: 1 + rng.below(2),
        last_step: 4 + rng.below(12) as u64,
        slow_disk: false,
    };
    let reference = Reference::new(setup.shards, setup.last_step);
    let mut world = World::new(setup, reference, seed);
    world.let_a_liar_in(seed.is_multiple_of(2));
    let outcome = world.run_with_lies(LIES);
    assert_eq!(outcome, Outcome::Finished, "seed {seed}");
    world.check_the_end();
    world.notices.iter().any(|notice| matches!(notice, Notice::FalseClaim { .. }))
}

#[test]
fn lies_cost_nobody_but_the_liar_and_change_no_bit() {
    let count = std::env::var("DCGAN_SIMULATION_LIES").map_or(200, |count| count.parse().unwrap());
    let mut expelled = 0;
    for seed in 0..count {
        let one = std::panic::catch_unwind(|| run(seed));
        expelled += u64::from(one.unwrap_or_else(|_| panic!("seed {seed} fails: see above")));
    }
    assert!(2 * expelled > count, "there are too few lies to test anything: {expelled} of {count}");
}
