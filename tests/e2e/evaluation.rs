//! Evaluations: the same results for any number of workers, whatever happens to them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use dcgan_store::idx::{Images, write_images};
use tempfile::tempdir;

use crate::process::{COORD, Process, SAMPLER, assert_names, run};
use crate::run::{Coordinator, last_digest, local, newest_manifest, saved_steps};
use crate::training::all_cores;

/// A run of the toy that evaluates the state after every seventh epoch, of 15 steps each. It has
/// few grids: workers keep 16 snapshots while a coordinator gets no processor, and leave out what
/// is older.
const EVALUATED: &str = "--objective toy --log-every 50 --checkpoint-every 100 --eval-every 7 \
                         --grid-every 1000 --steps 1000";

/// The lines of the log of evaluations, in the order of their steps.
fn evaluations(here: &Path) -> Vec<String> {
    let text = fs::read_to_string(here.join("run/evaluations.jsonl")).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let step = |line: &String| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        row["step"].as_u64().unwrap()
    };
    lines.sort_by_key(step);
    lines
}

#[test]
fn evaluations_are_the_same_for_any_number_of_workers_and_through_failures() {
    let alone = tempdir().unwrap();
    local(alone.path(), &format!("--workers 1 {EVALUATED}"));
    let expected = evaluations(alone.path());
    assert_eq!(expected.len(), 10, "{expected:?}");
    assert!(expected[0].starts_with(r#"{"step":105,"parameter_rms":"#), "{}", expected[0]);

    let together = tempdir().unwrap();
    local(together.path(), &format!("--workers 3 --threads 2 {EVALUATED}"));
    assert_eq!(evaluations(together.path()), expected);

    // A worker dies with a part, and the coordinator dies right after an evaluation is on disk.
    let folder = tempdir().unwrap();
    let here = folder.path();
    train_with_deaths(here, EVALUATED, 3);
    assert_eq!(evaluations(here), expected);
}

/// Trains with two workers, of which one dies with a part of an evaluation. The coordinator dies
/// when the evaluation with this number, counted from 1, is on disk, and is started again.
fn train_with_deaths(here: &Path, settings: &str, number: u64) {
    let arguments = format!("--workers 2 {settings}");
    let first = format!("{arguments} --fault append-evaluation=kill@{number}");
    let coordinator = Coordinator::start(here, &first);
    let survivor = coordinator.worker(here, "--name a");
    let dying = coordinator.worker(here, "--name b --fault evaluate=kill@2");
    coordinator.process.wait_for_event("evaluated", &[]);
    let again = format!("{arguments} {}", coordinator.same_port());
    coordinator.process.wait();
    Coordinator::start(here, &again).process.expect(0);
    survivor.expect(0);
    drop(dying);
}

/// The step with which a run of this many steps ends by `--early-stopping 1`, by the log of all its
/// evaluations, which come every 105 steps.
fn early_end(evaluations: &[String]) -> u64 {
    let mut best = f64::INFINITY;
    for line in evaluations {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let value = row["parameter_rms"].as_f64().unwrap();
        if value >= best {
            return row["step"].as_u64().unwrap() + 105;
        }
        best = value;
    }
    panic!("the evaluations become better and better: {evaluations:?}");
}

#[test]
fn a_run_ends_early_with_the_same_step_whatever_happens() {
    let whole = tempdir().unwrap();
    let all_steps = local(whole.path(), &format!("--workers 1 {EVALUATED}"));
    let end = early_end(&evaluations(whole.path()));
    assert!(end < 1000, "{end}");
    let early = format!("{EVALUATED} --early-stopping 1");

    let alone = tempdir().unwrap();
    let text = run(COORD, alone.path(), &format!("--out run --local --workers 1 {early}"), 0).text;
    assert!(text.contains("finished early (--early-stopping 1: the best evaluation is"), "{text}");
    let expected = last_digest(alone.path());
    assert_eq!(newest_manifest(alone.path()).step, end);
    let together = tempdir().unwrap();
    assert_eq!(local(together.path(), &format!("--workers 3 {early}")), expected);
    assert_eq!(evaluations(together.path()), evaluations(alone.path()));

    // The coordinator dies before an evaluation is on disk, and its workers with it.
    let resumed = tempdir().unwrap();
    let arguments = format!("--out run --local --workers 2 {early}");
    let killed = format!("{arguments} --fault append-evaluation=kill@2");
    Process::start(COORD, resumed.path(), &killed).wait();
    run(COORD, resumed.path(), &arguments, 0);
    assert_eq!(last_digest(resumed.path()), expected);
    assert_eq!(evaluations(resumed.path()), evaluations(alone.path()));

    // A worker dies with a part of an evaluation, and then the coordinator alone.
    let folder = tempdir().unwrap();
    let here = folder.path();
    train_with_deaths(here, &early, 2);
    assert_eq!(last_digest(here), expected);

    // The same command finds that the run has ended, and one without early stopping goes on.
    let again = run(COORD, alone.path(), &format!("--out run --local --workers 1 {early}"), 0);
    assert!(again.text.contains("this run has ended early, with step"), "{}", again.text);
    let status = run(COORD, alone.path(), "status --run run", 0);
    assert!(status.text.contains("--early-stopping 1: the best"), "{}", status.text);
    let on = format!("--workers 1 {EVALUATED} --early-stopping 0");
    assert_eq!(local(alone.path(), &on), all_steps);
    assert_eq!(evaluations(alone.path()), evaluations(whole.path()));
}

#[test]
fn early_stopping_needs_evaluations() {
    let folder = tempdir().unwrap();
    let arguments = "--local --workers 1 --objective toy --early-stopping 2";
    let refused = run(COORD, folder.path(), arguments, 2);
    assert_names(refused.error(), &["--early-stopping 2", "--eval-every"]);
}

#[test]
fn the_checkpoint_with_the_best_evaluation_is_kept_and_found() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let toy = EVALUATED.replace("--checkpoint-every 100", "--checkpoint-every 1000000");
    let arguments = format!("--workers 2 {toy} --keep-checkpoints 1");
    let text = run(COORD, here, &format!("--out run --local {arguments}"), 0).text;
    let values = evaluations(here).into_iter().map(|line| {
        let row: serde_json::Value = serde_json::from_str(&line).unwrap();
        (row["parameter_rms"].as_f64().unwrap(), row["step"].as_u64().unwrap())
    });
    let (value, best) = values.min_by(|a, b| a.partial_cmp(b).unwrap()).unwrap();
    assert_eq!(saved_steps(here), BTreeSet::from([best, 1000]).into_iter().collect::<Vec<_>>());
    let in_words = format!("best evaluation: parameter_rms {value:.4} after step {best}");
    assert!(text.contains(&in_words), "{text}");
    let status = run(COORD, here, "status --run run", 0);
    assert!(status.text.contains(&in_words), "{}", status.text);
    // The message says which checkpoint was taken.
    for verb in ["grid", "eval"] {
        let drawn = run(SAMPLER, here, &format!("{verb} --run run --checkpoint best"), 2);
        let toy = format!("the checkpoint of step {best} is of the toy, which draws no pictures");
        assert_eq!(drawn.error(), toy);
    }

    fs::remove_file(here.join("run/evaluations.jsonl")).unwrap();
    let status = run(COORD, here, "status --run run", 0);
    assert!(status.text.contains("is best is not known"), "{}", status.text);
    let refused = run(SAMPLER, here, "grid --run run --checkpoint best", 2);
    assert_names(refused.error(), &["--checkpoint best", "evaluations.jsonl", "newest or a step"]);
    let refused = run(SAMPLER, here, "grid --run run --checkpoint last", 2);
    assert_names(refused.error(), &["--checkpoint", "newest, best or a step"]);
}

#[test]
fn data_that_the_classifier_does_not_know_are_not_evaluated() {
    let folder = tempdir().unwrap();
    let images = Images { count: 300, rows: 28, columns: 28, pixels: vec![7; 300 * 28 * 28] };
    let mut file = Vec::new();
    write_images(&images, &mut file).unwrap();
    fs::write(folder.path().join("images"), file).unwrap();
    let arguments = "--local --workers 1 --data images --eval-every 10";
    let refused = run(COORD, folder.path(), arguments, 2);
    let names =
        ["--eval-every", "MNIST", "train-evaluator", "--evaluator", "leave --eval-every out"];
    assert_names(refused.error(), &names);
}

/// Writes the files of a data set of ten easy classes, with 1,000 images in each part.
fn write_data_set(folder: &Path) {
    fs::create_dir(folder).unwrap();
    for (part, name) in ["train", "t10k"].into_iter().enumerate() {
        let labels: Vec<u8> = (0..1000).map(|image| (image % 10) as u8).collect();
        let mut pixels = Vec::new();
        for (image, &label) in labels.iter().enumerate() {
            // A bright row for the class, and a pixel that no other image has.
            let mut pixel = vec![0; 28 * 28];
            pixel[28 * (2 * usize::from(label) + 4)..][..28].fill(200);
            pixel[(image * 7 + part * 3) % 784] = 255;
            pixels.extend(pixel);
        }
        let mut file = Vec::new();
        let images = Images { count: 1000, rows: 28, columns: 28, pixels };
        write_images(&images, &mut file).unwrap();
        fs::write(folder.join(format!("{name}-images-idx3-ubyte")), file).unwrap();
        let header = [0x801u32, 1000].into_iter().flat_map(u32::to_be_bytes);
        let file: Vec<u8> = header.chain(labels).collect();
        fs::write(folder.join(format!("{name}-labels-idx1-ubyte")), file).unwrap();
    }
}

#[test]
fn an_evaluator_of_other_data_is_trained_and_judges_samples() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    write_data_set(&here.join("data"));
    let train = "train-evaluator --data data --epochs 2 --out judge.safetensors";
    let told = run(SAMPLER, here, train, 0).text;
    assert!(told.contains("epoch 2/2: loss "), "{told}");

    // The test images in place of samples are at no distance from themselves.
    let judge = "--evaluator judge.safetensors --data data --count 1000";
    let images = format!("eval --images data/t10k-images-idx3-ubyte {judge}");
    let told = run(SAMPLER, here, &format!("{images} --json -q"), 0).text;
    let values: serde_json::Value = serde_json::from_str(&told).unwrap();
    let samples = &values["samples"];
    assert!(samples["frechet_distance"].as_f64().unwrap().abs() < 1e-6, "{told}");
    assert_eq!(samples["coverage"], 1.0, "{told}");
    assert!(values["training_images"]["frechet_distance"].as_f64().unwrap() > 0.0, "{told}");
    let table = run(SAMPLER, here, &images, 0).text;
    assert_names(&table, &["1000 samples", "frechet_distance", "precision", "share"]);

    for (wrong, names) in [
        ("--count 150", ["--count", "1000"]),
        ("--count 1050", ["--count", "100"]),
        ("--images data/train-images-idx3-ubyte --count 2000", ["--images", "1000 images"]),
        ("--evaluator data/t10k-labels-idx1-ubyte", ["t10k-labels", "no evaluator"]),
        ("--images data/t10k-images-idx3-ubyte --count 1000", ["--evaluator", "MNIST"]),
    ] {
        let status = if wrong.starts_with("--evaluator") { 1 } else { 2 };
        let refused = run(SAMPLER, here, &format!("eval --data data {wrong}"), status);
        assert_names(refused.error(), &names);
    }
}

