//! Messages from a worker to the coordinator, to and from the wire.

use dcgan_core::ids::{Digest, Generation, RunId};
use dcgan_core::protocol::message::{
    Complaint, FailedShards, FromWorker, Hello, PROTOCOL, TrialTimes,
};

use super::WorkerMessage;
use crate::checksum::Checksummed;
use crate::convert::{self, Malformed, required};
use crate::pb;
use pb::worker_message::Kind;

impl From<WorkerMessage> for pb::WorkerMessage {
    fn from(message: WorkerMessage) -> Self {
        let kind = match message {
            WorkerMessage::Hello(hello) => Kind::Hello(hello.into()),
            WorkerMessage::Heartbeat => Kind::Heartbeat(pb::Heartbeat {}),
            WorkerMessage::Message(message) => message.into(),
        };
        Self { kind: Some(kind), checksum: 0 }.with_checksum()
    }
}

impl WorkerMessage {
    /// Converts a message of a worker whose objective has this number of `metrics`.
    ///
    /// # Errors
    /// If the checksum does not match, or no program of this version sends such a message.
    pub fn from_wire(message: pb::WorkerMessage, metrics: usize) -> Result<Self, Malformed> {
        let verified =
            if is_foreign_hello(&message) { message } else { message.verify_checksum()? };
        let kind = verified.kind.ok_or(Malformed("a worker's message of an unknown kind"))?;
        Ok(Self::Message(match kind {
            Kind::Hello(hello) => return Ok(Self::Hello(hello.try_into()?)),
            Kind::Heartbeat(pb::Heartbeat {}) => return Ok(Self::Heartbeat),
            Kind::Ready(pb::Ready {}) => FromWorker::Ready,
            Kind::FenceAck(pb::FenceAck { generation, state }) => {
                let state = state.map(TryInto::try_into).transpose()?;
                FromWorker::FenceAck { generation: Generation(generation), state }
            }
            Kind::StepDone(done) => FromWorker::StepDone(convert::step_done(done, metrics)?),
            Kind::Complaint(pb::Complaint { generation, kind }) => FromWorker::Complaint {
                generation: Generation(generation),
                complaint: required(kind, "a complaint of an unknown kind")?,
            },
            Kind::SnapshotMissing(pb::SnapshotMissing { step }) => {
                FromWorker::SnapshotMissing(step)
            }
            Kind::Copied(pb::Copied { generation }) => FromWorker::Copied(Generation(generation)),
            Kind::StateDiffered(pb::StateDiffered { position, tensor }) => {
                FromWorker::StateDiffered {
                    position: required(position, "a difference without a position")?,
                    tensor: words(&tensor),
                }
            }
            Kind::ProbeResult(pb::ProbeResult { peer, failure }) => FromWorker::ProbeResult {
                peer: required(peer, "a probe without a worker")?,
                result: failure.map_or(Ok(()), |why| Err(words(&why))),
            },
            Kind::TrialResult(pb::TrialResult { donor, result, copy_ms }) => {
                FromWorker::TrialResult {
                    donor: required(donor, "a trial without a worker")?,
                    result: match result.ok_or(Malformed("a trial without a result"))? {
                        pb::trial_result::Result::ShardMs(shard_ms) => {
                            Ok(TrialTimes { copy_ms, shard_ms })
                        }
                        pb::trial_result::Result::Failure(why) => Err(words(&why)),
                    },
                }
            }
            Kind::Evaluated(pb::Evaluated { id, result }) => FromWorker::Evaluated {
                id: required(id, "a result without its part")?,
                result: match result.ok_or(Malformed("a part without a result"))? {
                    pb::evaluated::Result::Values(part) => Ok(convert::part_values(part)?),
                    pb::evaluated::Result::Failure(why) => Err(words(&why)),
                },
            },
            Kind::Leave(pb::Leave {}) => FromWorker::Leave,
        }))
    }
}

/// Returns whether a message is a hello of another version. It can have fields that this version
/// drops, and then the checksum cannot match. Its sender is refused for its version, and asks once
/// more. So a hello of this version whose number is damaged is not one, and no version has the
/// number 0. One that is damaged otherwise can pass for one: its second attempt will not.
fn is_foreign_hello(message: &pb::WorkerMessage) -> bool {
    let mut own = message.clone();
    match &mut own.kind {
        Some(Kind::Hello(hello)) if ![0, PROTOCOL].contains(&hello.protocol) => {
            hello.protocol = PROTOCOL;
        }
        _ => return false,
    }
    own.verify_checksum().is_err()
}

