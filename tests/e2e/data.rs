//! Data sets as other people have them: whatever their files are called and hold.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::tempdir;

use crate::process::{COORD, Ended, SAMPLER, assert_names, run};
use crate::run::{Coordinator, local};
use crate::training::all_cores;

/// A file of `count` images of `side` x `side` pixels, which are not symmetric.
fn images(count: u32, side: u32) -> Vec<u8> {
    let header = [0x803, count, side, side].into_iter().flat_map(u32::to_be_bytes);
    header.chain((0..count * side * side).map(|i| (i % 251) as u8)).collect()
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// Writes a file and the folders above it.
fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Checks settings with this data, and expects this exit status.
fn dry_run(folder: &Path, data: &str, status: i32) -> Ended {
    run(COORD, folder, &format!("--workers 1 --dry-run --data {data}"), status)
}

#[test]
fn files_are_found_by_what_they_hold() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let (plain, packed) = (images(256, 28), packed(&images(256, 28)));
    for (data, file, content, transposed) in [
        ("kaggle", "kaggle/train-images.idx3-ubyte", &plain, "false"),
        ("nested", "nested/train-images-idx3-ubyte/train-images-idx3-ubyte", &plain, "false"),
        ("unnamed", "unnamed/train-images-idx3-ubyte", &packed, "false"),
        ("browser", "browser/train-images-idx3-ubyte.gz", &plain, "false"),
        ("kmnist", "kmnist/train-images-idx3-ubyte.gz", &packed, "false"),
        ("q", "q/qmnist-train-images-idx3-ubyte.gz", &packed, "false"),
        ("e", "e/emnist-byclass-train-images-idx3-ubyte.gz", &packed, "true"),
        ("file/anything.bin", "file/anything.bin", &packed, "false"),
    ] {
        write(here, file, content);
        let ended = dry_run(here, data, 0);
        ended.event("data_loaded", &[("file", file), ("transposed", transposed)]);
        assert_names(&ended.text, &["dcgan on 256 images"]);
    }
}

#[test]
fn data_that_cannot_be_used_is_named_with_what_to_do() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let train = "train-images-idx3-ubyte.gz";
    write(here, &format!("html/{train}"), b"<!DOCTYPE html>\n<html>");
    write(here, &format!("empty/{train}"), b"");
    write(here, &format!("torn/{train}"), &packed(&images(256, 28))[..900]);
    write(here, "short/train-images-idx3-ubyte", &images(256, 28)[..9000]);
    write(here, &format!("large/{train}"), &packed(&images(300, 32)));
    write(here, "lfs/train.gz", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    write(here, "labels", &[0, 0, 8, 1, 0, 0, 0, 1, 7]);
    write(here, "archive/gzip.zip", b"PK\x03\x04");
    for split in ["letters", "digits"] {
        let name = format!("emnist/emnist-{split}-train-images-idx3-ubyte");
        write(here, &name, &images(256, 28));
    }
    let cases: [(&str, &[&str]); 12] = [
        ("html", &["html/train-images-idx3-ubyte.gz", "HTML page: download the file again"]),
        ("empty", &["empty/train-images-idx3-ubyte.gz", "empty file: download it again"]),
        ("torn", &["torn/train-images-idx3-ubyte.gz", "truncated: download it again"]),
        ("short", &["expected 200704 bytes", "found 8984", "truncated: download it again"]),
        ("large", &["large/train-images-idx3-ubyte.gz", "32 x 32", "28 x 28", "scale them"]),
        ("lfs", &["lfs: no file here", "train.gz (a git-lfs pointer", "git lfs pull"]),
        ("labels", &["labels: expected images", "found labels: give the file of images"]),
        ("archive", &["archive: no file here", "gzip.zip (a zip archive: unpack it)"]),
        ("emnist", &["emnist-digits-train", "emnist-letters-train", "give one of them to --data"]),
        ("fashion", &["fashion: there is no such file or folder", "mnist is the name"]),
        ("http://127.0.0.1/x", &["nothing is downloaded"]),
        ("/dev/zero", &["/dev/zero", "not a regular file"]),
    ];
    for (data, names) in cases {
        let ended = dry_run(here, data, 2);
        assert_names(ended.error(), &["--data: "]);
        assert_names(ended.error(), names);
    }
}

#[test]
fn a_run_keeps_the_orientation_of_its_images() {
    let _cores = all_cores();
    let folder = tempdir().unwrap();
    let here = folder.path();
    let name = "emnist-letters-train-images-idx3-ubyte.gz";
    write(here, &format!("data/{name}"), &packed(&images(64, 28)));
    let start = |arguments: &str, status: i32| {
        let dcgan = "--out run --local --workers 1 --batch-size 16 --shards 8";
        run(COORD, here, &format!("{dcgan} {arguments}"), status)
    };
    let begun = start("--data data --steps 1", 0);
    let loaded = begun.event("data_loaded", &[("transposed", "true")]);
    assert_names(&loaded.message, &["transposed", "EMNIST", "--transpose no"]);

    // The run goes on as it began, also if the file has another name now.
    fs::rename(here.join("data").join(name), here.join("data/train.gz")).unwrap();
    start("--steps 2", 0).event("data_loaded", &[("transposed", "true")]);
    let refused = start("--steps 3 --transpose no", 2);
    assert_names(refused.error(), &["data: saved 64 images", "transpose: saved yes, given no"]);
}

