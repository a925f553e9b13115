//! The search for workers that finish a step together, after plans that have finished none.
//!
//! What workers say of each other is a hint and no proof: those that lie may be more than those
//! that do not. So complaints decide which set of workers is tried first, and never that a set is
//! not tried: no set is tried again before each other one was tried as often. If some set of
//! workers can finish a step, it is found after as many plans as there are sets at most.
//!
//! Sets without a complaint of one of them about another come first. Workers complain of those that
//! keep them waiting, so honest ones that reach each other are such a set, however many others say
//! something of them or of each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::WorkerId;

/// So many sets are looked at for one without a complaint. There are more only among many workers
/// that complain of most others; then the sets are taken in their order.
const LOOKED_MAX: usize = 20_000;

/// The sets of workers that were tried since the last finished step, and how often.
#[derive(Debug, Default)]
pub(super) struct Search(BTreeMap<BTreeSet<WorkerId>, usize>);

impl Search {
    /// Notes that a set was tried that was not chosen here.
    pub(super) fn note(&mut self, set: BTreeSet<WorkerId>) {
        self.0.entry(set).or_insert(1);
    }

    /// Begins a new search, after a finished step.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Chooses the set of at least `min` workers that is tried next. `None` if there are too few.
    ///
    /// The `workers` are given with the one first that is left out first; the `core` has finished a
    /// step together before; of each pair of `quarrels` one has complained of the other. Sets with
    /// `outsiders`, which have passed no trial, are tried when all others were: a member that lies
    /// may have kept an honest worker from passing.
    pub(super) fn choose(
        &mut self,
        workers: &[WorkerId],
        outsiders: &[WorkerId],
        core: &BTreeSet<WorkerId>,
        quarrels: &[(WorkerId, WorkerId)],
        min: usize,
    ) -> Option<BTreeSet<WorkerId>> {
        if workers.len() < min {
            return None;
        }
        let all = [outsiders, workers].concat();
        // The first round in which a set is left is the one that counts.
        let chosen = (0..).find_map(|round| {
            let find = |workers| self.find(workers, core, quarrels, min, round);
            find(workers).or_else(|| find(&all))
        })?;
        *self.0.entry(chosen.clone()).or_default() += 1;
        Some(chosen)
    }

    /// The first set of at least `min` of these workers that was not tried more than `round` times.
    fn find(
        &self,
        workers: &[WorkerId],
        core: &BTreeSet<WorkerId>,
        quarrels: &[(WorkerId, WorkerId)],
        min: usize,
        round: usize,
    ) -> Option<BTreeSet<WorkerId>> {
        let place = |id| workers.iter().position(|worker| worker == id);
        let quarrels: Vec<(usize, usize)> =
            quarrels.iter().filter_map(|(one, other)| Some((place(one)?, place(other)?))).collect();
        let is_peaceful =
            |set: &Vec<bool>| quarrels.iter().all(|&(one, other)| !(set[one] && set[other]));
        let named = |set: Vec<bool>| -> BTreeSet<WorkerId> {
            workers.iter().zip(set).filter(|(_, is_in)| *is_in).map(|(id, _)| id.clone()).collect()
        };
        let is_left = |set: &BTreeSet<WorkerId>| self.tries(set) <= round;
        let sets = || (0..=workers.len() - min).flat_map(|count| without(workers.len(), count));

        // What has worked once is what to go back to.
        let core = named(workers.iter().map(|id| core.contains(id)).collect());
        let core = Some(core).filter(|core| core.len() >= min && is_left(core));
        let peaceful = || sets().take(LOOKED_MAX).filter(is_peaceful).map(named).find(is_left);
        core.or_else(peaceful).or_else(|| sets().map(named).find(is_left))
    }

    fn tries(&self, set: &BTreeSet<WorkerId>) -> usize {
        self.0.get(set).copied().unwrap_or(0)
    }
}

