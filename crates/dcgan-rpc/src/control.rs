//! The control stream: what the coordinator and its workers tell each other.

use std::sync::Arc;

use dcgan_core::config::{DataSet, ObjectiveKind, Recipe};
use dcgan_core::ids::{Digest, Generation, RunId, ShardId};
use dcgan_core::message::{Finish, FromWorker, Hello, PROTOCOL, ToWorker, Trouble, Unusable};
use dcgan_core::schedule::Schedule;

use crate::checked::Checked;
use crate::convert::{self, Malformed, required};
use crate::pb;
use pb::coordinator_message::Kind as ToKind;
use pb::worker_message::Kind as FromKind;

/// A message of a worker's control stream.
#[derive(Clone, Debug, PartialEq)]
pub enum FromWorkerStream {
    /// The first.
    Hello(Hello),
    /// A sign of life.
    Heartbeat,
    /// For the coordinator's machine.
    Message(FromWorker),
}

/// A message of the coordinator's control stream.
#[derive(Clone, Debug, PartialEq)]
pub enum FromCoordinator {
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
    pub recipe: Recipe,
    /// Its length and intervals.
    pub schedule: Schedule,
    /// The partitions of these shards are fetched first.
    pub likely_shards: Vec<ShardId>,
}

impl From<FromWorkerStream> for pb::WorkerMessage {
    fn from(message: FromWorkerStream) -> Self {
        let kind = match message {
            FromWorkerStream::Hello(hello) => FromKind::Hello(hello.into()),
            FromWorkerStream::Heartbeat => FromKind::Heartbeat(pb::Heartbeat {}),
            FromWorkerStream::Message(message) => match message {
                FromWorker::Ready => FromKind::Ready(pb::Ready {}),
                FromWorker::Fenced { generation, state } => {
                    FromKind::Fenced(pb::Fenced { generation: generation.0, state: state.map(Into::into) })
                }
                FromWorker::StepDone(done) => FromKind::StepDone(done.into()),
                FromWorker::Trouble { generation, trouble } => {
                    FromKind::Trouble(pb::Trouble { generation: generation.0, kind: Some(trouble.into()) })
                }
                FromWorker::Lacks(step) => FromKind::Lacks(pb::Lacks { step }),
                FromWorker::Differed { position, tensor } => {
                    FromKind::Differed(pb::Differed { position: Some(position.into()), tensor })
                }
                FromWorker::Probed { peer, reached } => {
                    FromKind::Probed(pb::Probed { peer: Some(peer.into()), reached })
                }
                FromWorker::Leave => FromKind::Leave(pb::Leave {}),
            },
        };
        Self { kind: Some(kind), checksum: 0 }.sealed()
    }
}

impl TryFrom<pb::WorkerMessage> for FromWorkerStream {
    type Error = Malformed;

    fn try_from(message: pb::WorkerMessage) -> Result<Self, Malformed> {
        // A hello of another version has fields that this one cannot seal again. It is turned away for its version.
        let is_foreign = matches!(&message.kind, Some(FromKind::Hello(hello)) if hello.protocol != PROTOCOL);
        let message = if is_foreign { message } else { message.opened()? };
        let message = match message.kind.ok_or(Malformed("a worker's message of an unknown kind"))? {
            FromKind::Hello(hello) => return Ok(Self::Hello(hello.try_into()?)),
            FromKind::Heartbeat(pb::Heartbeat {}) => return Ok(Self::Heartbeat),
            FromKind::Ready(pb::Ready {}) => FromWorker::Ready,
            FromKind::Fenced(pb::Fenced { generation, state }) => {
                let state = state.map(TryInto::try_into).transpose()?;
                FromWorker::Fenced { generation: Generation(generation), state }
            }
            FromKind::StepDone(done) => FromWorker::StepDone(done.try_into()?),
            FromKind::Trouble(pb::Trouble { generation, kind }) => FromWorker::Trouble {
                generation: Generation(generation),
                trouble: required(kind, "a trouble of an unknown kind")?,
            },
            FromKind::Lacks(pb::Lacks { step }) => FromWorker::Lacks(step),
            FromKind::Differed(pb::Differed { position, tensor }) => {
                FromWorker::Differed { position: required(position, "a difference without a position")?, tensor }
            }
            FromKind::Probed(pb::Probed { peer, reached }) => {
                FromWorker::Probed { peer: required(peer, "a probe without a worker")?, reached }
            }
            FromKind::Leave(pb::Leave {}) => FromWorker::Leave,
        };
        Ok(Self::Message(message))
    }
}

