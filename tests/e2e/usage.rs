//! Mistakes get one clear line, a status, and change nothing.

use std::path::Path;

use tempfile::tempdir;

use crate::process::{COORD, SAMPLER, WORKER, run};
use crate::run::local;

const TOY: &str = "--objective toy --steps 20";

/// Runs a program that is to end with this status and one line about `what`.
fn check(program: &str, folder: &Path, arguments: &str, status: i32, what: &str) {
    let text = run(program, folder, arguments, status);
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "one line:\n{text}");
    assert!(errors[0].contains(what), "{what:?} is not in {:?}", errors[0]);
}

#[test]
fn a_coordinator_refuses_what_it_cannot_do() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    std::fs::write(here.join("typo.toml"), "workers = 2\n\nlearning-rat = 0.1\n").unwrap();
    std::fs::write(here.join("file"), "").unwrap();
    for (arguments, status, what) in [
        ("", 2, "--workers is missing"),
        ("--workers 2 --min-workers 3", 2, "--min-workers 3 is more than --workers 2"),
        ("--workers 2 --epochs 1 --steps 1", 2, "give one"),
        ("--workers 2 --shards 7", 2, "batch size 256 cannot be split into 7 shards"),
        ("--workers 2 --learning-rate -1", 2, "learning rate -1 is not above 0"),
        ("--workers 2 --data nowhere", 2, "nowhere: there is no train-images-idx3-ubyte"),
        ("--workers 2 --listen 0.0.0.0:0", 2, "add --insecure"),
        ("--config typo.toml", 2, "typo.toml: line 3: unknown field `learning-rat`"),
        ("--config none.toml", 2, "none.toml: No such file"),
        ("--workers 2 --local --out file/run", 1, "file/run"),
    ] {
        check(COORD, here, arguments, status, what);
    }
    assert!(!here.join("runs").exists(), "nothing was made");
}

#[test]
fn a_run_directory_is_protected() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    local(here, &format!("--workers 1 {TOY}"));
    let differing = "--out run --local --seed 23 --learning-rate 0.001";
    check(
        COORD,
        here,
        differing,
        2,
        "seed: saved 22, given 23; learning-rate: saved 0.0002, given 0.001",
    );
    check(
        COORD,
        here,
        "--out run --workers 1 --resume never",
        2,
        "run: not empty, and --resume never",
    );
    std::fs::create_dir(here.join("thesis")).unwrap();
    std::fs::write(here.join("thesis/chapter"), "").unwrap();
    check(
        COORD,
        here,
        &format!("--out thesis --workers 1 {TOY}"),
        1,
        "thesis: not empty, and not a run directory",
    );
}

#[test]
fn a_port_in_use_and_a_directory_in_use_are_named() {
    let folder = tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let arguments = format!("--workers 1 {TOY} --listen {address}");
    check(
        COORD,
        folder.path(),
        &arguments,
        1,
        &format!("cannot listen on {address}: Address already in use"),
    );
    let running = crate::run::Coordinator::start(folder.path(), &format!("--workers 1 {TOY}"));
    let arguments = format!("--out run --workers 1 {TOY} --listen 127.0.0.1:0");
    check(
        COORD,
        folder.path(),
        &arguments,
        1,
        "run: another coordinator is using this run directory",
    );
    running.process.signal("INT");
    running.process.expect(130);
}

#[test]
fn a_worker_and_a_sampler_refuse_what_they_cannot_do() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    local(here, &format!("--workers 1 {TOY}"));
    check(WORKER, here, "--coordinator http://10.0.0.1:1", 2, "add --insecure");
    check(WORKER, here, "--coordinator http://127.0.0.1:1 --device cuda", 2, "built without CUDA");
    check(SAMPLER, here, "grid --run nowhere --out grid.png", 2, "nowhere: not a run directory");
    check(SAMPLER, here, "grid --run run --weights ema --out grid.png", 2, "no moving average");
    check(SAMPLER, here, "grid --run run --checkpoint 7 --out grid.png", 2, "there are: 15, 20");
    check(SAMPLER, here, "grid --run run --out grid.png", 1, "the checkpoint of step 20: ");
    for (program, arguments) in
        [(WORKER, "--coordinator nonsense"), (COORD, "--no-such-flag"), (SAMPLER, "")]
    {
        run(program, here, arguments, 2);
    }
}

#[test]
fn a_dry_run_says_what_would_be_done() {
    let folder = tempdir().unwrap();
    let text = run(COORD, folder.path(), "--workers 4 --dry-run", 0);
    assert!(text.contains(
        "dcgan on 60000 images, 4680 steps of 256 images (234 an epoch), 8 shards on 4 workers"
    ));
    assert!(text.lines().any(|line| line == "learning-rate = 0.0002"), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_summary_counts_the_parameters() {
    let folder = tempdir().unwrap();
    let text = run(COORD, folder.path(), "summary", 0);
    assert!(text.ends_with("both: 419810 parameters"), "{text}");
    assert!(run(COORD, folder.path(), "summary --format dot", 0).starts_with("digraph dcgan {"));
}
