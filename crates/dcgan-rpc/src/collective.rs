//! The streams between workers.

use std::sync::Arc;

use bytes::Bytes;
use dcgan_core::ids::{Digest, Generation, Rank, RunId};
use dcgan_core::plan::Plan;
use dcgan_core::reduction::{Node, PART_VALUES, Piece};
use dcgan_core::step_machine::Frame;
use dcgan_core::values::{Values, little_endian};

use crate::checked::Checked;
use crate::convert::{self, Malformed, required};
use crate::pb;
use pb::exchange_message::Kind;

/// A message of a stream between two members of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum ExchangeMessage {
    /// The first.
    Opening(Opening),
    /// A part of a vector. Its generation is not sent again: a stream belongs to one.
    Frame(Frame),
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
            ExchangeMessage::Opening(Opening { run, plan, from }) => {
                Kind::Opening(pb::Opening { run: run.0, plan: Some((&**plan).into()), from: from.0.into() })
            }
            ExchangeMessage::Frame(Frame { position, digest, piece, .. }) => Kind::Part(pb::Part {
                position: Some((*position).into()),
                digest: digest.0,
                part: piece.part,
                node: piece.node.map(|Node { lo, hi }| pb::Node { lo: lo.into(), hi: hi.into() }),
                values: bytes_of(&piece.values),
            }),
            ExchangeMessage::Superseded => Kind::Superseded(pb::Superseded {}),
        };
        Self { kind: Some(kind), checksum: 0 }.sealed()
    }
}

/// Values as they travel, on most machines without a copy.
fn bytes_of(values: &Values) -> Bytes {
    struct Held(Values);
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
    pub fn from_wire(message: pb::ExchangeMessage, generation: Generation) -> Result<Self, Malformed> {
        Ok(match message.opened()?.kind.ok_or(Malformed("a member's message of an unknown kind"))? {
            Kind::Opening(pb::Opening { run, plan, from }) => {
                let plan: Plan = required(plan, "an opening without a plan")?;
                let from = convert::rank(from)?;
                if plan.member(from).is_none() {
                    return Err(Malformed("an opening from a rank that its plan does not have"));
                }
                Self::Opening(Opening { run: RunId(run), plan: Arc::new(plan), from })
            }
            Kind::Part(part) => Self::Frame(frame(part, generation)?),
            Kind::Superseded(pb::Superseded {}) => Self::Superseded,
        })
    }
}

fn frame(part: pb::Part, generation: Generation) -> Result<Frame, Malformed> {
    let pb::Part { position, digest, part, node, values } = part;
    if values.len() % 4 != 0 || values.len() > 4 * PART_VALUES {
        return Err(Malformed("a part that is too long, or not made of float32"));
    }
    let edge = |shard: u32| shard.try_into().map_err(|_| Malformed("a shard above 65535"));
    let node = node.map(|pb::Node { lo, hi }| Ok(Node { lo: edge(lo)?, hi: edge(hi)? })).transpose()?;
    let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("chunks of 4 bytes"));
    let values = values.chunks_exact(4).map(number).collect::<Vec<_>>().into();
    Ok(Frame {
        generation,
        position: required(position, "a part without a position")?,
        digest: Digest(digest),
        piece: Piece { part, node, values },
    })
}

#[cfg(test)]
mod tests {
    use dcgan_core::ids::Position;
    use proptest::prelude::*;

    use super::*;

    fn example(values: Vec<f32>, node: Option<(u16, u16)>) -> Frame {
        Frame {
            generation: Generation(3),
            position: Position { step: 7, phase: 1 },
            digest: Digest(9),
            piece: Piece { part: 2, node: node.map(|(lo, hi)| Node { lo, hi }), values: values.into() },
        }
    }

    proptest! {
        #[test]
        fn frames_keep_every_bit(bits: Vec<u32>, node in proptest::option::of((0u16..9, 0u16..9))) {
            let frame = example(bits.iter().map(|&bits| f32::from_bits(bits)).collect(), node);
            let sent = pb::ExchangeMessage::from(&ExchangeMessage::Frame(frame.clone()));
            let Ok(ExchangeMessage::Frame(arrived)) = ExchangeMessage::from_wire(sent, Generation(3)) else {
                panic!("a frame stays a frame");
            };
            let arrived_bits: Vec<u32> = arrived.piece.values.iter().map(|value| value.to_bits()).collect();
            prop_assert_eq!(arrived_bits, bits);
            prop_assert_eq!((arrived.position, arrived.digest), (frame.position, frame.digest));
            prop_assert_eq!((arrived.piece.part, arrived.piece.node), (frame.piece.part, frame.piece.node));
        }
    }
}
