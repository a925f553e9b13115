//! The layers one by one: `cargo bench -p dcgan-model --bench ops`.
//!
//! An item is one multiplication or addition of the products that the layer's form takes, so that Gitem/s are GFLOP/s;
//! `product` is one matrix product of as many, with the same numbers of inputs and outputs.

use std::sync::LazyLock;

use dcgan_model::measure::{self, Case};
use divan::counter::ItemsCount;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

static CASES: LazyLock<Vec<Case>> = LazyLock::new(measure::cases);

fn main() {
    divan::main();
}

fn names() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.name)
}

fn measure(bencher: divan::Bencher<'_, '_>, name: &str, times: u64, run: impl Fn(&Case) + Sync) {
    let case = CASES.iter().find(|case| case.name == name).expect("names come from the cases");
    bencher.counter(ItemsCount::new(times * case.operations)).bench(|| run(case));
}

#[divan::bench(args = names())]
fn forward(bencher: divan::Bencher<'_, '_>, name: &str) {
    measure(bencher, name, 1, Case::forward);
}

#[divan::bench(args = names())]
fn backward(bencher: divan::Bencher<'_, '_>, name: &str) {
    measure(bencher, name, 2, Case::backward);
}

#[divan::bench(args = names())]
fn product(bencher: divan::Bencher<'_, '_>, name: &str) {
    measure(bencher, name, 1, Case::product);
}
