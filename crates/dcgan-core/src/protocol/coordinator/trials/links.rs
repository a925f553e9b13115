//! Which workers have shown that they reach each other, and which of them can train together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ids::WorkerId;

/// The way from one worker to another, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// The first was asked at this time to reach the other, and has not answered.
    Asked(Duration),
    /// The first has reached the other.
    Reached,
    /// The first has not reached the other, for this reason.
    Broken(String),
}

/// A pair of workers in both directions, as far as they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pair {
    /// Both have reached each other.
    Reached,
    /// Nothing has failed, but not all is known.
    Open,
    /// At least one direction has failed.
    Broken,
}

/// The links between workers: from each of them, to others.
#[derive(Debug, Default)]
pub(super) struct Links(BTreeMap<WorkerId, BTreeMap<WorkerId, Link>>);

impl Links {
    pub(super) fn get(&self, from: &WorkerId, to: &WorkerId) -> Option<&Link> {
        self.0.get(from)?.get(to)
    }

    pub(super) fn set(&mut self, from: &WorkerId, to: &WorkerId, link: Link) {
        self.0.entry(from.clone()).or_default().insert(to.clone(), link);
    }

    /// Forgets everything about a worker.
    pub(super) fn forget(&mut self, id: &WorkerId) {
        self.0.remove(id);
        for links in self.0.values_mut() {
            links.remove(id);
        }
    }

    /// Forgets what a worker was asked and has not answered: the question or the answer is lost.
    pub(super) fn forget_questions_to(&mut self, id: &WorkerId) {
        if let Some(links) = self.0.get_mut(id) {
            links.retain(|_, link| !matches!(link, Link::Asked(_)));
        }
    }

    /// Gives up the questions that were asked at `asked_at` or before.
    pub(super) fn give_up(&mut self, asked_at: Duration, why: &str) {
        for link in self.0.values_mut().flat_map(BTreeMap::values_mut) {
            if matches!(link, Link::Asked(at) if *at <= asked_at) {
                *link = Link::Broken(why.to_owned());
            }
        }
    }

    /// Returns whether a question to or about a worker is not answered.
    pub(super) fn is_asked(&self, id: &WorkerId) -> bool {
        let is_asked = |link: Option<&Link>| matches!(link, Some(Link::Asked(_)));
        let from = self.0.get(id).into_iter().flat_map(BTreeMap::values);
        from.into_iter().any(|link| is_asked(Some(link)))
            || self.0.values().any(|links| is_asked(links.get(id)))
    }

    /// The time of the oldest question that is not answered.
    pub(super) fn oldest_question(&self) -> Option<Duration> {
        let asked = |link: &Link| if let Link::Asked(at) = link { Some(*at) } else { None };
        self.0.values().flat_map(BTreeMap::values).filter_map(asked).min()
    }

    /// Notes that these workers have trained together: they reach each other.
    pub(super) fn trust(&mut self, workers: &[&WorkerId]) {
        for from in workers {
            for to in workers.iter().filter(|to| *to != from) {
                self.set(from, to, Link::Reached);
            }
        }
    }

    pub(super) fn pair(&self, one: &WorkerId, other: &WorkerId) -> Pair {
        match (self.get(one, other), self.get(other, one)) {
            (Some(Link::Broken(_)), _) | (_, Some(Link::Broken(_))) => Pair::Broken,
            (Some(Link::Reached), Some(Link::Reached)) => Pair::Reached,
            _ => Pair::Open,
        }
    }

    /// The workers that are left when none of them has a pair that is not [`Pair::Reached`] any
    /// more. Each worker is given with its place in the order in which they came.
    ///
    /// The worker with most such pairs is taken away first; of equal ones the one that most others
    /// do not reach, since a wrong address is noticed by those who use it; then one that is not of
    /// the `core`; then the one that came later.
    pub(super) fn group(
        &self,
        workers: &BTreeMap<WorkerId, u64>,
        core: &BTreeSet<WorkerId>,
    ) -> BTreeSet<WorkerId> {
        let mut group = workers.clone();
        while let Some(worst) = self.worst(&group, core) {
            group.remove(&worst);
        }
        group.into_keys().collect()
    }

    /// The worker that is taken away first; `None` if all reach each other.
    pub(super) fn worst(
        &self,
        workers: &BTreeMap<WorkerId, u64>,
        core: &BTreeSet<WorkerId>,
    ) -> Option<WorkerId> {
        let faults = |id: &WorkerId| {
            let pairs = workers.keys().filter(|other| match *other == id {
                // A worker may have a fault that is its own.
                true => matches!(self.get(id, id), Some(Link::Broken(_))),
                false => self.pair(id, other) != Pair::Reached,
            });
            let missed = workers.keys().filter(|other| {
                matches!(self.get(other, id), Some(Link::Broken(_) | Link::Asked(_)))
            });
            (pairs.count(), missed.count())
        };
        workers
            .iter()
            .map(|(id, arrival)| (faults(id), !core.contains(id), *arrival, id))
            .filter(|((pairs, _), ..)| *pairs > 0)
            .max()
            .map(|(_, _, _, id)| id.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: char) -> WorkerId {
        WorkerId { name: name.into(), incarnation: 1 }
    }

    /// The group of workers `names`, who came in this order, when these links are broken.
    fn group(names: &str, broken: &[&str], core: &str) -> String {
        let mut links = Links::default();
        let ids: Vec<WorkerId> = names.chars().map(id).collect();
        links.trust(&ids.iter().collect::<Vec<_>>());
        for link in broken {
            let mut ends = link.chars().map(id);
            let (from, to) = (ends.next().unwrap(), ends.next().unwrap());
            links.set(&from, &to, Link::Broken("cut".to_owned()));
        }
        let workers = ids.into_iter().zip(1..).collect();
        let group = links.group(&workers, &core.chars().map(id).collect());
        group.into_iter().map(|id| id.name).collect()
    }

    #[test]
    fn the_worker_at_a_wrong_address_is_taken_away_although_it_came_first() {
        assert_eq!(group("abc", &["ba", "ca"], ""), "bc");
        assert_eq!(group("ab", &["ba"], ""), "b", "nobody reaches a");
        assert_eq!(group("ab", &["ab"], ""), "a");
        assert_eq!(group("ab", &["ab", "ba"], ""), "a", "of two, the later one");
        assert_eq!(group("abc", &[], ""), "abc");
    }

    #[test]
    fn the_worker_with_most_broken_links_goes_first() {
        assert_eq!(group("abcd", &["ac", "bc", "dc", "ab"], ""), "ad");
        assert_eq!(group("abc", &["bb"], ""), "ac", "a fault of its own");
    }

    #[test]
    fn of_equal_workers_those_stay_that_have_trained_together() {
        assert_eq!(group("abc", &["ab", "ba"], "bc"), "bc");
    }
}