impl From<Trouble> for pb::trouble::Kind {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::StreamBroken(peer) => Self::StreamBroken(peer.0.into()),
            Trouble::Owes(peer) => Self::Owes(peer.0.into()),
            Trouble::Differs { peer, position, mine, theirs } => Self::Differs(pb::Differs {
                peer: peer.0.into(),
                position: Some(position.into()),
                mine: mine.0,
                theirs: theirs.0,
            }),
            Trouble::CannotCopy => Self::CannotCopy(pb::CannotCopy {}),
            Trouble::Damaged(tensor) => Self::Damaged(pb::Damaged { tensor }),
            Trouble::Unusable(Unusable { position, shards, what }) => Self::Unusable(pb::Unusable {
                position: Some(position.into()),
                shards: shards.into_iter().map(|shard| shard.0.into()).collect(),
                what,
            }),
        }
    }
}

impl TryFrom<pb::trouble::Kind> for Trouble {
    type Error = Malformed;

    fn try_from(kind: pb::trouble::Kind) -> Result<Self, Malformed> {
        Ok(match kind {
            pb::trouble::Kind::StreamBroken(peer) => Self::StreamBroken(convert::rank(peer)?),
            pb::trouble::Kind::Owes(peer) => Self::Owes(convert::rank(peer)?),
            pb::trouble::Kind::Differs(pb::Differs { peer, position, mine, theirs }) => Self::Differs {
                peer: convert::rank(peer)?,
                position: required(position, "a difference without a position")?,
                mine: Digest(mine),
                theirs: Digest(theirs),
            },
            pb::trouble::Kind::CannotCopy(pb::CannotCopy {}) => Self::CannotCopy,
            pb::trouble::Kind::Damaged(pb::Damaged { tensor }) => Self::Damaged(tensor),
            pb::trouble::Kind::Unusable(pb::Unusable { position, shards, what }) => Self::Unusable(Unusable {
                position: required(position, "unusable vectors without a position")?,
                shards: shards.into_iter().map(convert::shard).collect::<Result<_, _>>()?,
                what,
            }),
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

impl From<FromCoordinator> for pb::CoordinatorMessage {
    fn from(message: FromCoordinator) -> Self {
        let kind = match message {
            FromCoordinator::Welcome(welcome) => ToKind::Welcome(welcome.into()),
            FromCoordinator::Refused(reason) => ToKind::Refused(pb::Refused { reason }),
            FromCoordinator::Heartbeat => ToKind::Heartbeat(pb::Heartbeat {}),
            FromCoordinator::Message(message) => match message {
                ToWorker::Fence(Generation(generation)) => ToKind::Fence(pb::Fence { generation }),
                ToWorker::Plan(plan) => ToKind::Plan((&*plan).into()),
                ToWorker::Stored(step) => ToKind::Stored(pb::Stored { step }),
                ToWorker::Fetch(step) => ToKind::Fetch(pb::Fetch { step }),
                ToWorker::Keep(step) => ToKind::Keep(pb::Keep { step }),
                ToWorker::Probe(peer, address) => ToKind::Probe(pb::Probe { peer: Some(peer.into()), address }),
                ToWorker::Finish(Finish::Done) => ToKind::Finish(pb::Finish { failure: None }),
                ToWorker::Finish(Finish::Failed(why)) => ToKind::Finish(pb::Finish { failure: Some(why) }),
            },
        };
        Self { kind: Some(kind), checksum: 0 }.sealed()
    }
}

impl TryFrom<pb::CoordinatorMessage> for FromCoordinator {
    type Error = Malformed;

    fn try_from(message: pb::CoordinatorMessage) -> Result<Self, Malformed> {
        // A refusal without a checksum is one of an earlier version, in words.
        let is_foreign = message.checksum == 0 && matches!(&message.kind, Some(ToKind::Refused(_)));
        let message = if is_foreign { message } else { message.opened()? };
        let message = match message.kind.ok_or(Malformed("a coordinator's message of an unknown kind"))? {
            ToKind::Welcome(welcome) => return Ok(Self::Welcome(welcome.try_into()?)),
            ToKind::Refused(pb::Refused { reason }) => return Ok(Self::Refused(reason)),
            ToKind::Heartbeat(pb::Heartbeat {}) => return Ok(Self::Heartbeat),
            ToKind::Fence(pb::Fence { generation }) => ToWorker::Fence(Generation(generation)),
            ToKind::Plan(plan) => ToWorker::Plan(Arc::new(plan.try_into()?)),
            ToKind::Stored(pb::Stored { step }) => ToWorker::Stored(step),
            ToKind::Fetch(pb::Fetch { step }) => ToWorker::Fetch(step),
            ToKind::Keep(pb::Keep { step }) => ToWorker::Keep(step),
            ToKind::Probe(pb::Probe { peer, address }) => {
                ToWorker::Probe(required(peer, "a probe without a worker")?, address)
            }
            ToKind::Finish(pb::Finish { failure }) => ToWorker::Finish(failure.map_or(Finish::Done, Finish::Failed)),
        };
        Ok(Self::Message(message))
    }
}

impl From<Welcome> for pb::Welcome {
    fn from(Welcome { run, recipe, schedule, likely_shards }: Welcome) -> Self {
        Self {
            run: run.0,
            recipe: Some(recipe.into()),
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
            recipe: required(welcome.recipe, "a welcome without a recipe")?,
            schedule: Schedule { last_step, log_every, grid_every, checkpoint_every },
            likely_shards: welcome.likely_shards.into_iter().map(convert::shard).collect::<Result<_, _>>()?,
        })
    }
}

impl From<Recipe> for pb::Recipe {
    fn from(recipe: Recipe) -> Self {
        let DataSet { images, rows, columns, digest } = recipe.data;
        Self {
            objective: recipe.objective.to_string(),
            batch_size: recipe.batch_size as u64,
            shards: recipe.shards.into(),
            seed: recipe.seed,
            learning_rate: recipe.learning_rate,
            beta1: recipe.beta1,
            images: images as u64,
            rows: rows as u64,
            columns: columns as u64,
            data_digest: digest.0,
        }
    }
}

impl TryFrom<pb::Recipe> for Recipe {
    type Error = Malformed;

    fn try_from(recipe: pb::Recipe) -> Result<Self, Malformed> {
        let kinds = [ObjectiveKind::Dcgan, ObjectiveKind::Toy];
        let objective = kinds.into_iter().find(|kind| kind.to_string() == recipe.objective);
        let recipe = Self {
            objective: objective.ok_or(Malformed("a recipe with an unknown objective"))?,
            batch_size: convert::size(recipe.batch_size)?,
            shards: recipe.shards.try_into().map_err(|_| Malformed("a recipe with more than 65535 shards"))?,
            seed: recipe.seed,
            learning_rate: recipe.learning_rate,
            beta1: recipe.beta1,
            data: DataSet {
                images: convert::size(recipe.images)?,
                rows: convert::size(recipe.rows)?,
                columns: convert::size(recipe.columns)?,
                digest: Digest(recipe.data_digest),
            },
        };
        recipe.check().map(|_| ()).map_err(|_| Malformed("a recipe that cannot be followed"))?;
        Ok(recipe)
    }
}

#[cfg(test)]
mod tests {
    use dcgan_core::ids::{Position, Rank, WorkerId};
    use dcgan_core::metrics::StepDone;
    use dcgan_core::plan::{Member, Plan, StateAt};
    use proptest::prelude::*;

    use super::*;

    fn state() -> impl Strategy<Value = StateAt> {
        (any::<u64>(), any::<u64>(), any::<u8>(), any::<u64>()).prop_map(|(generation, step, phase, digest)| StateAt {
            generation: Generation(generation),
            position: Position { step, phase },
            digest: Digest(digest),
        })
    }

    fn worker() -> impl Strategy<Value = WorkerId> {
        ("[a-z0-9.-]{1,20}", any::<u64>()).prop_map(|(name, incarnation)| WorkerId { name, incarnation })
    }

    fn plan() -> impl Strategy<Value = Plan> {
        let members = proptest::collection::vec((worker(), "[a-z.]{1,9}:[0-9]{4}", any::<bool>()), 1..5);
        (any::<u64>(), members, 0usize..4, state()).prop_map(|(generation, members, more, start)| {
            let count = members.len();
            let member = |(id, address, holds_start)| Member { id, address, holds_start };
            Plan {
                generation: Generation(generation),
                members: members.into_iter().map(member).collect(),
                owners: (0..count + more).map(|shard| Rank((shard % count) as u16)).collect(),
                start,
            }
        })
    }

    fn done() -> impl Strategy<Value = StepDone> {
        (any::<[u64; 3]>(), any::<u16>(), any::<[u16; 6]>()).prop_map(|([step, generation, digest], world_size, m)| {
            StepDone {
                step,
                generation: Generation(generation),
                world_size,
                digest: Digest(digest),
                metrics: m.map(f32::from),
                step_ms: 1.5,
                allreduce_ms: 0.25,
            }
        })
    }

    fn trouble() -> impl Strategy<Value = Trouble> {
        prop_oneof![
            any::<u16>().prop_map(|peer| Trouble::StreamBroken(Rank(peer))),
            any::<u16>().prop_map(|peer| Trouble::Owes(Rank(peer))),
            (any::<u16>(), state(), any::<u64>()).prop_map(|(peer, state, theirs)| Trouble::Differs {
                peer: Rank(peer),
                position: state.position,
                mine: state.digest,
                theirs: Digest(theirs),
            }),
            Just(Trouble::CannotCopy),
            "[a-z.]{1,9}".prop_map(Trouble::Damaged),
            (state(), proptest::collection::vec(any::<u16>(), 1..5), ".{0,30}").prop_map(|(state, shards, what)| {
                let shards = shards.into_iter().map(ShardId).collect();
                Trouble::Unusable(Unusable { position: state.position, shards, what })
            }),
        ]
    }

    fn hello() -> impl Strategy<Value = Hello> {
        (proptest::option::of(any::<u64>()), worker(), any::<[u64; 2]>(), ".{0,30}", any::<u32>()).prop_map(
            |(run, id, [plan, promised], text, protocol)| Hello {
                run: run.map(RunId),
                id,
                protocol,
                fingerprint: text.clone(),
                address: text,
                plan: Generation(plan),
                promised: Generation(promised),
            },
        )
    }

    fn from_worker() -> impl Strategy<Value = FromWorkerStream> {
        let message = prop_oneof![
            Just(FromWorker::Ready),
            (any::<u64>(), proptest::option::of(state()))
                .prop_map(|(generation, state)| FromWorker::Fenced { generation: Generation(generation), state }),
            done().prop_map(FromWorker::StepDone),
            (any::<u64>(), trouble())
                .prop_map(|(generation, trouble)| FromWorker::Trouble { generation: Generation(generation), trouble }),
            any::<u64>().prop_map(FromWorker::Lacks),
            (state(), "[a-z.]{1,9}")
                .prop_map(|(state, tensor)| FromWorker::Differed { position: state.position, tensor }),
            (worker(), any::<bool>()).prop_map(|(peer, reached)| FromWorker::Probed { peer, reached }),
            Just(FromWorker::Leave),
        ];
        prop_oneof![
            hello().prop_map(FromWorkerStream::Hello),
            Just(FromWorkerStream::Heartbeat),
            message.prop_map(FromWorkerStream::Message),
        ]
    }

    fn welcome() -> impl Strategy<Value = Welcome> {
        (any::<[u64; 3]>(), [1u64..99, 1..99, 1..99], proptest::collection::vec(any::<u16>(), 0..9)).prop_map(
            |([run, seed, last_step], [log_every, grid_every, checkpoint_every], shards)| Welcome {
                run: RunId(run),
                recipe: Recipe {
                    objective: ObjectiveKind::Dcgan,
                    batch_size: 256,
                    shards: 8,
                    seed,
                    learning_rate: 2e-4,
                    beta1: 0.5,
                    data: DataSet { images: 60_000, rows: 28, columns: 28, digest: Digest(seed) },
                },
                schedule: Schedule { last_step, log_every, grid_every, checkpoint_every },
                likely_shards: shards.into_iter().map(ShardId).collect(),
            },
        )
    }

    fn from_coordinator() -> impl Strategy<Value = FromCoordinator> {
        let message = prop_oneof![
            any::<u64>().prop_map(|generation| ToWorker::Fence(Generation(generation))),
            plan().prop_map(|plan| ToWorker::Plan(Arc::new(plan))),
            any::<u64>().prop_map(ToWorker::Stored),
            any::<u64>().prop_map(ToWorker::Fetch),
            any::<u64>().prop_map(ToWorker::Keep),
            (worker(), "[a-z.]{1,9}:[0-9]{4}").prop_map(|(peer, address)| ToWorker::Probe(peer, address)),
            Just(ToWorker::Finish(Finish::Done)),
            ".{0,9}".prop_map(|why| ToWorker::Finish(Finish::Failed(why))),
        ];
        prop_oneof![
            welcome().prop_map(FromCoordinator::Welcome),
            ".{0,9}".prop_map(FromCoordinator::Refused),
            Just(FromCoordinator::Heartbeat),
            message.prop_map(FromCoordinator::Message),
        ]
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_arrives(up in from_worker(), down in from_coordinator()) {
            prop_assert_eq!(FromWorkerStream::try_from(pb::WorkerMessage::from(up.clone())), Ok(up));
            prop_assert_eq!(FromCoordinator::try_from(pb::CoordinatorMessage::from(down.clone())), Ok(down));
        }

        #[test]
        fn no_bytes_are_a_panic(bytes: Vec<u8>) {
            use prost::Message;
            let _ = pb::WorkerMessage::decode(&*bytes).map(FromWorkerStream::try_from);
            let _ = pb::CoordinatorMessage::decode(&*bytes).map(FromCoordinator::try_from);
        }
    }

    #[test]
    fn only_a_refusal_may_lack_a_checksum() {
        let reason = "of an earlier version".to_owned();
        let arrived = |kind| FromCoordinator::try_from(pb::CoordinatorMessage { kind: Some(kind), checksum: 0 });
        let refused = arrived(ToKind::Refused(pb::Refused { reason: reason.clone() })).unwrap();
        assert!(matches!(refused, FromCoordinator::Refused(arrived) if arrived == reason));
        assert!(arrived(ToKind::Heartbeat(pb::Heartbeat {})).is_err());
    }

    #[test]
    fn what_no_program_sends_is_refused() {
        let check = |kind: Option<FromKind>, what: &str| {
            let error = FromWorkerStream::try_from(pb::WorkerMessage { kind, checksum: 0 }.sealed()).unwrap_err();
            assert_eq!(error.to_string(), format!("malformed message: {what}"));
        };
        check(None, "a worker's message of an unknown kind");
        check(Some(FromKind::Hello(pb::Hello::default())), "a hello without an id");
        check(
            Some(FromKind::Hello(pb::Hello { id: Some(pb::WorkerId::default()), ..Default::default() })),
            "a worker's name that is not 1 to 100 of letters, digits, '-', '_' and '.'",
        );
        let done = pb::StepDone { metrics: vec![0.0; 5], ..Default::default() };
        check(Some(FromKind::StepDone(done)), "a step with another number of metrics");
    }
}
