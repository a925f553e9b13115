//! The weights that a run begins with, if they are not drawn by its seed: `--init-from`.
//!
//! They are an input of the run like the data set: read and checked before anything is made, known
//! by their digest in the specification, kept in the run directory, and sent to every worker.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use dcgan_core::ids::Digest;
use dcgan_core::spec::InitialWeights;
use dcgan_core::state::State;
use dcgan_store::checkpoint::{Checkpoints, Owner, STATE_BYTES_MAX, STATE_FILE};
use dcgan_store::run_dir::{RunDirError, RunFile, RunPaths, read_run_file};
use dcgan_store::{file, state_file};

use crate::recorder::warn_of_skipped;

/// PyTorch's batch norms count their batches in tensors whose names end so. Nothing needs them.
const BATCH_COUNT: &str = ".num_batches_tracked";

/// The weights of a file.
pub(crate) struct WeightsFile {
    /// The file or the checkpoint, for people.
    pub(crate) from: String,
    /// Their digest, as the specification has it.
    pub(crate) digest: Digest,
    /// They alone, as a safetensors file.
    pub(crate) bytes: Bytes,
}

impl WeightsFile {
    /// Reads and checks the weights in a safetensors file, in the folder of a checkpoint, or in the
    /// newest checkpoint of a run directory.
    ///
    /// # Errors
    /// If a run cannot begin with them, in words.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let in_folder = path.join(STATE_FILE);
        let path = if in_folder.is_file() { &in_folder } else { path };
        let name = path.display().to_string();
        if !path.is_dir() {
            let bytes = file::read(path, STATE_BYTES_MAX).with_context(|| name.clone())?;
            return Self::check(name, &bytes);
        }
        let paths = RunPaths::new(path);
        let Some(RunFile { run, fingerprint, .. }) = read_run_file(&paths)? else {
            bail!(RunDirError::no_run(path));
        };
        let owner = Owner { run: Some(run), fingerprint, spec: None };
        let (newest, damaged) = Checkpoints::new(&paths).of_run(owner).newest()?;
        warn_of_skipped(&damaged);
        let newest = newest.with_context(|| format!("{name}: the run has no checkpoint yet"))?;
        Self::check(format!("{name}, step {}", newest.manifest().step), newest.state())
    }

    /// Reads the weights that a run has begun with from its directory.
    ///
    /// # Errors
    /// If they are missing, or are not those with this digest.
    pub(crate) fn of_run(paths: &RunPaths, digest: Digest) -> anyhow::Result<Self> {
        let path = paths.initial_weights();
        let name = path.display().to_string();
        let bytes = file::read(&path, STATE_BYTES_MAX).with_context(|| name.clone())?;
        let read = Self::check(name, &bytes)?;
        let Self { from, digest: found, .. } = &read;
        ensure!(*found == digest, "{from}: expected weights with digest {digest}, found {found}");
        Ok(read)
    }

    fn check(from: String, bytes: &[u8]) -> anyhow::Result<Self> {
        let mut state = decode(bytes).with_context(|| from.clone())?;
        Ok(Self { from, digest: state.digest(), bytes: state_file::encode(&state).into() })
    }
}

/// Decodes the networks in a file, and checks them. Of Adam and of averages the file may have
/// tensors, too.
fn decode(bytes: &[u8]) -> anyhow::Result<State> {
    let layout = Arc::new(InitialWeights::layout());
    let in_words = |error| anyhow!("not a safetensors file of both networks: {error}");
    let state = state_file::decode_part(bytes, &layout).map_err(in_words)?;
    for name in state_file::tensor_digests(bytes)?.into_keys() {
        let is_of_networks = ["generator.", "discriminator."].iter().any(|it| name.starts_with(it));
        ensure!(
            !is_of_networks || layout.find(&name).is_some() || name.ends_with(BATCH_COUNT),
            "tensor {name} is none of these networks, so the file is of others"
        );
    }
    for (index, info) in layout.tensors().iter().enumerate() {
        let (name, values) = (&info.name, state.tensor(index));
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            bail!("tensor {name} has a value that is not finite: {value}");
        }
        let is_variance = name.ends_with(".running_var");
        if let Some(value) = values.iter().find(|&&value| is_variance && value < 0.0) {
            bail!("tensor {name} has a variance below 0: {value}");
        }
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name, the shape and the values of a tensor.
    type Tensor = (String, Vec<usize>, Vec<f32>);

    /// A file of the networks, after a change of its tensors.
    fn encoded(change: impl Fn(&mut Vec<Tensor>)) -> Vec<u8> {
        let layout = InitialWeights::layout();
        let tensors = layout.tensors().iter();
        let tensors =
            tensors.map(|info| (info.name.clone(), info.shape.clone(), vec![0.5; info.len()]));
        let mut tensors = tensors.collect();
        change(&mut tensors);
        state_file::encode_tensors(&tensors, None)
    }

    fn tensor<'a>(tensors: &'a mut [Tensor], name: &str) -> &'a mut Vec<f32> {
        &mut tensors.iter_mut().find(|(found, ..)| found == name).unwrap().2
    }

    fn check(bytes: &[u8]) -> Result<WeightsFile, String> {
        WeightsFile::check("x".to_owned(), bytes).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_networks_are_taken_out_of_whatever_else_a_file_has() {
        let bytes = encoded(|_| {});
        let read = check(&bytes).unwrap();
        assert_eq!((read.digest, &*read.bytes), (state_file::digest_of(&bytes).unwrap(), &*bytes));
        // As in a checkpoint, and as PyTorch saves a batch norm.
        let with_others = encoded(|tensors| {
            for name in ["adam.m.generator.conv1.bias", "generator.bn1.num_batches_tracked"] {
                tensors.push((name.to_owned(), vec![1], vec![9.0]));
            }
        });
        assert_eq!(check(&with_others).unwrap().bytes, bytes);
    }

    #[test]
    fn a_file_that_no_run_can_begin_with_is_refused_by_its_tensor() {
        for (bytes, expected) in [
            (
                b"PK\x03\x04 of another kind".to_vec(),
                "x: not a safetensors file of both networks: \
                 expected a header of at most ",
            ),
            (
                encoded(|tensors| tensors.retain(|(name, ..)| name != "generator.conv1.weight")),
                "x: not a safetensors file of both networks: \
                 tensor `generator.conv1.weight` not found",
            ),
            (
                encoded(|tensors| tensors[0].1 = vec![4, 8]),
                "x: not a safetensors file of both networks: \
                 tensor discriminator.bn1.bias: expected F32 [32], found F32 [4, 8]",
            ),
            (
                encoded(|tensors| tensors.push(("generator.bn4.bias".into(), vec![1], vec![0.0]))),
                "x: tensor generator.bn4.bias is none of these networks",
            ),
            (
                encoded(|tensors| tensor(tensors, "generator.conv1.weight")[7] = f32::NAN),
                "x: tensor generator.conv1.weight has a value that is not finite: NaN",
            ),
            (
                encoded(|tensors| tensor(tensors, "generator.bn2.running_var")[1] = -0.5),
                "x: tensor generator.bn2.running_var has a variance below 0: -0.5",
            ),
        ] {
            let error = check(&bytes).map(drop).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
