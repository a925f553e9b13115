//! File transfers in chunks: partitions, snapshots, checkpoints and copies of a state.
//!
//! A gRPC message must fit into memory and into a limit, and a long one would hold up everything
//! else on its connection, so a file travels as a stream of [`Chunk`]s. Each chunk repeats the size
//! and the digest of the whole file. The receiver refuses a size above the limit that it was given
//! before it allocates anything, and it uses no byte before the digest of the whole is right.

use std::time::Duration;

use bytes::Bytes;
use dcgan_core::ids::Digest;
use dcgan_core::state::digest;
use tonic::{Response, Status, Streaming};

use crate::pb::Chunk;

/// Bytes of data in a chunk: large enough for few messages, small enough not to hold up other
/// streams on the connection.
const CHUNK_BYTES: usize = 256 * 1024;

/// A stream that owes a message and brings none for this long has failed.
pub const STALLED_MAX: Duration = Duration::from_secs(10);

/// A transfer has this long in any case, and longer in proportion to its size.
pub const TRANSFER_MIN: Duration = Duration::from_secs(20);
/// A transfer that is slower than this fails, in bytes a second: 1 Mbit/s.
pub const TRANSFER_RATE_MIN: usize = 128 * 1024;

/// Returns the time that a file of so many bytes may take on its way.
pub fn time_max(bytes: usize) -> Duration {
    TRANSFER_MIN + Duration::from_secs((bytes / TRANSFER_RATE_MIN) as u64)
}

/// Waits for the transfer of a file of at most `bytes` bytes, as long as it may take.
///
/// # Errors
/// The transfer's own error, or `DEADLINE_EXCEEDED` after [`time_max`].
pub async fn in_time<T, E: From<Status>>(
    bytes: usize,
    transfer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    within(time_max(bytes), "the transfer was not complete after", transfer).await
}

/// Receives the next message of a stream whose sender owes one; `None` at the end of the stream.
///
/// # Errors
/// The stream's own error, or `DEADLINE_EXCEEDED` after [`STALLED_MAX`].
pub async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Status> {
    within(STALLED_MAX, "no message for", stream.message()).await
}

/// Waits for something for at most `max`.
///
/// # Errors
/// Its own error, or `DEADLINE_EXCEEDED`, with `why` and the time.
async fn within<T, E: From<Status>>(
    max: Duration,
    why: &str,
    awaited: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::time::timeout(max, awaited).await.unwrap_or_else(|_| {
        Err(Status::deadline_exceeded(format!("{why} {} s", max.as_secs())).into())
    })
}

/// Splits a file into its chunks, without copying it. An empty file has one empty chunk.
///
/// `digest` is the digest of `bytes`.
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

/// The response stream of a service method that sends a file: messages `T`, each with a chunk.
pub type ChunkStream<T> = tokio_stream::Iter<Box<dyn Iterator<Item = Result<T, Status>> + Send>>;

/// Makes a response that streams `messages`.
pub fn answer<T: 'static>(
    messages: impl Iterator<Item = T> + Send + 'static,
) -> Response<ChunkStream<T>> {
    let results: Box<dyn Iterator<Item = Result<T, Status>> + Send> = Box::new(messages.map(Ok));
    Response::new(tokio_stream::iter(results))
}

/// Puts a file together from its chunks, which arrive in order.
#[derive(Debug)]
pub struct ChunkAssembler {
    bytes_max: usize,
    /// The announcement of the first chunk. Every other chunk must announce the same.
    announced: Option<Announced>,
    bytes: Vec<u8>,
}

/// The announcement of the whole file in every chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Announced {
    total_bytes: u64,
    digest: Digest,
}

/// Why the chunks that have arrived are not the file that was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The file is larger than what was asked for can be.
    #[error("expected at most {bytes_max} bytes, found {found}")]
    TooLong {
        /// The receiver's limit, in bytes.
        bytes_max: usize,
        /// The size that the sender announced, in bytes.
        found: u64,
    },
    /// A chunk belongs to another file, or there are more bytes than announced.
    #[error("chunks that do not belong together")]
    Mixed,
    /// A chunk brings nothing. A sender of such chunks would never come to an end.
    #[error("an empty chunk")]
    Empty,
    /// The stream ended before the end of the file.
    #[error("expected {expected} bytes, found {found}")]
    Incomplete {
        /// The size that the sender announced, in bytes; 1 if no chunk arrived.
        expected: u64,
        /// The bytes that arrived.
        found: usize,
    },
    /// The bytes that arrived are not those that were sent.
    #[error("expected digest {expected}, found {found}")]
    Digest {
        /// The digest that the sender announced.
        expected: Digest,
        /// The digest of the bytes that arrived.
        found: Digest,
    },
}

impl From<TransferError> for Status {
    fn from(error: TransferError) -> Self {
        Self::data_loss(error.to_string())
    }
}

