//! The coordinator and the workers: what they are told, and what they do.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use dcgan_core::ids::{Position, RunId, WorkerId};
use dcgan_core::objective::Objective;
use dcgan_core::protocol::coordinator::{
    self, ConnId, CoordinatorConfig, CoordinatorMachine, Departure, Notice, OutputConfig,
};
use dcgan_core::protocol::message::{Finish, Hello, PROTOCOL};
use dcgan_core::protocol::plan::{Plan, StateRef};
use dcgan_core::protocol::worker::{self, CopySource, StateCopy, WorkerMachine};

use super::{Control, Coordinator, Data, Down, Link, Up, Worker, World};
use crate::disk::{decode, encode};
use crate::reference::Spoiled;

impl World {
    pub(super) fn connect(&mut self, name: &str) {
        self.next_id += 1;
        let conn = ConnId(self.next_id);
        let worker = self.workers.get_mut(name).unwrap();
        (worker.conn, worker.welcomed) = (Some(conn), false);
        let hello = Hello {
            run: worker.plan.as_ref().map(|_| RunId(1)),
            id: worker.id.clone(),
            protocol: PROTOCOL,
            fingerprint: "toy".to_owned(),
            address: format!("{name}:1"),
            plan: worker.machine.generation(),
            promised: worker.machine.promised(),
        };
        let up = VecDeque::from([Up::Hello(hello)]);
        self.control.insert(conn, Control { worker: name.to_owned(), up, down: VecDeque::new() });
    }

    // The coordinator.

    pub(super) fn start_coordinator(&mut self) {
        assert!(self.coordinator.is_none());
        let output = OutputConfig {
            schedule: self.schedule,
            sharding: self.reference.spec.check().unwrap(),
            batch_size: self.reference.spec.batch_size,
            learning_rate: self.reference.spec.learning_rate,
        };
        let settings = CoordinatorConfig {
            run: RunId(1),
            workers: self.setup.workers,
            min_workers: self.setup.min_workers,
            rebalance: true,
            output,
            fingerprint: self.disk.fingerprint.clone(),
            plan: self.disk.plan.as_deref().cloned(),
            persisted: self.disk.persisted(),
        };
        let machine = CoordinatorMachine::new(self.now, settings);
        self.coordinator = Some(Coordinator { machine, commands: VecDeque::new() });
        self.outcome = None;
        self.coordinator_event(coordinator::Event::DrawGrids(true));
    }

    pub(super) fn coordinator_event(&mut self, event: coordinator::Event) {
        let Some(coordinator) = &mut self.coordinator else {
            return;
        };
        let commands = coordinator.machine.handle(self.now, event);
        coordinator.commands.extend(commands);
    }

    pub(super) fn coordinator_command(&mut self, command: coordinator::Command) {
        use coordinator::Command;
        match command {
            Command::Welcome(conn, shards) => {
                assert!(!shards.is_empty() || self.setup.shards == 0);
                self.send_down(conn, Down::Welcome);
            }
            Command::Refuse(conn, refusal) => {
                let Some(control) = self.control.get(&conn) else {
                    return;
                };
                let living = self
                    .workers
                    .get(&control.worker)
                    .is_some_and(|worker| worker.conn == Some(conn));
                assert!(!living, "nobody alive is to be refused: {refusal}");
            }
            Command::Send(conn, message) => self.send_down(conn, Down::Message(message)),
            Command::Close(conn) => self.send_down(conn, Down::Closed),
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
            Command::AppendRow(line) => {
                assert!(
                    self.disk.lines.last().is_none_or(|last| last.step < line.step),
                    "line {} comes late",
                    line.step
                );
                self.disk.lines.push(line);
            }
            Command::SaveCheckpoint { saved, bytes } => {
                assert_eq!(saved.digest, self.reference.digests[&Position::after(saved.step)]);
                assert_eq!(saved.window.through, saved.step);
                self.disk.checkpoints.insert(saved.step, (saved, bytes));
            }
            Command::SaveGrid { step, .. } => {
                self.disk.grids.insert(step);
            }
            Command::Notice(note) => {
                match &note {
                    Notice::Lost { why: Departure::BadResults, name } => {
                        assert!(self.spoiled.contains(name), "{note}")
                    }
                    Notice::Lost { why: Departure::Late, name } => {
                        assert!(self.stopped.contains(name), "{note}")
                    }
                    _ => {}
                }
                self.notes.push(note.to_string());
            }
            Command::Exit(outcome) => {
                self.coordinator = None;
                self.outcome = Some(outcome);
                for control in self.control.values_mut() {
                    control.up.clear();
                    control.down.push_back(Down::Closed);
                }
            }
        }
    }

