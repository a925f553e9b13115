//! From the answers to a fence to the next plan.

use std::collections::BTreeSet;

use super::Failure;
use super::stragglers::Stragglers;
use crate::ids::{Digest, Generation, Position, Rank, WorkerId};
use crate::protocol::plan::{Member, Plan, StateRef, assign, even_loads};

/// A worker that has answered the fence.
pub(super) struct Candidate {
    pub(super) id: WorkerId,
    pub(super) address: String,
    pub(super) state: Option<StateRef>,
    /// In which order workers came.
    pub(super) joined: u64,
}

impl Candidate {
    pub(super) fn holds(&self, start: &StateRef) -> bool {
        self.state
            .is_some_and(|state| (state.position, state.digest) == (start.position, start.digest))
    }
}

/// Where the plan of `generation` starts: the furthest of the candidates' states by (generation, step, phase), or the
/// newest checkpoint if that is further. None if nobody has a state and there is no checkpoint. Of states that differ at
/// the front, that of the majority: they are never summed, and the others copy it.
///
/// # Errors
/// If there is no majority.
pub(super) fn choose_start(
    generation: Generation,
    candidates: &[Candidate],
    saved: Option<(Position, Digest)>,
) -> Result<Option<StateRef>, Failure> {
    let key = |state: &StateRef| (state.generation, state.position);
    let mut leader = candidates.iter().filter_map(|candidate| candidate.state).max_by_key(key);
    if let Some(front) = leader {
        let at_its_side = |state: &StateRef| key(state) == key(&front);
        let leading = candidates
            .iter()
            .filter_map(|c| Some((c.id.name.clone(), c.state.filter(at_its_side)?.digest)));
        let states: Vec<(String, Digest)> = leading.collect();
        let votes = |digest: Digest| states.iter().filter(|(_, other)| *other == digest).count();
        let most = states.iter().map(|&(_, digest)| votes(digest)).max().unwrap_or(0);
        let chosen: BTreeSet<Digest> = states
            .iter()
            .map(|&(_, digest)| digest)
            .filter(|&digest| votes(digest) == most)
            .collect();
        let (Some(&chosen), 1) = (chosen.first(), chosen.len()) else {
            return Err(Failure::Differ { position: front.position, states });
        };
        leader = Some(StateRef { digest: chosen, ..front });
    }
    let from_disk =
        saved.filter(|(position, _)| leader.is_none_or(|leader| leader.position < *position));
    let start = from_disk.or(leader.map(|leader| (leader.position, leader.digest)));
    Ok(start.map(|(position, digest)| StateRef { generation, position, digest }))
}

/// The plan that goes on from `start` with as many candidates as there are shards for, moving as few shards as possible.
pub(super) fn make_plan(
    previous: Option<&Plan>,
    mut candidates: Vec<Candidate>,
    start: StateRef,
    shards: u16,
    stragglers: &Stragglers,
) -> Plan {
    let rank_before = |candidate: &Candidate| previous.and_then(|plan| plan.rank_of(&candidate.id));
    // Holders of the start state come first: with more workers than shards, they must not end up as spares.
    candidates.sort_by_key(|c| {
        (!c.holds(&start), rank_before(c).map_or(u16::MAX, |rank| rank.0), c.joined)
    });
    candidates.truncate(usize::from(shards));
    let new_rank = |old: Rank| {
        let place = candidates.iter().position(|candidate| rank_before(candidate) == Some(old))?;
        Some(Rank(place as u16))
    };
    let owners_before: Vec<Option<Rank>> = match previous {
        Some(plan) => plan.owners.iter().map(|&old| new_rank(old)).collect(),
        None => vec![None; usize::from(shards)],
    };
    let ids: Vec<WorkerId> = candidates.iter().map(|candidate| candidate.id.clone()).collect();
    let loads = stragglers
        .loads(usize::from(shards), &ids)
        .unwrap_or_else(|| even_loads(&owners_before, candidates.len()));
    Plan {
        generation: start.generation,
        owners: assign(&owners_before, loads),
        members: candidates
            .into_iter()
            .map(|candidate| Member {
                holds_start: candidate.holds(&start),
                id: candidate.id,
                address: candidate.address,
            })
            .collect(),
        start,
    }
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
            joined: 0,
        }
    }

    fn leads(candidates: &[Candidate], saved: Option<u64>) -> u64 {
        let saved = saved.map(|step| (Position::after(step), Digest(step)));
        choose_start(Generation(9), candidates, saved).unwrap().unwrap().position.step
    }

    #[test]
    fn the_newest_generation_leads_then_the_furthest() {
        let candidates =
            [candidate("a", 3, 40, 40), candidate("b", 2, 41, 41), candidate("c", 3, 39, 39)];
        assert_eq!(leads(&candidates, None), 40);
        assert_eq!(leads(&candidates, Some(40)), 40);
        assert_eq!(leads(&candidates, Some(60)), 60, "a checkpoint leads if it is newer");
        assert_eq!(choose_start(Generation(9), &[], None), Ok(None));
    }

    #[test]
    fn states_that_differ_at_the_front_are_named() {
        let mut candidates =
            vec![candidate("a", 3, 40, 1), candidate("b", 3, 40, 2), candidate("c", 0, 0, 3)];
        let failure = choose_start(Generation(9), &candidates, None).unwrap_err();
        let text =
            "workers differ at the end of step 40: a has 0000000000000001 b has 0000000000000002";
        assert_eq!(failure.to_string(), text);
        candidates.push(candidate("d", 3, 40, 2));
        assert_eq!(
            choose_start(Generation(9), &candidates, None).unwrap().unwrap().digest,
            Digest(2),
            "the majority goes on"
        );
    }

    #[test]
    fn who_holds_the_start_is_no_spare() {
        let candidates =
            vec![candidate("a", 0, 0, 0), candidate("b", 3, 40, 40), candidate("c", 0, 0, 0)];
        let start = candidates[1].state.unwrap();
        let plan = make_plan(None, candidates, start, 2, &Stragglers::new());
        let members: Vec<(&str, bool)> =
            plan.members.iter().map(|m| (m.id.name.as_str(), m.holds_start)).collect();
        assert_eq!(members, [("b", true), ("a", false)]);
    }
}
