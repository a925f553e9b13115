//! A plan: the workers that train, the shards that each computes, and the state that they start
//! from.
//!
//! A plan never changes once it is announced. When a member comes or goes, the coordinator makes a
//! new plan with the next generation. It moves as few shards as possible, because a worker that
//! receives a shard has to fetch its partition of the data.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, Generation, Position, Rank, ShardId, WorkerId};
use crate::reduction::{Subtree, largest_subtrees};
use crate::words::counted;

/// The identity of a state: enough to compare two states, or to ask for a copy of one, without
/// having its tensors.
///
/// Two states with equal position and digest are the same. The generation decides which of several
/// states is the newest: after a run has gone back to a checkpoint, a smaller step of a newer
/// generation supersedes a larger step of an older one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRef {
    /// The generation in which the state was reached. A state that a plan starts from belongs to
    /// the generation of that plan.
    pub generation: Generation,
    /// The progress of the state.
    pub position: Position,
    /// The digest of the state.
    pub digest: Digest,
}

impl StateRef {
    /// Tells whether both refer to a state with the same bytes, in whatever generations.
    pub fn is_same_state(&self, other: &Self) -> bool {
        (self.position, self.digest) == (other.position, other.digest)
    }
}

/// One worker of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The identity of the worker process.
    #[serde(flatten)]
    pub id: WorkerId,
    /// The address at which the other members reach it, as host:port.
    pub address: String,
    /// True if the worker holds the start state. If no member does, all of them copy it from the
    /// coordinator, which reads its checkpoint.
    pub holds_start: bool,
}

/// The members by rank, the owner of every shard, and the state to start from.
///
/// Members and owners fit together: [`Plan::new`] sees to it, also for a plan from the network or
/// from a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PlanFields", into = "PlanFields")]
pub struct Plan {
    /// The number of the plan.
    pub generation: Generation,
    /// The state that the members start from.
    pub start: StateRef,
    /// The workers, by rank. Each owns at least one shard.
    members: Vec<Member>,
    /// The owner of each shard, by shard.
    owners: Vec<Rank>,
    /// The shards of each member, by rank, in order: the same as `owners`, the other way round.
    /// They are asked for all the time, and looking through all shards would take too long.
    shards: Vec<Vec<ShardId>>,
}

/// A plan as it is stored.
#[derive(Serialize, Deserialize)]
struct PlanFields {
    generation: Generation,
    members: Vec<Member>,
    owners: Vec<Rank>,
    start: StateRef,
}

/// The error for members and owners that do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPlan {
    /// Ranks and shards are counted in 16 bits.
    #[error("a plan of more than 65535 members or shards")]
    TooLarge,
    /// A plan without members, a shard whose owner is not one, or a member that owns no shard.
    #[error("a plan in which a shard has no owner or a member has no shard")]
    Unfit,
}

impl TryFrom<PlanFields> for Plan {
    type Error = InvalidPlan;

    fn try_from(fields: PlanFields) -> Result<Self, InvalidPlan> {
        let PlanFields { generation, members, owners, start } = fields;
        Self::new(generation, members, owners, start)
    }
}

impl From<Plan> for PlanFields {
    fn from(plan: Plan) -> Self {
        let Plan { generation, start, members, owners, shards: _ } = plan;
        Self { generation, members, owners, start }
    }
}

impl Plan {
    /// The plan of a generation: its members by rank, the owner of each shard by shard, and the
    /// state to start from.
    ///
    /// # Errors
    /// If there are no members, an owner is not a member, a member owns no shard, or there are too
    /// many of either.
    pub fn new(
        generation: Generation,
        members: Vec<Member>,
        owners: Vec<Rank>,
        start: StateRef,
    ) -> Result<Self, InvalidPlan> {
        let max = usize::from(u16::MAX);
        if members.len() > max || owners.len() > max {
            return Err(InvalidPlan::TooLarge);
        }
        let mut shards = vec![Vec::new(); members.len()];
        for (owner, shard) in owners.iter().zip(0..) {
            let own = shards.get_mut(usize::from(owner.0)).ok_or(InvalidPlan::Unfit)?;
            own.push(ShardId(shard));
        }
        if members.is_empty() || shards.iter().any(Vec::is_empty) {
            return Err(InvalidPlan::Unfit);
        }
        Ok(Self { generation, start, members, owners, shards })
    }

