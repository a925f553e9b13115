//! XXH3-64 (seed 0): of data, and of a state as the digest of its tensors' digests.

use xxhash_rust::xxh3::xxh3_64;

use crate::ids::Digest;

/// The digest of `bytes`.
pub fn of_bytes(bytes: &[u8]) -> Digest {
    Digest(xxh3_64(bytes))
}

/// The digest of numbers, as their little-endian bytes.
pub fn of_values(values: &[f32]) -> Digest {
    // A block at a time through the stack: no copy of a whole tensor, and no cast that depends on endianness.
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    let mut block = [0u8; 4 * 1024];
    for values in values.chunks(1024) {
        for (bytes, value) in block.chunks_exact_mut(4).zip(values) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        hasher.update(&block[..4 * values.len()]);
    }
    Digest(hasher.digest())
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
        }
    }
}
