//! Evaluations: the same results for any number of workers, whatever happens to them.

use std::fs;
use std::path::Path;

use dcgan_store::idx::{Images, write_images};
use tempfile::tempdir;

use crate::process::{COORD, SAMPLER, assert_names, run};
use crate::run::{Coordinator, local};

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
    let arguments = format!("--workers 2 {EVALUATED}");
    let first = format!("{arguments} --fault append-evaluation=kill@3");
    let coordinator = Coordinator::start(here, &first);
    let a = coordinator.worker(here, "--name a");
    let b = coordinator.worker(here, "--name b --fault evaluate=kill@2");
    coordinator.process.wait_for_event("evaluated", &[]);
    let again = format!("{arguments} {}", coordinator.same_port());
    coordinator.process.wait();
    let again = Coordinator::start(here, &again);
    again.process.expect(0);
    a.expect(0);
    drop(b);
    assert_eq!(evaluations(here), expected);
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
    assert_names(refused.error(), &["--eval-every", "MNIST", "leave it out"]);
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
    ] {
        let status = if wrong.starts_with("--evaluator") { 1 } else { 2 };
        let refused = run(SAMPLER, here, &format!("eval --data data {wrong}"), status);
        assert_names(refused.error(), &names);
    }
}
