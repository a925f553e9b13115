//! Faults: processes that die or stop, connections that break, bits that flip.

use std::time::Duration;

use dcgan_core::ids::{Generation, Rank, WorkerId};
use dcgan_core::protocol::{coordinator, worker};

use super::{Link, PeerMessage, Upward, World, unordered};
use crate::faults::Fault;

impl World {
    /// Ends a worker's process: its streams break, and copies that others wait for fail.
    pub(super) fn remove_worker(&mut self, name: &str) {
        self.note_change();
        self.cut_control(name);
        let worker = self.workers.remove(name).unwrap();
        let links: Vec<Link> = self
            .data
            .keys()
            .filter(|(from, to, _)| *from == worker.id || *to == worker.id)
            .cloned()
            .collect();
        for (from, to, generation) in links {
            self.break_link(&from, &to, generation);
        }
        // Whoever waits for a copy of its state sees the connection break.
        for (asker, wanted) in worker.copies.into_values() {
            self.end_copy(&worker.id, &asker, wanted, None);
        }
    }

    /// Breaks a stream. Both ends see it. What was on its way still arrives, or is lost.
    fn break_link(&mut self, from: &WorkerId, to: &WorkerId, generation: Generation) {
        let is_lossy = self.rng.one_in(2);
        let queue = self.data.get_mut(&(from.clone(), to.clone(), generation)).unwrap();
        if is_lossy {
            queue.clear();
        }
        // The receiver learns it in order, after what still arrives; the sender learns it at once.
        queue.push_back(PeerMessage::Broken);
        if let Some(worker) = self.workers.get(&from.name).filter(|worker| worker.id == *from) {
            let rank: Option<Rank> = worker.plan.as_ref().and_then(|plan| plan.rank_of(to));
            if let Some(rank) = rank {
                self.worker_event(&from.name, worker::Event::StreamBroken(generation, rank));
            }
        }
    }

    /// Injects a fault. One that needs a worker does nothing where there is none.
    pub(crate) fn inject(&mut self, fault: Fault) {
        self.faults_done += 1;
        self.note_change();
        let name = self.any_worker();
        match (fault, name) {
            (Fault::Kill, Some(name)) => {
                self.remove_worker(&name);
                if self.rng.one_in(2) {
                    self.start_worker(name);
                }
            }
            (Fault::KillCoordinator, _) => self.end_coordinator(),
            (Fault::Cut, _) => self.break_a_connection(),
            (Fault::Stop, Some(name)) => {
                let until = self.now + Duration::from_millis(self.rng.below(6000) as u64);
                self.workers.get_mut(&name).unwrap().stopped_until = Some(until);
                self.ever_stopped.insert(name);
            }
            (Fault::Flip, Some(name)) => {
                // Never the same bit twice, which would restore the state.
                let place = 3 * self.faults_done + self.rng.below(3);
                self.workers.get_mut(&name).unwrap().machine.flip_a_bit(place);
            }
            (Fault::Partition, Some(one)) => {
                if let Some(other) = self.any_worker().filter(|other| *other != one) {
                    self.separate(&one, &other, 20);
                }
            }
            (Fault::Join, _) => self.start_new_worker(),
            (Fault::Leave, Some(name)) => self.worker_event(&name, worker::Event::Leave),
            (Fault::Drain, Some(name)) => self.coordinator_event(coordinator::Event::Drain(name)),
            (Fault::Checkpoint, _) => self.coordinator_event(coordinator::Event::Checkpoint),
            (Fault::Damage, _) => {
                // The last checkpoint ends the run: nothing reads it any more.
                let last = self.reference.last_step;
                if let Some(newest) =
                    self.disk.checkpoints.last_entry().filter(|newest| *newest.key() < last)
                {
                    newest.remove();
                }
            }
            (_, None) => {}
        }
    }

    /// Keeps two workers from reaching each other for some seconds.
    pub(crate) fn separate(&mut self, one: &str, other: &str, seconds: u64) {
        let pair = unordered(one, other);
        let links: Vec<Link> = self
            .data
            .keys()
            .filter(|(from, to, _)| unordered(&from.name, &to.name) == pair)
            .cloned()
            .collect();
        self.separated.insert(pair, self.now + Duration::from_secs(seconds));
        for (from, to, generation) in links {
            self.break_link(&from, &to, generation);
        }
    }

    /// Breaks the control stream of a worker, or a stream between two workers.
    fn break_a_connection(&mut self) {
        let links: Vec<Link> = self
            .data
            .keys()
            .filter(|(from, to, _)| self.is_alive(from) && self.is_alive(to))
            .cloned()
            .collect();
        if links.is_empty() || self.rng.one_in(2) {
            if let Some(name) = self.any_worker() {
                self.cut_control(&name);
            }
        } else {
            let chosen = self.rng.below(links.len());
            let (from, to, generation) = links[chosen].clone();
            self.break_link(&from, &to, generation);
        }
    }

    /// The name of a random worker, if there is one.
    fn any_worker(&mut self) -> Option<String> {
        let names: Vec<String> = self.workers.keys().cloned().collect();
        if names.is_empty() {
            return None;
        }
        Some(names[self.rng.below(names.len())].clone())
    }

    /// Closes the control stream of a worker, if it has one.
    pub(super) fn cut_control(&mut self, name: &str) {
        let Some(conn) = self.workers.get_mut(name).unwrap().conn.take() else {
            return;
        };
        if let Some(control) = self.control.get_mut(&conn) {
            control.down.clear();
            control.up.push_back(Upward::Closed);
        }
    }
}
