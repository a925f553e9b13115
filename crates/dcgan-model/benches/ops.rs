//! The layers one by one: `cargo bench -p dcgan-model --bench ops`.
//!
//! An item is one multiplication or addition of the products that the layer's form takes, so that Gitem/s are GFLOP/s;
//! `product` is one matrix product of as many, with the same numbers of inputs and outputs.

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

fn bench_cases(
    bencher: divan::Bencher<'_, '_>,
    name: &str,
    times: u64,
    run: impl Fn(&Case) + Sync,
) {
    let case = CASES.iter().find(|case| case.name == name).expect("names come from the cases");
    bencher.counter(ItemsCount::new(times * case.operations)).bench(|| run(case));
}

#[divan::bench(args = names())]
fn forward(bencher: divan::Bencher<'_, '_>, name: &str) {
    bench_cases(bencher, name, 1, Case::forward);
}

#[divan::bench(args = names())]
fn backward(bencher: divan::Bencher<'_, '_>, name: &str) {
    bench_cases(bencher, name, 2, Case::backward);
}

#[divan::bench(args = names())]
fn product(bencher: divan::Bencher<'_, '_>, name: &str) {
    bench_cases(bencher, name, 1, Case::gemm);
}
