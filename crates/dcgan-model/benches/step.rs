//! Images per second of whole training steps on one thread: `cargo bench -p dcgan-model --bench
//! step`.
//!
//! `benches/peers/dcgan_torch.py` at the top of the repository measures the same with PyTorch.

use std::time::Instant;

use dcgan_core::ids::Digest;
use dcgan_core::objective::Objective;
use dcgan_core::spec::sharding::Partition;
use dcgan_core::spec::{DatasetInfo, RunSpec};
use dcgan_core::train::{Shard, train_step};
use dcgan_model::{Dcgan, DeviceChoice};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Steps that are timed together.
const STEPS: u32 = 5;

fn main() {
    let repeats = if std::env::args().any(|argument| argument == "--test") { 1 } else { 8 };
    let data = DatasetInfo { images: 64, rows: 28, columns: 28, digest: Digest(0) };
    let builder = RunSpec::builder().batch_size(32).shards(1);
    let spec = builder.build(data).expect("the spec is a good one");
    let dcgan = Dcgan::new(spec, DeviceChoice::default()).expect("the processor is there");
    let partition =
        Partition::new(28 * 28, (0..64 * 28 * 28).map(|i| (i * i / 97) as u8).collect());
    let mut shards = Shard::all(1, |_| &partition);
    let mut state = dcgan.initial_state();
    let mut steps = 1..;
    let mut rates = Vec::new();
    for _ in 0..=repeats {
        let start = Instant::now();
        for step in steps.by_ref().take(STEPS as usize) {
            train_step(&dcgan, &mut shards, &mut state, step, |_, _| {});
        }
        rates.push(f64::from(STEPS * 32) / start.elapsed().as_secs_f64());
    }
    // The first steps fault memory in.
    rates.remove(0);
    rates.sort_by(f64::total_cmp);
    println!(
        "{:.1} images/s on one thread (best {:.1})",
        rates[rates.len() / 2],
        rates[rates.len() - 1]
    );
}
