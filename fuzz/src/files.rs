//! Files: data sets, states, and the files of a run directory.

use std::fmt::Debug;
use std::sync::Arc;

use dcgan_core::evaluation::EvaluationRow;
use dcgan_core::ids::Digest;
use dcgan_core::metrics::MetricsRow;
use dcgan_core::spec::DatasetInfo;
use dcgan_core::state::Layout;
use dcgan_store::{idx, parsers, picture, state_file};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Images, plain and packed.
pub(crate) fn idx(bytes: &[u8]) {
    if let Ok(images) = idx::read_images(bytes, IMAGES_BYTES_MAX) {
        let mut written = Vec::new();
        idx::write_images(&images, &mut written).expect("memory can be written");
        assert_eq!(idx::read_images(&*written, IMAGES_BYTES_MAX).ok(), Some(images));
    }
}

/// Pictures, PNG and JPEG files.
pub(crate) fn picture(bytes: &[u8]) {
    if let Ok(image) = picture::read(bytes, 28) {
        assert_eq!(image.len(), 28 * 28);
    }
}

/// Bytes of images that are read. A packed file can be a thousand times as long as its bytes, which
/// would only make the fuzzer slow.
const IMAGES_BYTES_MAX: u64 = 1 << 20;

/// States, in the layout of the toy's.
pub(crate) fn state_file(bytes: &[u8]) {
    let tensors =
        [("generator.weight", vec![24]), ("metrics", vec![6]), ("parameters", vec![3, 24])];
    let tensors = tensors.map(|(name, shape)| (name.to_owned(), shape));
    let layout = Arc::new(Layout::new(tensors.clone()));
    let digest = state_file::digest_of(bytes).ok();
    if let Ok(mut state) = state_file::decode(bytes, &layout) {
        assert_eq!(Some(state.digest()), digest);
        assert_eq!(state_file::digest_of(&state_file::encode(&state)).ok(), digest);
    }
    let _ = state_file::decode_tensors(bytes, &tensors);
    let _ = state_file::verify_subset(bytes);
    if let Ok(subset) = state_file::subset(bytes, &["generator"]) {
        state_file::verify_subset(&subset).expect("a subset has its own digest");
        let again = state_file::subset(&subset, &["generator"]).expect("a subset is a state file");
        assert_eq!(again, subset);
    }
}

/// `manifest.json` of a checkpoint.
pub(crate) fn manifest(bytes: &[u8]) {
    if let Some(manifest) = parsers::manifest(bytes) {
        assert_eq!(parsers::manifest(parsers::text(&manifest).as_bytes()), Some(manifest));
    }
}

/// `run.json`.
pub(crate) fn run_file(bytes: &[u8]) {
    if let Some(run) = parsers::run_file(bytes) {
        assert_eq!(parsers::run_file(parsers::text(&run).as_bytes()), Some(run));
    }
}

/// Files of settings, such as `config.toml`.
pub(crate) fn config(bytes: &[u8]) {
    let data = DatasetInfo { images: 60_000, rows: 28, columns: 28, digest: Digest(1) };
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    // What a run directory keeps is what it is resumed with.
    if let Ok(saved) = dcgan_coord::resolve_text(text, data) {
        assert_eq!(dcgan_coord::resolve_text(&saved, data).ok(), Some(saved));
    }
}

/// `metrics.jsonl` and `evaluations.jsonl`.
pub(crate) fn rows(bytes: &[u8]) {
    read_rows::<MetricsRow>(bytes);
    read_rows::<EvaluationRow>(bytes);
}

fn read_rows<R: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) {
    let Some((rows, intact_bytes)) = parsers::rows::<R>(bytes) else {
        return;
    };
    assert!(intact_bytes <= bytes.len() as u64);
    let lines = rows.iter().flat_map(|row| [json(row), b"\n".to_vec()].concat());
    let written: Vec<u8> = lines.collect();
    assert_eq!(parsers::rows(&written), Some((rows, written.len() as u64)));
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("everything that is kept is JSON")
}
