//! The messages of a stream between two members of a plan.

use std::sync::Arc;

use bytes::Bytes;
use dcgan_core::ids::{Digest, Generation, Rank, RunId, WorkerId};
use dcgan_core::protocol::plan::Plan;
use dcgan_core::protocol::worker::ReduceFrame;
use dcgan_core::reduction::{BUCKET_VALUES_MAX, BucketSum, Subtree};
use dcgan_core::state::values::{SharedValues, little_endian};

use tonic::Status;

use crate::checksum::Checksummed;
use crate::convert::{self, Malformed, required};
use crate::pb;
use pb::exchange_message::Kind;

/// A message of a stream between two members of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum ExchangeMessage {
    /// The first message of a stream.
    Opening(Opening),
    /// A subtree's sum of a bucket, or the whole sum.
    ///
    /// The frame's generation does not travel with it: every frame of a stream belongs to the
    /// generation of the stream's opening.
    ReduceFrame(ReduceFrame),
    /// The last message of a stream: the sender follows a newer plan.
    Superseded,
}

/// The run, the plan and the sender that a stream belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct Opening {
    /// The run.
    pub run: RunId,
    /// The sender's plan.
    pub plan: Arc<Plan>,
    /// The sender's rank in that plan.
    pub from: Rank,
    /// The worker that is meant.
    pub to: WorkerId,
}

impl From<&ExchangeMessage> for pb::ExchangeMessage {
    fn from(message: &ExchangeMessage) -> Self {
        let kind = match message {
            ExchangeMessage::Opening(Opening { run, plan, from, to }) => {
                Kind::Opening(pb::Opening {
                    run: run.0,
                    plan: Some((&**plan).into()),
                    from: from.0.into(),
                    to: Some(to.clone().into()),
                })
            }
            ExchangeMessage::ReduceFrame(frame) => Kind::ReduceFrame(frame.into()),
            ExchangeMessage::Superseded => Kind::Superseded(pb::Superseded {}),
        };
        Self { kind: Some(kind), checksum: 0 }.with_checksum()
    }
}

impl From<&ReduceFrame> for pb::ReduceFrame {
    fn from(frame: &ReduceFrame) -> Self {
        let ReduceFrame { generation: _, position, digest, bucket_sum } = frame;
        let BucketSum { bucket, subtree, values } = bucket_sum;
        Self {
            position: Some((*position).into()),
            digest: digest.0,
            bucket: *bucket,
            subtree: subtree.map(|Subtree { lo, hi }| pb::Subtree { lo: lo.into(), hi: hi.into() }),
            values: bytes_of(values),
        }
    }
}

/// Returns the values as little-endian bytes. On a little-endian machine the bytes are the values
/// themselves: a bucket is sent without a copy.
fn bytes_of(values: &SharedValues) -> Bytes {
    /// The owner of the bytes: it keeps the values until the message is sent.
    struct ValuesAsBytes(SharedValues);

    impl AsRef<[u8]> for ValuesAsBytes {
        fn as_ref(&self) -> &[u8] {
            bytemuck::cast_slice(&self.0)
        }
    }

    if cfg!(target_endian = "little") {
        Bytes::from_owner(ValuesAsBytes(values.clone()))
    } else {
        little_endian(values).into_owned().into()
    }
}

impl ExchangeMessage {
    /// Converts a message of a stream that belongs to `generation`. An opening has the generation
    /// of its own plan, whatever `generation` is.
    ///
    /// # Errors
    /// If the checksum does not match, or no program of this version sends such a message.
    pub fn from_wire(
        message: pb::ExchangeMessage,
        generation: Generation,
    ) -> Result<Self, Malformed> {
        let kind = message.verify_checksum()?.kind;
        match kind.ok_or(Malformed("a member's message of an unknown kind"))? {
            Kind::Opening(opening) => Ok(Self::Opening(opening.try_into()?)),
            Kind::ReduceFrame(frame) => Ok(Self::ReduceFrame(reduce_frame(frame, generation)?)),
            Kind::Superseded(pb::Superseded {}) => Ok(Self::Superseded),
        }
    }
}

