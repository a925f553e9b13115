//! One `CoordinatorMachine` and many `WorkerMachine`s, without sockets, threads or time: every message, every computation and
//! every command is an action of its own, picked by a seed, and processes die between any two of them. The oracle is
//! the digest of an undisturbed run by one process, at every position of every worker.
//!
//! A failing seed is printed; paste it into `one_seed` to replay it.
#![expect(clippy::unwrap_used, reason = "a simulation that is wrong should stop")]

mod disk;
mod faults;
mod reference;
mod world;

use dcgan_core::protocol::coordinator::{Outcome, Stop};
use faults::{FAULTS, Fault};
use reference::{How, Reference};
use world::{Order, Setup, World};

/// Runs a training under random faults, and as many damaged checkpoints; gives the number of faults.
fn run(seed: u64, damages: usize) -> usize {
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
    let mut faults = pick.faults(14);
    for _ in 0..damages {
        faults.insert(pick.below(faults.len() + 1), Fault::Damage);
    }
    let outcome = world.run(faults);
    assert_eq!(outcome, Outcome::Finished, "seed {seed}");
    world.check_the_end();
    world.faults_done()
}

/// Seeds that found a hole once, and the place to paste a failing one.
#[test]
fn one_seed() {
    for seed in [42, 194, 495, 839, 1137, 2129, 2802, 3611, 4094, 8908, 17804] {
        run(seed, 0);
    }
}

#[test]
fn any_faults_end_with_one_processs_bits() {
    let count = std::env::var("DCGAN_SIMULATION_SEEDS").map_or(400, |count| count.parse().unwrap());
    let mut faults = 0;
    for seed in 0..count {
        let damages = 2 * usize::from(seed % 3 == 2);
        let run = || run(seed, damages);
        faults += std::panic::catch_unwind(run)
            .unwrap_or_else(|_| panic!("{seed}, {damages} fails: see above"));
    }
    assert!(
        faults as u64 > count,
        "the generator of faults has become tame: {faults} in {count} runs"
    );
}

#[test]
fn a_seed_repeats_itself() {
    let trace = |seed| {
        let setup = Setup { shards: 8, workers: 3, min_workers: 1, last_step: 12 };
        let mut world = World::new(setup, Reference::new(8, 12), seed);
        let kinds = [Fault::Kill, Fault::KillCoordinator, Fault::Cut, Fault::Stop];
        world.run([kinds, kinds].concat());
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
            assert_eq!(world.run(Vec::new()), Outcome::Finished, "seed {seed} {stop:?}");
            world.check_the_end();
        }
    }
}

#[test]
fn one_fault_at_every_point_changes_nothing() {
    let setup = Setup { shards: 3, workers: 2, min_workers: 1, last_step: 3 };
    let world = |seed| World::new(setup, Reference::new(setup.shards, setup.last_step), seed);
    let mut undisturbed = world(3);
    assert_eq!(undisturbed.run(Vec::new()), Outcome::Finished);
    for at in 1..undisturbed.actions() {
        for fault in FAULTS {
            let mut world = world(3);
            assert_eq!(
                world.run_with(&[(at, fault)]),
                Outcome::Finished,
                "{fault:?} after {at} actions"
            );
            world.check_the_end();
        }
    }
}

#[test]
fn two_faults_at_every_pair_of_points_change_nothing() {
    let setup = Setup { shards: 2, workers: 2, min_workers: 1, last_step: 1 };
    let world = |seed| World::new(setup, Reference::new(setup.shards, setup.last_step), seed);
    let mut undisturbed = world(4);
    assert_eq!(undisturbed.run(Vec::new()), Outcome::Finished);
    let kinds = [Fault::Kill, Fault::KillCoordinator, Fault::Cut, Fault::Stop, Fault::Flip];
    for first in 1..undisturbed.actions() {
        for second in first..undisturbed.actions() {
            for faults in
                kinds.iter().flat_map(|&one| kinds.map(|other| [(first, one), (second, other)]))
            {
                let run = || {
                    let mut world = world(4);
                    assert_eq!(world.run_with(&faults), Outcome::Finished);
                    world.check_the_end();
                };
                std::panic::catch_unwind(run)
                    .unwrap_or_else(|_| panic!("{faults:?} fail: see above"));
            }
        }
    }
}

