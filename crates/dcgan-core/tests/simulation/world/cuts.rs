//! What goes wrong: processes that die, connections that break.

use std::time::Duration;

use dcgan_core::ids::{Generation, Rank, WorkerId};
use dcgan_core::protocol::{coordinator, worker};

use super::processes::pair;
use super::{Data, Down, Link, Up, World};
use crate::faults::Fault;

impl World {
    /// A worker's process is gone: its streams break.
    pub(super) fn remove_worker(&mut self, name: &str) {
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
        for (asker, generation) in worker.copies.into_values() {
            self.worker_event(&asker.name, worker::Event::Copied(generation, None));
        }
    }

    /// Both ends see that a stream broke; what was on its way may still arrive, or not.
    pub(super) fn break_link(&mut self, from: &WorkerId, to: &WorkerId, generation: Generation) {
        let lossy = self.pick.one_in(2);
        let queue = self.data.get_mut(&(from.clone(), to.clone(), generation)).unwrap();
        if lossy {
            queue.clear();
        }
        queue.push_back(Data::Broken);
        if let Some(worker) = self.workers.get(&from.name).filter(|worker| worker.id == *from) {
            let rank: Option<Rank> = worker.plan.as_ref().and_then(|plan| plan.rank_of(to));
            if let Some(rank) = rank {
                self.worker_event(&from.name, worker::Event::StreamBroken(generation, rank));
            }
        }
    }

    // Faults.

    pub(crate) fn fault(&mut self, fault: Fault) {
        self.faults_done += 1;
        let name = self.any_worker();
        match (fault, name) {
            (Fault::Kill, Some(name)) => {
                self.remove_worker(&name);
                if self.pick.one_in(2) {
                    self.start_worker(name);
                }
            }
            (Fault::KillCoordinator, _) => {
                self.coordinator = None;
                for control in self.control.values_mut() {
                    control.up.clear();
                    control.down.push_back(Down::Closed);
                }
            }
            (Fault::Cut, _) => self.cut_something(),
            (Fault::Stop, Some(name)) => {
                let until = self.now + Duration::from_millis(self.pick.below(6000) as u64);
                self.workers.get_mut(&name).unwrap().stopped = Some(until);
                self.stopped.insert(name);
            }
            (Fault::Flip, Some(name)) => {
                // Never the same bit twice, which would be as it was.
                let place = 3 * self.faults_done + self.pick.below(3);
                self.workers.get_mut(&name).unwrap().machine.flip_a_bit(place);
            }
            (Fault::Partition, Some(one)) => {
                if let Some(other) = self.any_worker().filter(|other| *other != one) {
                    self.part(&one, &other, 20);
                }
            }
            (Fault::Join, _) => self.start_new_worker(),
            (Fault::Leave, Some(name)) => self.worker_event(&name, worker::Event::Leave),
            (Fault::Drain, Some(name)) => self.coordinator_event(coordinator::Event::Drain(name)),
            (Fault::Checkpoint, _) => self.coordinator_event(coordinator::Event::Checkpoint),
            (Fault::Damage, _) => {
                // The last one ends the run.
                let last = self.setup.last_step;
                if let Some(newest) =
                    self.disk.checkpoints.last_entry().filter(|newest| *newest.key() < last)
                {
                    newest.remove();
                }
            }
            (_, None) => {}
        }
    }

    /// Two workers do not reach each other for some seconds.
    pub(crate) fn part(&mut self, one: &str, other: &str, seconds: u64) {
        self.parted.insert(pair(one, other), self.now + Duration::from_secs(seconds));
        let between =
            |id: &WorkerId, other_id: &WorkerId| pair(&id.name, &other_id.name) == pair(one, other);
        let links: Vec<Link> =
            self.data.keys().filter(|(from, to, _)| between(from, to)).cloned().collect();
        for (from, to, generation) in links {
            self.break_link(&from, &to, generation);
        }
    }

    pub(super) fn cut_something(&mut self) {
        let links: Vec<Link> = self
            .data
            .keys()
            .filter(|(from, to, _)| self.is_alive(from) && self.is_alive(to))
            .cloned()
            .collect();
        if links.is_empty() || self.pick.one_in(2) {
            if let Some(name) = self.any_worker() {
                self.cut_control(&name);
            }
        } else {
            let chosen = self.pick.below(links.len());
            let (from, to, generation) = links[chosen].clone();
            self.break_link(&from, &to, generation);
        }
    }

    pub(super) fn any_worker(&mut self) -> Option<String> {
        let names: Vec<String> = self.workers.keys().cloned().collect();
        (!names.is_empty()).then(|| names[self.pick.below(names.len())].clone())
    }

    pub(super) fn cut_control(&mut self, name: &str) {
        let Some(conn) = self.workers.get_mut(name).unwrap().conn.take() else {
            return;
        };
        if let Some(control) = self.control.get_mut(&conn) {
            control.down.clear();
            control.up.push_back(Up::Closed);
        }
    }
}