impl From<FromWorker> for Kind {
    fn from(message: FromWorker) -> Self {
        match message {
            FromWorker::Ready => Self::Ready(pb::Ready {}),
            FromWorker::FenceAck { generation, state } => Self::FenceAck(pb::FenceAck {
                generation: generation.0,
                state: state.map(Into::into),
            }),
            FromWorker::StepDone(done) => Self::StepDone(done.into()),
            FromWorker::Complaint { generation, complaint } => Self::Complaint(pb::Complaint {
                generation: generation.0,
                kind: Some(complaint.into()),
            }),
            FromWorker::SnapshotMissing(step) => {
                Self::SnapshotMissing(pb::SnapshotMissing { step })
            }
            FromWorker::Copied(generation) => Self::Copied(pb::Copied { generation: generation.0 }),
            FromWorker::StateDiffered { position, tensor } => {
                Self::StateDiffered(pb::StateDiffered { position: Some(position.into()), tensor })
            }
            FromWorker::ProbeResult { peer, result } => Self::ProbeResult(pb::ProbeResult {
                peer: Some(peer.into()),
                failure: result.err(),
            }),
            FromWorker::TrialResult { donor, result } => Self::TrialResult(pb::TrialResult {
                donor: Some(donor.into()),
                copy_ms: result.as_ref().map_or(0.0, |times| times.copy_ms),
                result: Some(match result {
                    Ok(times) => pb::trial_result::Result::ShardMs(times.shard_ms),
                    Err(why) => pb::trial_result::Result::Failure(why),
                }),
            }),
            FromWorker::Evaluated { id, result } => Self::Evaluated(pb::Evaluated {
                id: Some(id.into()),
                result: Some(match result {
                    Ok(values) => pb::evaluated::Result::Values(pb::PartValues { values }),
                    Err(why) => pb::evaluated::Result::Failure(why),
                }),
            }),
            FromWorker::Leave => Self::Leave(pb::Leave {}),
        }
    }
}

impl From<Complaint> for pb::complaint::Kind {
    fn from(complaint: Complaint) -> Self {
        match complaint {
            Complaint::StreamBroken(peer) => Self::StreamBroken(peer.0.into()),
            Complaint::Timeout(peer) => Self::Timeout(peer.0.into()),
            Complaint::StateMismatch { peer, position, mine, theirs } => {
                Self::StateMismatch(pb::StateMismatch {
                    peer: peer.0.into(),
                    position: Some(position.into()),
                    mine: mine.0,
                    theirs: theirs.0,
                })
            }
            Complaint::CopyFailed => Self::CopyFailed(pb::CopyFailed {}),
            Complaint::StateCorrupted(tensor) => {
                Self::StateCorrupted(pb::StateCorrupted { tensor })
            }
            Complaint::ShardsFailed(FailedShards { position, shards, what }) => {
                Self::ShardsFailed(pb::FailedShards {
                    position: Some(position.into()),
                    shards: shards.into_iter().map(|shard| shard.0.into()).collect(),
                    what,
                })
            }
        }
    }
}

impl TryFrom<pb::complaint::Kind> for Complaint {
    type Error = Malformed;

    fn try_from(kind: pb::complaint::Kind) -> Result<Self, Malformed> {
        use pb::complaint::Kind;
        Ok(match kind {
            Kind::StreamBroken(peer) => Self::StreamBroken(convert::rank(peer)?),
            Kind::Timeout(peer) => Self::Timeout(convert::rank(peer)?),
            Kind::StateMismatch(pb::StateMismatch { peer, position, mine, theirs }) => {
                Self::StateMismatch {
                    peer: convert::rank(peer)?,
                    position: required(position, "a difference without a position")?,
                    mine: Digest(mine),
                    theirs: Digest(theirs),
                }
            }
            Kind::CopyFailed(pb::CopyFailed {}) => Self::CopyFailed,
            Kind::StateCorrupted(pb::StateCorrupted { tensor }) => {
                Self::StateCorrupted(words(&tensor))
            }
            Kind::ShardsFailed(pb::FailedShards { position, shards, what }) => {
                Self::ShardsFailed(FailedShards {
                    position: required(position, "failed shards without a position")?,
                    shards: convert::shards(shards)?,
                    what: words(&what),
                })
            }
        })
    }
}

impl From<Hello> for pb::Hello {
    fn from(hello: Hello) -> Self {
        Self {
            run: hello.run.map(|run| run.0),
            id: Some(hello.id.into()),
            protocol: hello.protocol,
            fingerprint: hello.fingerprint,
            address: hello.address,
            plan: hello.plan.0,
            promised: hello.promised.0,
        }
    }
}

impl TryFrom<pb::Hello> for Hello {
    type Error = Malformed;

    fn try_from(mut hello: pb::Hello) -> Result<Self, Malformed> {
        // A worker of another version is turned away for that, whatever else it sends.
        if hello.protocol == PROTOCOL {
            hello.fingerprint = convert::fingerprint(hello.fingerprint)?;
            hello.address = convert::address(hello.address)?;
        } else {
            hello.fingerprint = words(&hello.fingerprint);
            hello.address = words(&hello.address);
        }
        Ok(Self {
            run: hello.run.map(RunId),
            id: required(hello.id, "a hello without an id")?,
            protocol: hello.protocol,
            fingerprint: hello.fingerprint,
            address: hello.address,
            plan: Generation(hello.plan),
            promised: Generation(hello.promised),
        })
    }
}

/// Converts a text for people.
fn words(text: &str) -> String {
    convert::text(text, convert::WORKER_TEXT_BYTES_MAX)
}