impl ChunkAssembler {
    /// Creates an assembler for a file of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, announced: None, bytes: Vec::new() }
    }

    /// Adds the next chunk.
    ///
    /// # Errors
    /// If the file is longer than the limit, or the chunk does not belong to the same file as the
    /// chunks before it.
    pub fn push(&mut self, chunk: &Chunk) -> Result<(), TransferError> {
        let theirs = Announced { total_bytes: chunk.total_bytes, digest: Digest(chunk.digest) };
        // The limit comes first: after it, allocating the announced size is safe.
        if theirs.total_bytes > self.bytes_max as u64 {
            return Err(TransferError::TooLong {
                bytes_max: self.bytes_max,
                found: theirs.total_bytes,
            });
        }
        // An empty file has one empty chunk, and no other file has any.
        if chunk.data.is_empty() && (theirs.total_bytes > 0 || self.announced.is_some()) {
            return Err(TransferError::Empty);
        }
        match self.announced {
            None => {
                self.bytes.reserve_exact(theirs.total_bytes as usize);
                self.announced = Some(theirs);
            }
            Some(ours) if ours != theirs => return Err(TransferError::Mixed),
            Some(_) => {}
        }
        if (self.bytes.len() + chunk.data.len()) as u64 > theirs.total_bytes {
            return Err(TransferError::Mixed);
        }
        self.bytes.extend_from_slice(&chunk.data);
        Ok(())
    }

    /// Returns the whole file.
    ///
    /// # Errors
    /// If bytes are missing, or the file is not the one that was sent.
    pub fn finish(self) -> Result<Vec<u8>, TransferError> {
        let Some(Announced { total_bytes, digest }) = self.announced else {
            // Even an empty file has a chunk.
            return Err(TransferError::Incomplete { expected: 1, found: 0 });
        };
        if self.bytes.len() as u64 != total_bytes {
            return Err(TransferError::Incomplete {
                expected: total_bytes,
                found: self.bytes.len(),
            });
        }
        let found = digest::of_bytes(&self.bytes);
        if found == digest {
            Ok(self.bytes)
        } else {
            Err(TransferError::Digest { expected: digest, found })
        }
    }
}

/// Receives a file of at most `bytes_max` bytes from a stream of plain chunks.
///
/// # Errors
/// If the stream breaks or stalls, or what arrives is not the file that was sent.
pub async fn receive(mut stream: Streaming<Chunk>, bytes_max: usize) -> Result<Vec<u8>, Status> {
    in_time(bytes_max, async {
        let mut assembler = ChunkAssembler::new(bytes_max);
        while let Some(chunk) = next(&mut stream).await? {
            assembler.push(&chunk)?;
        }
        Ok(assembler.finish()?)
    })
    .await
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
        let mut assembler = ChunkAssembler::new(bytes_max);
        for chunk in chunks {
            assembler.push(chunk)?;
        }
        assembler.finish()
    }

    fn error_of(bytes_max: usize, chunks: &[Chunk]) -> String {
        assemble(bytes_max, chunks).unwrap_err().to_string()
    }

    #[test]
    fn a_large_file_may_take_longer_and_a_small_one_has_its_time() {
        assert_eq!(time_max(0), TRANSFER_MIN);
        assert_eq!(time_max(5 * TRANSFER_RATE_MIN), TRANSFER_MIN + Duration::from_secs(5));
    }

    #[tokio::test]
    async fn what_takes_too_long_fails_with_the_time_and_what_is_ready_does_not() {
        let never = std::future::pending::<Result<(), Status>>();
        let late = within(Duration::ZERO, "no message for", never).await.unwrap_err();
        assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(late.message(), "no message for 0 s");
        let ready = async { Ok::<_, Status>(7) };
        assert_eq!(within(Duration::ZERO, "", ready).await.unwrap(), 7);
    }

    #[test]
    fn chunks_make_the_file() {
        for len in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let (bytes, chunks) = chunks(len);
            assert_eq!(chunks.len(), len.div_ceil(CHUNK_BYTES).max(1));
            assert_eq!(assemble(len, &chunks), Ok(bytes));
        }
    }

    #[test]
    fn a_file_that_is_not_the_one_that_was_sent_is_refused() {
        let total = CHUNK_BYTES + 5;
        let (_, mut chunks) = chunks(total);
        assert_eq!(error_of(total - 1, &chunks), "expected at most 262148 bytes, found 262149");
        assert_eq!(error_of(total, &chunks[..1]), "expected 262149 bytes, found 262144");
        assert_eq!(error_of(total, &[]), "expected 1 bytes, found 0");
        let repeated = [chunks[0].clone(), chunks[0].clone()];
        assert_eq!(error_of(total, &repeated), "chunks that do not belong together");
        let empty = Chunk { data: Bytes::new(), ..chunks[0].clone() };
        assert_eq!(error_of(total, &[chunks[0].clone(), empty]), "an empty chunk");
        let nothing = split(Bytes::new(), digest::of_bytes(&[])).next().unwrap();
        assert_eq!(error_of(total, &[nothing.clone(), nothing]), "an empty chunk");
        chunks[1].data = Bytes::from_static(b"other");
        assert!(error_of(total, &chunks).starts_with("expected digest"));
    }
}
