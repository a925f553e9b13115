//! The workers: their start, their events, and the commands that they give.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use dcgan_core::ids::{Rank, RunId, WorkerId};
use dcgan_core::objective::Objective;
use dcgan_core::protocol::coordinator::{self, ConnId};
use dcgan_core::protocol::message::{Finish, Hello, PROTOCOL};
use dcgan_core::protocol::plan::{Plan, StateRef};
use dcgan_core::protocol::worker::{Command, CopySource, Event, StateCopy, WorkerMachine};

use super::bad::TRIAL_TIMES;
use super::{Control, Downward, Link, PeerMessage, Upward, Wanted, Worker, World};
use crate::bad::Bad;
use crate::disk::decode;
use crate::faulty_toy::FaultyToy;

impl World {
    /// Opens a control stream to the coordinator. The first message is a hello.
    pub(super) fn connect(&mut self, name: &str) {
        let conn = ConnId(self.new_id());
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
        let up = VecDeque::from([Upward::Hello(hello)]);
        self.control.insert(conn, Control { worker: name.to_owned(), up, down: VecDeque::new() });
    }

    /// Starts a worker under a new name.
    pub(super) fn start_new_worker(&mut self) {
        let name = format!("w{}", self.names);
        self.names += 1;
        self.start_worker(name);
    }

    /// Starts a worker under a name.
    pub(super) fn start_worker(&mut self, name: String) {
        self.note_change();
        let id = WorkerId { name: name.clone(), incarnation: self.new_id() };
        let objective = Arc::new(FaultyToy::new(Arc::clone(&self.reference.objective)));
        let mut machine =
            WorkerMachine::new(self.now, id.clone(), objective.clone(), self.setup.shards);
        // Some workers keep every vector, some keep few, and some add up all that they can.
        if let Some(&bytes) = [0, 300].get(id.incarnation as usize % 3) {
            machine.keep_vectors_up_to(bytes);
        }
        let worker = Worker {
            id,
            machine,
            conn: None,
            welcomed: false,
            commands: VecDeque::new(),
            jobs: Vec::new(),
            evaluations: Vec::new(),
            objective,
            stopped_until: None,
            plan: None,
            copies: BTreeMap::new(),
        };
        self.workers.insert(name.clone(), worker);
        self.worker_event(&name, Event::DataReady);
    }

    /// Gives a worker an event, and checks its state against the undisturbed run.
    pub(super) fn worker_event(&mut self, name: &str, event: Event) {
        let Some(worker) = self.workers.get_mut(name) else {
            return;
        };
        let is_copy = matches!(event, Event::Copied(..));
        let before = worker.machine.at().position.step;
        let commands = worker.machine.handle(self.now, event);
        worker.commands.extend(commands);
        // An honest worker that finishes a step goes on.
        if worker.machine.at().position.step > before && !is_copy && !self.bad.contains_key(name) {
            self.changed_at = self.now;
        }
        // Check after every event, not only at the end: a later copy could replace a wrong state
        // before anybody sees it.
        let StateRef { position, digest, .. } = worker.machine.at();
        if !self.defective.contains(name) {
            assert_eq!(digest, self.reference.digests[&position], "{name} at {position}");
        }
    }