    pub(super) fn send_down(&mut self, conn: ConnId, message: Down) {
        if let Some(control) = self.control.get_mut(&conn) {
            control.down.push_back(message);
        }
    }

    pub(super) fn deliver_up(&mut self, conn: ConnId) {
        let control = self.control.get_mut(&conn).unwrap();
        match control.up.pop_front().unwrap() {
            Up::Hello(hello) => self.coordinator_event(coordinator::Event::Hello(conn, hello)),
            Up::Message(message) => {
                self.coordinator_event(coordinator::Event::Message(conn, message))
            }
            Up::Snapshot(step, state) => {
                let (digest, bytes) = encode(&state);
                self.coordinator_event(coordinator::Event::Snapshot { step, digest, bytes });
            }
            Up::Closed => {
                self.control.remove(&conn);
                self.coordinator_event(coordinator::Event::Closed(conn));
            }
        }
    }

    // Workers.

    pub(super) fn start_new_worker(&mut self) {
        let name = format!("w{}", self.names);
        self.names += 1;
        self.start_worker(name);
    }

    pub(super) fn start_worker(&mut self, name: String) {
        self.next_id += 1;
        let id = WorkerId { name: name.clone(), incarnation: self.next_id };
        let objective = Arc::new(Spoiled::new(Arc::clone(&self.reference.objective)));
        let machine = WorkerMachine::new(self.now, id.clone(), objective.clone());
        let worker = Worker {
            id,
            machine,
            conn: None,
            welcomed: false,
            commands: VecDeque::new(),
            jobs: Vec::new(),
            objective,
            stopped: None,
            plan: None,
            copies: BTreeMap::new(),
        };
        self.workers.insert(name.clone(), worker);
        self.worker_event(&name, worker::Event::DataReady);
    }

    pub(super) fn worker_event(&mut self, name: &str, event: worker::Event) {
        let Some(worker) = self.workers.get_mut(name) else {
            return;
        };
        let commands = worker.machine.handle(self.now, event);
        worker.commands.extend(commands);
        let StateRef { position, digest, .. } = worker.machine.at();
        if !self.spoiled.contains(name) {
            assert_eq!(digest, self.reference.digests[&position], "{name} at {position}");
        }
    }

    pub(super) fn worker_command(&mut self, name: &str, command: worker::Command) {
        use worker::Command;
        let worker = self.workers.get_mut(name).unwrap();
        let id = worker.id.clone();
        match command {
            Command::Report(message) => self.send_up(name, Up::Message(message)),
            Command::Upload(step, state) => self.send_up(name, Up::Snapshot(step, state)),
            Command::Compute(work, state, shards) => {
                let jobs = shards.into_iter().map(|shard| (work, Arc::clone(&state), shard));
                worker.jobs = jobs.collect();
            }
            Command::Connect(plan, rank) => {
                worker.plan = Some(Arc::clone(&plan));
                for other in plan.ranks().filter(|&other| other != rank) {
                    let peer = plan.member(other).unwrap().id.clone();
                    if self.is_alive(&peer) && !self.is_parted(name, &peer.name) {
                        let link = (id.clone(), peer, plan.generation);
                        self.data.entry(link).or_default().push_back(Data::Plan(Arc::clone(&plan)));
                    } else {
                        self.worker_event(
                            name,
                            worker::Event::StreamBroken(plan.generation, other),
                        );
                    }
                }
            }
            Command::Send(rank, frame) => {
                let plan = worker.plan.clone().unwrap();
                let peer = plan.member(rank).unwrap().id.clone();
                if let Some(queue) = self.data.get_mut(&(id, peer, frame.generation)) {
                    queue.push_back(Data::ReduceFrame(frame));
                }
            }
            Command::Copy(plan, donor) => self.copy(name, &plan, donor),
            Command::Serve(token, state, reports) => {
                let Some((asker, generation)) = worker.copies.remove(&token) else {
                    return;
                };
                let copy = state.map(|state| StateCopy { state: (*state).clone(), reports });
                if self.is_alive(&asker) {
                    self.worker_event(&asker.name, worker::Event::Copied(generation, copy));
                }
            }
            Command::Probe(peer, _) => {
                let reached = self.is_alive(&peer) && !self.is_parted(name, &peer.name);
                self.worker_event(name, worker::Event::ProbeResult(peer, reached));
            }
            Command::Exit(finish) => {
                assert!(matches!(finish, Finish::Done) || !self.spoiled.is_empty(), "{finish:?}");
                self.remove_worker(name);
            }
        }
    }

