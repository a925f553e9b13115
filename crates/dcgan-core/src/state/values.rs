//! Vectors of numbers that are shared instead of copied, and the bytes of numbers.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// A vector, or a range of one, that shares its memory with all its clones.
///
/// A gradient is cut into slices and buckets, which are sent, and kept until the state changes.
/// None of that copies values.
#[derive(Clone)]
pub struct SharedValues {
    /// The whole vector.
    all: Arc<Vec<f32>>,
    /// The elements that this value stands for.
    range: Range<usize>,
}

impl From<Vec<f32>> for SharedValues {
    fn from(all: Vec<f32>) -> Self {
        Self { range: 0..all.len(), all: Arc::new(all) }
    }
}

impl Deref for SharedValues {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.all[self.range.clone()]
    }
}

impl PartialEq for SharedValues {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for SharedValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl SharedValues {
    /// The values in `range`, which counts from the first of these values.
    ///
    /// # Panics
    /// If `range` is not within these values.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let len = self.len();
        assert!(range.start <= range.end && range.end <= len, "{range:?} of {len} values");
        Self {
            all: Arc::clone(&self.all),
            range: self.range.start + range.start..self.range.start + range.end,
        }
    }

    /// Tells whether every value is finite.
    pub fn are_finite(&self) -> bool {
        self.chunks(1024).all(is_block_finite)
    }
}

/// Tells whether every value of a block is finite.
///
/// The bits of a non-negative float, read as an integer, are ordered like the float itself, with
/// infinity and NaN above all finite values. The loop over the block has no early exit, so that the
/// compiler can use vector instructions.
fn is_block_finite(block: &[f32]) -> bool {
    let largest = block.iter().fold(0, |largest, value| value.abs().to_bits().max(largest));
    largest < f32::INFINITY.to_bits()
}

/// The little-endian bytes of `values`. On a little-endian machine nothing is copied.
pub fn little_endian(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        Cow::Borrowed(bytemuck::cast_slice(values))
    } else {
        Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_of_a_slice_is_a_slice_of_the_whole() {
        let all = SharedValues::from((0..10).map(|n| n as f32).collect::<Vec<_>>());
        let slice = all.slice(2..8).slice(1..3);
        assert_eq!(&*slice, &[3.0, 4.0]);
        assert_eq!(slice.slice(2..2).len(), 0);
    }

    /// Finite values with `value` at index `at`.
    fn values_with(at: usize, value: f32) -> SharedValues {
        let mut values = vec![f32::MAX; 3000];
        values[at] = value;
        values.into()
    }

    #[test]
    fn a_value_that_is_not_finite_is_found_at_any_index() {
        // The indices at the edges of the vector and of a block.
        for at in [0, 1023, 1024, 2999] {
            assert!(values_with(at, -0.0).are_finite());
            for value in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                assert!(!values_with(at, value).are_finite(), "{value} at {at}");
            }
        }
    }
}