    /// The workers, by rank.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The owner of each shard, by shard.
    pub fn owners(&self) -> &[Rank] {
        &self.owners
    }

    /// The number of shards.
    pub fn shards(&self) -> u16 {
        self.owners.len() as u16
    }

    /// All ranks, in order.
    pub fn ranks(&self) -> impl Iterator<Item = Rank> + use<> {
        (0..self.members.len() as u16).map(Rank)
    }

    /// The member with this rank.
    pub fn member(&self, rank: Rank) -> Option<&Member> {
        self.members.get(usize::from(rank.0))
    }

    /// The rank of a worker; `None` if it is not a member.
    pub fn rank_of(&self, id: &WorkerId) -> Option<Rank> {
        let index = self.members.iter().position(|member| member.id == *id)?;
        Some(Rank(index as u16))
    }

    /// The rank of the member that computes a shard; `None` if there is no such shard.
    pub fn owner(&self, shard: ShardId) -> Option<Rank> {
        self.owners.get(usize::from(shard.0)).copied()
    }

    /// The shards that a member computes, in order.
    ///
    /// # Panics
    /// If there is no member of this rank.
    pub fn shards_of(&self, rank: Rank) -> &[ShardId] {
        &self.shards[usize::from(rank.0)]
    }

    /// The shards that a member is to compute in the next plan if any one of the others is lost, in
    /// order. It is a guess: speeds and further workers are not known here.
    ///
    /// They are about as many as the member's own shards, whatever the number of members.
    pub fn inherited_by(&self, heir: Rank) -> Vec<ShardId> {
        let mut inherited = Vec::new();
        for lost in self.ranks().filter(|&lost| lost != heir) {
            // The members after the lost one move up by a rank.
            let moved_up = |rank: Rank| Rank(rank.0 - u16::from(rank > lost));
            let left = |&owner: &Rank| (owner != lost).then(|| moved_up(owner));
            let previous: Vec<Option<Rank>> = self.owners.iter().map(left).collect();
            let owners = assign(&previous, even_loads(&previous, self.members.len() - 1));
            let mine = self.shards_of(lost).iter().copied();
            inherited.extend(mine.filter(|shard| owners[usize::from(shard.0)] == moved_up(heir)));
        }
        inherited.sort_unstable();
        inherited
    }

    /// Gives a shard to another member. Only the coordinator does so, before it announces the plan;
    /// it leaves every member at least one shard.
    pub(super) fn move_shard(&mut self, shard: ShardId, to: Rank) {
        let from = std::mem::replace(&mut self.owners[usize::from(shard.0)], to);
        self.shards[usize::from(from.0)].retain(|&other| other != shard);
        let taken = &mut self.shards[usize::from(to.0)];
        taken.insert(taken.partition_point(|&other| other < shard), shard);
    }

    /// One line about the plan for people, of bounded length. The whole plan is its text form.
    pub fn summary(&self) -> String {
        let StateRef { position, digest, .. } = self.start;
        let (shards, members) = (self.shards(), self.members.len());
        format!(
            "generation {}: {} on {}, from {position} (digest {digest})",
            self.generation,
            counted(shards, "shard"),
            counted(members, "member")
        )
    }
}

/// The number of shards for each of `members` ranks if all workers are equally fast.
///
/// Loads differ by one shard at most. If they cannot be equal, the members that own most shards now
/// get one more, so that fewer shards move. `previous` holds each shard's owner so far, as its rank
/// in the new plan; `None` if that worker is no longer a member.
///
/// # Panics
/// If there are no members, or more members than shards.
pub fn even_loads(previous: &[Option<Rank>], members: usize) -> Vec<usize> {
    let shards = previous.len();
    assert!((1..=shards).contains(&members), "{members} members for {shards} shards");

    // Count the shards that each member owns now.
    let mut owned = vec![0usize; members];
    for rank in previous.iter().flatten() {
        owned[usize::from(rank.0)] += 1;
    }

    // Give everybody the same, and what is left over to the members that own most.
    let mut by_owned: Vec<usize> = (0..members).collect();
    by_owned.sort_by_key(|&rank| std::cmp::Reverse(owned[rank]));
    let mut loads = vec![shards / members; members];
    for &rank in &by_owned[..shards % members] {
        loads[rank] += 1;
    }
    loads
}

