//! Tests of checkpoints: what is damaged, foreign or superseded on a disk.

use std::sync::Arc;

use dcgan_core::spec::{DatasetInfo, ObjectiveKind};
use dcgan_core::state::{Layout, State};

use super::*;

fn state(step: Step) -> Vec<u8> {
    let mut state = State::zeros(Arc::new(Layout::new([("weight".to_owned(), vec![5])])));
    state.tensor_mut(0).fill(step as f32);
    state_file::encode(&state)
}

fn spec() -> RunSpec {
    let data = DatasetInfo { images: 9, rows: 1, columns: 1, digest: Digest(3) };
    let builder = RunSpec::builder().objective(ObjectiveKind::Toy).batch_size(4).shards(2);
    builder.learning_rate(0.1).build(data).unwrap()
}

fn manifest(step: Step) -> Manifest {
    let state = state(step);
    Manifest {
        format: format::FORMAT,
        run: RunId(7),
        step,
        state_digest: state_file::digest_of(&state).unwrap(),
        file_digest: digest::of_bytes(&state),
        file_bytes: state.len() as u64,
        config: spec(),
        fingerprint: "toy".to_owned(),
        window: LogWindow {
            through: step,
            steps: 1,
            sums: vec![0.1 + 0.2; 6],
            step_ms: 1.0 / 3.0,
            allreduce_ms: 0.0,
        },
        ends_run: false,
    }
}

/// Makes a folder with checkpoints of the steps 10, 20 and 30.
fn three_checkpoints() -> (tempfile::TempDir, Checkpoints) {
    let folder = tempfile::tempdir().unwrap();
    let paths = RunPaths::new(folder.path());
    fs::create_dir(paths.checkpoints()).unwrap();
    let checkpoints = Checkpoints::new(&paths);
    for step in [10, 20, 30] {
        checkpoints.save(&manifest(step), &state(step)).unwrap();
    }
    (folder, checkpoints)
}

#[test]
fn a_saved_checkpoint_is_loaded_to_the_last_bit() {
    let (_folder, checkpoints) = three_checkpoints();
    let (newest, damaged) = checkpoints.newest().unwrap();
    let newest = newest.unwrap();
    assert_eq!((newest.manifest(), newest.state()), (&manifest(30), &*state(30)));
    assert!(damaged.is_empty());
    checkpoints.save(&manifest(30), &state(30)).unwrap();
}