/// A training of a data set of 1,000 images: 5 steps are an epoch.
const JUDGED: &str = "--data data --batch-size 200 --grid-every 1000";

#[test]
fn a_run_keeps_its_evaluator_and_has_the_same_rows_with_any_number_of_workers() {
    let _cores = all_cores();
    let folder = tempdir().unwrap();
    let here = folder.path();
    write_data_set(&here.join("data"));
    for (epochs, out) in [(1, "judge.safetensors"), (2, "other.safetensors")] {
        run(
            SAMPLER,
            here,
            &format!("train-evaluator --data data --epochs {epochs} --out {out}"),
            0,
        );
    }
    let start = |out: &str, arguments: &str, status| {
        run(COORD, here, &format!("--out {out} --local {JUDGED} {arguments}"), status)
    };
    start("run", "--workers 1 --epochs 1 --evaluator judge.safetensors", 0);
    let expected = evaluations(here);
    assert_eq!(expected.len(), 1, "{expected:?}");
    assert!(expected[0].starts_with(r#"{"step":5,"frechet_distance":"#), "{expected:?}");
    let kept = fs::read(here.join("run/evaluator.safetensors")).unwrap();
    assert!(kept == fs::read(here.join("judge.safetensors")).unwrap());
    start("three", "--workers 3 --epochs 1 --evaluator judge.safetensors", 0);
    let three = fs::read_to_string(here.join("three/evaluations.jsonl")).unwrap();
    assert_eq!(three.lines().collect::<Vec<_>>(), expected);

    // The run goes on without the file, and eval finds it.
    fs::remove_file(here.join("judge.safetensors")).unwrap();
    start("run", "--workers 2 --epochs 2", 0);
    let both = evaluations(here);
    assert!(both.len() == 2 && both[0] == expected[0], "{both:?}");
    let eval = "eval --run run --count 1000";
    let told = run(SAMPLER, here, &format!("{eval} --data data --json"), 0).text;
    assert!(told.contains("frechet_distance"), "{told}");
    let refused = run(SAMPLER, here, eval, 2);
    assert_names(refused.error(), &["--data", "1000 images", "60000 images", "give the run's"]);

    // Another judge is refused, and one that is damaged.
    let refused = start("run", "--workers 1 --epochs 3 --evaluator other.safetensors", 2);
    assert_names(refused.error(), &["--evaluator: other.safetensors", "run belongs", "--out"]);
    fs::write(here.join("run/evaluator.safetensors"), &kept[..kept.len() - 4]).unwrap();
    let told = run(COORD, here, "verify run", 1).text;
    assert_names(&told, &["run/evaluator.safetensors: this is no evaluator"]);
    let refused = start("run", "--workers 1 --epochs 3", 1);
    assert_names(refused.error(), &["run/evaluator.safetensors", "--evaluator again"]);
}

#[test]
fn an_evaluator_that_cannot_judge_the_run_is_refused() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    write_data_set(&here.join("data"));
    run(SAMPLER, here, "train-evaluator --data data --epochs 1 --out judge.safetensors", 0);
    for (arguments, names) in [
        ("--data data --evaluator data/t10k-labels-idx1-ubyte", ["t10k-labels", "no evaluator"]),
        ("--data data --evaluator none", ["--evaluator: none: ", "No such file"]),
        ("--evaluator judge.safetensors", ["judge.safetensors", "for other images"]),
        ("--objective toy --evaluator judge.safetensors", ["toy", "without one"]),
    ] {
        let arguments = format!("--workers 1 --batch-size 200 --dry-run {arguments}");
        let refused = run(COORD, here, &arguments, 2);
        assert_names(refused.error(), &["--evaluator: "]);
        assert_names(refused.error(), &names);
    }
}

#[test]
fn a_run_that_had_no_evaluator_may_get_one() {
    let _cores = all_cores();
    let folder = tempdir().unwrap();
    let here = folder.path();
    write_data_set(&here.join("data"));
    run(SAMPLER, here, "train-evaluator --data data --epochs 1 --out judge.safetensors", 0);
    local(here, &format!("--workers 1 --steps 2 {JUDGED}"));
    assert!(!here.join("run/evaluations.jsonl").exists());
    local(here, "--workers 1 --epochs 1 --evaluator judge.safetensors");
    assert_eq!(evaluations(here).len(), 1);
}
