//! One `Membership` and many `StepMachine`s, without sockets, threads or time: every message, every computation and
//! every command is an action of its own, picked by a seed, and processes die between any two of them. The oracle is
//! the digest of an undisturbed run by one process, at every position of every worker.
//!
//! A failing seed is printed; paste it into `one_seed` to replay it.
#![expect(clippy::unwrap_used, reason = "a simulation that is wrong should stop")]

mod disk;
mod faults;
mod reference;
mod world;

use dcgan_core::membership::{Outcome, Stop};
use faults::Faults;
use reference::Reference;
use world::{Setup, World};

/// Runs a training under random faults; gives the number of faults.
fn run(seed: u64) -> usize {
    let mut pick = faults::Pick::new(seed);
    let workers = 1 + pick.below(4);
    let setup = Setup {
        shards: [1, 2, 3, 5, 8, 12][pick.below(6)],
        workers,
        min_workers: 1 + pick.below(workers),
        last_step: 4 + pick.below(20) as u64,
    };
    let reference = Reference::new(setup.shards, setup.last_step);
    let mut world = World::new(setup, reference, seed);
    let faults =
        Faults { kills: pick.below(6), coordinator_kills: pick.below(4), cuts: pick.below(4), joins: pick.below(3) };
    let outcome = world.run(faults);
    assert_eq!(outcome, Outcome::Finished, "seed {seed}");
    world.check_the_end();
    world.faults_done()
}

/// Seeds that found a hole once, and the place to paste a failing one.
#[test]
fn one_seed() {
    for seed in [42, 194, 839, 2802, 8908] {
        run(seed);
    }
}

#[test]
fn any_faults_end_with_one_processs_bits() {
    let count = std::env::var("DCGAN_SIMULATION_SEEDS").map_or(400, |count| count.parse().unwrap());
    let mut faults = 0;
    for seed in 0..count {
        faults += std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|_| panic!("seed {seed} fails: see above"));
    }
    assert!(faults as u64 > count, "the generator of faults has become tame: {faults} in {count} runs");
}

#[test]
fn a_seed_repeats_itself() {
    let trace = |seed| {
        let setup = Setup { shards: 8, workers: 3, min_workers: 1, last_step: 12 };
        let mut world = World::new(setup, Reference::new(8, 12), seed);
        world.run(Faults { kills: 3, coordinator_kills: 2, cuts: 2, joins: 1 });
        world.fingerprint()
    };
    assert_eq!(trace(5), trace(5), "something that is not in the seed takes part in a decision");
    assert_ne!(trace(5), trace(6));
}

#[test]
fn a_run_that_is_stopped_goes_on_with_the_same_bits_on_another_number_of_workers() {
    for seed in 0..40 {
        for stop in [Stop::Finish, Stop::HandOver] {
            let setup = Setup { shards: 8, workers: 3, min_workers: 1, last_step: 17 };
            let mut world = World::new(setup, Reference::new(8, 17), seed);
            let stopped_at = world.run_and_stop(stop, 40 + 23 * seed as usize);
            assert!(stopped_at <= 17, "seed {seed}");
            if stop == Stop::Finish {
                world.restart_all(5);
            }
            assert_eq!(world.run(Faults::default()), Outcome::Finished, "seed {seed} {stop:?}");
            world.check_the_end();
        }
    }
}

#[test]
fn members_that_differ_end_the_run_in_words() {
    let setup = Setup { shards: 8, workers: 3, min_workers: 1, last_step: 12 };
    let mut world = World::new(setup, Reference::new(8, 12), 1);
    world.flip_a_bit_at(5);
    let Outcome::Failed(failure) = world.run(Faults::default()) else { panic!("a flipped bit went unnoticed") };
    assert!(failure.to_string().starts_with("workers differ at step"), "{failure}");
}
