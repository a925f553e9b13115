//! Long things in pieces: partitions, snapshots and copies of a state. The receiver checks size and digest before it
//! believes anything, and allocates no more than it was told to expect.

use std::time::Duration;

use bytes::Bytes;
use dcgan_core::ids::Digest;
use dcgan_core::state::digest;
use tonic::{Response, Status, Streaming};

use crate::pb::Chunk;

/// Bytes of a piece: large enough for few messages, small enough not to hold up others on the connection.
const CHUNK_BYTES: usize = 256 * 1024;

/// A stream on which nothing comes for this long while something is owed has failed.
pub const STALLED_MAX: Duration = Duration::from_secs(10);

/// The next message of a stream on which something is owed.
///
/// # Errors
/// The stream's own error, or a deadline exceeded after [`STALLED_MAX`].
pub async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Status> {
    tokio::time::timeout(STALLED_MAX, stream.message()).await.unwrap_or_else(|_| {
        Err(Status::deadline_exceeded(format!("nothing came for {} s", STALLED_MAX.as_secs())))
    })
}

/// The pieces of `bytes`, whose digest is `digest`; at least one.
pub fn split(bytes: Bytes, digest: Digest) -> impl Iterator<Item = Chunk> + Send {
    let total_bytes = bytes.len() as u64;
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let mut data = rest.take()?;
        if data.len() > CHUNK_BYTES {
            rest = Some(data.split_off(CHUNK_BYTES));
        }
        Some(Chunk { total_bytes, digest: digest.0, data })
    })
}

/// A server's answer that is made of pieces.
pub type ChunkStream<T> = tokio_stream::Iter<Box<dyn Iterator<Item = Result<T, Status>> + Send>>;

/// The answer that consists of `messages`.
pub fn answer<T: 'static>(
    messages: impl Iterator<Item = T> + Send + 'static,
) -> Response<ChunkStream<T>> {
    let messages: Box<dyn Iterator<Item = Result<T, Status>> + Send> = Box::new(messages.map(Ok));
    Response::new(tokio_stream::iter(messages))
}

/// ChunkStream that have arrived.
#[derive(Debug)]
pub struct ChunkAssembler {
    bytes_max: usize,
    expected: Option<(u64, u64)>,
    bytes: Vec<u8>,
}

/// A transfer that does not add up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The whole would be larger than anything that was asked for.
    #[error("expected at most {bytes_max} bytes, found {found}")]
    TooLong {
        /// The limit.
        bytes_max: usize,
        /// What the sender announced.
        found: u64,
    },
    /// ChunkStream do not belong together, or there are more than announced.
    #[error("pieces that do not belong together")]
    Mixed,
    /// The stream ended early.
    #[error("expected {expected} bytes, found {found}")]
    Incomplete {
        /// What was announced.
        expected: u64,
        /// What came.
        found: usize,
    },
    /// The bytes are others than those that were sent.
    #[error("expected digest {expected}, found {found}")]
    Digest {
        /// What was announced.
        expected: Digest,
        /// What came.
        found: Digest,
    },
}

impl From<TransferError> for Status {
    fn from(error: TransferError) -> Self {
        Self::data_loss(error.to_string())
    }
}

impl ChunkAssembler {
    /// Nothing yet, of something that has `bytes_max` bytes at most.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, expected: None, bytes: Vec::new() }
    }

    /// Adds the next piece.
    ///
    /// # Errors
    /// If it does not fit the limit or the pieces before it.
    pub fn push(&mut self, chunk: &Chunk) -> Result<(), TransferError> {
        if chunk.total_bytes > self.bytes_max as u64 {
            return Err(TransferError::TooLong {
                bytes_max: self.bytes_max,
                found: chunk.total_bytes,
            });
        }
        let expected = *self.expected.get_or_insert_with(|| {
            self.bytes.reserve_exact(chunk.total_bytes as usize);
            (chunk.total_bytes, chunk.digest)
        });
        if expected != (chunk.total_bytes, chunk.digest)
            || (self.bytes.len() + chunk.data.len()) as u64 > chunk.total_bytes
        {
            return Err(TransferError::Mixed);
        }
        self.bytes.extend_from_slice(&chunk.data);
        Ok(())
    }

    /// The whole.
    ///
    /// # Errors
    /// If something is missing or is not what was sent.
    pub fn finish(self) -> Result<Vec<u8>, TransferError> {
        let (expected, digest) = self.expected.unwrap_or((1, 0));
        if self.bytes.len() as u64 != expected {
            return Err(TransferError::Incomplete { expected, found: self.bytes.len() });
        }
        let (expected, found) = (Digest(digest), digest::of_bytes(&self.bytes));
        if expected == found {
            Ok(self.bytes)
        } else {
            Err(TransferError::Digest { expected, found })
        }
    }
}

/// Receives a whole from a stream of nothing else.
///
/// # Errors
/// If the stream breaks or stalls, or what comes does not add up.
pub async fn receive(mut stream: Streaming<Chunk>, bytes_max: usize) -> Result<Vec<u8>, Status> {
    let mut assembly = ChunkAssembler::new(bytes_max);
    while let Some(chunk) = next(&mut stream).await? {
        assembly.push(&chunk)?;
    }
    Ok(assembly.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(len: usize) -> (Vec<u8>, Vec<Chunk>) {
        let bytes: Vec<u8> = (0..len).map(|i| (i * i / 7) as u8).collect();
        let chunks = split(bytes.clone().into(), digest::of_bytes(&bytes)).collect();
        (bytes, chunks)
    }

    fn assemble(bytes_max: usize, chunks: &[Chunk]) -> Result<Vec<u8>, TransferError> {
        let mut assembly = ChunkAssembler::new(bytes_max);
        chunks.iter().try_for_each(|chunk| assembly.push(chunk))?;
        assembly.finish()
    }

    #[test]
    fn pieces_make_the_whole() {
        for len in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let (bytes, chunks) = chunks(len);
            assert_eq!(chunks.len(), len.div_ceil(CHUNK_BYTES).max(1));
            assert_eq!(assemble(len, &chunks), Ok(bytes));
        }
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        let (_, mut chunks) = chunks(CHUNK_BYTES + 5);
        let total = CHUNK_BYTES + 5;
        let error =
            |bytes_max, chunks: &[Chunk]| assemble(bytes_max, chunks).unwrap_err().to_string();
        assert_eq!(error(total - 1, &chunks), "expected at most 262148 bytes, found 262149");
        assert_eq!(error(total, &chunks[..1]), "expected 262149 bytes, found 262144");
        assert_eq!(error(total, &[]), "expected 1 bytes, found 0");
        let repeated = [chunks[0].clone(), chunks[0].clone()];
        assert_eq!(error(total, &repeated), "pieces that do not belong together");
        chunks[1].data = Bytes::from_static(b"other");
        assert!(error(total, &chunks).starts_with("expected digest"));
    }
}