    /// Executes a command of a worker.
    pub(super) fn worker_command(&mut self, name: &str, command: Command) {
        let distorted = self.bad.contains_key(name).then(|| self.distort(name, command.clone()));
        let Some(command) = distorted.unwrap_or(Some(command)) else {
            return;
        };
        let worker = self.workers.get_mut(name).unwrap();
        let id = worker.id.clone();
        match command {
            Command::Report(message) => self.send_up(name, Upward::Message(message)),
            Command::Upload(step, state) => self.send_up(name, Upward::Snapshot(step, state)),
            Command::Compute(key, state, shards) => {
                // New work replaces what is not computed yet, as in a real worker.
                let jobs = shards.into_iter().map(|shard| (key, Arc::clone(&state), shard));
                worker.jobs = jobs.collect();
            }
            Command::Evaluate(task, state) => worker.evaluations.push((task, state)),
            Command::Connect(plan, rank) => self.connect_to_peers(name, plan, rank),
            Command::Send(rank, frame) => {
                let plan = worker.plan.clone().unwrap();
                let peer = plan.member(rank).unwrap().id.clone();
                // Without a stream the frame is lost: its peer was dead or unreachable.
                if let Some(queue) = self.data.get_mut(&(id, peer, frame.generation)) {
                    queue.push_back(PeerMessage::ReduceFrame(frame));
                }
            }
            Command::Copy(plan, source) => self.copy(name, &plan, source),
            Command::Serve(token, state, reports) => {
                // The asker may have died, or asked again, in the meantime.
                let Some((asker, wanted)) = worker.copies.remove(&token) else {
                    return;
                };
                let copy = state.map(|(at, state)| {
                    let state = self.give_copy(name, (*state).clone());
                    (at, StateCopy { state, reports })
                });
                self.end_copy(&id, &asker, wanted, copy);
            }
            Command::Probe(peer, _) => {
                let is_reached =
                    self.can_reach(name, &peer) || self.bad(name) == Some(Bad::ClaimsToReach);
                let result = if is_reached { Ok(()) } else { Err("no answer".to_owned()) };
                self.worker_event(name, Event::ProbeResult(peer, result));
            }
            Command::Trial(donor, _) => match self.bad(name) {
                Some(Bad::TriedForEver) => {}
                Some(Bad::ClaimsToReach) => {
                    self.worker_event(name, Event::TrialResult(donor, Ok(TRIAL_TIMES)));
                }
                _ => self.ask_for_copy(name, &donor, Wanted::Trial, None),
            },
            Command::CloseSession(claim) => {
                assert!(!self.liars.is_empty(), "an honest coordinator is not believed: {claim}");
                self.cut_control(name);
            }
            Command::Exit(finish) => {
                // Only a run with a defective worker ends in another way.
                let is_explained = !self.defective.is_empty() || !self.liars.is_empty();
                assert!(!matches!(finish, Finish::Failed(_)) || is_explained, "{finish:?}");
                self.check_release(name);
                self.remove_worker(name);
            }
        }
    }

    /// Opens streams to all other members of a plan. Their first message is the plan.
    fn connect_to_peers(&mut self, name: &str, plan: Arc<Plan>, rank: Rank) {
        let worker = self.workers.get_mut(name).unwrap();
        let id = worker.id.clone();
        worker.plan = Some(Arc::clone(&plan));
        for other in plan.ranks().filter(|&other| other != rank) {
            let peer = plan.member(other).unwrap().id.clone();
            if self.can_reach(name, &peer) {
                let link = (id.clone(), peer, plan.generation);
                let first = PeerMessage::Plan(Arc::clone(&plan));
                self.data.entry(link).or_default().push_back(first);
            } else {
                let broken = Event::StreamBroken(plan.generation, other);
                self.worker_event(name, broken);
            }
        }
    }

    /// Fetches the state that a plan starts from.
    fn copy(&mut self, name: &str, plan: &Arc<Plan>, source: CopySource) {
        match source {
            CopySource::Coordinator => self.copy_from_disk(name, plan),
            CopySource::Member(rank) => {
                let holder = plan.member(rank).unwrap().id.clone();
                let wanted = Wanted::Plan(plan.generation);
                self.ask_for_copy(name, &holder, wanted, Some(plan.start));
            }
        }
    }

    /// Reads the state from a checkpoint, as the coordinator does for a worker.
    fn copy_from_disk(&mut self, name: &str, plan: &Arc<Plan>) {
        let step = plan.start.position.step;
        let saved = self.disk.checkpoints.get(&step);
        let is_missing = saved.is_none();
        let copy = match (saved, &self.coordinator) {
            (Some((_, bytes)), Some(_)) => {
                let state = decode(self.reference.objective.layout(), bytes);
                Some(StateCopy { state, reports: Vec::new() })
            }
            _ => None,
        };
        if is_missing {
            let newest = self.disk.persisted(&self.schedule).checkpoint;
            self.coordinator_event(coordinator::Event::Unreadable { step, newest });
        }
        self.worker_event(name, Event::Copied(plan.generation, copy));
    }

