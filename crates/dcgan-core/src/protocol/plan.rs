//! A plan: who computes which shard, from which state on. Immutable, and numbered by its generation.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, Generation, Position, Rank, ShardId, WorkerId};
use crate::reduction::{Subtree, largest_subtrees};

/// A state, as far as people who do not hold it know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRef {
    /// The generation in which it was reached; a plan's start state belongs to that plan.
    pub generation: Generation,
    /// How far it has come.
    pub position: Position,
    /// Its digest.
    pub digest: Digest,
}

/// One worker of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which process.
    #[serde(flatten)]
    pub id: WorkerId,
    /// Where others reach it, as host:port.
    pub address: String,
    /// Whether it holds the start state; if nobody does, the coordinator serves it from its checkpoint.
    pub holds_start: bool,
}

/// Members by rank, the owner of every shard, and where they go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Its number.
    pub generation: Generation,
    /// The workers, by rank. Each owns at least one shard.
    pub members: Vec<Member>,
    /// The owner of each shard.
    pub owners: Vec<Rank>,
    /// The state that the members go on from.
    pub start: StateRef,
}

impl Plan {
    /// Shards of the batch.
    pub fn shards(&self) -> u16 {
        self.owners.len() as u16
    }

    /// The ranks in their order.
    pub fn ranks(&self) -> impl Iterator<Item = Rank> + use<> {
        (0..self.members.len() as u16).map(Rank)
    }

    /// The member of that rank.
    pub fn member(&self, rank: Rank) -> Option<&Member> {
        self.members.get(usize::from(rank.0))
    }

    /// The rank of a worker, if it is a member.
    pub fn rank_of(&self, id: &WorkerId) -> Option<Rank> {
        self.members
            .iter()
            .zip(self.ranks())
            .find(|(member, _)| member.id == *id)
            .map(|(_, rank)| rank)
    }

    /// Who computes a shard.
    pub fn owner(&self, shard: ShardId) -> Rank {
        self.owners[usize::from(shard.0)]
    }

    /// What a member computes.
    pub fn shards_of(&self, rank: Rank) -> impl Iterator<Item = ShardId> {
        (0..self.shards()).map(ShardId).filter(move |&shard| self.owner(shard) == rank)
    }

    /// Whether a plan read from a wire or a file can be one: every shard has an owner, every member a shard.
    pub fn is_valid(&self) -> bool {
        !self.members.is_empty()
            && self.owners.iter().all(|&rank| self.member(rank).is_some())
            && self.ranks().all(|rank| self.shards_of(rank).next().is_some())
    }
}

/// How many shards each of `members` ranks gets if all are alike: nobody two more than another, and the larger shares go
/// to those who have most already. `previous` names each shard's owner so far, where it is still a member.
///
/// # Panics
/// If there are no members, or more than shards.
pub fn even(previous: &[Option<Rank>], members: usize) -> Vec<usize> {
    let shards = previous.len();
    assert!((1..=shards).contains(&members), "{members} members for {shards} shards");
    let mut kept = vec![0usize; members];
    for rank in previous.iter().flatten() {
        kept[usize::from(rank.0)] += 1;
    }
    let mut by_load: Vec<usize> = (0..members).collect();
    by_load.sort_by_key(|&rank| std::cmp::Reverse(kept[rank]));
    let mut room = vec![shards / members; members];
    for &rank in &by_load[..shards % members] {
        room[rank] += 1;
    }
    room
}