#[test]
fn one_fault_and_one_action_out_of_order_at_every_pair_of_points_change_nothing() {
    let setup = Setup { shards: 2, workers: 2, min_workers: 1, last_step: 1 };
    let world = |but| World::in_order(setup, Reference::new(2, 1), 4, Order::First { but });
    let mut undisturbed = world((0, 0));
    assert_eq!(undisturbed.run_with(&[]), Outcome::Finished);
    let kinds = [Fault::Kill, Fault::KillCoordinator, Fault::Cut, Fault::Stop];
    for but in (1..undisturbed.actions()).flat_map(|at| (1..6).map(move |place| (at, place))) {
        for fault in (1..undisturbed.actions()).flat_map(|at| kinds.map(|kind| (at, kind))) {
            let run = || {
                let mut world = world(but);
                assert_eq!(world.run_with(&[fault]), Outcome::Finished);
                world.check_the_end();
            };
            std::panic::catch_unwind(run)
                .unwrap_or_else(|_| panic!("{but:?} {fault:?} fail: see above"));
        }
    }
}

/// A world of honest workers, at work.
fn at_work(workers: usize, seed: u64) -> World {
    let setup = Setup { shards: 8, workers, min_workers: 1, last_step: 12 };
    let mut world = World::new(setup, Reference::new(8, 12), seed);
    world.act_until(|world| world.reached() >= 3);
    world
}

#[test]
fn a_checkpoint_that_cannot_be_read_costs_steps_and_no_bits() {
    for seed in 0..30 {
        let mut world = at_work(2, seed);
        world.act_until(|world| world.disk.checkpoints.contains_key(&5));
        world.fault(Fault::Damage);
        world.kill_all_workers();
        assert_eq!(world.run(Vec::new()), Outcome::Finished, "seed {seed}");
        let said =
            "the checkpoint of step 5, which no worker has, cannot be read: going on after step 0";
        assert!(world.notes.iter().any(|note| note == said), "seed {seed}: {:?}", world.notes);
        world.check_the_end();
    }
}

#[test]
fn a_worker_that_differs_is_named_and_copies_the_others_state() {
    for seed in 0..30 {
        let mut world = at_work(3, seed);
        world.spoil("w1", How::NextUpdate);
        assert_eq!(world.run(Vec::new()), Outcome::Finished, "seed {seed}");
        let named = |note: &String| {
            note.starts_with("worker w1 differed at step ") && note.contains("in parameters")
        };
        assert!(world.notes.iter().any(named), "seed {seed}: {:?}", world.notes);
        world.check_the_end();
    }
}

#[test]
fn two_workers_that_differ_end_the_run_in_words() {
    let mut world = at_work(2, 1);
    world.spoil("w1", How::NextUpdate);
    let Outcome::Failed(failure) = world.run(Vec::new()) else { panic!("nobody noticed") };
    assert!(failure.to_string().starts_with("workers differ at step"), "{failure}");
}

#[test]
fn a_worker_whose_vectors_cannot_be_used_goes_and_the_others_go_on() {
    for seed in 0..30 {
        for how in [How::NotFinite, How::Panics] {
            let mut world = at_work(3, seed);
            world.spoil("w1", how);
            assert_eq!(world.run(Vec::new()), Outcome::Finished, "seed {seed}");
            let lost = |note: &String| note.starts_with("lost worker w1: its vectors");
            assert!(world.notes.iter().any(lost), "seed {seed}: {:?}", world.notes);
            world.check_the_end();
        }
    }
}

#[test]
fn a_training_that_has_diverged_ends_and_evicts_nobody() {
    for (workers, seed) in (1..=4).flat_map(|workers| (0..30).map(move |seed| (workers, seed))) {
        let setup = Setup { shards: 8, workers, min_workers: 1, last_step: 12 };
        let mut world = World::new(setup, Reference::new(8, 12), seed);
        (0..workers).for_each(|n| world.spoil(&format!("w{n}"), How::Diverges));
        let Outcome::Failed(failure) = world.run(Vec::new()) else { panic!("nobody noticed") };
        assert!(
            failure.to_string().starts_with("the training has diverged: the vector of shard"),
            "{failure}"
        );
        assert!(
            !world.notes.iter().any(|note| note.starts_with("lost worker")),
            "{workers} {seed}: {:?}",
            world.notes
        );
    }
}

#[test]
fn of_two_workers_that_do_not_reach_each_other_one_waits_outside_until_they_do() {
    for seed in 0..30 {
        let mut world = at_work(3, seed);
        world.part("w0", "w2", 6);
        assert_eq!(world.run(Vec::new()), Outcome::Finished, "seed {seed}");
        let said = |what: &str| world.notes.iter().any(|note| note.contains(what));
        assert!(
            said("w0 and w2") || said("w2 and w0") || said("is left out until they do"),
            "seed {seed}: {:?}",
            world.notes
        );
        world.check_the_end();
    }
}
