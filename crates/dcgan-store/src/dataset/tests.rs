//! Folders of data sets as other people have them.

use std::fs;
use std::io::Write;

use dcgan_core::spec::networks::EVALUATED_DATA;

use super::*;

/// A file of `count` images of `side` x `side` pixels.
fn images(count: u32, side: u32) -> Vec<u8> {
    let header = [0x803, count, side, side].into_iter().flat_map(u32::to_be_bytes);
    header.chain((0..count * side * side).map(|i| i as u8)).collect()
}

fn labels() -> Vec<u8> {
    [0x801, 3].into_iter().flat_map(u32::to_be_bytes).chain([7; 3]).collect()
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// Loads `name` in a folder with these files.
fn load_in(files: &[(&str, Vec<u8>)], name: &str) -> Result<(String, Dataset), String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join("D").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let root = folder.path().display().to_string();
    let path = folder.path().join(name);
    let loaded = Dataset::load(&Source::Path(path), None, ObjectiveKind::Toy);
    let loaded = loaded.map_err(|error| error.to_string().replace(&format!("{root}/"), ""))?;
    let file = loaded.file().unwrap().strip_prefix(folder.path()).unwrap().display().to_string();
    Ok((file, loaded))
}

/// Checks which file of a folder is taken.
fn check_found(files: &[(&str, Vec<u8>)], expected: &str) {
    let (file, dataset) = load_in(files, "D").unwrap_or_else(|error| panic!("{expected}: {error}"));
    assert_eq!((file, dataset.info().images), (format!("D/{expected}"), 5));
}

/// Checks what is said of a folder.
fn check_refused(files: &[(&str, Vec<u8>)], expected: &str) {
    assert_eq!(load_in(files, "D").map(|(file, _)| file).unwrap_err(), expected);
}

#[test]
fn mnist_is_built_in() {
    let mnist = Dataset::load(&Source::Mnist, None, ObjectiveKind::Dcgan).unwrap();
    let DatasetInfo { images, rows, columns, .. } = mnist.info();
    assert_eq!((images, rows, columns), (60_000, 28, 28));
    assert_eq!(mnist.info().digest, EVALUATED_DATA);
    let sum: u64 = mnist.pixels.iter().map(|&p| u64::from(p)).sum();
    let mean = sum as f64 / mnist.pixels.len() as f64 / 255.0;
    assert!((mean - 0.13066).abs() < 1e-5, "{mean}");
}

#[test]
fn the_content_of_a_file_counts_and_not_its_name() {
    let images = images(5, 2);
    let twice = packed(&packed(&images));
    for content in [images.clone(), packed(&images), twice.clone()] {
        for name in [
            "train-images-idx3-ubyte",
            "train-images-idx3-ubyte.gz",
            "train-images.idx3-ubyte",
            "train-images-idx3-ubyte/train-images-idx3-ubyte",
            "emnist-byclass-train-images-idx3-ubyte.gz",
            "qmnist-train-images-idx3-ubyte",
            "raw/TRAIN.bin",
            "digits",
        ] {
            check_found(&[(name, content.clone())], name);
        }
    }
    check_refused(
        &[("train-images-idx3-ubyte.gz", packed(&twice))],
        "D/train-images-idx3-ubyte.gz: expected images in IDX format, found a file that is packed \
         with gzip more than twice: unpack it",
    );
}

#[test]
fn the_training_images_are_told_from_the_other_files_of_a_folder() {
    let file = |name| (name, images(5, 2));
    // MNIST's names come first, the plain one before the packed one.
    let canonical = file("train-images-idx3-ubyte");
    check_found(&[canonical.clone(), file("train-images-idx3-ubyte.gz")], canonical.0);
    check_found(&[file("train-images.idx3-ubyte"), canonical.clone()], canonical.0);
    let in_folder = file("train-images-idx3-ubyte/train-images-idx3-ubyte");
    check_found(&[file("train-images.idx3-ubyte"), in_folder.clone()], in_folder.0);

    let train = file("emnist-letters-train-images-idx3-ubyte");
    let rest = [
        ("emnist-letters-train-images-idx3-ubyte.gz", packed(&images(5, 2))),
        ("emnist-letters-train-labels-idx1-ubyte", labels()),
        ("emnist-letters-test-images-idx3-ubyte", images(2, 2)),
        ("emnist-letters-mapping.txt", b"1 65 97\n".to_vec()),
        (".cache/train-images", images(2, 2)),
        ("__MACOSX/._emnist-letters-train-images-idx3-ubyte", b"\0\x05\x16\x07".to_vec()),
    ];
    check_found(&[&rest[..], std::slice::from_ref(&train)].concat(), train.0);
    check_found(
        &[file("digits-idx3-ubyte"), ("t10k-images-idx3-ubyte", images(2, 2))],
        "digits-idx3-ubyte",
    );
}

