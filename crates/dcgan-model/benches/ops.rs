//! Times of the layers one by one: `cargo bench -p dcgan-model --bench ops`.
//!
//! An item is one multiplication or addition of the layer's gemms, so that Gitem/s are GFLOP/s;
//! `gemm` is one gemm of as many operations, with the same numbers of inputs and outputs. It is the
//! ceiling for the others.

use std::sync::LazyLock;

use dcgan_model::bench_cases::{self, Case};
use divan::counter::ItemsCount;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

static CASES: LazyLock<Vec<Case>> = LazyLock::new(bench_cases::cases);

fn main() {
    divan::main();
}

fn names() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.name)
}

/// Benchmarks `run` on a case, where it does `times` times as many operations as forward.
fn bench_case(bencher: divan::Bencher<'_, '_>, name: &str, times: u64, run: impl Fn(&Case) + Sync) {
    let case = CASES.iter().find(|case| case.name == name).expect("names come from the cases");
    bencher.counter(ItemsCount::new(times * case.operations)).bench(|| run(case));
}

#[divan::bench(args = names())]
fn forward(bencher: divan::Bencher<'_, '_>, name: &str) {
    bench_case(bencher, name, 1, Case::forward);
}

#[divan::bench(args = names())]
fn backward(bencher: divan::Bencher<'_, '_>, name: &str) {
    bench_case(bencher, name, 2, Case::backward);
}

#[divan::bench(args = names())]
fn gemm(bencher: divan::Bencher<'_, '_>, name: &str) {
    bench_case(bencher, name, 1, Case::gemm);
}
