//! Messages from the coordinator to a worker, to and from the wire.

use std::sync::Arc;

use dcgan_core::evaluation::EvaluationTask;
use dcgan_core::ids::{Generation, RunId};
use dcgan_core::protocol::message::{Finish, ToWorker};

use super::{CoordinatorMessage, Welcome, spec};
use crate::checksum::Checksummed;
use crate::convert::{self, Malformed, required};
use crate::pb;
use pb::coordinator_message::Kind;

impl From<CoordinatorMessage> for pb::CoordinatorMessage {
    fn from(message: CoordinatorMessage) -> Self {
        let kind = match message {
            CoordinatorMessage::Welcome(welcome) => Kind::Welcome((*welcome).into()),
            CoordinatorMessage::Refused(reason) => Kind::Refused(pb::Refused { reason }),
            CoordinatorMessage::Heartbeat => Kind::Heartbeat(pb::Heartbeat {}),
            CoordinatorMessage::Message(message) => message.into(),
        };
        Self { kind: Some(kind), checksum: 0 }.with_checksum()
    }
}

impl TryFrom<pb::CoordinatorMessage> for CoordinatorMessage {
    type Error = Malformed;

    fn try_from(message: pb::CoordinatorMessage) -> Result<Self, Malformed> {
        // Earlier versions sent no checksums. The worker shows their refusal, which says that the
        // versions differ, in place of an error about a checksum.
        let is_foreign_refusal =
            message.checksum == 0 && matches!(&message.kind, Some(Kind::Refused(_)));
        let verified = if is_foreign_refusal { message } else { message.verify_checksum()? };
        let kind = verified.kind.ok_or(Malformed("a coordinator's message of an unknown kind"))?;
        Ok(Self::Message(match kind {
            Kind::Welcome(welcome) => return Self::welcome(welcome),
            Kind::Refused(pb::Refused { reason }) => return Ok(Self::Refused(words(&reason))),
            Kind::Heartbeat(pb::Heartbeat {}) => return Ok(Self::Heartbeat),
            Kind::Fence(pb::Fence { generation }) => ToWorker::Fence(Generation(generation)),
            Kind::Plan(plan) => ToWorker::Plan(Arc::new(plan.try_into()?)),
            Kind::Persisted(pb::Persisted { step }) => ToWorker::Persisted(step),
            Kind::RequestSnapshot(pb::RequestSnapshot { step }) => ToWorker::RequestSnapshot(step),
            Kind::RetainSnapshot(pb::RetainSnapshot { step }) => ToWorker::RetainSnapshot(step),
            Kind::Probe(pb::Probe { peer, address }) => {
                let peer = required(peer, "a probe without a worker")?;
                ToWorker::Probe(peer, convert::address(address)?)
            }
            Kind::Trial(pb::Trial { donor, address }) => {
                let donor = required(donor, "a trial without a worker")?;
                ToWorker::Trial(donor, convert::address(address)?)
            }
            Kind::Evaluate(pb::Evaluate { id, pieces }) => {
                if pieces.len() > usize::from(u16::MAX) {
                    return Err(Malformed("an evaluation of more than 65535 pieces"));
                }
                let pieces: Result<_, Malformed> =
                    pieces.into_iter().map(convert::part_values).collect();
                let pieces = pieces?;
                let id = required(id, "a task without its part")?;
                ToWorker::Evaluate(EvaluationTask { id, pieces: Arc::new(pieces) })
            }
            Kind::Finish(pb::Finish { failure: Some(why), .. }) => {
                ToWorker::Finish(Finish::Failed(words(&why)))
            }
            Kind::Finish(pb::Finish { released: true, .. }) => ToWorker::Finish(Finish::Released),
            Kind::Finish(pb::Finish { .. }) => ToWorker::Finish(Finish::Done),
        }))
    }
}

impl From<ToWorker> for Kind {
    fn from(message: ToWorker) -> Self {
        match message {
            ToWorker::Fence(Generation(generation)) => Self::Fence(pb::Fence { generation }),
            ToWorker::Plan(plan) => Self::Plan((&*plan).into()),
            ToWorker::Persisted(step) => Self::Persisted(pb::Persisted { step }),
            ToWorker::RequestSnapshot(step) => Self::RequestSnapshot(pb::RequestSnapshot { step }),
            ToWorker::RetainSnapshot(step) => Self::RetainSnapshot(pb::RetainSnapshot { step }),
            ToWorker::Probe(peer, address) => {
                Self::Probe(pb::Probe { peer: Some(peer.into()), address })
            }
            ToWorker::Trial(donor, address) => {
                Self::Trial(pb::Trial { donor: Some(donor.into()), address })
            }
            ToWorker::Evaluate(EvaluationTask { id, pieces }) => {
                let values = |piece: &Vec<f64>| pb::PartValues { values: piece.clone() };
                let pieces = pieces.iter().map(values).collect();
                Self::Evaluate(pb::Evaluate { id: Some(id.into()), pieces })
            }
            ToWorker::Finish(finish) => Self::Finish(match finish {
                Finish::Done => pb::Finish::default(),
                Finish::Released => pb::Finish { released: true, ..pb::Finish::default() },
                Finish::Failed(why) => pb::Finish { failure: Some(why), released: false },
            }),
        }
    }
}

impl From<Welcome> for pb::Welcome {
    fn from(Welcome { run, spec, schedule, likely_shards }: Welcome) -> Self {
        Self {
            run: run.0,
            schedule: Some(schedule.into()),
            likely_shards: likely_shards.into_iter().map(|shard| shard.0.into()).collect(),
            spec: spec::to_json(&spec),
        }
    }
}

impl CoordinatorMessage {
    /// Reads a welcome. One with a specification that this version cannot follow is a refusal: the
    /// coordinator, of another version, would send the same again and again.
    fn welcome(welcome: pb::Welcome) -> Result<Self, Malformed> {
        let pb::Welcome { run, schedule, likely_shards, spec } = welcome;
        let spec = match spec::from_json(&spec) {
            Ok(spec) => spec,
            Err(why) => {
                return Ok(Self::Refused(format!("the run cannot be followed: {why}")));
            }
        };
        Ok(Self::Welcome(Box::new(Welcome {
            run: RunId(run),
            spec,
            schedule: required(schedule, "a welcome without a schedule")?,
            likely_shards: convert::shards(likely_shards)?,
        })))
    }
}

/// Converts a text for people.
fn words(text: &str) -> String {
    convert::text(text, convert::COORDINATOR_TEXT_BYTES_MAX)
}
