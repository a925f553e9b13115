//! The coordinator: its start, its events, and the commands that it gives.

use std::collections::VecDeque;
use std::time::Duration;

use dcgan_core::ids::{Position, RunId};
use dcgan_core::protocol::coordinator::{
    Command, ConnId, CoordinatorConfig, CoordinatorMachine, Departure, Event, Notice, OutputConfig,
    Write,
};
use dcgan_core::protocol::message::{FromWorker, ToWorker};
use dcgan_core::protocol::plan::Plan;
use dcgan_core::spec::schedule::Schedule;

use super::{Coordinator, DiskWrite, Downward, EVALUATE_EVERY, Upward, World};
use crate::bad::Bad;
use crate::disk::encode;

impl World {
    /// Starts a coordinator on what the disk holds.
    pub(super) fn start_coordinator(&mut self) {
        assert!(self.coordinator.is_none());
        self.note_change();
        let output = OutputConfig {
            schedule: self.schedule,
            spec: self.reference.spec.clone(),
            checkpoint_interval: self.checkpoint_interval,
            keep_checkpoints: 5,
        };
        let config = CoordinatorConfig {
            run: RunId(1),
            workers: self.setup.workers,
            min_workers: self.setup.min_workers,
            rebalance: true,
            output,
            fingerprint: self.disk.fingerprint.clone(),
            plan: self.disk.plan.as_deref().cloned(),
            members_may_return: !self.workers.is_empty(),
            persisted: self.disk.persisted(&self.schedule),
        };
        let machine = CoordinatorMachine::new(self.now, config);
        self.coordinator = Some(Coordinator { machine, commands: VecDeque::new(), write: None });
        self.outcome = None;
        self.finished = 0;
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
                // Only an older process of a name is refused. That one is dead in this world, or
                // a liar has taken its name while it was away.
                let living = self.workers.values().find(|worker| worker.conn == Some(conn));
                if let Some(name) = living.map(|worker| worker.id.name.clone()) {
                    assert!(!self.liars.is_empty(), "a living worker is refused: {refusal}");
                    self.remove_worker(&name);
                }
            }
            Command::Send(conn, message) => {
                self.check_that_it_is_stored(&message);
                self.send_down(conn, Downward::Message(message));
            }
            Command::TurnAway(conn, _) | Command::Close(conn) => {
                if let Some(control) = self.control.get(&conn) {
                    let at = self.now + Duration::from_millis(250);
                    self.connects_at.insert(control.worker.clone(), at);
                }
                self.send_down(conn, Downward::Closed);
            }
            Command::Write(write) => {
                let is_slow = self.setup.slow_disk && self.rng.one_in(4);
                let pause = if is_slow { self.rng.below(2000) as u64 } else { 0 };
                let not_before = self.now + Duration::from_millis(pause);
                let coordinator = self.coordinator.as_mut().unwrap();
                assert!(coordinator.write.is_none(), "one write at a time");
                coordinator.write = Some(DiskWrite { write, not_before, is_done: false });
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

    /// Does the write that is on its way to the disk, and checks what must hold for it.
    pub(super) fn write(&mut self) {
        let on_its_way = self.coordinator.as_mut().unwrap().write.as_mut().unwrap();
        on_its_way.is_done = true;
        match on_its_way.write.clone() {
            Write::Plan { plan, fingerprint } => {
                let (members, owners) = (plan.members().to_vec(), plan.owners().to_vec());
                let again = Plan::new(plan.generation, members, owners, plan.start);
                assert_eq!(again.as_ref(), Ok(&*plan), "members and owners fit together");
                assert!(
                    self.disk.plan.as_ref().is_none_or(|old| old.generation < plan.generation),
                    "generations only grow"
                );
                // A liar that is a phase ahead of the others may name any state.
                let digest = self.reference.digests.get(&plan.start.position);
                let is_right = digest == Some(&plan.start.digest);
                let is_lie = self.bad.values().any(|bad| *bad == Bad::LiesAboutItsPosition);
                assert!(is_right || is_lie || !self.liars.is_empty(), "{plan}");
                self.finished = 0;
                self.disk.plan = Some(plan);
                self.disk.fingerprint = Some(fingerprint);
            }
            Write::Rows(rows) => {
                for row in rows {
                    let last = self.disk.rows.last();
                    let is_next = last.is_none_or(|last| last.step < row.step);
                    assert!(is_next, "rows are in order: {row:?}");
                    self.disk.rows.push(row);
                }
            }
            Write::Checkpoint { saved, bytes } => {
                assert_eq!(saved.digest, self.reference.digests[&Position::after(saved.step)]);
                assert_eq!(saved.window.through, saved.step);
                self.disk.checkpoints.insert(saved.step, (saved, bytes));
            }
            Write::PendingGrid { step, .. } => {
                self.disk.grids.insert(step);
            }
            Write::Evaluation(row) => {
                let is_right = Some(&row) == self.reference.evaluations.get(&row.step);
                assert!(is_right || !self.liars.is_empty(), "{row:?}");
                let before = self.disk.evaluations.insert(row.step, row.values.clone());
                assert!(before.is_none(), "each is written once: {row:?}");
            }
        }
    }

    /// Tells the coordinator how the write that was on its way has ended.
    pub(super) fn end_write(&mut self, event: Event) {
        self.coordinator.as_mut().unwrap().write = None;
        self.coordinator_event(event);
    }

    /// Asserts that what a worker is told cannot be undone by the death of the coordinator.
    fn check_that_it_is_stored(&self, message: &ToWorker) {
        match message {
            ToWorker::Plan(plan) => {
                let stored = self.disk.plan.as_ref().map(|stored| stored.generation);
                assert!(stored >= Some(plan.generation), "a plan is sent before it is stored");
            }
            ToWorker::Persisted(step) => {
                let schedule = Schedule { last_step: self.reference.last_step, ..self.schedule };
                let mut due = (1..=*step).filter(|&step| schedule.row_due(step));
                assert!(
                    due.all(|step| self.disk.rows.iter().any(|row| row.step == step)),
                    "a row up to step {step} is not stored"
                );
            }
            ToWorker::TrainThrough(step) => {
                let mut decided = (1..step.saturating_sub(EVALUATE_EVERY))
                    .filter(|&it| self.schedule.verdict_due(it));
                assert!(
                    decided.all(|step| self.disk.evaluations.contains_key(&step)),
                    "an evaluation before step {step} is not stored"
                );
            }
            _ => {}
        }
    }

    /// Asserts that only workers that earned it are evicted: for bad results those with a defect,
    /// for being late those that were stopped.
    fn check_eviction(&self, notice: &Notice) {
        match notice {
            Notice::Lost { why: Departure::BadResults, name } => {
                let has_earned_it = self.defective.contains(name) || self.liars.contains(name);
                assert!(has_earned_it, "{notice}");
            }
            Notice::Lost { why: Departure::Late, name } => {
                let has_accuser = self.bad.values().any(|bad| *bad == Bad::Accuses);
                let is_slandered = has_accuser || !self.liars.is_empty();
                let is_bad = self.bad.contains_key(name);
                assert!(self.ever_stopped.contains(name) || is_bad || is_slandered, "{notice}");
            }
            Notice::FalseClaim { name, address, .. } => {
                // The stranger may have taken a name while its owner was away.
                let is_liar = self.liars.contains(name) || self.bad.contains_key(name);
                assert!(is_liar || address == "liar:1", "an honest worker is expelled: {notice}");
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
            Upward::Message(message) => {
                if let Some(liar) = &mut self.liar {
                    liar.overhear(&message);
                }
                let sender = self.workers.values().find(|worker| worker.conn == Some(conn));
                let sender = sender.map(|worker| worker.id.clone());
                if let (Some(id), FromWorker::StepDone(done)) = (sender, &message) {
                    self.note_report(&id, done);
                }
                self.coordinator_event(Event::Message(conn, message));
            }
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
