//! States as safetensors files, which PyTorch and many other programs can load.
//!
//! ```text
//! offset  bytes   content
//! 0       8       length n of the header, in little-endian order
//! 8       n       JSON: for each tensor its name, `F32`, its shape and its range of the data
//! 8 + n   ...     the tensors' values: little-endian float32
//! ```
//!
//! The digest of a state is a digest of its tensors' digests, in the order of their names. It can
//! therefore be computed from a file, without knowing which network the tensors belong to.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dcgan_core::ids::Digest;
use dcgan_core::state::digest;
use dcgan_core::state::values::little_endian;
use dcgan_core::state::{Layout, State};
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};

/// The most bytes of a header. A file with a larger one is not read: its tensors would take many
/// times that in memory. The DCGAN's has 12 kB.
const HEADER_BYTES_MAX: u64 = 1024 * 1024;
/// The key in the header of a subset, for the digest of its tensors.
const DIGEST: &str = "digest";

/// Why a file does not hold the expected tensors.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// The header promises more bytes than it may have; holds the promised number.
    #[error("expected a header of at most {HEADER_BYTES_MAX} bytes, found {0}")]
    Header(u64),
    /// The tensors of a subset are not those that were written.
    #[error("expected digest {expected}, found {found}")]
    Digest {
        /// The digest in the header.
        expected: String,
        /// The digest of the tensors.
        found: Digest,
    },
    /// The file is not a safetensors file, or lacks a tensor.
    #[error(transparent)]
    Format(#[from] SafeTensorError),
    /// The file has too few tensors, or too many.
    #[error("expected {expected} tensors, found {found}")]
    Count {
        /// The number of tensors in the layout.
        expected: usize,
        /// The number of tensors in the file.
        found: usize,
    },
    /// A tensor has another type or shape.
    #[error("tensor {name}: expected F32 {expected:?}, found {dtype:?} {found:?}")]
    Tensor {
        /// The name of the tensor.
        name: String,
        /// The expected shape.
        expected: Vec<usize>,
        /// The type of the values in the file.
        dtype: Dtype,
        /// The shape in the file.
        found: Vec<usize>,
    },
}

/// A tensor of a state, as the safetensors library writes it.
struct TensorView<'a> {
    shape: &'a [usize],
    values: &'a [f32],
}

impl View for TensorView<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        little_endian(self.values)
    }

    fn data_len(&self) -> usize {
        4 * self.values.len()
    }
}

/// Encodes a state as a safetensors file.
///
/// # Panics
/// Never: the shapes of a layout fit the values of its states.
pub fn encode(state: &State) -> Vec<u8> {
    let mut views = Vec::new();
    for (index, info) in state.layout().tensors().iter().enumerate() {
        let view = TensorView { shape: &info.shape, values: state.tensor(index) };
        views.push((info.name.as_str(), view));
    }
    safetensors::serialize(views, None).expect("a layout's shapes are those of its values")
}

/// Reads the header of a file, and checks that the tensors fill the rest.
fn parse(bytes: &[u8]) -> Result<SafeTensors<'_>, StateFileError> {
    if let Some((length, _)) = bytes.split_first_chunk::<8>() {
        let length = u64::from_le_bytes(*length);
        if length > HEADER_BYTES_MAX {
            return Err(StateFileError::Header(length));
        }
    }
    Ok(SafeTensors::deserialize(bytes)?)
}

/// Decodes the state in a file, which must have exactly the tensors of `layout`.
///
/// # Errors
/// If the file is not a safetensors file, or has other tensors.
pub fn decode(bytes: &[u8], layout: &Arc<Layout>) -> Result<State, StateFileError> {
    let file = parse(bytes)?;
    let (expected, found) = (layout.tensors().len(), file.len());
    if expected != found {
        return Err(StateFileError::Count { expected, found });
    }
    read_state(&file, layout)
}

