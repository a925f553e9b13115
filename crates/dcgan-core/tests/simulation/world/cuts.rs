//! What goes wrong: processes that die, connections that break.

use dcgan_core::ids::{Generation, Rank, WorkerId};
use dcgan_core::step_machine;

use super::{Data, Down, Link, Up, World};
use crate::faults::Faults;

impl World {
    /// A worker's process is gone: its streams break.
    pub(super) fn remove_worker(&mut self, name: &str) {
        self.cut_control(name);
        let worker = self.workers.remove(name).unwrap();
        let links: Vec<Link> =
            self.data.keys().filter(|(from, to, _)| *from == worker.id || *to == worker.id).cloned().collect();
        for (from, to, generation) in links {
            self.break_link(&from, &to, generation);
        }
        for (asker, generation) in worker.copies.into_values() {
            self.worker_event(&asker.name, step_machine::Event::Copied(generation, None));
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
                self.worker_event(&from.name, step_machine::Event::StreamBroken(generation, rank));
            }
        }
    }

    // Faults.

    pub(super) fn fault(&mut self, faults: &mut Faults) {
        let kinds = [faults.kills, faults.coordinator_kills, faults.cuts, faults.joins];
        let mut pick = self.pick.below(faults.left());
        let kind = kinds
            .iter()
            .position(|&left| {
                pick < left || {
                    pick -= left;
                    false
                }
            })
            .unwrap();
        self.faults_done += 1;
        match kind {
            0 => {
                faults.kills -= 1;
                if let Some(name) = self.any_worker() {
                    self.remove_worker(&name);
                    if self.pick.one_in(2) {
                        self.start_worker(name);
                    }
                }
            }
            1 => {
                faults.coordinator_kills -= 1;
                self.coordinator = None;
                for control in self.control.values_mut() {
                    control.up.clear();
                    control.down.push_back(Down::Closed);
                }
            }
            2 => {
                faults.cuts -= 1;
                self.cut_something();
            }
            _ => {
                faults.joins -= 1;
                self.start_new_worker();
            }
        }
    }

    pub(super) fn cut_something(&mut self) {
        let links: Vec<Link> =
            self.data.keys().filter(|(from, to, _)| self.is_alive(from) && self.is_alive(to)).cloned().collect();
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
        let Some(conn) = self.workers.get_mut(name).unwrap().conn.take() else { return };
        if let Some(control) = self.control.get_mut(&conn) {
            control.down.clear();
            control.up.push_back(Up::Closed);
        }
    }
}
