//! The control stream: what the coordinator and its workers tell each other.

use std::sync::Arc;

use dcgan_core::ids::{Digest, Generation, RunId, ShardId};
use dcgan_core::protocol::message::{
    Complaint, FailedShards, Finish, FromWorker, Hello, PROTOCOL, ToWorker,
};
use dcgan_core::spec::schedule::Schedule;
use dcgan_core::spec::{DatasetInfo, ObjectiveKind, RunSpec};

use crate::checksum::Checksummed;
use crate::convert::{self, Malformed, required};
use crate::pb;
use pb::coordinator_message::Kind as ToKind;
use pb::worker_message::Kind as FromKind;

/// A message of a worker's control stream.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerMessage {
    /// The first.
    Hello(Hello),
    /// A sign of life.
    Heartbeat,
    /// For the coordinator's machine.
    Message(FromWorker),
}

/// A message of the coordinator's control stream.
#[derive(Clone, Debug, PartialEq)]
pub enum CoordinatorMessage {
    /// The answer to a hello.
    Welcome(Welcome),
    /// The other answer to a hello: why the worker is turned away.
    Refused(String),
    /// A sign of life.
    Heartbeat,
    /// For the worker's machine.
    Message(ToWorker),
}

/// What a worker needs to know of the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Welcome {
    /// Its identity.
    pub run: RunId,
    /// What is trained, on what.
    pub spec: RunSpec,
    /// Its length and intervals.
    pub schedule: Schedule,
    /// The partitions of these shards are fetched first.
    pub likely_shards: Vec<ShardId>,
}

impl From<WorkerMessage> for pb::WorkerMessage {
    fn from(message: WorkerMessage) -> Self {
        let kind = match message {
            WorkerMessage::Hello(hello) => FromKind::Hello(hello.into()),
            WorkerMessage::Heartbeat => FromKind::Heartbeat(pb::Heartbeat {}),
            WorkerMessage::Message(message) => match message {
                FromWorker::Ready => FromKind::Ready(pb::Ready {}),
                FromWorker::FenceAck { generation, state } => FromKind::FenceAck(pb::FenceAck {
                    generation: generation.0,
                    state: state.map(Into::into),
                }),
                FromWorker::StepDone(done) => FromKind::StepDone(done.into()),
                FromWorker::Complaint { generation, complaint } => {
                    FromKind::Complaint(pb::Complaint {
                        generation: generation.0,
                        kind: Some(complaint.into()),
                    })
                }
                FromWorker::SnapshotMissing(step) => {
                    FromKind::SnapshotMissing(pb::SnapshotMissing { step })
                }
                FromWorker::StateDiffered { position, tensor } => {
                    FromKind::StateDiffered(pb::StateDiffered {
                        position: Some(position.into()),
                        tensor,
                    })
                }
                FromWorker::ProbeResult { peer, reached } => {
                    FromKind::ProbeResult(pb::ProbeResult { peer: Some(peer.into()), reached })
                }
                FromWorker::Leave => FromKind::Leave(pb::Leave {}),
            },
        };
        Self { kind: Some(kind), checksum: 0 }.with_checksum()
    }
}

impl TryFrom<pb::WorkerMessage> for WorkerMessage {
    type Error = Malformed;

