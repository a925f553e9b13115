//! Workers that reach the coordinator but not each other.
//!
//! A broken stream may be chance: the first complaint makes a new generation with the same members.
//! A second one, without a finished step in between, means that two of them cannot reach each
//! other. Training with both would end generation after generation. So the worker that most peers
//! complain about (on a tie, the one that came later) is quarantined: it is left out of plans until
//! probes between it and those peers succeed in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::registry::WorkerEntry;
use super::{Command, CoordinatorMachine, Notice};
use crate::ids::{Rank, WorkerId};
use crate::protocol::message::ToWorker;
use crate::protocol::plan::Plan;

/// After this many generations that ended without a finished step, a worker is quarantined.
const GENERATIONS_WITHOUT_PROGRESS_MAX: usize = 2;
/// The time between the first two rounds of probes. Each later pause is twice as long.
const PROBE_PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest time between two rounds of probes.
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(30);

/// The complaints about broken streams, and the workers in quarantine.
#[derive(Debug, Default)]
pub(super) struct Reachability {
    /// Generations that ended by a complaint since the last finished step.
    generations_without_progress: usize,
    /// The workers that were complained about since the last finished step, each with those that
    /// complained.
    accusers: BTreeMap<WorkerId, BTreeSet<WorkerId>>,
    quarantined: BTreeMap<WorkerId, Quarantine>,
}

/// The quarantine of one worker.
#[derive(Debug)]
struct Quarantine {
    /// The workers that it does not reach, or that do not reach it.
    peers: BTreeSet<WorkerId>,
    /// The time between the next round of probes and the one after.
    pause: Duration,
    /// The time of the next round of probes.
    probe_at: Duration,
    /// The directions (from, to) in which the present round of probes has succeeded.
    reached: BTreeSet<(WorkerId, WorkerId)>,
}

impl Reachability {
    /// Forgets all complaints, because a step was finished: the members reach each other.
    pub(super) fn record_progress(&mut self) {
        self.generations_without_progress = 0;
        self.accusers.clear();
    }

    /// Counts a generation that a complaint ended before a step was finished.
    pub(super) fn record_generation_without_progress(&mut self) {
        self.generations_without_progress += 1;
    }

    /// Records that the stream between `by` and the member of rank `about` broke.
    pub(super) fn record_broken_stream(&mut self, plan: &Plan, by: &WorkerId, about: Rank) {
        if let Some(member) = plan.member(about) {
            self.accusers.entry(member.id.clone()).or_default().insert(by.clone());
        }
    }

    /// Returns whether a worker is in quarantine.
    pub(super) fn is_quarantined(&self, id: &WorkerId) -> bool {
        self.quarantined.contains_key(id)
    }

    /// The workers in quarantine, each with the peers that it does not reach.
    pub(super) fn quarantined(&self) -> impl Iterator<Item = (&WorkerId, &BTreeSet<WorkerId>)> {
        self.quarantined.iter().map(|(id, quarantine)| (id, &quarantine.peers))
    }

    /// Quarantines the worker that most peers complain about, if there was no progress for too
    /// long. `present` holds the workers that could be planned, with their order of arrival.
    fn quarantine(&mut self, now: Duration, present: &BTreeMap<WorkerId, u64>) -> Option<Notice> {
        if self.generations_without_progress < GENERATIONS_WITHOUT_PROGRESS_MAX {
            return None;
        }
        let id = self.most_accused(present)?;
        let peers = self.unreached_peers(&id, present);
        let names = peers.iter().map(|peer| peer.name.clone()).collect();
        let notice = Notice::Quarantined { name: id.name.clone(), peers: names };
        let quarantine =
            Quarantine { peers, pause: PROBE_PAUSE_MIN, probe_at: now, reached: BTreeSet::new() };
        self.quarantined.insert(id, quarantine);
        // The next generation has other members, so the count starts again.
        self.record_progress();
        Some(notice)
    }

    /// The present worker that most present workers complain about; on a tie the one that came
    /// later.
    fn most_accused(&self, present: &BTreeMap<WorkerId, u64>) -> Option<WorkerId> {
        let mut counts = Vec::new();
        for (accused, accusers) in &self.accusers {
            let count = accusers.iter().filter(|id| present.contains_key(id)).count();
            if let Some(arrival) = present.get(accused)
                && count > 0
            {
                counts.push((count, *arrival, accused));
            }
        }
        counts.into_iter().max().map(|(_, _, id)| id.clone())
    }

