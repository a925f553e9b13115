//! Conversions of the types that several messages share.
//!
//! A value from the wire is checked here, before it becomes one of the core's types.

use dcgan_core::evaluation::PartId;
use dcgan_core::ids::{Digest, Generation, Phase, Position, Rank, ShardId, WorkerId};
use dcgan_core::metrics::StepDone;
use dcgan_core::protocol::plan::{InvalidPlan, Member, Plan, StateRef};

use crate::net::Address;
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

/// The longest text for people that a worker sends, in bytes. The rest is left out.
pub(crate) const WORKER_TEXT_BYTES_MAX: usize = 256;
/// The longest text for people that the coordinator sends, in bytes. The rest is left out.
pub(crate) const COORDINATOR_TEXT_BYTES_MAX: usize = 1024;
/// The longest address, in bytes: a host name of 253, a colon, a port, brackets. A longer one is
/// refused.
const ADDRESS_BYTES_MAX: usize = 262;
/// The longest fingerprint, in bytes. A longer one is refused.
const FINGERPRINT_BYTES_MAX: usize = 100;
/// The largest number of values of a part of an evaluation. With more, the message is refused.
const PART_VALUES_MAX: usize = 64 * 1024;

/// Converts a text for people. Control characters would act on their terminals and forge lines of
/// the log, so they are written as escapes; what is too long is cut.
pub(crate) fn text(text: &str, bytes_max: usize) -> String {
    let mut clean = String::new();
    for c in text.chars() {
        let escaped: String =
            if c.is_control() { c.escape_default().collect() } else { c.to_string() };
        if clean.len() + escaped.len() > bytes_max {
            break;
        }
        clean.push_str(&escaped);
    }
    clean
}

/// Converts an address at which workers reach each other, as host:port.
pub(crate) fn address(text: String) -> Result<String, Malformed> {
    let is_address = text.len() <= ADDRESS_BYTES_MAX && text.parse::<Address>().is_ok();
    if is_address { Ok(text) } else { Err(Malformed("an address that is not host:port")) }
}

/// Converts the fingerprint of a worker's arithmetic.
pub(crate) fn fingerprint(text: String) -> Result<String, Malformed> {
    let is_plain = text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    if is_plain && (1..=FINGERPRINT_BYTES_MAX).contains(&text.len()) {
        Ok(text)
    } else {
        Err(Malformed("a fingerprint that is not 1 to 100 printable characters"))
    }
}

/// Converts the values of a part of an evaluation.
pub(crate) fn part_values(part: pb::PartValues) -> Result<Vec<f64>, Malformed> {
    if part.values.len() > PART_VALUES_MAX {
        return Err(Malformed("a part of an evaluation with more than 65536 values"));
    }
    Ok(part.values)
}

