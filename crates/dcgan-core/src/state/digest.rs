//! Digests: XXH3-64 with seed 0.
//!
//! The digest of a state is the digest of its tensors' digests, so that only the tensors that have
//! changed are hashed again.

use std::hash::Hasher;

use twox_hash::XxHash3_64;

use crate::ids::Digest;
use crate::state::values::little_endian;

/// The digest of `bytes`.
pub fn of_bytes(bytes: &[u8]) -> Digest {
    Digest(XxHash3_64::oneshot(bytes))
}

/// The digest of `values`, hashed as little-endian bytes.
pub fn of_values(values: &[f32]) -> Digest {
    of_bytes(&little_endian(values))
}

/// Computes the digest of values that become known block by block. It equals the digest of all of
/// them at once.
#[derive(Default)]
pub struct ValuesHasher(XxHash3_64);

impl ValuesHasher {
    /// Adds the next values.
    pub fn add(&mut self, values: &[f32]) {
        self.0.write(&little_endian(values));
    }

    /// The digest of all values that have been added.
    pub fn digest(&self) -> Digest {
        Digest(self.0.finish())
    }
}

/// The digest of a list of digests, each hashed as 8 little-endian bytes, in the order given.
pub fn of_digests(digests: impl IntoIterator<Item = Digest>) -> Digest {
    let bytes: Vec<u8> = digests.into_iter().flat_map(|digest| digest.0.to_le_bytes()).collect();
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
    fn values_are_hashed_as_their_little_endian_bytes() {
        for n in [0, 1, 5, 1024, 3000] {
            let values: Vec<f32> = (0..n).map(|i| i as f32 * 0.1).collect();
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            assert_eq!(of_values(&values), of_bytes(&bytes), "{n} values");
            let mut hasher = ValuesHasher::default();
            for block in values.chunks(700) {
                hasher.add(block);
            }
            assert_eq!(hasher.digest(), of_bytes(&bytes), "{n} values");
        }
    }
}