#[test]
fn a_damaged_checkpoint_is_reported_and_skipped() {
    let (folder, checkpoints) = three_checkpoints();
    let state_path = folder.path().join("checkpoints/step-00000030/state.safetensors");
    let mut bytes = fs::read(&state_path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(state_path, bytes).unwrap();
    let manifest_path = folder.path().join("checkpoints/step-00000020/manifest.json");
    fs::write(manifest_path, "{").unwrap();
    let (newest, damaged) = checkpoints.newest().unwrap();
    assert_eq!(newest.unwrap().manifest().step, 10);
    let damaged: Vec<String> = damaged.iter().map(ToString::to_string).collect();
    assert!(
        damaged[0].contains("step-00000030: state.safetensors: expected digest"),
        "{damaged:?}"
    );
    assert!(damaged[1].contains("step-00000020: manifest.json: EOF"), "{damaged:?}");

    // Saving the step once more replaces the damaged checkpoint.
    checkpoints.save(&manifest(30), &state(30)).unwrap();
    assert_eq!(checkpoints.newest().unwrap().0.unwrap().manifest().step, 30);
}

/// Changes the text of the manifest of step 30, and makes it one of an earlier version, without
/// a checksum.
fn change_manifest(checkpoints: &Checkpoints, change: impl Fn(&str) -> String) {
    let path = checkpoints.path(30).join(MANIFEST);
    let text = fs::read_to_string(&path).unwrap();
    let (fields, _) = text.split_once(",\n  \"checksum\"").unwrap();
    fs::write(&path, change(&format!("{fields}\n}}"))).unwrap();
}

#[test]
fn a_checkpoint_of_an_older_format_is_read() {
    let (_folder, checkpoints) = three_checkpoints();
    change_manifest(&checkpoints, |text| text.replace("\"format\": 2", "\"format\": 1"));
    let (newest, damaged) = checkpoints.newest().unwrap();
    let newest = newest.unwrap();
    assert_eq!((newest.manifest().format, newest.manifest().step), (1, 30));
    assert_eq!(newest.manifest().config, spec());
    assert!(damaged.is_empty());
}

#[test]
fn a_manifest_that_lacks_a_setting_of_the_first_version_is_damaged() {
    let (_folder, checkpoints) = three_checkpoints();
    change_manifest(&checkpoints, |text| text.replace("\"beta1\": 0.5,", ""));
    let error = checkpoints.load(30).unwrap_err().to_string();
    assert!(error.contains("manifest.json: the setting beta1 is missing"), "{error}");
}

#[test]
fn a_checkpoint_of_a_newer_version_is_refused_in_words_and_kept() {
    for (what, change) in [
        ("format 3", ["\"format\": 2", "\"format\": 3"]),
        ("the setting warmup", ["\"beta1\": 0.5", "\"beta1\": 0.5, \"warmup\": 5"]),
    ] {
        let (_folder, checkpoints) = three_checkpoints();
        change_manifest(&checkpoints, |text| text.replace(change[0], change[1]));
        let error = checkpoints.newest().unwrap_err().to_string();
        let in_words = format!("{what} is of a newer version of this program; use that version");
        assert!(error.ends_with(&in_words) && error.contains("step-00000030"), "{error}");

        // It is neither replaced nor pruned.
        assert!(checkpoints.save(&manifest(30), &state(30)).is_err());
        checkpoints.save(&manifest(40), &state(40)).unwrap();
        checkpoints.prune(1, 40, &BTreeSet::new()).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [30, 40]);
    }
}