    /// Asks a worker for its state. The answer comes with its command `Serve`.
    fn ask_for_copy(
        &mut self,
        name: &str,
        holder: &WorkerId,
        wanted: Wanted,
        state: Option<StateRef>,
    ) {
        let asker = self.workers[name].id.clone();
        if !self.can_reach(name, holder) {
            self.end_copy(holder, &asker, wanted, None);
            return;
        }
        let token = self.new_id();
        let holder_process = self.workers.get_mut(&holder.name).unwrap();
        holder_process.copies.insert(token, (asker, wanted));
        self.worker_event(&holder.name, Event::CopyAsked(state, token));
    }

    /// Ends a copy from a worker to the one that asked for it.
    pub(super) fn end_copy(
        &mut self,
        holder: &WorkerId,
        asker: &WorkerId,
        wanted: Wanted,
        copy: Option<(StateRef, StateCopy)>,
    ) {
        if !self.is_alive(asker) {
            return;
        }
        match wanted {
            Wanted::Trial => self.end_trial(&asker.name, holder, copy),
            Wanted::Plan(generation) => {
                let copy = copy.map(|(_, copy)| copy);
                self.worker_event(&asker.name, Event::Copied(generation, copy));
            }
        }
    }

    /// Tells if a worker can open a connection to another process now.
    fn can_reach(&self, name: &str, peer: &WorkerId) -> bool {
        let is_good = !matches!(self.bad(name), Some(Bad::ReachesNobody | Bad::ClaimsToReach))
            && self.bad(&peer.name) != Some(Bad::Unreachable);
        self.is_alive(peer) && !self.are_separated(name, &peer.name) && is_good
    }

    /// Sends a message to the coordinator. Without a control stream that was welcomed, it is
    /// dropped.
    pub(super) fn send_up(&mut self, name: &str, message: Upward) {
        let worker = &self.workers[name];
        let Some(conn) = worker.conn.filter(|_| worker.welcomed) else {
            return;
        };
        if let Some(control) = self.control.get_mut(&conn) {
            control.up.push_back(message);
        }
    }

    /// Delivers the next message of a control stream to its worker.
    pub(super) fn deliver_down(&mut self, conn: ConnId) {
        let control = self.control.get_mut(&conn).unwrap();
        let (name, message) = (control.worker.clone(), control.down.pop_front().unwrap());
        // The worker may be dead, or have another stream by now.
        if self.workers.get(&name).is_none_or(|worker| worker.conn != Some(conn)) {
            control.down.clear();
            return;
        }
        match message {
            Downward::Welcome => {
                self.workers.get_mut(&name).unwrap().welcomed = true;
                self.worker_event(&name, Event::Welcome(self.schedule));
            }
            Downward::Message(message) => self.worker_event(&name, Event::Message(message)),
            Downward::Closed => self.cut_control(&name),
        }
    }

    /// Delivers the next message from one worker to another.
    pub(super) fn deliver_data(&mut self, link: Link) {
        let (from, to, generation) = link.clone();
        let message = self.data.get_mut(&link).unwrap().pop_front().unwrap();
        let Some(worker) = self.workers.get(&to.name).filter(|worker| worker.id == to) else {
            return;
        };
        let event = match message {
            PeerMessage::Plan(plan) => Event::PeerPlan(plan),
            PeerMessage::ReduceFrame(frame) => {
                // The rank that the sender has in the frame's generation. A real worker learns it
                // from the first message of the stream.
                let plan = worker.plan.iter().find(|plan| plan.generation == generation);
                let Some(rank) = plan.and_then(|plan| plan.rank_of(&from)) else {
                    return;
                };
                if let Some(liar) = &mut self.liar {
                    liar.overhear_frame(&frame);
                }
                Event::ReduceFrame(rank, frame)
            }
            PeerMessage::Broken => {
                let Some(rank) = worker.plan.as_ref().and_then(|plan| plan.rank_of(&from)) else {
                    return;
                };
                Event::StreamBroken(generation, rank)
            }
        };
        self.worker_event(&to.name, event);
    }
}