#[test]
fn several_files_that_may_be_meant_are_listed() {
    let both = ["letters", "digits"].map(|split| format!("emnist-{split}-train-images-idx3-ubyte"));
    let both: Vec<_> = both.iter().map(|name| (&**name, images(5, 2))).collect();
    check_refused(
        &both,
        "D: several files hold training images: emnist-digits-train-images-idx3-ubyte, \
         emnist-letters-train-images-idx3-ubyte; give one of them to --data",
    );
    let (file, _) = load_in(&both, &format!("D/{}", both[1].0)).unwrap();
    assert_eq!(file, format!("D/{}", both[1].0));
}

#[test]
fn a_folder_without_training_images_says_what_it_holds() {
    let none = "D: no file here holds training images in IDX format, such as \
                train-images-idx3-ubyte.gz, or is a PNG or JPEG picture; here are: ";
    let check = |files: &[(&str, Vec<u8>)], found: &str| {
        check_refused(files, &format!("{none}{found}"));
    };
    check(&[(".hidden", images(5, 2))], "no files");
    check(
        &[
            ("gzip.zip", b"PK\x03\x04".to_vec()),
            ("train.gz", b"<!DOCTYPE html>".to_vec()),
            ("t10k-images-idx3-ubyte", images(2, 2)),
        ],
        "train.gz (an HTML page: download the file again), gzip.zip (a zip archive: unpack it), \
         t10k-images-idx3-ubyte (images of a test set)",
    );
    check(
        &[("MNIST/raw/train-images-idx3-ubyte", images(5, 2))],
        "MNIST/raw (a folder, which is not searched)",
    );
    let torn = packed(&images(5, 2))[..9].to_vec();
    check(
        &[("torn.gz", torn)],
        "torn.gz (cannot be unpacked: unexpected end of file; the file is damaged or truncated: \
         download it again)",
    );
    let many: Vec<_> = (0..10).map(|n| (format!("{n}.txt"), vec![1])).collect();
    let many: Vec<_> = many.iter().map(|(name, text)| (&**name, text.clone())).collect();
    check(&many, "0.txt, 1.txt, 2.txt (something unknown, which begins with 0x01), 7 more");
}

#[test]
fn a_folder_with_very_many_files_is_not_searched() {
    let many: Vec<_> = (0..=FILES_MAX).map(|n| format!("a/{n}.txt")).collect();
    let many: Vec<_> = many.iter().map(|name| (&**name, Vec::new())).collect();
    let refused = "D: more than 1000 files, and no PNG or JPEG picture; give the file of images to \
                   --data";
    check_refused(&many, refused);
    let picture = ("a/b/c/one.png", picture(5));
    let (found, set) = load_in(&[&many[..], &[picture]].concat(), "D").unwrap();
    assert_eq!((&*found, set.info().images, set.left_out().len()), ("D", 1, FILES_MAX + 1));
}

/// A PNG file of one grey level.
fn picture(level: u8) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 3, 2);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(&[level; 6]).unwrap();
    file
}

#[test]
fn a_folder_of_pictures_is_a_data_set_in_the_order_of_the_paths() {
    let files = [
        ("b/2.png", picture(4)),
        ("b-c.PNG", picture(3)),
        ("a/deep/1", picture(2)),
        ("a/10.jpg", picture(1)),
        ("notes.txt", b"read me".to_vec()),
        (".hidden/0.png", picture(9)),
    ];
    let (folder, set) = load_in(&files, "D").unwrap();
    let info = set.info();
    assert_eq!((&*folder, info.images, info.rows, info.columns), ("D", 4, 28, 28));
    let levels: Vec<u8> = set.pixels().chunks(28 * 28).map(|image| image[0]).collect();
    // "-" comes before "/".
    assert_eq!(levels, [1, 2, 3, 4]);
    assert_eq!(set.info().digest, digest::of_bytes(set.pixels()));
    assert_eq!(set.left_out(), [Path::new("notes.txt")]);

    // A file of images counts, and not the pictures beside it. Of a split data set the training
    // set counts.
    check_found(&[&files[..], &[("digits", images(5, 2))]].concat(), "digits");
    let split = [("Train/1.png", picture(7)), ("test/2.png", picture(8))];
    let (folder, set) = load_in(&split, "D").unwrap();
    assert_eq!((&*folder, set.info().images, set.pixels()[0]), ("D/Train", 1, 7));
}