/// All sets of `all` places without so many of them, each as a list that tells which are in it. The
/// first places are left out first.
fn without(all: usize, count: usize) -> impl Iterator<Item = Vec<bool>> {
    let first: Vec<usize> = (0..count).collect();
    let next = move |out: &Vec<usize>| {
        // The last place that can move on does, and those after it follow it.
        let moved = (0..count).rev().find(|&at| out[at] < all - count + at)?;
        let mut out = out.clone();
        out[moved] += 1;
        for at in moved + 1..count {
            out[at] = out[at - 1] + 1;
        }
        Some(out)
    };
    std::iter::successors(Some(first), next)
        .map(move |out| (0..all).map(|place| !out.contains(&place)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: char) -> WorkerId {
        WorkerId { name: name.into(), incarnation: 1 }
    }

    /// The sets of at least `min` workers that are tried one after the other.
    fn search(
        workers: &str,
        core: &str,
        quarrels: &[&str],
        min: usize,
        plans: usize,
    ) -> Vec<String> {
        let ids: Vec<WorkerId> = workers.chars().map(id).collect();
        let core = core.chars().map(id).collect();
        let pair = |pair: &&str| {
            let mut ends = pair.chars().map(id);
            (ends.next().unwrap(), ends.next().unwrap())
        };
        let quarrels: Vec<_> = quarrels.iter().map(pair).collect();
        let mut search = Search::default();
        search.note(ids.iter().cloned().collect());
        let mut choose = || search.choose(&ids, &[], &core, &quarrels, min).unwrap();
        (0..plans).map(|_| choose().into_iter().map(|id| id.name).collect()).collect()
    }

    #[test]
    fn every_set_is_tried_once_before_any_is_tried_again() {
        let sets = search("abcde", "", &["ab", "ac", "ad"], 2, 25);
        assert_eq!(sets.iter().collect::<BTreeSet<_>>().len(), 25, "26 sets, and one has failed");
        let again = search("abcde", "", &["ab", "ac", "ad"], 2, 27);
        assert_eq!(again[25], "bcde", "the next round begins as the first");
    }

    #[test]
    fn liars_are_left_out_although_they_are_in_most_complaints_of_others() {
        // x and y keep others waiting, and accuse those others and each other.
        let sets = search("xyabc", "", &["xy", "xa", "xb"], 3, 2);
        assert_eq!(sets, ["abcy", "abc"].map(str::to_owned));
        let sets = search("abcxy", "", &["xa", "xb", "xc", "ya", "yb", "yc"], 3, 1);
        assert_eq!(sets, ["abc".to_owned()], "although they were said to be at fault");
    }

    #[test]
    fn what_has_worked_once_is_tried_first_and_once() {
        assert_eq!(search("cba", "ab", &["ab"], 1, 2), ["ab", "ac"].map(str::to_owned));
        assert_eq!(search("ab", "ab", &[], 2, 2), ["ab", "ab"].map(str::to_owned));
    }

    #[test]
    fn those_that_a_member_has_kept_out_are_tried_when_all_others_were() {
        let (members, outsiders) = (['a', 'x'].map(id), [id('b')]);
        let mut search = Search::default();
        let mut choose = || {
            let set = search.choose(&members, &outsiders, &BTreeSet::new(), &[], 2).unwrap();
            set.into_iter().map(|id| id.name).collect::<String>()
        };
        assert_eq!(
            [choose(), choose(), choose(), choose()],
            ["ax", "abx", "bx", "ab"].map(str::to_owned)
        );
    }

    #[test]
    fn many_workers_that_accuse_each_other_take_no_time() {
        let workers: String = ('\u{100}'..'\u{140}').collect();
        let pairs: Vec<String> = workers
            .chars()
            .flat_map(|one| workers.chars().map(move |other| [one, other].iter().collect()))
            .collect();
        let pairs: Vec<&str> = pairs.iter().map(String::as_str).collect();
        assert_eq!(search(&workers, "", &pairs, 2, 1)[0].chars().count(), 63);
    }
}
