//! XXH3-64 (seed 0): of data, and of a state as the digest of its tensors' digests.

use std::hash::Hasher;

use twox_hash::XxHash3_64;

use crate::ids::Digest;
use crate::state::values::little_endian;

/// The digest of `bytes`.
pub fn of_bytes(bytes: &[u8]) -> Digest {
    Digest(XxHash3_64::oneshot(bytes))
}

/// The digest of numbers, as their little-endian bytes.
pub fn of_values(values: &[f32]) -> Digest {
    of_bytes(&little_endian(values))
}

/// The digest of numbers that come piece by piece.
#[derive(Default)]
pub struct Running(XxHash3_64);

impl Running {
    /// Adds the next numbers.
    pub fn add(&mut self, values: &[f32]) {
        self.0.write(&little_endian(values));
    }

    /// The digest of all that were added.
    pub fn digest(&self) -> Digest {
        Digest(self.0.finish())
    }
}

/// The digest of digests, each as 8 little-endian bytes, in the order given.
pub fn of_digests(digests: impl IntoIterator<Item = Digest>) -> Digest {
    let bytes: Vec<u8> = digests.into_iter().flat_map(|d| d.0.to_le_bytes()).collect();
    of_bytes(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_digest_is_that_of_the_reference_implementation() {
        assert_eq!(of_bytes(b"").to_string(), "2d06800538d394c2");
    }

    #[test]
    fn numbers_are_hashed_as_their_little_endian_bytes() {
        for n in [0, 1, 5, 1024, 3000] {
            let values: Vec<f32> = (0..n).map(|i| i as f32 * 0.1).collect();
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            assert_eq!(of_values(&values), of_bytes(&bytes), "{n} values");
            let mut running = Running::default();
            values.chunks(700).for_each(|piece| running.add(piece));
            assert_eq!(running.digest(), of_bytes(&bytes), "{n} values");
        }
    }
}
