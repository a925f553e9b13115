//! One digest for all processors: a few steps with every instruction set that this one has.
//!
//! `.ci/aarch64` runs the same on an emulated ARM processor.

use dcgan_core::config::{DataSet, ObjectiveKind, Recipe};
use dcgan_core::ids::{Digest, Position, ShardId};
use dcgan_core::objective::{Objective, Scratch, Task};
use dcgan_core::sharding::Partition;
use dcgan_model::{Dcgan, DeviceChoice};

/// After three steps from seed 22 on the pattern below. It changes with `REVISION`, and with nothing else.
const GOLDEN: Digest = Digest(0x1423_3f8e_6416_905b);

const PIXELS: usize = 28 * 28;
const IMAGES: usize = 12;
const STEPS: u64 = 3;

fn digest(device: DeviceChoice, ahead: bool) -> Digest {
    let recipe = Recipe {
        objective: ObjectiveKind::Dcgan,
        batch_size: 5,
        shards: 1,
        seed: 22,
        learning_rate: 2e-4,
        beta1: 0.5,
        data: DataSet { images: IMAGES, rows: 28, columns: 28, digest: Digest(0) },
    };
    let dcgan = Dcgan::new(recipe, device).expect("the recipe is a good one");
    let partition = Partition::new(PIXELS, (0..IMAGES * PIXELS).map(|i| (i * i / 97) as u8).collect());
    let (mut state, mut at, mut scratch) = (dcgan.initial(), Position::after(0), Scratch::default());
    while at < Position::after(STEPS) {
        let task = Task { state: &state, at, shard: ShardId(0), partition: &partition };
        let vector = dcgan.shard(&task, &mut scratch);
        if ahead {
            dcgan.ahead(&task, &mut scratch);
        }
        dcgan.apply(&mut state, at, &vector);
        at = at.next(dcgan.phases());
    }
    state.digest()
}

#[test]
fn what_is_computed_ahead_is_the_same() {
    assert_eq!(digest(DeviceChoice::default(), true), GOLDEN);
}

#[test]
fn all_instruction_sets_give_the_golden_digest() {
    for name in ["cpu:scalar", "cpu:avx2", "cpu:avx512", "cpu:neon"] {
        match name.parse() {
            Ok(device) => {
                println!("{name}");
                assert_eq!(digest(device, false), GOLDEN, "{name}");
            }
            Err(error) => println!("skipped {name}: {error}"),
        }
    }
}
