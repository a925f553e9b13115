//! Makes the next plan from the answers to a fence.

use std::collections::BTreeMap;

use super::Failure;
use super::stragglers::Stragglers;
use crate::ids::{Digest, Generation, Position, Rank, WorkerId};
use crate::protocol::plan::{Member, Plan, StateRef, assign, even_loads};

/// A worker that has answered the fence and may be a member of the plan.
pub(super) struct Candidate {
    /// The process.
    pub(super) id: WorkerId,
    /// The address at which other workers reach it, as host:port.
    pub(super) address: String,
    /// Its state, if it has sent one.
    pub(super) state: Option<StateRef>,
    /// Its place in the order in which workers came.
    pub(super) arrival: u64,
}

impl Candidate {
    /// Returns whether it has the state `start`. The generation in which it got there does not
    /// matter.
    pub(super) fn holds(&self, start: &StateRef) -> bool {
        match self.state {
            Some(state) => state.position == start.position && state.digest == start.digest,
            None => false,
        }
    }
}

/// The state that the plan of `generation` starts from: the furthest of the candidates' states, or
/// the newest checkpoint `saved` if that is further. `None` if there is neither.
///
/// The furthest state is the one of the newest generation, and in it the one of the furthest
/// position. An older generation may have come further, but the newer plan was made without it.
/// If states differ there, the most frequent one is chosen: different states are never summed, and
/// the workers that have another one copy it.
///
/// # Errors
/// If states differ and none is more frequent than every other.
pub(super) fn choose_start(
    generation: Generation,
    candidates: &[Candidate],
    saved: Option<(Position, Digest)>,
) -> Result<Option<StateRef>, Failure> {
    let furthest = candidates
        .iter()
        .filter_map(|candidate| candidate.state)
        .max_by_key(|state| (state.generation, state.position));
    let held = match furthest {
        Some(state) => Some((state.position, most_frequent_digest(candidates, state)?)),
        None => None,
    };
    let (position, digest) = match (held, saved) {
        (Some(held), Some(saved)) if saved.0 > held.0 => saved,
        (Some(held), _) => held,
        (None, Some(saved)) => saved,
        (None, None) => return Ok(None),
    };
    Ok(Some(StateRef { generation, position, digest }))
}

/// The digest that most candidates have at the generation and position of `front`.
///
/// # Errors
/// If no digest is more frequent than every other.
fn most_frequent_digest(candidates: &[Candidate], front: StateRef) -> Result<Digest, Failure> {
    // Collect the digests at the front and count them.
    let mut states = Vec::new();
    let mut votes: BTreeMap<Digest, usize> = BTreeMap::new();
    for candidate in candidates {
        if let Some(state) = candidate.state
            && state.generation == front.generation
            && state.position == front.position
        {
            states.push((candidate.id.name.clone(), state.digest));
            *votes.entry(state.digest).or_default() += 1;
        }
    }

    let most = votes.values().copied().max().unwrap_or(0);
    let mut winners = votes.iter().filter(|(_, count)| **count == most);
    match (winners.next(), winners.next()) {
        (Some((&digest, _)), None) => Ok(digest),
        _ => Err(Failure::StatesDiffer { position: front.position, states }),
    }
}

/// The plan that goes on from `start` with as many candidates as there are shards for. As few
/// shards as possible move to another owner.
pub(super) fn make_plan(
    previous: Option<&Plan>,
    mut candidates: Vec<Candidate>,
    start: StateRef,
    shards: u16,
    stragglers: &Stragglers,
) -> Plan {
    // Choose the members. Holders of the start state come first: with more workers than shards,
    // they must not end up as spares.
    candidates.sort_by_key(|candidate| {
        let rank = previous_rank(previous, candidate).map_or(u16::MAX, |rank| rank.0);
        (!candidate.holds(&start), rank, candidate.arrival)
    });
    candidates.truncate(usize::from(shards));

    // Assign the shards, by the members' speed if it is known and evenly if not.
    let owners_before = owners_before(previous, &candidates, shards);
    let ids: Vec<WorkerId> = candidates.iter().map(|candidate| candidate.id.clone()).collect();
    let loads = stragglers
        .loads(usize::from(shards), &ids)
        .unwrap_or_else(|| even_loads(&owners_before, candidates.len()));
    let owners = assign(&owners_before, loads);

    let mut members = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let holds_start = candidate.holds(&start);
        members.push(Member { id: candidate.id, address: candidate.address, holds_start });
    }
    let plan = Plan::new(start.generation, members, owners, start);
    plan.expect("every shard has an owner, and every member a shard")
}