#[test]
fn a_window_of_another_number_of_metrics_is_not_used() {
    let (_folder, checkpoints) = three_checkpoints();
    let mut other = manifest(40);
    other.window.sums.pop();
    checkpoints.save(&other, &state(40)).unwrap();
    let error = checkpoints.load(40).unwrap_err().to_string();
    let expected = "manifest.json: expected a window of 6 metrics, found 5";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn pruning_keeps_the_newest_and_removes_the_remains_of_crashes() {
    let (folder, checkpoints) = three_checkpoints();
    fs::create_dir(folder.path().join("checkpoints/step-00000040.tmp")).unwrap();
    let remains = file::temporary(&folder.path().join("checkpoints/step-00000040"));
    fs::create_dir(remains).unwrap();
    assert_eq!(
        checkpoints.steps().unwrap(),
        [10, 20, 30],
        "the remains of a crash are not a checkpoint"
    );
    checkpoints.prune(1, 20, &BTreeSet::new()).unwrap();
    assert_eq!(
        checkpoints.steps().unwrap(),
        [20, 30],
        "a later checkpoint does not count as one of the newest"
    );
    checkpoints.prune(1, 30, &BTreeSet::new()).unwrap();
    assert_eq!(checkpoints.steps().unwrap(), [30]);
    assert_eq!(fs::read_dir(folder.path().join("checkpoints")).unwrap().count(), 1);
}

/// The names in the folder of checkpoints.
fn names(checkpoints: &Checkpoints) -> Vec<String> {
    let entries = fs::read_dir(&checkpoints.folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_manifest_that_somebody_has_changed_is_damaged() {
    let (_folder, checkpoints) = three_checkpoints();
    let path = checkpoints.path(30).join(MANIFEST);
    let text = fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("\"through\": 30", "\"through\": 9230"),
        ("\"beta1\"", "\"beta3\""),
        ("\"format\": 2", "\"format\": 6"),
        ("\"seed\": 22", "\"seed\": 23"),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        fs::write(&path, text.replace(from, to)).unwrap();
        let (newest, damaged) = checkpoints.newest().unwrap();
        assert_eq!(newest.unwrap().manifest().step, 20);
        let damaged = damaged[0].to_string();
        assert!(damaged.contains("manifest.json: its checksum is wrong"), "{damaged}");
    }
}

#[test]
fn a_log_window_that_cannot_be_that_of_its_step_is_not_used() {
    let (_folder, checkpoints) = three_checkpoints();
    for change in [
        |window: &mut LogWindow| window.through = 9230,
        |window: &mut LogWindow| window.steps = 31,
        |window: &mut LogWindow| window.sums[0] = f64::MAX * 2.0,
        |window: &mut LogWindow| window.step_ms = -1.0,
    ] {
        let mut manifest = manifest(30);
        change(&mut manifest.window);
        let error = check_fields(30, &manifest).unwrap_err();
        assert!(error.contains("no log window of step 30"), "{error}");
    }
    let huge = Manifest { file_bytes: STATE_BYTES_MAX + 1, ..manifest(30) };
    check_fields(30, &huge).unwrap_err();
    let huge = vec![0; STATE_BYTES_MAX as usize + 1];
    assert!(checkpoints.save(&manifest(40), &huge).is_err());
}

#[test]
fn a_state_that_is_no_file_of_its_size_is_not_read() {
    let (_folder, checkpoints) = three_checkpoints();
    let state = |step| checkpoints.path(step).join(STATE_FILE);
    fs::remove_file(state(30)).unwrap();
    std::os::unix::fs::symlink("/dev/zero", state(30)).unwrap();
    fs::File::options().write(true).open(state(20)).unwrap().set_len(200 << 30).unwrap();
    let (newest, damaged) = checkpoints.newest().unwrap();
    assert_eq!(newest.unwrap().manifest().step, 10);
    let damaged: Vec<String> = damaged.iter().map(ToString::to_string).collect();
    assert!(damaged[0].ends_with("state.safetensors: not a regular file"), "{damaged:?}");
    assert!(damaged[1].ends_with("bytes, found 214748364800"), "{damaged:?}");
}

#[test]
fn a_checkpoint_of_another_run_is_skipped_and_neither_counted_nor_removed() {
    let (_folder, checkpoints) = three_checkpoints();
    let data = DatasetInfo { images: 9, rows: 1, columns: 1, digest: Digest(3) };
    let other_spec =
        RunSpec::builder().objective(ObjectiveKind::Toy).batch_size(4).shards(2).build(data);
    let of_run = |run, fingerprint: &str, spec| Owner {
        run: Some(RunId(run)),
        fingerprint: Some(fingerprint.to_owned()),
        spec: Some(spec),
    };
    for (owner, what) in [
        (of_run(8, "toy", spec()), "it is a checkpoint of run"),
        (of_run(7, "cpu", spec()), "it has the arithmetic toy, and the run has cpu"),
        (of_run(7, "toy", other_spec.unwrap()), "it has learning-rate 0.1, and the run has"),
    ] {
        let others = checkpoints.clone().of_run(owner);
        let (newest, damaged) = others.newest().unwrap();
        assert!(newest.is_none());
        assert_eq!(damaged.len(), 3);
        assert!(damaged[0].to_string().contains(what), "{damaged:?}");
        others.prune(1, 30, &BTreeSet::new()).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [10, 20, 30]);
    }
    let own = checkpoints.clone().of_run(of_run(7, "toy", spec()));
    assert_eq!(own.newest().unwrap().0.unwrap().manifest().step, 30);
}

#[test]
fn damaged_checkpoints_do_not_count_as_those_that_are_kept() {
    let (_folder, checkpoints) = three_checkpoints();
    for step in [40, 50] {
        checkpoints.save(&manifest(step), &state(step)).unwrap();
        fs::write(checkpoints.path(step).join(STATE_FILE), "torn").unwrap();
    }
    checkpoints.prune(2, 50, &BTreeSet::new()).unwrap();
    assert_eq!(checkpoints.steps().unwrap(), [20, 30, 40, 50]);
    // One that was intact at the last look is looked at again when its file has changed.
    let path = checkpoints.path(30).join(STATE_FILE);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    checkpoints.save(&manifest(60), &state(60)).unwrap();
    checkpoints.prune(2, 60, &BTreeSet::new()).unwrap();
    assert_eq!(checkpoints.steps().unwrap(), [20, 30, 40, 50, 60]);
    // A damaged one is removed when enough intact ones are newer.
    checkpoints.save(&manifest(70), &state(70)).unwrap();
    checkpoints.prune(2, 70, &BTreeSet::new()).unwrap();
    assert_eq!(checkpoints.steps().unwrap(), [60, 70]);
}

#[test]
fn whatever_is_in_the_place_of_a_checkpoint_is_replaced_in_one_operation() {
    let (folder, checkpoints) = three_checkpoints();
    let other = Manifest { state_digest: Digest(1), ..manifest(30) };
    let (file, link) = (checkpoints.path(40), checkpoints.path(50));
    fs::write(file, "a file").unwrap();
    std::os::unix::fs::symlink(folder.path().join("missing"), link).unwrap();
    for (manifest, what) in [
        (other, "one with state digest"),
        (manifest(40), "manifest.json: Not a directory"),
        (manifest(50), "manifest.json: No such file"),
    ] {
        let replaced = checkpoints.save(&manifest, &state(manifest.step)).unwrap();
        assert!(replaced.as_ref().is_some_and(|it| it.starts_with(what)), "{replaced:?}");
    }
    assert_eq!(checkpoints.save(&manifest(50), &state(50)).unwrap(), None);
    assert_eq!(checkpoints.newest().unwrap().0.unwrap().manifest().step, 50);
    assert_eq!(names(&checkpoints).len(), 5);
}

#[test]
fn names_that_this_program_did_not_give_are_left_alone() {
    let (_folder, checkpoints) = three_checkpoints();
    let path = |name| checkpoints.folder.join(name);
    for name in ["step-30", "step-+10"] {
        fs::create_dir(path(name)).unwrap();
    }
    fs::write(path("notes.tmp"), "important").unwrap();
    assert_eq!(checkpoints.steps().unwrap(), [10, 20, 30]);
    checkpoints.prune(1, 30, &BTreeSet::new()).unwrap();
    assert_eq!(names(&checkpoints), ["notes.tmp", "step-+10", "step-00000030", "step-30"]);
}

#[test]
fn no_flipped_bit_of_a_manifest_is_believed() {
    let (_folder, checkpoints) = three_checkpoints();
    let path = checkpoints.path(30).join(MANIFEST);
    let text = fs::read(&path).unwrap();
    for bit in 0..8 * text.len() {
        let mut flipped = text.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, flipped).unwrap();
        match checkpoints.read_manifest(30) {
            Err(Unreadable::Damaged(_)) => {}
            Ok(read) => assert_eq!(read, manifest(30), "bit {bit}"),
            Err(other) => panic!("bit {bit}: {other:?}"),
        }
    }
}

#[test]
fn a_watched_checkpoint_is_read_again_only_if_its_files_have_changed() {
    let (_folder, checkpoints) = three_checkpoints();
    let mut watched = checkpoints.watch(30);
    assert_eq!(checkpoints.damage_of(&mut watched), None);
    let path = checkpoints.path(30).join(STATE_FILE);
    let text = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let damage = checkpoints.damage_of(&mut watched).unwrap();
    assert!(damage.contains("step-00000030: state.safetensors: No such file"), "{damage}");
    assert_eq!(checkpoints.damage_of(&mut watched), None, "it is said once");
    fs::write(&path, &text).unwrap();
    assert_eq!(checkpoints.damage_of(&mut watched), None, "it is intact again");
}

#[test]
fn a_checkpoint_that_is_to_stay_is_kept_beyond_the_number() {
    let (_folder, checkpoints) = three_checkpoints();
    checkpoints.prune(1, 30, &BTreeSet::from([10])).unwrap();
    assert_eq!(checkpoints.steps().unwrap(), [10, 30]);
    checkpoints.save(&manifest(40), &state(40)).unwrap();
    checkpoints.prune(1, 40, &BTreeSet::from([40])).unwrap();
    assert_eq!(checkpoints.steps().unwrap(), [40]);
}
