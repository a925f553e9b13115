//! The coordinator: its start, its events, and the commands that it gives.

use std::collections::VecDeque;

use dcgan_core::ids::{Position, RunId};
use dcgan_core::protocol::coordinator::{
    Command, ConnId, CoordinatorConfig, CoordinatorMachine, Departure, Event, Notice, OutputConfig,
};

use super::{Coordinator, Downward, Upward, World};
use crate::disk::encode;

impl World {
    /// Starts a coordinator on what the disk holds.
    pub(super) fn start_coordinator(&mut self) {
        assert!(self.coordinator.is_none());
        let output = OutputConfig {
            schedule: self.schedule,
            sharding: *self.reference.spec.sharding(),
            batch_size: self.reference.spec.batch_size(),
            learning_rate: self.reference.spec.learning_rate(),
        };
        let config = CoordinatorConfig {
            run: RunId(1),
            workers: self.setup.workers,
            min_workers: self.setup.min_workers,
            rebalance: true,
            output,
            fingerprint: self.disk.fingerprint.clone(),
            plan: self.disk.plan.as_deref().cloned(),
            persisted: self.disk.persisted(),
        };
        let machine = CoordinatorMachine::new(self.now, config);
        self.coordinator = Some(Coordinator { machine, commands: VecDeque::new() });
        self.outcome = None;
        self.coordinator_event(Event::DrawGrids(true));
    }

    /// Gives the coordinator an event, if it runs.
    pub(super) fn coordinator_event(&mut self, event: Event) {
        let Some(coordinator) = &mut self.coordinator else {
            return;
        };
        let commands = coordinator.machine.handle(self.now, event);
        coordinator.commands.extend(commands);
    }

    /// Executes a command of the coordinator, and checks what must hold for it.
    pub(super) fn coordinator_command(&mut self, command: Command) {
        match command {
            Command::Welcome(conn, shards) => {
                assert!(!shards.is_empty() || self.setup.shards == 0);
                self.send_down(conn, Downward::Welcome);
            }
            Command::Refuse(conn, refusal) => {
                // Only an older process of a name is refused, and that one is dead in this world.
                let is_alive = self.workers.values().any(|worker| worker.conn == Some(conn));
                assert!(!is_alive, "a living worker is refused: {refusal}");
            }
            Command::Send(conn, message) => self.send_down(conn, Downward::Message(message)),
            Command::Close(conn) => self.send_down(conn, Downward::Closed),
            Command::StorePlan(plan, fingerprint) => {
                assert!(plan.is_valid(), "{plan}");
                assert!(
                    self.disk.plan.as_ref().is_none_or(|old| old.generation < plan.generation),
                    "generations only grow"
                );
                assert_eq!(plan.start.digest, self.reference.digests[&plan.start.position]);
                self.disk.plan = Some(plan);
                self.disk.fingerprint = Some(fingerprint);
            }
            Command::AppendRow(row) => {
                let last = self.disk.rows.last();
                assert!(last.is_none_or(|last| last.step < row.step), "rows are in order: {row:?}");
                self.disk.rows.push(row);
            }
            Command::SaveCheckpoint { saved, bytes } => {
                assert_eq!(saved.digest, self.reference.digests[&Position::after(saved.step)]);
                assert_eq!(saved.window.through, saved.step);
                self.disk.checkpoints.insert(saved.step, (saved, bytes));
            }
            Command::SavePendingGrid { step, .. } => {
                self.disk.grids.insert(step);
            }
            Command::Notice(notice) => {
                self.check_eviction(&notice);
                self.notices.push(notice);
            }
            Command::Exit(outcome) => {
                self.outcome = Some(outcome);
                self.end_coordinator();
            }
        }
    }

    /// Asserts that only workers that earned it are evicted: for bad results those with a defect,
    /// for being late those that were stopped.
    fn check_eviction(&self, notice: &Notice) {
        match notice {
            Notice::Lost { why: Departure::BadResults, name } => {
                assert!(self.defective.contains(name), "{notice}");
            }
            Notice::Lost { why: Departure::Late, name } => {
                assert!(self.ever_stopped.contains(name), "{notice}");
            }
            _ => {}
        }
    }

    /// Ends the coordinator's process: what was on its way to it is lost, and its streams close.
    pub(super) fn end_coordinator(&mut self) {
        self.coordinator = None;
        for control in self.control.values_mut() {
            control.up.clear();
            control.down.push_back(Downward::Closed);
        }
    }

    fn send_down(&mut self, conn: ConnId, message: Downward) {
        if let Some(control) = self.control.get_mut(&conn) {
            control.down.push_back(message);
        }
    }

    /// Delivers the next message of a control stream to the coordinator.
    pub(super) fn deliver_up(&mut self, conn: ConnId) {
        let control = self.control.get_mut(&conn).unwrap();
        match control.up.pop_front().unwrap() {
            Upward::Hello(hello) => self.coordinator_event(Event::Hello(conn, hello)),
            Upward::Message(message) => self.coordinator_event(Event::Message(conn, message)),
            Upward::Snapshot(step, state) => {
                let (digest, bytes) = encode(&state);
                self.coordinator_event(Event::Snapshot { step, digest, bytes });
            }
            Upward::Closed => {
                self.control.remove(&conn);
                self.coordinator_event(Event::Closed(conn));
            }
        }
    }
}