/// The rank that a candidate has in the previous plan.
fn previous_rank(previous: Option<&Plan>, candidate: &Candidate) -> Option<Rank> {
    previous?.rank_of(&candidate.id)
}

/// The owner of each shard in the previous plan, by its rank among `members`; `None` for a shard
/// whose owner is no longer a member.
fn owners_before(previous: Option<&Plan>, members: &[Candidate], shards: u16) -> Vec<Option<Rank>> {
    let Some(plan) = previous else {
        return vec![None; usize::from(shards)];
    };
    let mut new_ranks: BTreeMap<Rank, Rank> = BTreeMap::new();
    for (place, member) in members.iter().enumerate() {
        if let Some(old) = plan.rank_of(&member.id) {
            new_ranks.insert(old, Rank(place as u16));
        }
    }
    plan.owners().iter().map(|old| new_ranks.get(old).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, generation: u64, step: u64, digest: u64) -> Candidate {
        Candidate {
            id: WorkerId { name: name.to_owned(), incarnation: 1 },
            address: format!("{name}:1"),
            state: Some(StateRef {
                generation: Generation(generation),
                position: Position::after(step),
                digest: Digest(digest),
            }),
            arrival: 0,
        }
    }

    fn start_step(candidates: &[Candidate], saved: Option<u64>) -> u64 {
        let saved = saved.map(|step| (Position::after(step), Digest(step)));
        choose_start(Generation(9), candidates, saved).unwrap().unwrap().position.step
    }

    #[test]
    fn the_plan_starts_in_the_newest_generation_at_the_furthest_position() {
        let candidates =
            [candidate("a", 3, 40, 40), candidate("b", 2, 41, 41), candidate("c", 3, 39, 39)];
        assert_eq!(start_step(&candidates, None), 40);
        assert_eq!(start_step(&candidates, Some(40)), 40);
        assert_eq!(start_step(&candidates, Some(60)), 60, "a newer checkpoint is preferred");
        assert_eq!(choose_start(Generation(9), &[], None), Ok(None));
    }

    #[test]
    fn states_that_differ_at_the_front_are_named() {
        let mut candidates =
            vec![candidate("a", 3, 40, 1), candidate("b", 3, 40, 2), candidate("c", 0, 0, 3)];
        let failure = choose_start(Generation(9), &candidates, None).unwrap_err();
        let text = "workers differ at the end of step 40, and no state is the most frequent one: \
                    a has 0000000000000001, b has 0000000000000002";
        assert_eq!(failure.to_string(), text);
        candidates.push(candidate("d", 3, 40, 2));
        assert_eq!(
            choose_start(Generation(9), &candidates, None).unwrap().unwrap().digest,
            Digest(2),
            "the most frequent state is chosen"
        );
    }

    #[test]
    fn a_holder_of_the_start_state_is_not_left_as_a_spare() {
        let candidates =
            vec![candidate("a", 0, 0, 0), candidate("b", 3, 40, 40), candidate("c", 0, 0, 0)];
        let start = candidates[1].state.unwrap();
        let plan = make_plan(None, candidates, start, 2, &Stragglers::new());
        let members: Vec<(&str, bool)> =
            plan.members().iter().map(|m| (m.id.name.as_str(), m.holds_start)).collect();
        assert_eq!(members, [("b", true), ("a", false)]);
    }
}