/// Decodes a state in a file that may have more tensors than those of `layout`.
///
/// # Errors
/// If the file is not a safetensors file, or a tensor is missing or has another shape.
pub fn decode_part(bytes: &[u8], layout: &Arc<Layout>) -> Result<State, StateFileError> {
    read_state(&parse(bytes)?, layout)
}

fn read_state(file: &SafeTensors<'_>, layout: &Arc<Layout>) -> Result<State, StateFileError> {
    let mut state = State::zeros(Arc::clone(layout));
    for (index, info) in layout.tensors().iter().enumerate() {
        read_tensor(file, &info.name, &info.shape, state.tensor_mut(index))?;
    }
    Ok(state)
}

/// Encodes tensors, each with its name, its shape and its values, as a safetensors file.
///
/// # Panics
/// If a shape does not fit its values.
pub fn encode_tensors(tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<u8> {
    let views =
        tensors.iter().map(|(name, shape, values)| (name.as_str(), TensorView { shape, values }));
    safetensors::serialize(views, None).expect("shapes fit their values")
}

/// Returns the first dimension of a tensor in a file.
///
/// # Errors
/// If the file is not a safetensors file, or has no such tensor.
pub fn rows_of(bytes: &[u8], name: &str) -> Result<usize, StateFileError> {
    Ok(parse(bytes)?.tensor(name)?.shape().first().copied().unwrap_or_default())
}

/// Decodes the values of some tensors of a file, given by name and shape. The file may have others.
///
/// # Errors
/// If the file is not a safetensors file, or a tensor is missing or has another shape.
pub fn decode_tensors(
    bytes: &[u8],
    tensors: &[(String, Vec<usize>)],
) -> Result<Vec<Vec<f32>>, StateFileError> {
    let file = parse(bytes)?;
    let mut decoded = Vec::with_capacity(tensors.len());
    for (name, shape) in tensors {
        let mut values = vec![0.0; shape.iter().product()];
        read_tensor(&file, name, shape, &mut values)?;
        decoded.push(values);
    }
    Ok(decoded)
}

/// Tells whether a file has a tensor of this name.
///
/// # Errors
/// If the file is not a safetensors file.
pub fn has_tensor(bytes: &[u8], name: &str) -> Result<bool, StateFileError> {
    Ok(parse(bytes)?.tensor(name).is_ok())
}

/// Computes the digest of the state in a file, whatever its tensors are.
///
/// # Errors
/// If the file is not a safetensors file.
pub fn digest_of(bytes: &[u8]) -> Result<Digest, StateFileError> {
    Ok(digest::of_digests(tensor_digests(bytes)?.into_values()))
}

/// Computes the digest of each tensor in a file, by name.
///
/// # Errors
/// If the file is not a safetensors file.
pub fn tensor_digests(bytes: &[u8]) -> Result<BTreeMap<String, Digest>, StateFileError> {
    let file = parse(bytes)?;
    let mut digests = BTreeMap::new();
    for (name, tensor) in file.tensors() {
        digests.insert(name, digest::of_bytes(tensor.data()));
    }
    Ok(digests)
}

/// Makes a file of those tensors of a file whose names begin with one of `prefixes`, with their
/// digest.
///
/// # Errors
/// If the file is not a safetensors file.
pub fn subset(bytes: &[u8], prefixes: &[&str]) -> Result<Vec<u8>, StateFileError> {
    let file = parse(bytes)?;
    let mut tensors = file.tensors();
    tensors.retain(|(name, _)| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    let digests: BTreeMap<&str, Digest> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), digest::of_bytes(tensor.data())))
        .collect();
    let digest = digest::of_digests(digests.into_values());
    let header = HashMap::from([(DIGEST.to_owned(), digest.to_string())]);
    let tensors = tensors.iter().map(|(name, tensor)| (name, tensor));
    Ok(safetensors::serialize(tensors, Some(header))?)
}