/// Converts a field that must be present; `missing` says what is wrong if it is not.
pub(crate) fn required<T, U>(field: Option<T>, missing: &'static str) -> Result<U, Malformed>
where
    U: TryFrom<T, Error = Malformed>,
{
    field.ok_or(Malformed(missing))?.try_into()
}

pub(crate) fn rank(number: u32) -> Result<Rank, Malformed> {
    number.try_into().map(Rank).map_err(|_| Malformed("a rank above 65535"))
}

fn shard(number: u32) -> Result<ShardId, Malformed> {
    number.try_into().map(ShardId).map_err(|_| Malformed("a shard above 65535"))
}

pub(crate) fn shards(numbers: Vec<u32>) -> Result<Vec<ShardId>, Malformed> {
    if numbers.len() > usize::from(u16::MAX) {
        return Err(Malformed("a list of more than 65535 shards"));
    }
    numbers.into_iter().map(shard).collect()
}

impl From<Position> for pb::Position {
    fn from(Position { step, phase }: Position) -> Self {
        Self { step, phase: u8::from(phase).into() }
    }
}

impl TryFrom<pb::Position> for Position {
    type Error = Malformed;

    fn try_from(pb::Position { step, phase }: pb::Position) -> Result<Self, Malformed> {
        match Phase::ALL.get(phase as usize) {
            Some(&phase) => Ok(Self { step, phase }),
            None => Err(Malformed("a phase above 2")),
        }
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

impl From<&Member> for pb::Member {
    fn from(Member { id, address, holds_start }: &Member) -> Self {
        Self { id: Some(id.clone().into()), address: address.clone(), holds_start: *holds_start }
    }
}

impl TryFrom<pb::Member> for Member {
    type Error = Malformed;

    fn try_from(member: pb::Member) -> Result<Self, Malformed> {
        let pb::Member { id, address, holds_start } = member;
        let id = required(id, "a member without an id")?;
        Ok(Self { id, address: self::address(address)?, holds_start })
    }
}

impl From<&Plan> for pb::Plan {
    fn from(plan: &Plan) -> Self {
        Self {
            generation: plan.generation.0,
            members: plan.members().iter().map(Into::into).collect(),
            owners: plan.owners().iter().map(|rank| rank.0.into()).collect(),
            start: Some(plan.start.into()),
        }
    }
}

impl TryFrom<pb::Plan> for Plan {
    type Error = Malformed;

    fn try_from(plan: pb::Plan) -> Result<Self, Malformed> {
        // Both lists are as long as the sender likes: nothing is made of them before they fit.
        if plan.members.len() > plan.owners.len() || plan.owners.len() > usize::from(u16::MAX) {
            return Err(Malformed("a plan with more members than shards, or too many of both"));
        }
        let members: Vec<Member> =
            plan.members.into_iter().map(Member::try_from).collect::<Result<_, _>>()?;
        let owners: Vec<Rank> = plan.owners.into_iter().map(rank).collect::<Result<_, _>>()?;
        let start = required(plan.start, "a plan without a start")?;
        Self::new(Generation(plan.generation), members, owners, start).map_err(|error| {
            Malformed(match error {
                InvalidPlan::TooLarge => "a plan of more than 65535 members or shards",
                InvalidPlan::Unfit => {
                    "a plan in which a shard has no owner or a member has no shard"
                }
            })
        })
    }
}

impl From<StepDone> for pb::StepDone {
    fn from(done: StepDone) -> Self {
        Self {
            step: done.step,
            generation: done.generation.0,
            world_size: done.world_size.into(),
            digest: done.digest.0,
            metrics: done.metrics,
            step_ms: done.step_ms,
            allreduce_ms: done.allreduce_ms,
            ends_run: done.ends_run,
        }
    }
}

impl From<PartId> for pb::PartId {
    fn from(id: PartId) -> Self {
        Self { step: id.step, digest: id.digest.0, part: id.part.into() }
    }
}

impl TryFrom<pb::PartId> for PartId {
    type Error = Malformed;

    fn try_from(id: pb::PartId) -> Result<Self, Malformed> {
        let pb::PartId { step, digest, part } = id;
        let part = part.try_into().map_err(|_| Malformed("a part above 65535"))?;
        Ok(Self { step, digest: Digest(digest), part })
    }
}

/// Converts a report of a step of an objective with this number of `metrics`.
///
/// # Errors
/// If no worker with this objective sends such a report.
pub fn step_done(done: pb::StepDone, metrics: usize) -> Result<StepDone, Malformed> {
    let world_size =
        done.world_size.try_into().map_err(|_| Malformed("a world size above 65535"))?;
    if done.metrics.len() != metrics {
        return Err(Malformed("a step with another number of metrics"));
    }
    Ok(StepDone {
        step: done.step,
        generation: Generation(done.generation),
        world_size,
        digest: Digest(done.digest),
        ends_run: done.ends_run,
        metrics: done.metrics,
        step_ms: done.step_ms,
        allreduce_ms: done.allreduce_ms,
    })
}
