//! Mistakes of the user: each gets one error line and an exit status, and changes nothing.
//!
//! The sentence of an error may be reworded. What it names may not: the flag, the file, the value.

use std::path::Path;

use tempfile::tempdir;

use crate::process::{COORD, SAMPLER, WORKER, assert_names, run};
use crate::run::{Coordinator, local};

const TOY: &str = "--objective toy --steps 20";

/// Runs a program that must end with this status, and with one error line that names these things.
fn check(program: &str, folder: &Path, arguments: &str, status: i32, names: &[&str]) {
    assert_names(run(program, folder, arguments, status).error(), names);
}

#[test]
fn a_coordinator_refuses_what_it_cannot_do() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    std::fs::write(here.join("typo.toml"), "workers = 2\n\nlearning-rat = 0.1\n").unwrap();
    std::fs::write(here.join("file"), "").unwrap();
    let mistakes: [(&str, i32, &[&str]); 10] = [
        ("", 2, &["--workers is missing"]),
        ("--workers 2 --min-workers 3", 2, &["--min-workers 3 is more than --workers 2"]),
        ("--workers 2 --epochs 1 --steps 1", 2, &["--epochs and --steps", "give one"]),
        ("--workers 2 --shards 7", 2, &["batch size 256 cannot be split into 7 shards"]),
        ("--workers 2 --learning-rate -1", 2, &["learning rate -1 is not above 0"]),
        ("--workers 2 --data nowhere", 2, &["--data: nowhere: there is no such file"]),
        ("--workers 2 --listen 0.0.0.0:0", 2, &["--listen: 0.0.0.0:0", "add --insecure"]),
        ("--config typo.toml", 2, &["typo.toml: line 3: unknown field `learning-rat`"]),
        ("--config none.toml", 2, &["none.toml: No such file"]),
        ("--workers 2 --local --out file/run", 1, &["file/run"]),
    ];
    for (arguments, status, names) in mistakes {
        check(COORD, here, arguments, status, names);
    }
    assert!(!here.join("runs").exists(), "a mistake creates no run directory");
}

#[test]
fn a_run_directory_is_protected() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    local(here, &format!("--workers 1 {TOY}"));

    // Settings that differ are named with both of their values.
    let differing = "--out run --local --seed 23 --learning-rate 0.001";
    let both_values = "seed: saved 22, given 23; learning-rate: saved 0.0002, given 0.001";
    check(COORD, here, differing, 2, &[both_values]);
    let not_empty = "run: not empty, and --resume never";
    check(COORD, here, "--out run --workers 1 --resume never", 2, &[not_empty]);

    // A folder with other files is left alone.
    std::fs::create_dir(here.join("thesis")).unwrap();
    std::fs::write(here.join("thesis/chapter"), "").unwrap();
    let foreign = format!("--out thesis --workers 1 {TOY}");
    check(COORD, here, &foreign, 1, &["thesis: not empty, and not a run directory"]);
    assert_eq!(std::fs::read_dir(here.join("thesis")).unwrap().count(), 1);
}

#[test]
fn a_port_in_use_and_a_directory_in_use_are_named() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let arguments = format!("--workers 1 {TOY} --listen {address}");
    let in_use = format!("cannot listen on {address}: Address already in use");
    check(COORD, here, &arguments, 1, &[&in_use]);

    let running = Coordinator::start(here, &format!("--workers 1 {TOY}"));
    let arguments = format!("--out run --workers 1 {TOY} --listen 127.0.0.1:0");
    check(COORD, here, &arguments, 1, &["run: another coordinator is using this run directory"]);
    running.process.signal("INT");
    running.process.expect(130);
}

#[test]
fn a_worker_and_a_sampler_refuse_what_they_cannot_do() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    local(here, &format!("--workers 1 {TOY}"));
    let mistakes: [(&str, &str, i32, &[&str]); 6] = [
        (WORKER, "--coordinator http://10.0.0.1:1", 2, &["--coordinator", "add --insecure"]),
        (WORKER, "--coordinator http://127.0.0.1:1 --device cuda", 2, &["built without CUDA"]),
        (SAMPLER, "grid --run nowhere --out grid.png", 2, &["nowhere: not a run directory"]),
        (
            SAMPLER,
            "grid --run run --weights ema --out grid.png",
            2,
            &["--weights ema", "no moving average"],
        ),
        (SAMPLER, "grid --run run --checkpoint 7 --out grid.png", 2, &["7", "there are: 15, 20"]),
        (SAMPLER, "grid --run run --out grid.png", 1, &["the checkpoint of step 20: "]),
    ];
    for (program, arguments, status, names) in mistakes {
        check(program, here, arguments, status, names);
    }
    // These are refused by the parser of the command line, in its own words.
    for (program, arguments) in
        [(WORKER, "--coordinator nonsense"), (COORD, "--no-such-flag"), (SAMPLER, "")]
    {
        run(program, here, arguments, 2);
    }
    assert!(!here.join("grid.png").exists(), "a mistake creates no picture");
}

#[test]
fn a_dry_run_prints_the_settings_and_creates_nothing() {
    let folder = tempdir().unwrap();
    let text = run(COORD, folder.path(), "--workers 4 --listen 127.0.0.1:0 --dry-run", 0).text;
    let steps = "dcgan on 60000 images, 4680 steps of 256 images (234 an epoch)";
    assert_names(&text, &[&format!("{steps}, 8 shards on 4 workers")]);
    assert!(text.lines().any(|line| line == "learning-rate = 0.0002"), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_summary_counts_the_parameters() {
    let folder = tempdir().unwrap();
    let text = run(COORD, folder.path(), "summary", 0).text;
    assert!(text.trim_end().ends_with("both: 419810 parameters"), "{text}");
    let graph = run(COORD, folder.path(), "summary --format dot", 0).text;
    assert!(graph.starts_with("digraph dcgan {"), "{graph}");
}