#[test]
fn a_picture_that_cannot_be_used_is_named() {
    let good = ("a.png", picture(1));
    let cut = picture(1)[..40].to_vec();
    let check = |files: &[(&str, Vec<u8>)], expected: &str| {
        let refused = load_in(files, "D").map(drop).unwrap_err();
        assert!(refused.starts_with(expected), "{refused}");
    };
    let page = b"<html>".to_vec();
    check(
        &[good.clone(), ("b.jpeg", page)],
        "D/b.jpeg: expected a PNG or JPEG picture, found an HTML page",
    );
    check(&[good, ("c", cut.clone()), ("d", cut)], "D/c: cannot be decoded: ");
    check(&[("b.png", Vec::new())], "D/b.png: expected a PNG or JPEG picture, found an empty file");
}

#[test]
fn the_folders_of_pictures_are_their_classes() {
    let load = |files: &[(&str, u8)], split| {
        let folder = tempfile::tempdir().unwrap();
        for (name, level) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, picture(*level)).unwrap();
        }
        let root = folder.path().display().to_string();
        let loaded = Labelled::load(folder.path(), split);
        loaded.map_err(|error| error.to_string().replace(&root, "D"))
    };
    let files = [
        ("train/shoe/1.png", 1),
        ("train/bag/2.png", 2),
        ("train/bag/old/3.png", 3),
        ("test/shoe/4.png", 4),
    ];
    let levels = |set: &Labelled| set.pixels.chunks(784).map(|it| it[0]).collect::<Vec<_>>();
    let training = load(&files, Split::Training).unwrap();
    assert_eq!((training.labels.clone(), levels(&training)), (vec![0, 0, 1], vec![2, 3, 1]));
    let test = load(&files, Split::Test).unwrap();
    assert_eq!((test.labels.clone(), levels(&test)), (vec![1], vec![4]));

    let refused = |files: &[(&str, u8)]| load(files, Split::Test).unwrap_err();
    let no_test = "D: expected pictures in a folder test here, with a folder for each class in it";
    assert_eq!(refused(&files[..3]), no_test);
    assert!(refused(&[("bag/1.png", 1)]).starts_with("D: expected pictures in a folder train"));
    assert_eq!(
        refused(&[&files[..], &[("test/hat/5.png", 5)]].concat()),
        "D/test: expected the classes of the training set, found hat/5.png"
    );
    assert_eq!(
        refused(&[&files[..], &[("train/6.png", 5)]].concat()),
        "D/train: expected a folder for each class, found 6.png beside them"
    );
    let many: Vec<String> = (0..11).map(|n| format!("train/{n}/1.png")).collect();
    let many: Vec<_> = many.iter().map(|name| (&**name, 1)).collect();
    assert_eq!(
        refused(&[&many[..], &[("test/0/1.png", 1)]].concat()),
        "D/train: expected at most 10 folders of classes, found 11"
    );
}

#[test]
fn a_file_that_cannot_be_used_says_what_to_do() {
    let name = "train-images-idx3-ubyte.gz";
    for (content, expected) in [
        (labels(), "expected images in IDX format, found labels: give the file of images"),
        (Vec::new(), "expected images in IDX format, found an empty file: download it again"),
        (packed(b""), "expected images in IDX format, found an empty file: download it again"),
        (
            b"<html>".to_vec(),
            "expected images in IDX format, found an HTML page: download the file again",
        ),
        (
            images(5, 2)[..35].to_vec(),
            "expected 20 bytes of data, as its header says, found 19: the file is truncated: \
             download it again",
        ),
    ] {
        check_refused(&[(name, content)], &format!("D/{name}: {expected}"));
    }
    let torn = packed(&images(5, 2));
    let unpack = |bytes: &[u8]| load_in(&[(name, bytes.to_vec())], "D").map(drop).unwrap_err();
    for torn in [&torn[..torn.len() - 1], &torn[..30]] {
        assert!(unpack(torn).contains("the file is damaged or truncated"), "{}", unpack(torn));
    }
    let mut flipped = torn.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert!(unpack(&flipped).contains("cannot be unpacked: "), "{}", unpack(&flipped));

    let found = |name: &str| load_in(&[], name).map(drop).unwrap_err();
    assert!(found("fashion").starts_with("fashion: there is no such file or folder; mnist is"));
    assert!(
        found("https://a.org/x")
            .ends_with("x: nothing is downloaded; download the file, and give its path")
    );
}

