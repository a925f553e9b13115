//! Run directories of other versions of this program: an older one goes on to the same bits, a
//! newer one is refused and left alone.

use std::fs;
use std::path::Path;

use dcgan_store::run_dir::{FORMAT, RunPaths, read_run_file};
use serde_json::{Map, Value};
use tempfile::tempdir;

use crate::process::{COORD, SAMPLER, assert_names, run};
use crate::run::{last_digest, local, logged_steps, newest_manifest, saved_steps};
use crate::training::all_cores;

/// The settings of the run in `tests/fixtures/run-format-1`.
const SETTINGS: &str = "--objective toy --batch-size 32 --seed 5 --learning-rate 0.05 \
    --beta1 0.25 --steps 60 --log-every 8 --grid-every 16 --checkpoint-every 10 \
    --keep-checkpoints 2";
/// The digest of the last state, as the program computed it that began the run.
const DIGEST: &str = "cf34909dcaa05107";

/// Copies the run directory of format 1 to `run` in a folder.
fn copy_old_run(folder: &Path) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/run-format-1");
    copy_folder(&fixture, &folder.join("run"));
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if from.is_dir() {
            copy_folder(&from, &to.join(name));
        } else {
            fs::copy(&from, to.join(name)).unwrap();
        }
    }
}

#[test]
fn a_run_of_format_1_goes_on_to_the_digest_of_an_undisturbed_run() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    copy_old_run(here);
    assert_eq!((newest_manifest(here).format, newest_manifest(here).step), (1, 30));
    run(COORD, here, "verify run", 0);

    let resumed = run(COORD, here, "--out run --local --steps 60", 0);
    resumed.event("older_run", &[("format", "1")]);
    resumed.event("run_resumed", &[("step", "30")]);
    assert_eq!(last_digest(here).to_string(), DIGEST);
    assert_eq!(logged_steps(here), [8, 16, 24, 32, 40, 48, 56, 60]);
    let undisturbed = tempdir().unwrap();
    assert_eq!(local(undisturbed.path(), &format!("--workers 1 {SETTINGS}")).to_string(), DIGEST);

    // From now on an older version refuses it.
    let run = read_run_file(&RunPaths::new(here.join("run"))).unwrap().unwrap();
    assert_eq!((run.format, newest_manifest(here).format), (FORMAT, FORMAT));
}

#[test]
fn a_run_of_format_1_keeps_its_settings() {
    let folder = tempdir().unwrap();
    copy_old_run(folder.path());
    let refused = run(COORD, folder.path(), "--out run --local --seed 6 --beta1 0.5", 2);
    assert_names(refused.error(), &["seed: saved 5, given 6; beta1: saved 0.25, given 0.5"]);
}

/// The settings that were added after the first version.
const ADDED: [&str; 17] = [
    "beta2",
    "d-lr-ratio",
    "initial-weights",
    "lr-schedule",
    "warmup-steps",
    "schedule-steps",
    "final-learning-rate",
    "decay-every",
    "decay-factor",
    "ema-decay",
    "loss",
    "label-smoothing",
    "clip-grad-norm",
    "d-steps",
    "init",
    "spectral-norm",
    "augment-translation",
];

/// Removes the added settings from the files of a run, as if an older version had written them.
fn remove_added_settings(run: &Path) {
    let config = run.join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    let is_old = |line: &&str| !ADDED.iter().any(|key| line.starts_with(&format!("{key} = ")));
    let older: String = text.lines().filter(is_old).map(|line| format!("{line}\n")).collect();
    assert_eq!(older.lines().count() + ADDED.len(), text.lines().count());
    fs::write(config, older).unwrap();

    for checkpoint in fs::read_dir(run.join("checkpoints")).unwrap() {
        let path = checkpoint.unwrap().path().join("manifest.json");
        let text = fs::read_to_string(&path).unwrap();
        let mut manifest: Map<String, Value> = serde_json::from_str(&text).unwrap();
        let config = manifest["config"].as_object_mut().unwrap();
        assert!(ADDED.iter().all(|key| config.remove(*key).is_some()));
        // The checksum is that of the newer text.
        manifest.remove("checksum");
        fs::write(path, serde_json::to_string(&manifest).unwrap()).unwrap();
    }
}

#[test]
fn a_dcgan_that_was_begun_without_a_moving_average_goes_on_without_one() {
    let _cores = all_cores();
    let folder = tempdir().unwrap();
    let here = folder.path();
    local(here, "--workers 2 --steps 2 --ema-decay 0");
    remove_added_settings(&here.join("run"));

    let resumed = run(COORD, here, "--out run --local --workers 1 --steps 6", 0);
    let older = resumed.event("older_run", &[]);
    assert_names(&older.message, &["ema-decay = 0.0", "lr-schedule = \"constant\""]);
    resumed.event("run_resumed", &[("step", "2")]);
    // The digest that `training.rs` had before there was an average.
    assert_eq!(last_digest(here).to_string(), "9b77d1567cc4fe9f");
    let refused = run(SAMPLER, here, "grid run --weights ema --out grid.png", 2);
    assert_names(refused.error(), &["--weights ema", "no moving average"]);
}

#[test]
fn a_run_of_a_newer_version_is_refused_and_left_alone() {
    for (file, from, to, named) in [
        ("run.json", "\"format\": 1", "\"format\": 99", "run.json: format 99"),
        (
            "checkpoints/step-00000030/manifest.json",
            "\"format\": 1",
            "\"format\": 99",
            "manifest.json: format 99",
        ),
        (
            "checkpoints/step-00000030/manifest.json",
            "\"seed\": 5",
            "\"seed\": 5, \"warmup\": 100",
            "manifest.json: the setting warmup",
        ),
        ("config.toml", "seed = 5", "seed = 5\nwarmup = 100", "config.toml: the setting warmup"),
    ] {
        let folder = tempdir().unwrap();
        let here = folder.path();
        copy_old_run(here);
        let path = here.join("run").join(file);
        let newer = fs::read_to_string(&path).unwrap().replace(from, to);
        fs::write(&path, &newer).unwrap();
        let refused = run(COORD, here, "--out run --local", 1);
        let error = format!("{named} is of a newer version of this program; use that version");
        assert_names(refused.error(), &[&error]);
        assert_eq!(fs::read_to_string(&path).unwrap(), newer);
        assert_eq!(saved_steps(here), [20, 30]);
    }
}