#[test]
fn an_older_run_of_emnist_goes_on_with_its_images_as_they_are_stored() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    write(here, "emnist/train-images-idx3-ubyte", &images(256, 28));
    let toy = "--workers 1 --objective toy --data emnist";
    local(here, &format!("{toy} --steps 20 --transpose no"));
    let path = here.join("run/config.toml");
    let saved = fs::read_to_string(&path).unwrap();
    fs::write(&path, saved.replace("transpose = \"no\"\n", "")).unwrap();
    let resumed = run(COORD, here, "--out run --local --steps 40", 0);
    resumed.event("data_loaded", &[("transposed", "false")]);
    resumed.event("older_run", &[]);
}

/// Writes a PNG file of 40 x 30 pixels with these colours from left to right.
fn write_picture(folder: &Path, name: &str, colours: [[u8; 3]; 2]) {
    let samples: Vec<u8> = (0..30 * 40).flat_map(|place| colours[place % 40 / 20]).collect();
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 40, 30);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&samples).unwrap();
    write(folder, name, &file);
}

#[test]
fn a_folder_of_pictures_is_trained_on() {
    let _cores = all_cores();
    let folder = tempdir().unwrap();
    let here = folder.path();
    for picture in 0..64u8 {
        let (class, bright) = (picture % 2, 2 * picture);
        let name = format!("pictures/train/class{class}/{picture:02}.png");
        write_picture(here, &name, [[bright, bright, bright], [255 - bright, 0, bright]]);
    }
    write_picture(here, "pictures/test/class0/0.png", [[0; 3]; 2]);
    write(here, "pictures/train/notes.txt", b"of my cat");
    let arguments = "--data pictures --workers 1 --steps 2 --batch-size 16";
    let ended = run(COORD, here, &format!("--out run --local {arguments}"), 0);
    ended.event("data_loaded", &[("file", "pictures/train"), ("transposed", "false")]);
    ended.event("files_left_out", &[("count", "1"), ("first", "notes.txt")]);
    let config = fs::read_to_string(here.join("run/config.toml")).unwrap();
    assert_names(&config, &["images = 64", "rows = 28", "columns = 28"]);

    // The pictures are the run's: another one is another run.
    write_picture(here, "pictures/train/class1/99.png", [[1; 3]; 2]);
    let refused = run(COORD, here, &format!("--out run --local {arguments}"), 2);
    assert_names(refused.error(), &["data: saved 64 images", "given 65 images"]);
    write(here, "pictures/train/class1/99.png", b"<html>");
    let refused = dry_run(here, "pictures", 2);
    assert_names(refused.error(), &["--data: pictures/train/class1/99.png", "an HTML page"]);
    let refused = run(SAMPLER, here, "train-evaluator --data pictures --out judge", 2);
    assert_names(refused.error(), &["--data: pictures/train/class1/99.png"]);
    fs::remove_file(here.join("pictures/train/class1/99.png")).unwrap();
    let refused = run(SAMPLER, here, "train-evaluator --data pictures --out judge", 2);
    assert_names(refused.error(), &["at least 1000 training images, found 64"]);
}

/// The memory of a coordinator besides the images: less than this.
const REST_BYTES: u64 = 64 << 20;

#[test]
fn a_coordinator_takes_memory_for_one_copy_of_the_images() {
    let folder = tempdir().unwrap();
    let here = folder.path();
    let count: u32 = 200_000;
    let bytes = u64::from(count) * 28 * 28;
    let header: Vec<u8> = [0x803, count, 28, 28].into_iter().flat_map(u32::to_be_bytes).collect();
    let mut plain = File::create(here.join("plain")).unwrap();
    plain.write_all(&header).unwrap();
    plain.set_len(header.len() as u64 + bytes).unwrap();
    let mut packed =
        GzEncoder::new(File::create(here.join("packed")).unwrap(), Compression::fast());
    std::io::copy(&mut File::open(here.join("plain")).unwrap(), &mut packed).unwrap();
    packed.finish().unwrap();
    for data in ["plain", "packed"] {
        let coordinator = Coordinator::start(here, &format!("--workers 1 --data {data}"));
        let peak = coordinator.process.peak_memory();
        println!("{count} images ({data}): peak {} MiB", peak >> 20);
        assert!(peak < bytes + REST_BYTES, "{data}: the coordinator took {} MiB", peak >> 20);
        drop(coordinator);
        fs::remove_dir_all(here.join("run")).unwrap();
    }
}