/// Assigns every shard to a rank, so that rank r gets `loads[r]` shards, and as few shards as
/// possible move.
///
/// `previous` holds each shard's owner so far, as its rank in the new plan; `None` if that worker
/// is no longer a member.
///
/// # Panics
/// If the loads are too small for all shards.
pub fn assign(previous: &[Option<Rank>], loads: Vec<usize>) -> Vec<Rank> {
    let mut room = loads;

    // Leave a shard with its owner as long as the owner has room.
    let mut owners: Vec<Option<Rank>> = vec![None; previous.len()];
    for (owner, &before) in owners.iter_mut().zip(previous) {
        if let Some(rank) = before
            && room[usize::from(rank.0)] > 0
        {
            room[usize::from(rank.0)] -= 1;
            *owner = Some(rank);
        }
    }

    // Give each of the other shards to the first rank that has room.
    let mut first = 0;
    let mut assigned = Vec::with_capacity(owners.len());
    for owner in owners {
        let rank = owner.unwrap_or_else(|| {
            // No rank gets room back, so those without it need not be looked at again.
            let free = room[first..].iter().position(|&room| room > 0);
            first += free.expect("there is room for every shard");
            room[first] -= 1;
            Rank(first as u16)
        });
        assigned.push(rank);
    }
    assigned
}

impl fmt::Display for Plan {
    /// Writes the whole plan for people: one line about its start and its tree, and a line for each
    /// member. With many shards that is a long text: see [`Plan::summary`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StateRef { position, digest, .. } = self.start;
        let (shards, members) = (self.shards(), self.members.len());
        let tree = Subtree::root(shards);
        writeln!(f, "generation {}, from {position} (digest {digest})", self.generation)?;
        let (shards, members) = (counted(shards, "shard"), counted(members, "member"));
        write!(f, "  {shards} on {members}; tree {tree}")?;
        for (member, rank) in self.members.iter().zip(self.ranks()) {
            let own = self.shards_of(rank);
            let sends = join(largest_subtrees(self.shards(), own, own.len()));
            let own = join(own);
            let copies = if member.holds_start { "" } else { "; copies the state" };
            write!(
                f,
                "\n  rank {rank}  {}  {}  shards {own}  sends {sends}{copies}",
                member.id, member.address
            )?;
        }
        Ok(())
    }
}

