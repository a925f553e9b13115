//! Workers that reach the coordinator but not each other.
//!
//! A broken stream may be chance: the first complaint makes a new generation with the same members. A second one, without
//! progress in between, means that two of them cannot reach each other. The one that more peers name waits outside, on a
//! tie the one that joined later, until probes in both directions succeed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Command, CoordinatorMachine, Notice};
use crate::ids::{Rank, WorkerId};
use crate::protocol::message::ToWorker;
use crate::protocol::plan::Plan;

/// New generations without progress, after which somebody waits outside.
const GENERATIONS_WITHOUT_PROGRESS_MAX: usize = 2;
/// Between two probes at first, and at most.
const PROBE_PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// Who complains about whom.
#[derive(Debug, Default)]
pub(super) struct Reachability {
    /// Generations that ended by a complaint, since a step was finished.
    generations_without_progress: usize,
    /// Who was accused, by whom, in that time.
    accused: BTreeMap<WorkerId, BTreeSet<WorkerId>>,
    outside: BTreeMap<WorkerId, Outside>,
}

/// A worker that waits outside.
#[derive(Debug)]
struct Outside {
    /// Whom it cannot reach, or who cannot reach it.
    peers: BTreeSet<WorkerId>,
    pause: Duration,
    probe_at: Duration,
    /// Directions in which the present round of probes has succeeded.
    reached: BTreeSet<(WorkerId, WorkerId)>,
}

impl Reachability {
    /// A step was finished.
    pub(super) fn progress(&mut self) {
        self.generations_without_progress = 0;
        self.accused.clear();
    }

    /// A generation ended by a complaint before a step was finished.
    pub(super) fn record_generation_without_progress(&mut self) {
        self.generations_without_progress += 1;
    }

    /// A member's stream to or from another broke.
    pub(super) fn accuse(&mut self, plan: &Plan, by: &WorkerId, about: Rank) {
        if let Some(member) = plan.member(about) {
            self.accused.entry(member.id.clone()).or_default().insert(by.clone());
        }
    }

    pub(super) fn is_outside(&self, id: &WorkerId) -> bool {
        self.outside.contains_key(id)
    }

    /// Who is outside, each with those that it does not reach.
    pub(super) fn outside(&self) -> impl Iterator<Item = (&WorkerId, &BTreeSet<WorkerId>)> {
        self.outside.iter().map(|(id, outside)| (id, &outside.peers))
    }

    /// Sends out the one whom most peers name.
    fn quarantine(&mut self, now: Duration, present: &BTreeMap<WorkerId, u64>) -> Option<Notice> {
        if self.generations_without_progress < GENERATIONS_WITHOUT_PROGRESS_MAX {
            return None;
        }
        let here = |id: &WorkerId| present.contains_key(id);
        let counts = self.accused.iter().filter(|(about, _)| here(about));
        let counts = counts
            .map(|(about, by)| (by.iter().filter(|by| here(by)).count(), present[about], about));
        let (_, _, id) = counts.filter(|&(count, ..)| count > 0).max()?;
        let id = id.clone();
        let mut peers = self.accused[&id].clone();
        peers.extend(
            self.accused.iter().filter(|(_, by)| by.contains(&id)).map(|(about, _)| about.clone()),
        );
        peers.retain(here);
        let names = peers.iter().map(|peer| peer.name.clone()).collect();
        let note = Notice::Outside { name: id.name.clone(), peers: names };
        let [pause, _] = PROBE_PAUSES;
        self.outside.insert(id, Outside { peers, pause, probe_at: now, reached: BTreeSet::new() });
        self.progress();
        Some(note)
    }
}

impl CoordinatorMachine {
    /// Before a plan is made: sends somebody out, if there were complaints and no progress.
    pub(super) fn quarantine_unreachable(&mut self) {
        let present =
            self.registry.ready().filter(|worker| !self.reachability.is_outside(&worker.id));
        let present: BTreeMap<WorkerId, u64> =
            present.map(|worker| (worker.id.clone(), worker.joined)).collect();
        let note = self.reachability.quarantine(self.now, &present);
        self.out.extend(note.map(Command::Notice));
    }

    /// Probes between those outside and whom they could not reach; lets them in again.
    pub(super) fn probe(&mut self) {
        let address = |id: &WorkerId| {
            let worker = self.registry.get(&id.name).filter(|worker| worker.id == *id)?;
            Some((worker.conn, worker.address.clone()))
        };
        let (mut probes, mut back) = (Vec::new(), Vec::new());
        for (id, outside) in &mut self.reachability.outside {
            outside.peers.retain(|peer| address(peer).is_some());
            let Some((conn, here)) = address(id) else {
                back.push(id.clone());
                continue;
            };
            let both_ways = |peer: &WorkerId| {
                [(id, peer), (peer, id)].map(|(from, to)| (from.clone(), to.clone()))
            };
            if outside.peers.iter().flat_map(both_ways).all(|way| outside.reached.contains(&way)) {
                back.push(id.clone());
            } else if self.now >= outside.probe_at {
                outside.probe_at = self.now + outside.pause;
                outside.pause = (2 * outside.pause).min(PROBE_PAUSES[1]);
                outside.reached.clear();
                for peer in &outside.peers {
                    let Some((peer_conn, there)) = address(peer) else {
                        continue;
                    };
                    probes.extend(conn.map(|conn| (conn, ToWorker::Probe(peer.clone(), there))));
                    probes.extend(
                        peer_conn.map(|conn| (conn, ToWorker::Probe(id.clone(), here.clone()))),
                    );
                }
            }
        }
        self.out.extend(probes.into_iter().map(|(conn, probe)| Command::Send(conn, probe)));
        for id in back {
            self.reachability.outside.remove(&id);
            if self.registry.get(&id.name).is_some_and(|worker| worker.id == id) {
                self.note(Notice::Inside(id.name));
            }
        }
    }

    /// The result of a probe.
    pub(super) fn on_probe_result(&mut self, by: &WorkerId, peer: &WorkerId, reached: bool) {
        for id in [by, peer].into_iter().filter(|_| reached) {
            if let Some(outside) = self.reachability.outside.get_mut(id) {
                outside.reached.insert((by.clone(), peer.clone()));
            }
        }
    }
}
