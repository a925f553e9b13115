//! Checksums over whole messages, where a changed bit could change a result: TCP's 16 bits let some through.

use bytes::Bytes;
use dcgan_core::state::digest;
use prost::Message;

use crate::convert::Malformed;
use crate::pb;

/// A message with a checksum: XXH3-64 of the digests of its encoding without checksum and bulk, and of its bulk.
pub trait Checksummed: Message + Sized {
    /// Its field.
    fn checksum(&mut self) -> &mut u64;

    /// Its long bucket, which is not to be copied to be hashed.
    fn bulk(&mut self) -> Option<&mut Bytes> {
        None
    }

    /// The message with its checksum.
    #[must_use]
    fn with_checksum(mut self) -> Self {
        *self.checksum() = sum(&mut self);
        self
    }

    /// The message, if it is the one that was with_checksum.
    ///
    /// # Errors
    /// If it is another.
    fn verify_checksum(mut self) -> Result<Self, Malformed> {
        let with_checksum = *self.checksum();
        if sum(&mut self) == with_checksum {
            Ok(self)
        } else {
            Err(Malformed("its checksum is that of another"))
        }
    }
}

fn sum(message: &mut impl Checksummed) -> u64 {
    *message.checksum() = 0;
    let bulk = message.bulk().map(std::mem::take).unwrap_or_default();
    let parts = [digest::of_bytes(&message.encode_to_vec()), digest::of_bytes(&bulk)];
    if let Some(place) = message.bulk() {
        *place = bulk;
    }
    digest::of_digests(parts).0
}

impl Checksummed for pb::WorkerMessage {
    fn checksum(&mut self) -> &mut u64 {
        &mut self.checksum
    }
}

impl Checksummed for pb::CoordinatorMessage {
    fn checksum(&mut self) -> &mut u64 {
        &mut self.checksum
    }
}

impl Checksummed for pb::GetPartitionRequest {
    fn checksum(&mut self) -> &mut u64 {
        &mut self.checksum
    }
}

impl Checksummed for pb::ExchangeMessage {
    fn checksum(&mut self) -> &mut u64 {
        &mut self.checksum
    }

    fn bulk(&mut self) -> Option<&mut Bytes> {
        match &mut self.kind {
            Some(pb::exchange_message::Kind::BucketSum(bucket)) => Some(&mut bucket.values),
            _ => None,
        }
    }
}

impl Checksummed for pb::FollowRequest {
    fn checksum(&mut self) -> &mut u64 {
        &mut self.checksum
    }

    fn bulk(&mut self) -> Option<&mut Bytes> {
        match &mut self.kind {
            Some(pb::follow_request::Kind::Grid(grid)) => Some(&mut grid.png),
            _ => None,
        }
    }
}

impl Checksummed for pb::GeneratorSnapshot {
    fn checksum(&mut self) -> &mut u64 {
        &mut self.checksum
    }

    fn bulk(&mut self) -> Option<&mut Bytes> {
        Some(&mut self.state)
    }
}

impl Checksummed for pb::CopyStateResponse {
    fn checksum(&mut self) -> &mut u64 {
        &mut self.checksum
    }

    fn bulk(&mut self) -> Option<&mut Bytes> {
        self.chunk.as_mut().map(|chunk| &mut chunk.data)
    }
}

#[cfg(test)]
mod tests {
    use dcgan_core::ids::{Digest, Generation, Phase, Position};
    use dcgan_core::protocol::worker::ReduceFrame;
    use dcgan_core::reduction::{BucketSum, Subtree};
    use proptest::prelude::*;

    use super::*;
    use crate::ExchangeMessage;

    proptest! {
        #[test]
        fn a_flipped_bit_is_seen_wherever_it_is(place: prop::sample::Index, bit in 0u8..8) {
            let frame = ReduceFrame {
                generation: Generation(3),
                position: Position { step: 7, phase: Phase::DiscriminatorFake },
                digest: Digest(9),
                bucket_sum: BucketSum { bucket: 2, subtree: Some(Subtree { lo: 2, hi: 4 }), values: vec![1.0, 2.0].into() },
            };
            let sent = pb::ExchangeMessage::from(&ExchangeMessage::ReduceFrame(frame.clone()));
            let mut bytes = sent.encode_to_vec();
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            // What still says the same, such as a field of its default that is left out, may pass.
            if let Ok(Ok(ExchangeMessage::ReduceFrame(arrived))) =
                pb::ExchangeMessage::decode(&*bytes).map(|message| ExchangeMessage::from_wire(message, Generation(3)))
            {
                prop_assert_eq!(arrived, frame);
            }
        }
    }
}
