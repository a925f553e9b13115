//! Milliseconds a step of all 16 members together, by the number of shards: `cargo bench -p
//! dcgan-core --bench shards`.
//!
//! The toy computes next to nothing, so this is what shards cost besides their computation.
#![expect(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]

#[path = "../tests/scale/members.rs"]
#[expect(dead_code, reason = "it is also for tests, which count")]
mod members;

use std::time::Instant;

use members::Members;

const MEMBERS: u16 = 16;

fn main() {
    let is_test = std::env::args().any(|argument| argument == "--test");
    let (repeats, steps) = if is_test { (1, 1) } else { (5, 10) };
    println!("{:>7} {:>9} {:>13}", "shards", "step, ms", "us a shard");
    for shards in [1024, 2048, 4096, 8192] {
        let mut best = f64::INFINITY;
        for _ in 0..repeats {
            let mut members = Members::new(shards, MEMBERS, steps, |_| {});
            let start = Instant::now();
            members.train();
            best = best.min(1e3 * start.elapsed().as_secs_f64() / steps as f64);
        }
        println!("{shards:>7} {best:>9.2} {:>13.2}", 1e3 * best / f64::from(shards));
    }
}