    fn try_from(message: pb::WorkerMessage) -> Result<Self, Malformed> {
        // A hello of another version has fields that this one cannot seal again. It is turned away for its version.
        let is_foreign =
            matches!(&message.kind, Some(FromKind::Hello(hello)) if hello.protocol != PROTOCOL);
        let message = if is_foreign { message } else { message.verify_checksum()? };
        let message = match message
            .kind
            .ok_or(Malformed("a worker's message of an unknown kind"))?
        {
            FromKind::Hello(hello) => return Ok(Self::Hello(hello.try_into()?)),
            FromKind::Heartbeat(pb::Heartbeat {}) => return Ok(Self::Heartbeat),
            FromKind::Ready(pb::Ready {}) => FromWorker::Ready,
            FromKind::FenceAck(pb::FenceAck { generation, state }) => {
                let state = state.map(TryInto::try_into).transpose()?;
                FromWorker::FenceAck { generation: Generation(generation), state }
            }
            FromKind::StepDone(done) => FromWorker::StepDone(done.try_into()?),
            FromKind::Complaint(pb::Complaint { generation, kind }) => FromWorker::Complaint {
                generation: Generation(generation),
                complaint: required(kind, "a complaint of an unknown kind")?,
            },
            FromKind::SnapshotMissing(pb::SnapshotMissing { step }) => {
                FromWorker::SnapshotMissing(step)
            }
            FromKind::StateDiffered(pb::StateDiffered { position, tensor }) => {
                FromWorker::StateDiffered {
                    position: required(position, "a difference without a position")?,
                    tensor,
                }
            }
            FromKind::ProbeResult(pb::ProbeResult { peer, reached }) => FromWorker::ProbeResult {
                peer: required(peer, "a probe without a worker")?,
                reached,
            },
            FromKind::Leave(pb::Leave {}) => FromWorker::Leave,
        };
        Ok(Self::Message(message))
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
        Ok(match kind {
            pb::complaint::Kind::StreamBroken(peer) => Self::StreamBroken(convert::rank(peer)?),
            pb::complaint::Kind::Timeout(peer) => Self::Timeout(convert::rank(peer)?),
            pb::complaint::Kind::StateMismatch(pb::StateMismatch {
                peer,
                position,
                mine,
                theirs,
            }) => Self::StateMismatch {
                peer: convert::rank(peer)?,
                position: required(position, "a difference without a position")?,
                mine: Digest(mine),
                theirs: Digest(theirs),
            },
            pb::complaint::Kind::CopyFailed(pb::CopyFailed {}) => Self::CopyFailed,
            pb::complaint::Kind::StateCorrupted(pb::StateCorrupted { tensor }) => {
                Self::StateCorrupted(tensor)
            }
            pb::complaint::Kind::ShardsFailed(pb::FailedShards { position, shards, what }) => {
                Self::ShardsFailed(FailedShards {
                    position: required(position, "unusable vectors without a position")?,
                    shards: shards.into_iter().map(convert::shard).collect::<Result<_, _>>()?,
                    what,
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

    fn try_from(hello: pb::Hello) -> Result<Self, Malformed> {
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

impl From<CoordinatorMessage> for pb::CoordinatorMessage {
    fn from(message: CoordinatorMessage) -> Self {
        let kind = match message {
            CoordinatorMessage::Welcome(welcome) => ToKind::Welcome(welcome.into()),
            CoordinatorMessage::Refused(reason) => ToKind::Refused(pb::Refused { reason }),
            CoordinatorMessage::Heartbeat => ToKind::Heartbeat(pb::Heartbeat {}),
            CoordinatorMessage::Message(message) => match message {
                ToWorker::Fence(Generation(generation)) => ToKind::Fence(pb::Fence { generation }),
                ToWorker::Plan(plan) => ToKind::Plan((&*plan).into()),
                ToWorker::Persisted(step) => ToKind::Persisted(pb::Persisted { step }),
                ToWorker::RequestSnapshot(step) => {
                    ToKind::RequestSnapshot(pb::RequestSnapshot { step })
                }
                ToWorker::RetainSnapshot(step) => {
                    ToKind::RetainSnapshot(pb::RetainSnapshot { step })
                }
                ToWorker::Probe(peer, address) => {
                    ToKind::Probe(pb::Probe { peer: Some(peer.into()), address })
                }
                ToWorker::Finish(Finish::Done) => ToKind::Finish(pb::Finish { failure: None }),
                ToWorker::Finish(Finish::Failed(why)) => {
                    ToKind::Finish(pb::Finish { failure: Some(why) })
                }
            },
        };
        Self { kind: Some(kind), checksum: 0 }.with_checksum()
    }
}

impl TryFrom<pb::CoordinatorMessage> for CoordinatorMessage {
    type Error = Malformed;

    fn try_from(message: pb::CoordinatorMessage) -> Result<Self, Malformed> {
        // A refusal without a checksum is one of an earlier version, in words.
        let is_foreign = message.checksum == 0 && matches!(&message.kind, Some(ToKind::Refused(_)));
        let message = if is_foreign { message } else { message.verify_checksum()? };
        let message = match message
            .kind
            .ok_or(Malformed("a coordinator's message of an unknown kind"))?
        {
            ToKind::Welcome(welcome) => return Ok(Self::Welcome(welcome.try_into()?)),
            ToKind::Refused(pb::Refused { reason }) => return Ok(Self::Refused(reason)),
            ToKind::Heartbeat(pb::Heartbeat {}) => return Ok(Self::Heartbeat),
            ToKind::Fence(pb::Fence { generation }) => ToWorker::Fence(Generation(generation)),
            ToKind::Plan(plan) => ToWorker::Plan(Arc::new(plan.try_into()?)),
            ToKind::Persisted(pb::Persisted { step }) => ToWorker::Persisted(step),
            ToKind::RequestSnapshot(pb::RequestSnapshot { step }) => {
                ToWorker::RequestSnapshot(step)
            }
            ToKind::RetainSnapshot(pb::RetainSnapshot { step }) => ToWorker::RetainSnapshot(step),
            ToKind::Probe(pb::Probe { peer, address }) => {
                ToWorker::Probe(required(peer, "a probe without a worker")?, address)
            }
            ToKind::Finish(pb::Finish { failure }) => {
                ToWorker::Finish(failure.map_or(Finish::Done, Finish::Failed))
            }
        };
        Ok(Self::Message(message))
    }
}

impl From<Welcome> for pb::Welcome {
    fn from(Welcome { run, spec, schedule, likely_shards }: Welcome) -> Self {
        Self {
            run: run.0,
            spec: Some(spec.into()),
            schedule: Some(pb::Schedule {
                last_step: schedule.last_step,
                log_every: schedule.log_every,
                grid_every: schedule.grid_every,
                checkpoint_every: schedule.checkpoint_every,
            }),
            likely_shards: likely_shards.into_iter().map(|shard| shard.0.into()).collect(),
        }
    }
}

impl TryFrom<pb::Welcome> for Welcome {
    type Error = Malformed;

    fn try_from(welcome: pb::Welcome) -> Result<Self, Malformed> {
        let schedule = welcome.schedule.ok_or(Malformed("a welcome without a schedule"))?;
        let pb::Schedule { last_step, log_every, grid_every, checkpoint_every } = schedule;
        if [log_every, grid_every, checkpoint_every].contains(&0) {
            return Err(Malformed("a schedule with an interval of 0 steps"));
        }
        Ok(Self {
            run: RunId(welcome.run),
            spec: required(welcome.spec, "a welcome without a spec")?,
            schedule: Schedule { last_step, log_every, grid_every, checkpoint_every },
            likely_shards: welcome
                .likely_shards
                .into_iter()
                .map(convert::shard)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<RunSpec> for pb::RunSpec {
    fn from(spec: RunSpec) -> Self {
        let DatasetInfo { images, rows, columns, digest } = spec.data;
        Self {
            objective: spec.objective.to_string(),
            batch_size: spec.batch_size as u64,
            shards: spec.shards.into(),
            seed: spec.seed,
            learning_rate: spec.learning_rate,
            beta1: spec.beta1,
            images: images as u64,
            rows: rows as u64,
            columns: columns as u64,
            data_digest: digest.0,
        }
    }
}

impl TryFrom<pb::RunSpec> for RunSpec {
    type Error = Malformed;

    fn try_from(spec: pb::RunSpec) -> Result<Self, Malformed> {
        let kinds = [ObjectiveKind::Dcgan, ObjectiveKind::Toy];
        let objective = kinds.into_iter().find(|kind| kind.to_string() == spec.objective);
        let spec = Self {
            objective: objective.ok_or(Malformed("a spec with an unknown objective"))?,
            batch_size: convert::size(spec.batch_size)?,
            shards: spec
                .shards
                .try_into()
                .map_err(|_| Malformed("a spec with more than 65535 shards"))?,
            seed: spec.seed,
            learning_rate: spec.learning_rate,
            beta1: spec.beta1,
            data: DatasetInfo {
                images: convert::size(spec.images)?,
                rows: convert::size(spec.rows)?,
                columns: convert::size(spec.columns)?,
                digest: Digest(spec.data_digest),
            },
        };
        spec.check().map(|_| ()).map_err(|_| Malformed("a spec that cannot be followed"))?;
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use dcgan_core::ids::{Phase, Position, Rank, WorkerId};
    use dcgan_core::metrics::StepDone;
    use dcgan_core::protocol::plan::{Member, Plan, StateRef};
    use proptest::prelude::*;

    use super::*;

    fn state() -> impl Strategy<Value = StateRef> {
        (any::<u64>(), any::<u64>(), proptest::sample::select(&Phase::ALL), any::<u64>()).prop_map(
            |(generation, step, phase, digest)| StateRef {
                generation: Generation(generation),
                position: Position { step, phase },
                digest: Digest(digest),
            },
        )
    }

    fn worker() -> impl Strategy<Value = WorkerId> {
        ("[a-z0-9.-]{1,20}", any::<u64>())
            .prop_map(|(name, incarnation)| WorkerId { name, incarnation })
    }

    fn plan() -> impl Strategy<Value = Plan> {
        let members =
            proptest::collection::vec((worker(), "[a-z.]{1,9}:[0-9]{4}", any::<bool>()), 1..5);
        (any::<u64>(), members, 0usize..4, state()).prop_map(
            |(generation, members, more, start)| {
                let count = members.len();
                let member = |(id, address, holds_start)| Member { id, address, holds_start };
                Plan {
                    generation: Generation(generation),
                    members: members.into_iter().map(member).collect(),
                    owners: (0..count + more).map(|shard| Rank((shard % count) as u16)).collect(),
                    start,
                }
            },
        )
    }

    fn done() -> impl Strategy<Value = StepDone> {
        (any::<[u64; 3]>(), any::<u16>(), any::<[u16; 6]>()).prop_map(
            |([step, generation, digest], world_size, m)| StepDone {
                step,
                generation: Generation(generation),
                world_size,
                digest: Digest(digest),
                metrics: m.map(f32::from),
                step_ms: 1.5,
                allreduce_ms: 0.25,
            },
        )
    }

    fn complaint() -> impl Strategy<Value = Complaint> {
        prop_oneof![
            any::<u16>().prop_map(|peer| Complaint::StreamBroken(Rank(peer))),
            any::<u16>().prop_map(|peer| Complaint::Timeout(Rank(peer))),
            (any::<u16>(), state(), any::<u64>()).prop_map(|(peer, state, theirs)| {
                Complaint::StateMismatch {
                    peer: Rank(peer),
                    position: state.position,
                    mine: state.digest,
                    theirs: Digest(theirs),
                }
            }),
            Just(Complaint::CopyFailed),
            "[a-z.]{1,9}".prop_map(Complaint::StateCorrupted),
            (state(), proptest::collection::vec(any::<u16>(), 1..5), ".{0,30}").prop_map(
                |(state, shards, what)| {
                    let shards = shards.into_iter().map(ShardId).collect();
                    Complaint::ShardsFailed(FailedShards { position: state.position, shards, what })
                }
            ),
        ]
    }

    fn hello() -> impl Strategy<Value = Hello> {
        (proptest::option::of(any::<u64>()), worker(), any::<[u64; 2]>(), ".{0,30}", any::<u32>())
            .prop_map(|(run, id, [plan, promised], text, protocol)| Hello {
                run: run.map(RunId),
                id,
                protocol,
                fingerprint: text.clone(),
                address: text,
                plan: Generation(plan),
                promised: Generation(promised),
            })
    }

    fn from_worker() -> impl Strategy<Value = WorkerMessage> {
        let message = prop_oneof![
            Just(FromWorker::Ready),
            (any::<u64>(), proptest::option::of(state())).prop_map(|(generation, state)| {
                FromWorker::FenceAck { generation: Generation(generation), state }
            }),
            done().prop_map(FromWorker::StepDone),
            (any::<u64>(), complaint()).prop_map(|(generation, complaint)| FromWorker::Complaint {
                generation: Generation(generation),
                complaint
            }),
            any::<u64>().prop_map(FromWorker::SnapshotMissing),
            (state(), "[a-z.]{1,9}").prop_map(|(state, tensor)| FromWorker::StateDiffered {
                position: state.position,
                tensor
            }),
            (worker(), any::<bool>())
                .prop_map(|(peer, reached)| FromWorker::ProbeResult { peer, reached }),
            Just(FromWorker::Leave),
        ];
        prop_oneof![
            hello().prop_map(WorkerMessage::Hello),
            Just(WorkerMessage::Heartbeat),
            message.prop_map(WorkerMessage::Message),
        ]
    }

    fn welcome() -> impl Strategy<Value = Welcome> {
        (any::<[u64; 3]>(), [1u64..99, 1..99, 1..99], proptest::collection::vec(any::<u16>(), 0..9))
            .prop_map(
                |([run, seed, last_step], [log_every, grid_every, checkpoint_every], shards)| {
                    Welcome {
                        run: RunId(run),
                        spec: RunSpec {
                            objective: ObjectiveKind::Dcgan,
                            batch_size: 256,
                            shards: 8,
                            seed,
                            learning_rate: 2e-4,
                            beta1: 0.5,
                            data: DatasetInfo {
                                images: 60_000,
                                rows: 28,
                                columns: 28,
                                digest: Digest(seed),
                            },
                        },
                        schedule: Schedule { last_step, log_every, grid_every, checkpoint_every },
                        likely_shards: shards.into_iter().map(ShardId).collect(),
                    }
                },
            )
    }

    fn from_coordinator() -> impl Strategy<Value = CoordinatorMessage> {
        let message = prop_oneof![
            any::<u64>().prop_map(|generation| ToWorker::Fence(Generation(generation))),
            plan().prop_map(|plan| ToWorker::Plan(Arc::new(plan))),
            any::<u64>().prop_map(ToWorker::Persisted),
            any::<u64>().prop_map(ToWorker::RequestSnapshot),
            any::<u64>().prop_map(ToWorker::RetainSnapshot),
            (worker(), "[a-z.]{1,9}:[0-9]{4}")
                .prop_map(|(peer, address)| ToWorker::Probe(peer, address)),
            Just(ToWorker::Finish(Finish::Done)),
            ".{0,9}".prop_map(|why| ToWorker::Finish(Finish::Failed(why))),
        ];
        prop_oneof![
            welcome().prop_map(CoordinatorMessage::Welcome),
            ".{0,9}".prop_map(CoordinatorMessage::Refused),
            Just(CoordinatorMessage::Heartbeat),
            message.prop_map(CoordinatorMessage::Message),
        ]
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_arrives(up in from_worker(), down in from_coordinator()) {
            prop_assert_eq!(WorkerMessage::try_from(pb::WorkerMessage::from(up.clone())), Ok(up));
            prop_assert_eq!(CoordinatorMessage::try_from(pb::CoordinatorMessage::from(down.clone())), Ok(down));
        }

        #[test]
        fn no_bytes_are_a_panic(bytes: Vec<u8>) {
            use prost::Message;
            let _ = pb::WorkerMessage::decode(&*bytes).map(WorkerMessage::try_from);
            let _ = pb::CoordinatorMessage::decode(&*bytes).map(CoordinatorMessage::try_from);
        }
    }

    #[test]
    fn only_a_refusal_may_lack_a_checksum() {
        let reason = "of an earlier version".to_owned();
        let arrived = |kind| {
            CoordinatorMessage::try_from(pb::CoordinatorMessage { kind: Some(kind), checksum: 0 })
        };
        let refused = arrived(ToKind::Refused(pb::Refused { reason: reason.clone() })).unwrap();
        assert!(matches!(refused, CoordinatorMessage::Refused(arrived) if arrived == reason));
        assert!(arrived(ToKind::Heartbeat(pb::Heartbeat {})).is_err());
    }

    #[test]
    fn what_no_program_sends_is_refused() {
        let check = |kind: Option<FromKind>, what: &str| {
            let error =
                WorkerMessage::try_from(pb::WorkerMessage { kind, checksum: 0 }.with_checksum())
                    .unwrap_err();
            assert_eq!(error.to_string(), format!("malformed message: {what}"));
        };
        check(None, "a worker's message of an unknown kind");
        check(Some(FromKind::Hello(pb::Hello::default())), "a hello without an id");
        check(
            Some(FromKind::Hello(pb::Hello {
                id: Some(pb::WorkerId::default()),
                ..Default::default()
            })),
            "a worker's name that is not 1 to 100 of letters, digits, '-', '_' and '.'",
        );
        let done = pb::StepDone { metrics: vec![0.0; 5], ..Default::default() };
        check(Some(FromKind::StepDone(done)), "a step with another number of metrics");
    }
}