/// Checks that a file which [`subset`] made holds the tensors that it was made of. Earlier versions
/// made files without a digest, which pass.
///
/// # Errors
/// If the file is not a safetensors file, or has other tensors.
pub fn verify_subset(bytes: &[u8]) -> Result<(), StateFileError> {
    let found = digest_of(bytes)?;
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    match header.metadata().as_ref().and_then(|header| header.get(DIGEST)) {
        Some(expected) if *expected != found.to_string() => {
            Err(StateFileError::Digest { expected: expected.clone(), found })
        }
        _ => Ok(()),
    }
}

/// Reads a tensor into `values`, which has as many elements as `shape` says.
fn read_tensor(
    file: &SafeTensors<'_>,
    name: &str,
    shape: &[usize],
    values: &mut [f32],
) -> Result<(), StateFileError> {
    let tensor = file.tensor(name)?;
    if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
        return Err(StateFileError::Tensor {
            name: name.to_owned(),
            expected: shape.to_vec(),
            dtype: tensor.dtype(),
            found: tensor.shape().to_vec(),
        });
    }
    for (value, bytes) in values.iter_mut().zip(tensor.data().chunks_exact(4)) {
        *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout() -> Arc<Layout> {
        Arc::new(Layout::new([
            ("g.weight".to_owned(), vec![2, 3]),
            ("d.weight".to_owned(), vec![4]),
        ]))
    }

    fn state() -> State {
        let mut state = State::zeros(layout());
        for index in 0..2 {
            let tensor = state.tensor_mut(index);
            for (i, value) in tensor.iter_mut().enumerate() {
                *value = i as f32 * 0.37 - index as f32;
            }
        }
        state
    }

    #[test]
    fn a_state_keeps_its_digest_in_a_file() {
        let bytes = encode(&state());
        assert_eq!(decode(&bytes, &layout()).unwrap().digest(), state().digest());
        assert_eq!(digest_of(&bytes).unwrap(), state().digest());
    }

    #[test]
    fn a_subset_keeps_its_tensors() {
        let bytes = subset(&encode(&state()), &["g.", "h."]).unwrap();
        assert!(
            has_tensor(&bytes, "g.weight").unwrap() && !has_tensor(&bytes, "d.weight").unwrap()
        );
        let tensors = decode_tensors(&bytes, &[("g.weight".to_owned(), vec![2, 3])]).unwrap();
        assert_eq!(tensors, [state().tensor(1).to_vec()]);
        let error = decode(&bytes, &layout()).unwrap_err();
        assert_eq!(error.to_string(), "expected 2 tensors, found 1");
    }

    #[test]
    fn a_subset_with_another_value_is_noticed() {
        let mut bytes = subset(&encode(&state()), &["g."]).unwrap();
        verify_subset(&bytes).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        let error = verify_subset(&bytes).unwrap_err().to_string();
        assert!(error.starts_with("expected digest"), "{error}");
        // An earlier version wrote none.
        verify_subset(&encode(&state())).unwrap();
    }

    #[test]
    fn a_header_that_is_too_long_is_not_parsed() {
        let header = format!("{{}}{}", " ".repeat(HEADER_BYTES_MAX as usize));
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        let error = digest_of(&bytes).unwrap_err().to_string();
        assert!(error.starts_with("expected a header of at most 1048576 bytes"), "{error}");
    }

    #[test]
    fn a_tensor_of_another_shape_is_refused() {
        let error =
            decode_tensors(&encode(&state()), &[("g.weight".to_owned(), vec![3, 2])]).unwrap_err();
        assert_eq!(error.to_string(), "tensor g.weight: expected F32 [3, 2], found F32 [2, 3]");
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic(bytes: Vec<u8>, flip in 0usize..200, bit in 0u8..8) {
            let _ = digest_of(&bytes);
            let mut damaged = encode(&state());
            let place = flip % damaged.len();
            damaged[place] ^= 1 << bit;
            let _ = decode(&damaged, &layout());
        }
    }
}
