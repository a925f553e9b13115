//! The streams between workers.

use std::sync::Arc;

use bytes::Bytes;
use dcgan_core::ids::{Digest, Generation, Rank, RunId};
use dcgan_core::protocol::plan::Plan;
use dcgan_core::protocol::worker::ReduceFrame;
use dcgan_core::reduction::{BUCKET_VALUES_MAX, BucketSum, Subtree};
use dcgan_core::state::values::{SharedValues, little_endian};

use crate::checksum::Checksummed;
use crate::convert::{self, Malformed, required};
use crate::pb;
use pb::exchange_message::Kind;

/// A message of a stream between two members of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum ExchangeMessage {
    /// The first.
    Opening(Opening),
    /// A bucket of a vector. Its generation is not sent again: a stream belongs to one.
    ReduceFrame(ReduceFrame),
    /// The last: the sender follows a newer plan.
    Superseded,
}

/// What a stream belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Opening {
    /// The run.
    pub run: RunId,
    /// The sender's plan.
    pub plan: Arc<Plan>,
    /// The sender's rank in it.
    pub from: Rank,
}

impl From<&ExchangeMessage> for pb::ExchangeMessage {
    fn from(message: &ExchangeMessage) -> Self {
        let kind = match message {
            ExchangeMessage::Opening(Opening { run, plan, from }) => Kind::Opening(pb::Opening {
                run: run.0,
                plan: Some((&**plan).into()),
                from: from.0.into(),
            }),
            ExchangeMessage::ReduceFrame(ReduceFrame { position, digest, bucket_sum, .. }) => {
                Kind::BucketSum(pb::BucketSum {
                    position: Some((*position).into()),
                    digest: digest.0,
                    bucket: bucket_sum.bucket,
                    subtree: bucket_sum
                        .subtree
                        .map(|Subtree { lo, hi }| pb::Subtree { lo: lo.into(), hi: hi.into() }),
                    values: bytes_of(&bucket_sum.values),
                })
            }
            ExchangeMessage::Superseded => Kind::Superseded(pb::Superseded {}),
        };
        Self { kind: Some(kind), checksum: 0 }.with_checksum()
    }
}

/// SharedValues as they travel, on most machines without a copy.
fn bytes_of(values: &SharedValues) -> Bytes {
    struct Held(SharedValues);
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            bytemuck::cast_slice(&self.0)
        }
    }
    if cfg!(target_endian = "little") {
        Bytes::from_owner(Held(values.clone()))
    } else {
        little_endian(values).into_owned().into()
    }
}

impl ExchangeMessage {
    /// The message of a stream that belongs to `generation`; that of an opening is its plan's.
    ///
    /// # Errors
    /// If it is malformed, or not the one that was sent.
    pub fn from_wire(
        message: pb::ExchangeMessage,
        generation: Generation,
    ) -> Result<Self, Malformed> {
        Ok(
            match message
                .verify_checksum()?
                .kind
                .ok_or(Malformed("a member's message of an unknown kind"))?
            {
                Kind::Opening(pb::Opening { run, plan, from }) => {
                    let plan: Plan = required(plan, "an opening without a plan")?;
                    let from = convert::rank(from)?;
                    if plan.member(from).is_none() {
                        return Err(Malformed(
                            "an opening from a rank that its plan does not have",
                        ));
                    }
                    Self::Opening(Opening { run: RunId(run), plan: Arc::new(plan), from })
                }
                Kind::BucketSum(bucket) => Self::ReduceFrame(frame(bucket, generation)?),
                Kind::Superseded(pb::Superseded {}) => Self::Superseded,
            },
        )
    }
}

fn frame(bucket: pb::BucketSum, generation: Generation) -> Result<ReduceFrame, Malformed> {
    let pb::BucketSum { position, digest, bucket, subtree, values } = bucket;
    if values.len() % 4 != 0 || values.len() > 4 * BUCKET_VALUES_MAX {
        return Err(Malformed("a bucket that is too long, or not made of float32"));
    }
    let edge = |shard: u32| shard.try_into().map_err(|_| Malformed("a shard above 65535"));
    let subtree = subtree
        .map(|pb::Subtree { lo, hi }| Ok(Subtree { lo: edge(lo)?, hi: edge(hi)? }))
        .transpose()?;
    let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("chunks of 4 bytes"));
    let values = values.chunks_exact(4).map(number).collect::<Vec<_>>().into();
    Ok(ReduceFrame {
        generation,
        position: required(position, "a bucket without a position")?,
        digest: Digest(digest),
        bucket_sum: BucketSum { bucket, subtree, values },
    })
}

#[cfg(test)]
mod tests {
    use dcgan_core::ids::{Phase, Position};
    use proptest::prelude::*;

    use super::*;

    fn example(values: Vec<f32>, subtree: Option<(u16, u16)>) -> ReduceFrame {
        ReduceFrame {
            generation: Generation(3),
            position: Position { step: 7, phase: Phase::DiscriminatorFake },
            digest: Digest(9),
            bucket_sum: BucketSum {
                bucket: 2,
                subtree: subtree.map(|(lo, hi)| Subtree { lo, hi }),
                values: values.into(),
            },
        }
    }

    proptest! {
        #[test]
        fn frames_keep_every_bit(bits: Vec<u32>, subtree in proptest::option::of((0u16..9, 0u16..9))) {
            let frame = example(bits.iter().map(|&bits| f32::from_bits(bits)).collect(), subtree);
            let sent = pb::ExchangeMessage::from(&ExchangeMessage::ReduceFrame(frame.clone()));
            let Ok(ExchangeMessage::ReduceFrame(arrived)) = ExchangeMessage::from_wire(sent, Generation(3)) else {
                panic!("a frame stays a frame");
            };
            let arrived_bits: Vec<u32> = arrived.bucket_sum.values.iter().map(|value| value.to_bits()).collect();
            prop_assert_eq!(arrived_bits, bits);
            prop_assert_eq!((arrived.position, arrived.digest), (frame.position, frame.digest));
            prop_assert_eq!((arrived.bucket_sum.bucket, arrived.bucket_sum.subtree), (frame.bucket_sum.bucket, frame.bucket_sum.subtree));
        }
    }
}