/// Gives every shard an owner, and every rank as many shards as there is room for. `previous` names each shard's owner so
/// far, where it is still a member: as few shards as possible move.
///
/// # Panics
/// If there is not room for every shard.
pub fn assign(previous: &[Option<Rank>], mut room: Vec<usize>) -> Vec<Rank> {
    let mut owners: Vec<Option<Rank>> = previous
        .iter()
        .map(|&owner| {
            let rank = owner?;
            let room = &mut room[usize::from(rank.0)];
            *room = room.checked_sub(1)?;
            Some(rank)
        })
        .collect();
    for owner in &mut owners {
        if owner.is_none() {
            let rank =
                room.iter().position(|&room| room > 0).expect("there is room for every shard");
            room[rank] -= 1;
            *owner = Some(Rank(rank as u16));
        }
    }
    owners.into_iter().flatten().collect()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StateRef { position, digest, .. } = self.start;
        let (shards, members) = (self.shards(), self.members.len());
        let tree = Subtree::root(shards);
        writeln!(f, "generation {}, from {position} (digest {digest})", self.generation)?;
        write!(f, "  {shards} shards on {members} members; tree {tree}")?;
        for (member, rank) in self.members.iter().zip(self.ranks()) {
            let join = |items: Vec<String>| items.join(" ");
            let shards = join(self.shards_of(rank).map(|shard| shard.to_string()).collect());
            let sends = join(
                largest_subtrees(self.shards(), |s| self.owner(s) == rank)
                    .iter()
                    .map(Subtree::to_string)
                    .collect(),
            );
            let copies = if member.holds_start { "" } else { "; copies the state" };
            write!(
                f,
                "\n  rank {rank}  {}  {}  shards {shards}  sends {sends}{copies}",
                member.id, member.address
            )?;
        }
        Ok(())
    }
}

/// Plans for tests.
#[cfg(test)]
pub(crate) mod fixture {
    use std::sync::Arc;

    use super::*;

    /// A plan in which `owners` name the owner of each shard; owners without a shard are left out.
    pub(crate) fn plan(shards: u16, owners: &[u16]) -> Arc<Plan> {
        assert_eq!(owners.len(), usize::from(shards));
        let mut names: Vec<u16> = owners.to_vec();
        names.sort_unstable();
        names.dedup();
        let rank = |owner: &u16| {
            Rank(names.iter().position(|name| name == owner).expect("it is listed") as u16)
        };
        let member = |name: &u16| Member {
            id: WorkerId { name: format!("worker-{name}"), incarnation: 1 },
            address: format!("127.0.0.1:{}", 7000 + name),
            holds_start: *name != 2,
        };
        let position = Position::after(40);
        Arc::new(Plan {
            generation: Generation(4),
            members: names.iter().map(member).collect(),
            owners: owners.iter().map(rank).collect(),
            start: StateRef {
                generation: Generation(4),
                position,
                digest: Digest(0x9f1c_0a5b_e27d_4386),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_plan_reads_like_a_sentence() {
        let plan = fixture::plan(8, &[0, 0, 0, 1, 1, 1, 2, 2]);
        let text = "\
generation 4, from the end of step 40 (digest 9f1c0a5be27d4386)
  8 shards on 3 members; tree (((01)(23))((45)(67)))
  rank 0  worker-0  127.0.0.1:7000  shards 0 1 2  sends (01) 2
  rank 1  worker-1  127.0.0.1:7001  shards 3 4 5  sends 3 (45)
  rank 2  worker-2  127.0.0.1:7002  shards 6 7  sends (67); copies the state";
        assert_eq!(plan.to_string(), text);
        assert!(plan.is_valid());
    }

    #[test]
    fn shards_move_as_little_as_possible() {
        let check = |previous: &str, members, expected: &str| {
            let previous: Vec<Option<Rank>> =
                previous.chars().map(|c| c.to_digit(10).map(|rank| Rank(rank as u16))).collect();
            let owners: String =
                assign(&previous, even(&previous, members)).iter().map(Rank::to_string).collect();
            assert_eq!(owners, expected);
        };
        check("--------", 1, "00000000");
        check("--------", 3, "00011122");
        check("--------", 8, "01234567");
        check("00--1122", 3, "00011122");
        check("0001112-", 3, "00011122");
        check("00001111", 3, "00021112");
        check("-----", 3, "00112");
    }

    proptest! {
        #[test]
        fn every_shard_has_an_owner_and_loads_are_even(
            shards in 1usize..20, members in 1usize..20, previous in proptest::collection::vec(proptest::option::of(0u16..20), 20),
        ) {
            let members = members.min(shards);
            let previous: Vec<Option<Rank>> =
                previous[..shards].iter().map(|r| r.filter(|&r| usize::from(r) < members).map(Rank)).collect();
            let owners = assign(&previous, even(&previous, members));
            let loads: Vec<usize> =
                (0..members).map(|rank| owners.iter().filter(|o| usize::from(o.0) == rank).count()).collect();
            prop_assert_eq!(loads.iter().sum::<usize>(), shards);
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1);
        }
    }
}
