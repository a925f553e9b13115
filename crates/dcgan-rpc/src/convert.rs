//! Conversions that both services share. What comes from a wire is checked before it becomes one of the core's types.

use dcgan_core::ids::{Digest, Generation, Position, Rank, ShardId, WorkerId};
use dcgan_core::metrics::StepDone;
use dcgan_core::protocol::plan::{Member, Plan, StateRef};

use crate::pb;

/// A message that no program of this version sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct Malformed(pub(crate) &'static str);

impl From<Malformed> for tonic::Status {
    fn from(malformed: Malformed) -> Self {
        Self::invalid_argument(malformed.to_string())
    }
}

/// The value of a field that must be there.
pub(crate) fn required<T, U>(field: Option<T>, missing: &'static str) -> Result<U, Malformed>
where
    U: TryFrom<T, Error = Malformed>,
{
    field.ok_or(Malformed(missing))?.try_into()
}

pub(crate) fn rank(number: u32) -> Result<Rank, Malformed> {
    number.try_into().map(Rank).map_err(|_| Malformed("a rank above 65535"))
}

pub(crate) fn shard(number: u32) -> Result<ShardId, Malformed> {
    number.try_into().map(ShardId).map_err(|_| Malformed("a shard above 65535"))
}

pub(crate) fn size(number: u64) -> Result<usize, Malformed> {
    number.try_into().map_err(|_| Malformed("a size that does not fit this machine"))
}

impl From<Position> for pb::Position {
    fn from(Position { step, phase }: Position) -> Self {
        Self { step, phase: u8::from(phase).into() }
    }
}

impl TryFrom<pb::Position> for Position {
    type Error = Malformed;

    fn try_from(pb::Position { step, phase }: pb::Position) -> Result<Self, Malformed> {
        let phase = u8::try_from(phase).ok().and_then(|phase| phase.try_into().ok());
        Ok(Self { step, phase: phase.ok_or(Malformed("a phase above 2"))? })
    }
}

impl From<StateRef> for pb::StateRef {
    fn from(StateRef { generation, position, digest }: StateRef) -> Self {
        Self { generation: generation.0, position: Some(position.into()), digest: digest.0 }
    }
}

impl TryFrom<pb::StateRef> for StateRef {
    type Error = Malformed;

    fn try_from(state: pb::StateRef) -> Result<Self, Malformed> {
        let position = required(state.position, "a state without a position")?;
        Ok(Self {
            generation: Generation(state.generation),
            position,
            digest: Digest(state.digest),
        })
    }
}

impl From<WorkerId> for pb::WorkerId {
    fn from(WorkerId { name, incarnation }: WorkerId) -> Self {
        Self { name, incarnation }
    }
}

impl TryFrom<pb::WorkerId> for WorkerId {
    type Error = Malformed;

    fn try_from(pb::WorkerId { name, incarnation }: pb::WorkerId) -> Result<Self, Malformed> {
        if !Self::is_name(&name) {
            return Err(Malformed(
                "a worker's name that is not 1 to 100 of letters, digits, '-', '_' and '.'",
            ));
        }
        Ok(Self { name, incarnation })
    }
}

impl From<&Plan> for pb::Plan {
    fn from(plan: &Plan) -> Self {
        let member = |Member { id, address, holds_start }: &Member| pb::Member {
            id: Some(id.clone().into()),
            address: address.clone(),
            holds_start: *holds_start,
        };
        Self {
            generation: plan.generation.0,
            members: plan.members.iter().map(member).collect(),
            owners: plan.owners.iter().map(|rank| rank.0.into()).collect(),
            start: Some(plan.start.into()),
        }
    }
}

impl TryFrom<pb::Plan> for Plan {
    type Error = Malformed;

    fn try_from(plan: pb::Plan) -> Result<Self, Malformed> {
        let member = |pb::Member { id, address, holds_start }| {
            Ok(Member { id: required(id, "a member without an id")?, address, holds_start })
        };
        let members =
            plan.members.into_iter().map(member).collect::<Result<Vec<Member>, Malformed>>()?;
        let owners = plan.owners.into_iter().map(rank).collect::<Result<Vec<Rank>, Malformed>>()?;
        if members.len() > usize::from(u16::MAX) || owners.len() > usize::from(u16::MAX) {
            return Err(Malformed("a plan of more than 65535 members or shards"));
        }
        let start = required(plan.start, "a plan without a start")?;
        let plan = Self { generation: Generation(plan.generation), members, owners, start };
        if plan.is_valid() {
            Ok(plan)
        } else {
            Err(Malformed("a plan in which a shard or a member has nobody"))
        }
    }
}

impl From<StepDone> for pb::StepDone {
    fn from(done: StepDone) -> Self {
        Self {
            step: done.step,
            generation: done.generation.0,
            world_size: done.world_size.into(),
            digest: done.digest.0,
            metrics: done.metrics.to_vec(),
            step_ms: done.step_ms,
            allreduce_ms: done.allreduce_ms,
        }
    }
}

impl TryFrom<pb::StepDone> for StepDone {
    type Error = Malformed;

    fn try_from(done: pb::StepDone) -> Result<Self, Malformed> {
        Ok(Self {
            step: done.step,
            generation: Generation(done.generation),
            world_size: done
                .world_size
                .try_into()
                .map_err(|_| Malformed("a world size above 65535"))?,
            digest: Digest(done.digest),
            metrics: done
                .metrics
                .try_into()
                .map_err(|_| Malformed("a step with another number of metrics"))?,
            step_ms: done.step_ms,
            allreduce_ms: done.allreduce_ms,
        })
    }
}
