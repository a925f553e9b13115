//! Runs that begin with the weights of a file.

use std::fs;
use std::path::Path;

use dcgan_store::state_file;
use tempfile::tempdir;

use crate::process::{COORD, Process, assert_names, run, signal};
use crate::run::{LocalWorker, last_digest, local, newest_manifest, saved_steps};
use crate::training::all_cores;

const SMALL: &str = "--batch-size 32 --shards 4 --log-every 2 --grid-every 2 --checkpoint-every 2";

/// Trains two steps in the run directory `first`.
fn train_first(folder: &Path) {
    local(folder, &format!("--workers 1 --steps 2 --seed 5 {SMALL}"));
    fs::rename(folder.join("run"), folder.join("first")).unwrap();
}

fn remove_run(folder: &Path) {
    fs::remove_dir_all(folder.join("run")).unwrap();
}

/// The weights in the checkpoint of `first`, and nothing else.
fn weights_of_first(folder: &Path) -> Vec<u8> {
    let state = folder.join("first/checkpoints/step-00000002/state.safetensors");
    state_file::subset(&fs::read(state).unwrap(), &["generator.", "discriminator."]).unwrap()
}

#[test]
fn a_run_that_begins_with_given_weights_has_the_same_bits_whoever_computes_it() {
    let _cores = all_cores();
    let folder = tempdir().unwrap();
    let here = folder.path();
    train_first(here);
    let drawn = local(here, &format!("--workers 2 --steps 6 {SMALL}"));
    remove_run(here);

    let begin = format!("--init-from first --steps 6 {SMALL}");
    let alone = local(here, &format!("--workers 1 {begin}"));
    assert_ne!(alone, drawn);
    let weights = weights_of_first(here);
    let own = fs::read(here.join("run/initial.safetensors")).unwrap();
    let digests = state_file::tensor_digests(&own).unwrap();
    assert_eq!(digests, state_file::tensor_digests(&weights).unwrap());
    let digest = newest_manifest(here).config.initial_weights().to_string();
    assert_eq!(digest, state_file::digest_of(&weights).unwrap().to_string());
    remove_run(here);

    // Three workers, one of which dies.
    let args = format!("--out run --local --workers 3 {begin}");
    let coordinator = Process::start(COORD, here, &args);
    let read = coordinator.wait_for_event("initial_weights_read", &[("digest", &digest)]);
    assert_names(read.field("from"), &["first, step 2"]);
    coordinator.wait_for_step(2);
    signal("KILL", &LocalWorker::find(here, "worker-1").process);
    coordinator.wait_for_event("worker_lost", &[("worker", "worker-1")]);
    coordinator.expect(0);
    assert_eq!(last_digest(here), alone);
    remove_run(here);

    // From a file that is gone when the run goes on.
    fs::write(here.join("weights.safetensors"), weights).unwrap();
    local(here, &format!("--workers 2 --init-from weights.safetensors --steps 2 {SMALL}"));
    fs::remove_file(here.join("weights.safetensors")).unwrap();
    assert_eq!(local(here, "--workers 1 --steps 6"), alone);
    // Without any checkpoint it begins with the same weights again.
    for step in saved_steps(here) {
        fs::remove_dir_all(here.join(format!("run/checkpoints/step-{step:08}"))).unwrap();
    }
    assert_eq!(local(here, "--workers 2 --steps 8"), {
        fs::rename(here.join("run"), here.join("again")).unwrap();
        local(here, &format!("--workers 1 --init-from first --steps 8 {SMALL}"))
    });
    assert_names(
        &run(COORD, here, "verify run again", 0).text,
        &["the same at all 4 recorded steps"],
    );
    check_own_copy(here);
}

/// Checks that the run's copy of the weights is verified, and can be replaced.
fn check_own_copy(folder: &Path) {
    let copy = folder.join("run/initial.safetensors");
    let mut bytes = fs::read(&copy).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&copy, bytes).unwrap();
    let damage = ["initial.safetensors: expected weights with digest "];
    assert_names(&run(COORD, folder, "verify run", 1).text, &damage);
    let resume = "--out run --local --workers 1 --steps 10";
    let refused = run(COORD, folder, resume, 1);
    assert_names(refused.error(), &["as --init-from", damage[0]]);
    run(COORD, folder, &format!("{resume} --init-from first"), 0);
    run(COORD, folder, "verify run", 0);

    // The checkpoint that a run began with may be followed by others.
    let other = run(COORD, folder, &format!("{resume} --init-from run"), 2);
    let names =
        ["weights of --init-from: saved ", "; without --init-from it goes on as it began; choose"];
    assert_names(other.error(), &names);
    let missing = run(COORD, folder, &format!("{resume} --init-from gone"), 2);
    assert_names(missing.error(), &["--init-from: gone: No such file", "run has a copy: leave"]);
}

#[test]
fn weights_that_a_run_cannot_begin_with_are_refused_before_anything_is_made() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    {
        let _cores = all_cores();
        train_first(here);
    }
    fs::create_dir(here.join("empty")).unwrap();
    fs::write(here.join("text"), "no weights").unwrap();
    local(here, "--objective toy --workers 1 --steps 20");
    fs::rename(here.join("run"), here.join("toy")).unwrap();
    fs::copy(here.join("first/config.toml"), here.join("seed.toml")).unwrap();
    let of_no_file = "--initial-weights 0000000000000001";
    for (arguments, names) in [
        ("--init-from none", "--init-from: none: No such file"),
        ("--init-from empty", "--init-from: empty: not a run directory"),
        ("--init-from text", "--init-from: text: not a safetensors file of both networks: "),
        ("--init-from toy", "--init-from: toy, step 20: not a safetensors file of both networks: "),
        ("--init-from first --objective toy", "--init-from: the toy has no networks"),
        ("--init-from first --initial-weights seed", "--init-from: first, step 2: expected digest"),
        (of_no_file, "initial-weights 0000000000000001: give the file"),
        (
            "--out first --init-from first",
            "first belongs to a run with other settings: weights of --init-from: saved seed, ",
        ),
    ] {
        let refused = run(COORD, here, &format!("--local --workers 1 {arguments}"), 2);
        assert_names(refused.error(), &[names]);
    }
    assert!(!here.join("runs").exists(), "a mistake creates no run directory");
    // A flag beats what a configuration file says of the weights.
    let args = "--config seed.toml --out new --workers 1 --init-from first --dry-run";
    let text = run(COORD, here, args, 0).text;
    assert_names(&text, &["init-from = \"first\"", "initial-weights = \""]);
    // The folder of a checkpoint means its state.
    let checkpoint = "first/checkpoints/step-00000002";
    let args = format!("--out new --workers 1 --init-from {checkpoint} --dry-run");
    let digest = state_file::digest_of(&weights_of_first(here)).unwrap();
    let given = format!("initial-weights = \"{digest}\"");
    assert_names(&run(COORD, here, &args, 0).text, &[&given, checkpoint]);
}