    /// The present workers that complain about `id`, and those that `id` complains about.
    fn unreached_peers(
        &self,
        id: &WorkerId,
        present: &BTreeMap<WorkerId, u64>,
    ) -> BTreeSet<WorkerId> {
        let mut peers = BTreeSet::new();
        for (accused, accusers) in &self.accusers {
            if accused == id {
                peers.extend(accusers.iter().cloned());
            } else if accusers.contains(id) {
                peers.insert(accused.clone());
            }
        }
        peers.retain(|peer| present.contains_key(peer));
        peers
    }
}

impl Quarantine {
    /// Returns whether the present round of probes has succeeded in both directions with every
    /// peer.
    fn is_over(&self, id: &WorkerId) -> bool {
        self.peers.iter().all(|peer| {
            self.reached.contains(&(id.clone(), peer.clone()))
                && self.reached.contains(&(peer.clone(), id.clone()))
        })
    }

    /// Begins a round of probes at `now`.
    fn start_round(&mut self, now: Duration) {
        self.probe_at = now + self.pause;
        self.pause = (2 * self.pause).min(PROBE_PAUSE_MAX);
        // A success of an earlier round does not count: the link may have failed again since.
        self.reached.clear();
    }
}

impl CoordinatorMachine {
    /// Quarantines a worker before a plan is made, if there were complaints and no progress.
    pub(super) fn quarantine_unreachable(&mut self) {
        let mut present = BTreeMap::new();
        for worker in self.registry.ready() {
            if !self.reachability.is_quarantined(&worker.id) {
                present.insert(worker.id.clone(), worker.arrival);
            }
        }
        if let Some(notice) = self.reachability.quarantine(self.now, &present) {
            self.notify(notice);
        }
    }

    /// Lets quarantined workers and their peers probe each other, and readmits those that succeed.
    pub(super) fn probe_quarantined(&mut self) {
        let mut released = Vec::new();
        for (id, quarantine) in &mut self.reachability.quarantined {
            // Peers that are gone need not be reached any more.
            quarantine.peers.retain(|peer| self.registry.by_id(peer).is_some());
            let Some(worker) = self.registry.by_id(id) else {
                released.push(id.clone());
                continue;
            };
            if quarantine.is_over(id) {
                released.push(id.clone());
                continue;
            }

            // Ask both ends of every pair to reach the other.
            if self.now >= quarantine.probe_at {
                quarantine.start_round(self.now);
                for peer in quarantine.peers.iter().filter_map(|peer| self.registry.by_id(peer)) {
                    self.out.extend(probe(worker, peer));
                    self.out.extend(probe(peer, worker));
                }
            }
        }

        // Only a worker that is still here is worth a notice.
        for id in released {
            self.reachability.quarantined.remove(&id);
            if self.registry.by_id(&id).is_some() {
                self.notify(Notice::Readmitted(id.name));
            }
        }
    }

    /// Takes the result of a probe from worker `by` to worker `peer`.
    pub(super) fn on_probe_result(&mut self, by: &WorkerId, peer: &WorkerId, reached: bool) {
        if !reached {
            return;
        }
        // Either end may be the one in quarantine.
        for id in [by, peer] {
            if let Some(quarantine) = self.reachability.quarantined.get_mut(id) {
                quarantine.reached.insert((by.clone(), peer.clone()));
            }
        }
    }
}

/// The command that lets worker `from` try to reach worker `to`; `None` while `from` is
/// disconnected.
fn probe(from: &WorkerEntry, to: &WorkerEntry) -> Option<Command> {
    let conn = from.conn?;
    Some(Command::Send(conn, ToWorker::Probe(to.id.clone(), to.address.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::plan::fixture;

    #[test]
    fn the_worker_that_most_peers_complain_about_is_quarantined_after_two_generations() {
        let plan = fixture::plan(3, &[0, 1, 2]);
        let id = |rank: usize| plan.members()[rank].id.clone();
        let present = BTreeMap::from([(id(0), 1), (id(1), 2), (id(2), 3)]);
        let mut reachability = Reachability::default();
        reachability.record_broken_stream(&plan, &id(0), Rank(1));
        reachability.record_broken_stream(&plan, &id(2), Rank(1));
        reachability.record_broken_stream(&plan, &id(1), Rank(2));

        reachability.record_generation_without_progress();
        assert_eq!(reachability.quarantine(Duration::ZERO, &present), None, "it may be chance");

        reachability.record_generation_without_progress();
        let peers = vec!["worker-0".to_owned(), "worker-2".to_owned()];
        let notice = Notice::Quarantined { name: "worker-1".to_owned(), peers };
        assert_eq!(reachability.quarantine(Duration::ZERO, &present), Some(notice));
        assert!(reachability.is_quarantined(&id(1)));
    }
}
