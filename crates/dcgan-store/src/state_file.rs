//! States as safetensors: what PyTorch and every other reader loads.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use dcgan_core::ids::Digest;
use dcgan_core::state::digest;
use dcgan_core::state::values::little_endian;
use dcgan_core::state::{Layout, State};
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};

/// A file that does not hold the state that it should.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// It is no safetensors file, or lacks a tensor.
    #[error(transparent)]
    Format(#[from] SafeTensorError),
    /// A tensor is missing, or one too many.
    #[error("expected {expected} tensors, found {found}")]
    Count {
        /// Tensors of the layout.
        expected: usize,
        /// Tensors of the file.
        found: usize,
    },
    /// A tensor has another type or shape.
    #[error("tensor {name}: expected F32 {expected:?}, found {dtype:?} {found:?}")]
    Tensor {
        /// Which.
        name: String,
        /// The layout's shape.
        expected: Vec<usize>,
        /// The file's type.
        dtype: Dtype,
        /// The file's shape.
        found: Vec<usize>,
    },
}

struct Values<'a> {
    shape: &'a [usize],
    values: &'a [f32],
}

impl View for Values<'_> {
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

/// A state as a file.
///
/// # Panics
/// Never: a layout's shapes are those of its values.
pub fn encode(state: &State) -> Vec<u8> {
    let infos = state.layout().tensors().iter().enumerate();
    let views = infos.map(|(i, info)| {
        (info.name.as_str(), Values { shape: &info.shape, values: state.tensor(i) })
    });
    safetensors::serialize(views, None).expect("a layout's shapes are those of its values")
}

/// The state in a file, which has exactly the tensors of `layout`.
///
/// # Errors
/// If it has not.
pub fn decode(bytes: &[u8], layout: &Arc<Layout>) -> Result<State, StateFileError> {
    let file = SafeTensors::deserialize(bytes)?;
    let (expected, found) = (layout.tensors().len(), file.len());
    if expected != found {
        return Err(StateFileError::Count { expected, found });
    }
    let mut state = State::zeros(Arc::clone(layout));
    for (index, info) in layout.tensors().iter().enumerate() {
        read_tensor(&file, &info.name, &info.shape, state.tensor_mut(index))?;
    }
    Ok(state)
}

/// Reads some tensors of a file, by name and shape.
///
/// # Errors
/// If one is missing or has another shape.
pub fn decode_tensors(
    bytes: &[u8],
    tensors: &[(String, Vec<usize>)],
) -> Result<Vec<Vec<f32>>, StateFileError> {
    let file = SafeTensors::deserialize(bytes)?;
    let read = |(name, shape): &(String, Vec<usize>)| {
        let mut values = vec![0.0; shape.iter().product()];
        read_tensor(&file, name, shape, &mut values)?;
        Ok(values)
    };
    tensors.iter().map(read).collect()
}

/// The digest of the state in a file, whatever its tensors.
///
/// # Errors
/// If it is no safetensors file.
pub fn digest_of(bytes: &[u8]) -> Result<Digest, StateFileError> {
    Ok(digest::of_digests(tensor_digests(bytes)?.into_values()))
}

/// The digest of each tensor in a file, by name.
///
/// # Errors
/// If it is no safetensors file.
pub fn tensor_digests(bytes: &[u8]) -> Result<BTreeMap<String, Digest>, StateFileError> {
    let file = SafeTensors::deserialize(bytes)?;
    Ok(file
        .tensors()
        .into_iter()
        .map(|(name, tensor)| (name, digest::of_bytes(tensor.data())))
        .collect())
}

/// A file with only those tensors whose names begin with `prefix`.
///
/// # Errors
/// If it is no safetensors file.
pub fn subset(bytes: &[u8], prefix: &str) -> Result<Vec<u8>, StateFileError> {
    let file = SafeTensors::deserialize(bytes)?;
    let tensors = file.tensors().into_iter().filter(|(name, _)| name.starts_with(prefix));
    Ok(safetensors::serialize(tensors, None)?)
}

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
    fn a_state_survives_a_file_with_its_digest() {
        let bytes = encode(&state());
        assert_eq!(decode(&bytes, &layout()).unwrap().digest(), state().digest());
        assert_eq!(digest_of(&bytes).unwrap(), state().digest());
    }

    #[test]
    fn a_subset_keeps_its_tensors() {
        let bytes = subset(&encode(&state()), "g.").unwrap();
        let tensors = decode_tensors(&bytes, &[("g.weight".to_owned(), vec![2, 3])]).unwrap();
        assert_eq!(tensors, [state().tensor(1).to_vec()]);
        let error = decode(&bytes, &layout()).unwrap_err();
        assert_eq!(error.to_string(), "expected 2 tensors, found 1");
    }

    #[test]
    fn another_shape_is_told() {
        let error =
            decode_tensors(&encode(&state()), &[("g.weight".to_owned(), vec![3, 2])]).unwrap_err();
        assert_eq!(error.to_string(), "tensor g.weight: expected F32 [3, 2], found F32 [2, 3]");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, flip in 0usize..200, bit in 0u8..8) {
            let _ = digest_of(&bytes);
            let mut damaged = encode(&state());
            let place = flip % damaged.len();
            damaged[place] ^= 1 << bit;
            let _ = decode(&damaged, &layout());
        }
    }
}
