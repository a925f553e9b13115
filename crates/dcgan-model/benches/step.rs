//! Images per second of a whole training step on one thread: `cargo bench -p dcgan-model`.
//!
//! `benches/peers/dcgan_torch.py` at the top of the repository measures the same of PyTorch.

use std::time::Instant;

use dcgan_core::config::{DataSet, ObjectiveKind, Recipe};
use dcgan_core::ids::{Digest, Position, ShardId};
use dcgan_core::objective::{Objective, Scratch, Task};
use dcgan_core::sharding::Partition;
use dcgan_model::{Dcgan, DeviceChoice};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STEPS: u32 = 5;

fn main() {
    let repeats = if std::env::args().any(|argument| argument == "--test") { 1 } else { 8 };
    let data = DataSet { images: 64, rows: 28, columns: 28, digest: Digest(0) };
    let recipe = Recipe {
        objective: ObjectiveKind::Dcgan,
        batch_size: 32,
        shards: 1,
        seed: 22,
        learning_rate: 2e-4,
        beta1: 0.5,
        data,
    };
    let dcgan = Dcgan::new(recipe, DeviceChoice::default()).expect("the recipe is a good one");
    let partition = Partition::new(28 * 28, (0..64 * 28 * 28).map(|i| (i * i / 97) as u8).collect());
    let mut state = dcgan.initial();
    let mut at = Position::after(0);
    let mut scratch = Scratch::default();
    let mut rates = Vec::new();
    for _ in 0..=repeats {
        let start = Instant::now();
        for _ in 0..STEPS * u32::from(dcgan.phases()) {
            let task = Task { state: &state, at, shard: ShardId(0), partition: &partition };
            let vector = dcgan.shard(&task, &mut scratch);
            dcgan.apply(&mut state, at, &vector);
            at = at.next(dcgan.phases());
        }
        rates.push(f64::from(STEPS * 32) / start.elapsed().as_secs_f64());
    }
    rates.remove(0);
    rates.sort_by(f64::total_cmp);
    println!("{:.1} images/s on one thread (best {:.1})", rates[rates.len() / 2], rates[rates.len() - 1]);
}
