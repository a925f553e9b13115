//! What the machine makes of an event, before it decides what follows.

use std::sync::Arc;

use super::{
    Command, ConnId, CoordinatorMachine, Departure, Event, Failure, Notice, SavedCheckpoint, Stage,
};
use crate::ids::{Generation, Position, Rank, ShardId, Step, WorkerId};
use crate::metrics::StepDone;
use crate::protocol::message::{
    Complaint, FailedShards, Finish, FromWorker, Hello, PROTOCOL, Refusal, ToWorker,
};
use crate::protocol::plan::{Plan, assign, even_loads};

impl CoordinatorMachine {
    pub(super) fn on_event(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Hello(conn, hello) => self.on_hello(conn, hello),
            Event::Message(conn, message) => return self.on_message(conn, message),
            Event::Heartbeat(conn) => {
                let now = self.now;
                if let Some(worker) = self.registry.by_conn(conn) {
                    worker.heard = now;
                }
            }
            Event::Closed(conn) => self.on_closed(conn),
            Event::Snapshot { step, digest, bytes } => {
                self.outputs.on_snapshot(step, digest, &bytes, &mut self.out)
            }
            Event::Unreadable { step, newest } => self.on_unreadable_checkpoint(step, newest),
            Event::DrawGrids(draw) => self.outputs.draw_grids(draw),
            Event::Stop(stop) => self.stop = Some(stop),
            Event::Checkpoint => self.outputs.ask_for_checkpoint(),
            Event::Drain(name) => self.drain(&name),
            Event::Tick => {}
        }
        Ok(())
    }

    fn on_hello(&mut self, conn: ConnId, hello: Hello) {
        if let Some(refusal) = self.refusal(&hello) {
            self.out.push(Command::Refuse(conn, refusal));
            return;
        }
        let name = hello.id.name.clone();
        self.fingerprint.get_or_insert_with(|| hello.fingerprint.clone());
        if self.registry.get(&name).is_some_and(|worker| worker.id != hello.id) {
            self.remove_worker(&name, Departure::Replaced);
        }
        if self.registry.get(&name).is_none() {
            self.note(Notice::Joined(name.clone()));
        }
        let lacks_plan = hello.plan < self.generation();
        let id = hello.id.clone();
        // What its earlier connection was asked for is asked again.
        self.outputs.closed(&name);
        if let Some(replaced) = self.registry.register(self.now, conn, hello) {
            self.out.push(Command::Close(replaced));
        }
        self.out.push(Command::Welcome(conn, self.likely_shards(&name)));
        self.out.push(Command::Send(conn, ToWorker::Persisted(self.announced_persisted)));
        let keep = self.outputs.asked().map(ToWorker::RetainSnapshot);
        self.out.extend(keep.map(|message| Command::Send(conn, message)));
        let is_ready = self.registry.get(&name).is_some_and(|worker| worker.ready);
        let open = match &self.stage {
            Stage::Fencing { generation, .. } if is_ready => Some(ToWorker::Fence(*generation)),
            Stage::Training { .. } => self
                .plan
                .clone()
                .filter(|plan| lacks_plan && plan.rank_of(&id).is_some())
                .map(ToWorker::Plan),
            Stage::Finishing { finish, .. } => Some(ToWorker::Finish(finish.clone())),
            _ => None,
        };
        self.out.extend(open.map(|message| Command::Send(conn, message)));
    }

    fn refusal(&self, hello: &Hello) -> Option<Refusal> {
        if hello.protocol != PROTOCOL {
            return Some(Refusal::Protocol { coordinator: PROTOCOL, worker: hello.protocol });
        }
        if let Some(worker) = hello.run.filter(|&run| run != self.run) {
            return Some(Refusal::OtherRun { coordinator: self.run, worker });
        }
        if let Some(run) = self.fingerprint.as_ref().filter(|run| **run != hello.fingerprint) {
            return Some(Refusal::Fingerprint {
                run: run.clone(),
                worker: hello.fingerprint.clone(),
            });
        }
        let newer = self
            .registry
            .get(&hello.id.name)
            .filter(|worker| worker.is_connected() && worker.id > hello.id);
        newer.map(|worker| Refusal::Replaced(worker.id.name.clone()))
    }

    /// The shards that a worker will probably own, so that it fetches their partitions first.
    fn likely_shards(&self, name: &str) -> Vec<ShardId> {
        let planned = self.plan.as_ref().and_then(|plan| {
            let rank = plan
                .ranks()
                .find(|&rank| plan.member(rank).is_some_and(|member| member.id.name == name))?;
            Some(plan.shards_of(rank).collect())
        });
        planned.unwrap_or_else(|| {
            let mut order: Vec<(u64, &str)> = self
                .registry
                .workers
                .iter()
                .map(|(name, worker)| (worker.joined, name.as_str()))
                .collect();
            order.sort_unstable();
            let place = order.iter().position(|&(_, other)| other == name).unwrap_or(0);
            let members = self.workers.max(order.len()).min(usize::from(self.shards));
            let nobody = vec![None; usize::from(self.shards)];
            let owners = assign(&nobody, even_loads(&nobody, members));
            let owners = (0..self.shards).map(ShardId).zip(owners);
            owners
                .filter(|(_, rank)| usize::from(rank.0) == place % members)
                .map(|(shard, _)| shard)
                .collect()
        })
    }

    fn on_message(&mut self, conn: ConnId, message: FromWorker) -> Result<(), Failure> {
        let now = self.now;
        let Some(worker) = self.registry.by_conn(conn) else {
            return Ok(());
        };
        worker.heard = now;
        let id = worker.id.clone();
        match message {
            FromWorker::Ready => self.on_ready(&id.name, conn),
            FromWorker::FenceAck { generation, state } => {
                worker.fenced = Some((generation, state));
                // The answer of one who was too late for a fence counts as ready, and the next fence may be open.
                if !std::mem::replace(&mut worker.ready, true) {
                    self.send_open_fence(conn);
                }
                if let Some(state) = state {
                    self.resolve_suspects(state.position);
                }
            }
            FromWorker::StepDone(done) => return self.on_step_done(&id, done),
            FromWorker::Complaint { generation, complaint } => {
                return self.on_complaint(&id, generation, complaint);
            }
            FromWorker::SnapshotMissing(step) => self.outputs.on_snapshot_missing(&id, step),
            FromWorker::StateDiffered { position, tensor } => {
                self.note(Notice::StateDiffered { name: id.name, position, tensor });
            }
            FromWorker::ProbeResult { peer, reached } => self.on_probe_result(&id, &peer, reached),
            FromWorker::Leave => {
                self.out.push(Command::Send(conn, ToWorker::Finish(Finish::Done)));
                self.remove_worker(&id.name, Departure::Left);
            }
        }
        Ok(())
    }

    fn on_step_done(&mut self, id: &WorkerId, done: StepDone) -> Result<(), Failure> {
        let Some(worker) = self.registry.workers.get_mut(&id.name) else {
            return Ok(());
        };
        let is_new = done.step > worker.last_step;
        worker.last_step = worker.last_step.max(done.step);
        // What led to the plan's start is reported again after every plan, and is no progress.
        let goes_on = |plan: &Arc<Plan>| {
            done.generation == plan.generation && done.step > plan.start.position.step
        };
        if let Stage::Training { progress, .. } = &mut self.stage
            && self.plan.as_ref().is_some_and(goes_on)
        {
            *progress = true;
            self.reachability.progress();
        }
        self.resolve_suspects(Position::after(done.step));
        self.recoveries.step(self.now, done.generation);
        if let Some(plan) = self.plan.as_ref().filter(|_| is_new) {
            self.stragglers.step(plan, id, &done);
        }
        let step = done.step;
        if let Some(other) = self.outputs.report(id, done)? {
            self.request_new_generation(
                &id.name,
                format!("its state after step {step} differs from that of {other}"),
                false,
            );
        }
        Ok(())
    }

    /// Asks a worker to leave.
    fn drain(&mut self, name: &str) {
        let Some(worker) = self.registry.get(name) else {
            return;
        };
        let conn = worker.conn;
        self.out.extend(conn.map(|conn| Command::Send(conn, ToWorker::Finish(Finish::Done))));
        self.remove_worker(name, Departure::Drained);
    }

    /// The checkpoint that the newest plan may start from cannot be read: a fence shows whether a worker has its state.
    fn on_unreadable_checkpoint(&mut self, step: Step, newest: Option<SavedCheckpoint>) {
        let starts_there =
            self.plan.as_ref().is_some_and(|plan| plan.start.position == Position::after(step));
        if self.outputs.unreadable(step, newest)
            && starts_there
            && matches!(self.stage, Stage::Training { .. })
        {
            self.fence(&format!("the checkpoint of step {step} cannot be read"));
        }
    }

    fn on_ready(&mut self, name: &str, conn: ConnId) {
        let Some(worker) = self.registry.workers.get_mut(name) else {
            return;
        };
        if std::mem::replace(&mut worker.ready, true) {
            return;
        }
        self.out.push(Command::Notice(Notice::Ready(name.to_owned())));
        self.send_open_fence(conn);
    }

    /// Asks a worker that has become ready where it is, if a fence is open.
    fn send_open_fence(&mut self, conn: ConnId) {
        if let Stage::Fencing { generation, .. } = self.stage {
            self.out.push(Command::Send(conn, ToWorker::Fence(generation)));
        }
    }

    fn on_complaint(
        &mut self,
        by: &WorkerId,
        generation: Generation,
        complaint: Complaint,
    ) -> Result<(), Failure> {
        let Some(plan) = self.plan.clone().filter(|plan| plan.generation == generation) else {
            return Ok(());
        };
        let name_of = |rank: Rank| plan.member(rank).map(|member| member.id.name.clone());
        let (about, at_once) = match complaint {
            Complaint::StateMismatch { peer, position, mine, theirs } => {
                let peer = name_of(peer).unwrap_or_default();
                (format!("its state at {position} is {mine}, that of {peer} {theirs}"), false)
            }
            Complaint::StreamBroken(peer) => {
                let Some(name) = name_of(peer) else {
                    return Ok(());
                };
                if let Some(worker) = self.registry.workers.get_mut(&name) {
                    worker.data_closed = true;
                }
                self.reachability.accuse(&plan, by, peer);
                (format!("lost its connection to {name}"), false)
            }
            Complaint::Timeout(peer) => {
                let Some(peer) = name_of(peer) else {
                    return Ok(());
                };
                if matches!(self.stage, Stage::Training { .. }) {
                    self.remove_worker(&peer, Departure::Stuck);
                }
                (format!("waits too long for {peer}"), false)
            }
            Complaint::CopyFailed => {
                ("cannot copy the state that the plan starts from".to_owned(), false)
            }
            Complaint::StateCorrupted(tensor) => {
                (format!("a bit of {tensor} has changed in its memory"), true)
            }
            Complaint::ShardsFailed(unusable) => {
                let FailedShards { position, shards, what } = &unusable;
                let list: Vec<String> = shards.iter().map(ShardId::to_string).collect();
                let about = format!(
                    "cannot use the vectors of shards {} at {position}: {what}",
                    list.join(", ")
                );
                self.suspect(by, &plan, unusable)?;
                (about, true)
            }
        };
        self.request_new_generation(&by.name, about, at_once);
        Ok(())
    }

    /// A worker complains: a new generation follows, at once or as soon as it may.
    fn request_new_generation(&mut self, by: &str, about: String, at_once: bool) {
        match &mut self.stage {
            Stage::Training { complaint, .. } => {
                if !std::mem::replace(complaint, true) {
                    self.note(Notice::Complaint { by: by.to_owned(), about: about.clone() });
                }
                if at_once {
                    self.fence(&format!("worker {by}: {about}"));
                }
            }
            Stage::Gathering { .. } => self.fence(&format!("worker {by}: {about}")),
            _ => {}
        }
    }

    fn on_closed(&mut self, conn: ConnId) {
        if let Some(name) = self.registry.close(self.now, conn) {
            self.outputs.closed(&name);
            if matches!(self.stage, Stage::Finishing { .. }) {
                self.registry.remove(&name);
            }
        }
    }

    pub(super) fn remove_worker(&mut self, name: &str, why: Departure) {
        self.outputs.closed(name);
        if let Some(conn) = self.registry.remove(name) {
            self.out.push(Command::Close(conn));
        }
        if self.member_names().iter().any(|member| member == name) {
            self.recoveries.lost(format!("lost worker {name}: {why}"));
        }
        self.note(Notice::Lost { name: name.to_owned(), why });
    }

    pub(super) fn restart_clocks(&mut self) {
        let now = self.now;
        self.registry.restart_clocks(now);
        match &mut self.stage {
            Stage::Gathering { since }
            | Stage::Fencing { since, .. }
            | Stage::Training { since, .. }
            | Stage::Stopping { since, .. }
            | Stage::Finishing { since, .. } => *since = now,
            Stage::Done => {}
        }
    }
}
