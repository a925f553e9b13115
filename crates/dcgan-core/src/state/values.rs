//! Numbers that several hold at once, and their bytes.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Numbers of a vector, or of a part of it: cutting a vector into parts, and keeping what is sent, copies nothing.
#[derive(Clone)]
pub struct SharedValues {
    all: Arc<Vec<f32>>,
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
    /// A part of them.
    ///
    /// # Panics
    /// If they have no such part.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let len = self.len();
        assert!(range.start <= range.end && range.end <= len, "{range:?} of {len} values");
        Self {
            all: Arc::clone(&self.all),
            range: self.range.start + range.start..self.range.start + range.end,
        }
    }

    /// Whether all are finite.
    pub fn are_finite(&self) -> bool {
        // Block by block without a way out, so that the compiler makes vectors of it.
        let largest = |block: &[f32]| {
            block.iter().fold(0, |largest, value| value.abs().to_bits().max(largest))
        };
        self.chunks(1024).all(|block| largest(block) < f32::INFINITY.to_bits())
    }
}

/// Numbers as their little-endian bytes, on most machines without a copy.
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
    fn parts_of_parts_are_parts_of_the_whole() {
        let all = SharedValues::from((0..10).map(|n| n as f32).collect::<Vec<_>>());
        let part = all.slice(2..8).slice(1..3);
        assert_eq!((&*part, part.slice(2..2).len()), (&[3.0, 4.0][..], 0));
    }

    #[test]
    fn what_is_not_finite_is_found_wherever_it_is() {
        let values = |at: usize, value| {
            let mut values = vec![f32::MAX; 3000];
            values[at] = value;
            SharedValues::from(values)
        };
        for at in [0, 1023, 1024, 2999] {
            assert!(values(at, -0.0).are_finite());
            for value in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                assert!(!values(at, value).are_finite(), "{value} at {at}");
            }
        }
    }
}