impl Opening {
    /// Converts the first message of a stream to a worker of `run`. The run is checked before the
    /// plan is looked at: whoever does not belong to the run costs this worker no time.
    ///
    /// # Errors
    /// If the message is no opening, or one for another run, with the reason for the sender.
    pub fn receive(message: pb::ExchangeMessage, run: RunId) -> Result<Self, Status> {
        match &message.kind {
            Some(Kind::Opening(opening)) if opening.run == run.0 => {}
            Some(Kind::Opening(_)) => {
                return Err(Status::failed_precondition("this worker belongs to another run"));
            }
            _ => {
                let what = "the first message of a stream is its opening";
                return Err(Status::invalid_argument(what));
            }
        }
        // The opening names the stream's generation, so none is known before it.
        match ExchangeMessage::from_wire(message, Generation(0))? {
            ExchangeMessage::Opening(opening) => Ok(opening),
            ExchangeMessage::ReduceFrame(_) | ExchangeMessage::Superseded => {
                Err(Status::internal("an opening that is none"))
            }
        }
    }
}

impl TryFrom<pb::Opening> for Opening {
    type Error = Malformed;

    fn try_from(pb::Opening { run, plan, from, to }: pb::Opening) -> Result<Self, Malformed> {
        let plan: Plan = required(plan, "an opening without a plan")?;
        let from = convert::rank(from)?;
        if plan.member(from).is_none() {
            return Err(Malformed("an opening from a rank that its plan does not have"));
        }
        let to = required(to, "an opening that does not say who is meant")?;
        Ok(Self { run: RunId(run), plan: Arc::new(plan), from, to })
    }
}

impl TryFrom<pb::Subtree> for Subtree {
    type Error = Malformed;

    fn try_from(pb::Subtree { lo, hi }: pb::Subtree) -> Result<Self, Malformed> {
        match (u16::try_from(lo), u16::try_from(hi)) {
            (Ok(lo), Ok(hi)) => Ok(Self { lo, hi }),
            _ => Err(Malformed("a shard above 65535")),
        }
    }
}

/// Converts a frame. Whether its bucket and its subtree exist in the plan is for the reduction to
/// check, which knows the plan.
fn reduce_frame(frame: pb::ReduceFrame, generation: Generation) -> Result<ReduceFrame, Malformed> {
    let pb::ReduceFrame { position, digest, bucket, subtree, values } = frame;
    if values.len() % 4 != 0 || values.len() > 4 * BUCKET_VALUES_MAX {
        return Err(Malformed("a bucket that is too long, or not made of float32"));
    }
    // The bytes need not be aligned for f32, so the values are read out of them one by one. The
    // length is known to the compiler's loop, which makes vector instructions of it.
    let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("chunks of 4 bytes"));
    let numbers: Vec<f32> = values.chunks_exact(4).map(number).collect();
    Ok(ReduceFrame {
        generation,
        position: required(position, "a bucket without a position")?,
        digest: Digest(digest),
        bucket_sum: BucketSum {
            bucket,
            subtree: subtree.map(TryInto::try_into).transpose()?,
            values: numbers.into(),
        },
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
        fn a_frame_keeps_every_bit(
            bits: Vec<u32>,
            subtree in proptest::option::of((0u16..9, 0u16..9)),
        ) {
            let values = bits.iter().map(|&bits| f32::from_bits(bits)).collect();
            let frame = example(values, subtree);
            let sent = pb::ExchangeMessage::from(&ExchangeMessage::ReduceFrame(frame.clone()));
            let Ok(ExchangeMessage::ReduceFrame(arrived)) =
                ExchangeMessage::from_wire(sent, Generation(3))
            else {
                panic!("the frame did not arrive as a frame");
            };
            // Compared as bits: a NaN is not equal to itself.
            let arrived_bits: Vec<u32> =
                arrived.bucket_sum.values.iter().map(|value| value.to_bits()).collect();
            prop_assert_eq!(arrived_bits, bits);
            prop_assert_eq!((arrived.position, arrived.digest), (frame.position, frame.digest));
            prop_assert_eq!(arrived.bucket_sum.bucket, frame.bucket_sum.bucket);
            prop_assert_eq!(arrived.bucket_sum.subtree, frame.bucket_sum.subtree);
        }
    }
}