#[test]
fn only_regular_files_of_an_allowed_size_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let load = |path: &Path| {
        let loaded = Dataset::load(&Source::Path(path.to_owned()), None, ObjectiveKind::Toy);
        loaded.map(drop).unwrap_err().to_string()
    };
    assert_eq!(load(Path::new("/dev/zero")), "/dev/zero: cannot be read: not a regular file");
    let endless = folder.path().join("train");
    std::os::unix::fs::symlink("/dev/zero", &endless).unwrap();
    assert!(load(folder.path()).ends_with("train (cannot be read: not a regular file)"));
    fs::remove_file(&endless).unwrap();
    let file = fs::File::create(&endless).unwrap();
    file.set_len(PAYLOAD_BYTES_MAX + 17).unwrap();
    assert!(
        load(&endless).ends_with("expected at most 1073741840 bytes of data, found 1073741841")
    );
}

#[test]
fn an_objective_may_be_made_for_one_size() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("images");
    fs::write(&file, images(1, 32)).unwrap();
    let loaded = Dataset::load(&Source::Path(file), None, ObjectiveKind::Dcgan);
    let error = loaded.map(drop).unwrap_err().to_string();
    assert!(error.ends_with(
        "images: images of 32 x 32 pixels do not fit the networks, which are made for 28 x 28: \
         scale them to that size"
    ));
}

#[test]
fn emnist_is_transposed_unless_the_user_decides() {
    let transposed = |name: &str, transpose| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let header = [0x803, 2, 2, 3].into_iter().flat_map(u32::to_be_bytes);
        fs::write(&file, header.chain(1..=12).collect::<Vec<u8>>()).unwrap();
        let set = Dataset::load(&Source::Path(file), transpose, ObjectiveKind::Toy).unwrap();
        let DatasetInfo { rows, columns, .. } = set.info();
        let upright: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let turned: [u8; 12] = [1, 4, 2, 5, 3, 6, 7, 10, 8, 11, 9, 12];
        let expected = if set.is_transposed() { ((3, 2), turned) } else { ((2, 3), upright) };
        assert_eq!(((rows, columns), &*set.pixels), (expected.0, &expected.1[..]));
        assert_eq!(set.info().digest, digest::of_bytes(&set.pixels));
        set.is_transposed()
    };
    assert!(transposed("emnist-letters-train-images-idx3-ubyte", None));
    assert!(transposed("EMNIST/train-images-idx3-ubyte", None));
    assert!(!transposed("emnist/fashion/train-images-idx3-ubyte", None));
    assert!(!transposed("kmnist/train-images-idx3-ubyte", None));
    assert!(!transposed("emnist/train-images-idx3-ubyte", Some(false)));
    assert!(transposed("kmnist/train-images-idx3-ubyte", Some(true)));
}

#[test]
fn a_partition_holds_the_images_of_its_indices() {
    let (_, set) = load_in(&[("train", images(9, 2))], "D").unwrap();
    let sharding = Sharding::new(1, 9, 2, 4).unwrap();
    let before = set.pixels.clone();
    let images = sharding.partitions().concat();
    let expected: Vec<u8> =
        images.iter().flat_map(|&image| before[4 * image as usize..][..4].to_vec()).collect();
    assert_eq!(set.into_partitions(&sharding), expected);
}

#[test]
fn labelled_images_stand_as_those_that_a_run_is_trained_with() {
    let folder = tempfile::tempdir().unwrap();
    let emnist = folder.path().join("emnist");
    fs::create_dir(&emnist).unwrap();
    fs::write(emnist.join("train-images-idx3-ubyte"), images(3, 28)).unwrap();
    fs::write(emnist.join("train-labels-idx1-ubyte"), labels()).unwrap();
    let labelled = Labelled::load(&emnist, Split::Training).unwrap();
    let trained = Dataset::load(&Source::Path(emnist), None, ObjectiveKind::Dcgan).unwrap();
    assert!(trained.is_transposed() && trained.pixels() == labelled.pixels);
}

#[test]
fn labels_are_those_of_the_images() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    let load = || {
        let loaded = Labelled::load(folder.path(), Split::Test).map(|it| it.labels);
        let root = format!("{}/", folder.path().display());
        loaded.map_err(|error| error.to_string().replace(&root, ""))
    };
    let missing = "t10k-images-idx3-ubyte: there is no such file";
    assert!(load().unwrap_err().starts_with(missing));
    write("t10k-images-idx3-ubyte.gz", &packed(&images(3, 28)));
    write("t10k-labels-idx1-ubyte", &labels());
    assert_eq!(load(), Ok(vec![7; 3]));
    write("t10k-images-idx3-ubyte", &images(2, 28));
    let expected = "t10k-labels-idx1-ubyte: expected one for each of 2 images, found 3";
    assert_eq!(load().unwrap_err(), expected);
    write("t10k-labels-idx1-ubyte", &[0, 0, 8, 1, 0, 0, 0, 2, 9, 10]);
    let expected = "t10k-labels-idx1-ubyte: expected labels from 0 to 9, found 10";
    assert_eq!(load().unwrap_err(), expected);
}