    pub(super) fn copy(&mut self, name: &str, plan: &Arc<Plan>, donor: CopySource) {
        let nothing = worker::Event::Copied(plan.generation, None);
        match donor {
            CopySource::Coordinator => {
                let step = plan.start.position.step;
                let saved = self.disk.checkpoints.get(&step);
                let copy =
                    saved.filter(|_| self.coordinator.is_some()).map(|(_, bytes)| StateCopy {
                        state: decode(self.reference.objective.layout(), bytes),
                        reports: Vec::new(),
                    });
                // What is to be saved may not be there yet.
                if saved.is_none()
                    && self.coordinator.as_ref().is_some_and(|c| c.commands.is_empty())
                {
                    let newest = self.disk.persisted().checkpoint;
                    self.coordinator_event(coordinator::Event::Unreadable { step, newest });
                }
                self.worker_event(name, worker::Event::Copied(plan.generation, copy));
            }
            CopySource::Member(rank) => {
                let holder = plan.member(rank).unwrap().id.clone();
                if !self.is_alive(&holder) || self.is_parted(name, &holder.name) {
                    return self.worker_event(name, nothing);
                }
                self.next_id += 1;
                let token = self.next_id;
                let asker = self.workers[name].id.clone();
                self.workers
                    .get_mut(&holder.name)
                    .unwrap()
                    .copies
                    .insert(token, (asker, plan.generation));
                self.worker_event(&holder.name, worker::Event::CopyAsked(plan.start, token));
            }
        }
    }

    pub(super) fn send_up(&mut self, name: &str, message: Up) {
        let worker = &self.workers[name];
        if let Some(control) =
            worker.conn.filter(|_| worker.welcomed).and_then(|conn| self.control.get_mut(&conn))
        {
            control.up.push_back(message);
        }
    }

    pub(super) fn deliver_down(&mut self, conn: ConnId) {
        let control = self.control.get_mut(&conn).unwrap();
        let (name, message) = (control.worker.clone(), control.down.pop_front().unwrap());
        if self.workers.get(&name).is_none_or(|worker| worker.conn != Some(conn)) {
            control.down.clear();
            return;
        }
        match message {
            Down::Welcome => {
                self.workers.get_mut(&name).unwrap().welcomed = true;
                self.worker_event(&name, worker::Event::Welcome(self.schedule));
            }
            Down::Message(message) => self.worker_event(&name, worker::Event::Message(message)),
            Down::Closed => self.cut_control(&name),
        }
    }

    pub(super) fn deliver_data(&mut self, link: Link) {
        let (from, to, generation) = link.clone();
        let message = self.data.get_mut(&link).unwrap().pop_front().unwrap();
        let Some(worker) = self.workers.get(&to.name).filter(|worker| worker.id == to) else {
            return;
        };
        let rank_of = |plan: &Arc<Plan>| plan.rank_of(&from);
        let event = match message {
            Data::Plan(plan) => worker::Event::PeerPlan(plan),
            Data::ReduceFrame(frame) => {
                // The rank that the sender has in the frame's generation, as its stream's first frame said.
                let plan = worker.plan.iter().find(|plan| plan.generation == generation);
                let Some(rank) = plan.and_then(rank_of) else {
                    return;
                };
                worker::Event::ReduceFrame(rank, frame)
            }
            Data::Broken => {
                let Some(rank) = worker.plan.as_ref().and_then(rank_of) else {
                    return;
                };
                worker::Event::StreamBroken(generation, rank)
            }
        };
        self.worker_event(&to.name, event);
    }

    pub(super) fn is_parted(&self, one: &str, other: &str) -> bool {
        self.parted.contains_key(&pair(one, other))
    }

    pub(super) fn is_alive(&self, id: &WorkerId) -> bool {
        self.workers.get(&id.name).is_some_and(|worker| worker.id == *id)
    }
}

/// Two names, whichever way round.
pub(super) fn pair(one: &str, other: &str) -> (String, String) {
    (one.min(other).to_owned(), one.max(other).to_owned())
}
