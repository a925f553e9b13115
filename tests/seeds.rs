//! The seeds of `fuzz/`, through the same functions as the inputs of a fuzzer: what was a finding
//! once is checked by whoever runs the tests.

use std::fs;
use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "it is a library of its own as well")]
mod fuzz;

#[test]
fn no_seed_is_a_finding() {
    for (name, _) in fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
        let seeds: Vec<_> = fs::read_dir(&folder).unwrap().collect();
        assert!(!seeds.is_empty(), "{} is empty", folder.display());
        for seed in seeds {
            fuzz::run(name, &fs::read(seed.unwrap().path()).unwrap());
        }
    }
}
