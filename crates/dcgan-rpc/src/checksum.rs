//! Checksums over whole messages, for those where a changed bit could change a training result.
//!
//! TCP's own checksum has 16 bits and lets some errors through, and it does not cover the memory of
//! the machines on the way. Messages that are long keep their bulk (the values of a bucket, a
//! picture, a state) in one field, which is hashed where it lies: encoding it a second time only to
//! hash it would cost a copy of every gradient.

use bytes::Bytes;
use dcgan_core::ids::Digest;
use dcgan_core::state::digest;
use prost::Message;

use crate::convert::Malformed;
use crate::pb;

/// A message with a field `checksum`.
///
/// The checksum is XXH3-64 over two XXH3-64 digests: that of the encoded message with an empty bulk
/// and a checksum of 0, and that of the bulk.
pub trait Checksummed: Message + Sized {
    /// Returns the field `checksum`.
    fn checksum_mut(&mut self) -> &mut u64;

    /// Returns the field that holds nearly all bytes of the message, if it has one.
    fn bulk_mut(&mut self) -> Option<&mut Bytes>;

    /// Returns the message with its checksum filled in.
    #[must_use]
    fn with_checksum(mut self) -> Self {
        *self.checksum_mut() = compute(&mut self).0;
        self
    }

    /// Returns the message if its checksum is right.
    ///
    /// # Errors
    /// If the message is not the one that the sender computed the checksum of.
    fn verify_checksum(mut self) -> Result<Self, Malformed> {
        let announced = *self.checksum_mut();
        if compute(&mut self).0 == announced {
            Ok(self)
        } else {
            Err(Malformed("its checksum does not match"))
        }
    }
}

/// Computes the checksum of a message, and leaves 0 in its field.
fn compute(message: &mut impl Checksummed) -> Digest {
    *message.checksum_mut() = 0;
    // The bulk is taken out while the rest is encoded, so that its bytes are not copied.
    let bulk = message.bulk_mut().map(std::mem::take).unwrap_or_default();
    let digests = [digest::of_bytes(&message.encode_to_vec()), digest::of_bytes(&bulk)];
    if let Some(field) = message.bulk_mut() {
        *field = bulk;
    }
    digest::of_digests(digests)
}

/// Implements [`Checksummed`] for messages: each with an expression that finds its bulk.
macro_rules! checksummed {
    ($($message:ident: |$this:pat_param| $bulk:expr;)*) => {$(
        impl Checksummed for pb::$message {
            fn checksum_mut(&mut self) -> &mut u64 {
                &mut self.checksum
            }

            fn bulk_mut(&mut self) -> Option<&mut Bytes> {
                let $this = self;
                $bulk
            }
        }
    )*};
}

checksummed! {
    WorkerMessage: |_| None;
    CoordinatorMessage: |_| None;
    GetPartitionRequest: |_| None;
    ExchangeMessage: |message| match &mut message.kind {
        Some(pb::exchange_message::Kind::ReduceFrame(frame)) => Some(&mut frame.values),
        _ => None,
    };
    CopyStateResponse: |response| response.chunk.as_mut().map(|chunk| &mut chunk.data);
    FollowRequest: |request| match &mut request.kind {
        Some(pb::follow_request::Kind::Grid(grid)) => Some(&mut grid.png),
        _ => None,
    };
    GeneratorSnapshot: |snapshot| Some(&mut snapshot.state);
}

#[cfg(test)]
mod tests {
    use dcgan_core::ids::{Generation, Phase, Position};
    use dcgan_core::protocol::worker::ReduceFrame;
    use dcgan_core::reduction::{BucketSum, Subtree};
    use proptest::prelude::*;

    use super::*;
    use crate::ExchangeMessage;

    fn frame() -> ReduceFrame {
        ReduceFrame {
            generation: Generation(3),
            position: Position { step: 7, phase: Phase::DiscriminatorFake },
            digest: Digest(9),
            bucket_sum: BucketSum {
                bucket: 2,
                subtree: Some(Subtree { lo: 2, hi: 4 }),
                values: vec![1.0, 2.0].into(),
            },
        }
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_detected_at_every_place(
            place: prop::sample::Index,
            bit in 0u8..8,
        ) {
            let sent = pb::ExchangeMessage::from(&ExchangeMessage::ReduceFrame(frame()));
            let mut bytes = sent.encode_to_vec();
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            // Protobuf has several encodings of one message: another of them may pass.
            let Ok(decoded) = pb::ExchangeMessage::decode(&*bytes) else {
                return Ok(());
            };
            if let Ok(ExchangeMessage::ReduceFrame(arrived)) =
                ExchangeMessage::from_wire(decoded, Generation(3))
            {
                prop_assert_eq!(arrived, frame());
            }
        }
    }
}