/// Joins the text forms of `items` with spaces.
fn join(items: impl IntoIterator<Item = impl fmt::Display>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

/// Plans for tests.
#[cfg(test)]
pub(crate) mod fixture {
    use std::sync::Arc;

    use super::*;

    /// A plan of generation 4 in which worker `owners[s]` owns shard s. Workers without a shard are
    /// left out, and `worker-2` does not hold the start state.
    pub(crate) fn plan(shards: u16, owners: &[u16]) -> Arc<Plan> {
        assert_eq!(owners.len(), usize::from(shards));
        let mut workers: Vec<u16> = owners.to_vec();
        workers.sort_unstable();
        workers.dedup();
        let mut ranks = Vec::new();
        for owner in owners {
            let rank = workers.binary_search(owner).expect("every owner is a worker");
            ranks.push(Rank(rank as u16));
        }
        let generation = Generation(4);
        let digest = Digest(0x9f1c_0a5b_e27d_4386);
        let members = workers.into_iter().map(member).collect();
        let start = StateRef { generation, position: Position::after(40), digest };
        Arc::new(Plan::new(generation, members, ranks, start).expect("every owner is a member"))
    }

    fn member(worker: u16) -> Member {
        Member {
            id: WorkerId { name: format!("worker-{worker}"), incarnation: 1 },
            address: format!("127.0.0.1:{}", 7000 + worker),
            holds_start: worker != 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_text_form_of_a_plan_names_members_and_their_shards() {
        let plan = fixture::plan(8, &[0, 0, 0, 1, 1, 1, 2, 2]);
        let text = "\
generation 4, from the end of step 40 (digest 9f1c0a5be27d4386)
  8 shards on 3 members; tree (((01)(23))((45)(67)))
  rank 0  worker-0  127.0.0.1:7000  shards 0 1 2  sends (01) 2
  rank 1  worker-1  127.0.0.1:7001  shards 3 4 5  sends 3 (45)
  rank 2  worker-2  127.0.0.1:7002  shards 6 7  sends (67); copies the state";
        assert_eq!(plan.to_string(), text);
        let line = "generation 4: 8 shards on 3 members, from the end of step 40 (digest \
                    9f1c0a5be27d4386)";
        assert_eq!(plan.summary(), line);
        let alone = fixture::plan(1, &[0]).summary();
        assert!(alone.contains(": 1 shard on 1 member, from "), "{alone}");
    }

    #[test]
    fn members_and_owners_that_do_not_fit_are_refused() {
        let plan = fixture::plan(3, &[0, 0, 1]);
        let made = |members: usize, owners: &[u16]| {
            let owners = owners.iter().copied().map(Rank).collect();
            Plan::new(plan.generation, plan.members()[..members].to_vec(), owners, plan.start)
        };
        assert_eq!(made(2, &[0, 0, 1]).as_ref(), Ok(&*plan));
        for (members, owners) in [(0, &[][..]), (1, &[0, 1]), (2, &[0, 0]), (2, &[])] {
            assert_eq!(made(members, owners), Err(InvalidPlan::Unfit));
        }
        assert_eq!(made(1, &[0; 65536]), Err(InvalidPlan::TooLarge));
    }

    #[test]
    fn a_shard_that_moves_is_found_with_its_new_owner() {
        let mut plan = Plan::clone(&fixture::plan(5, &[0, 1, 1, 0, 1]));
        plan.move_shard(ShardId(2), Rank(0));
        assert_eq!(plan, *fixture::plan(5, &[0, 1, 0, 0, 1]));
    }

    #[test]
    fn a_member_inherits_what_one_lost_member_leaves_to_it() {
        for (owners, heir, expected) in [
            (&[0, 0, 0, 0][..], 0, &[][..]),
            (&[0, 0, 1, 1], 0, &[2, 3]),
            (&[0, 0, 0, 1, 1, 1, 2, 2], 2, &[1, 2, 4, 5]),
        ] {
            let plan = fixture::plan(owners.len() as u16, owners);
            let inherited = plan.inherited_by(Rank(heir));
            assert_eq!(inherited, expected.iter().copied().map(ShardId).collect::<Vec<_>>());
        }
    }

    /// Reads owners drawn as digits, with `-` for a shard whose owner is gone.
    fn owners_from(drawing: &str) -> Vec<Option<Rank>> {
        drawing.chars().map(|c| c.to_digit(10).map(|rank| Rank(rank as u16))).collect()
    }

    #[test]
    fn as_few_shards_as_possible_move() {
        for (before, members, after) in [
            ("--------", 1, "00000000"),
            ("--------", 3, "00011122"),
            ("--------", 8, "01234567"),
            ("00--1122", 3, "00011122"),
            ("0001112-", 3, "00011122"),
            ("00001111", 3, "00021112"),
            ("-----", 3, "00112"),
        ] {
            let previous = owners_from(before);
            let owners = assign(&previous, even_loads(&previous, members));
            let drawn: String = owners.iter().map(Rank::to_string).collect();
            assert_eq!(drawn, after, "{before} on {members} members");
        }
    }

    proptest! {
        #[test]
        fn every_shard_has_an_owner_and_loads_are_even(
            shards in 1usize..20,
            members in 1usize..20,
            previous in proptest::collection::vec(proptest::option::of(0u16..20), 20),
        ) {
            let members = members.min(shards);
            let previous: Vec<Option<Rank>> = previous[..shards]
                .iter()
                .map(|rank| rank.filter(|&rank| usize::from(rank) < members).map(Rank))
                .collect();
            let owners = assign(&previous, even_loads(&previous, members));
            let mut loads = vec![0; members];
            for owner in owners {
                loads[usize::from(owner.0)] += 1;
            }
            prop_assert_eq!(loads.iter().sum::<usize>(), shards);
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1);
        }
    }
}
