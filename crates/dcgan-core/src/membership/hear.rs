//! What the machine makes of an event, before it decides what follows.

use std::sync::Arc;

use super::{Command, ConnId, Event, Failure, Loss, Membership, Note, Saved, Stage};
use crate::ids::{Generation, Position, Rank, ShardId, Step, WorkerId};
use crate::message::{Finish, FromWorker, Hello, PROTOCOL, Refusal, ToWorker, Trouble, Unusable};
use crate::metrics::StepDone;
use crate::plan::{Plan, assign, even};

impl Membership {
    pub(super) fn take(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Hello(conn, hello) => self.hello(conn, hello),
            Event::Message(conn, message) => return self.message(conn, message),
            Event::Heartbeat(conn) => {
                let now = self.now;
                if let Some(worker) = self.roster.by_conn(conn) {
                    worker.heard = now;
                }
            }
            Event::Closed(conn) => self.closed(conn),
            Event::Snapshot { step, digest, bytes } => self.ledger.snapshot(step, digest, &bytes, &mut self.out),
            Event::Unreadable { step, newest } => self.unreadable(step, newest),
            Event::DrawGrids(draw) => self.ledger.draw_grids(draw),
            Event::Stop(stop) => self.stop = Some(stop),
            Event::Checkpoint => self.ledger.ask_for_checkpoint(),
            Event::Drain(name) => self.drain(&name),
            Event::Tick => {}
        }
        Ok(())
    }

    fn hello(&mut self, conn: ConnId, hello: Hello) {
        if let Some(refusal) = self.refusal(&hello) {
            self.out.push(Command::Refuse(conn, refusal));
            return;
        }
        let name = hello.id.name.clone();
        self.fingerprint.get_or_insert_with(|| hello.fingerprint.clone());
        if self.roster.get(&name).is_some_and(|worker| worker.id != hello.id) {
            self.lose(&name, Loss::Replaced);
        }
        if self.roster.get(&name).is_none() {
            self.note(Note::Joined(name.clone()));
        }
        let lacks_plan = hello.plan < self.generation();
        let id = hello.id.clone();
        // What its earlier connection was asked for is asked again.
        self.ledger.closed(&name);
        if let Some(replaced) = self.roster.enter(self.now, conn, hello) {
            self.out.push(Command::Close(replaced));
        }
        self.out.push(Command::Welcome(conn, self.likely_shards(&name)));
        self.out.push(Command::Send(conn, ToWorker::Stored(self.told_stored)));
        let keep = self.ledger.asked().map(ToWorker::Keep);
        self.out.extend(keep.map(|message| Command::Send(conn, message)));
        let is_ready = self.roster.get(&name).is_some_and(|worker| worker.ready);
        let open = match &self.stage {
            Stage::Fencing { generation, .. } if is_ready => Some(ToWorker::Fence(*generation)),
            Stage::Training { .. } => {
                self.plan.clone().filter(|plan| lacks_plan && plan.rank_of(&id).is_some()).map(ToWorker::Plan)
            }
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
            return Some(Refusal::Fingerprint { run: run.clone(), worker: hello.fingerprint.clone() });
        }
        let newer = self.roster.get(&hello.id.name).filter(|worker| worker.is_connected() && worker.id > hello.id);
        newer.map(|worker| Refusal::Replaced(worker.id.name.clone()))
    }

    /// The shards that a worker will probably own, so that it fetches their partitions first.
    fn likely_shards(&self, name: &str) -> Vec<ShardId> {
        let planned = self.plan.as_ref().and_then(|plan| {
            let rank = plan.ranks().find(|&rank| plan.member(rank).is_some_and(|member| member.id.name == name))?;
            Some(plan.shards_of(rank).collect())
        });
        planned.unwrap_or_else(|| {
            let mut order: Vec<(u64, &str)> =
                self.roster.workers.iter().map(|(name, worker)| (worker.joined, name.as_str())).collect();
            order.sort_unstable();
            let place = order.iter().position(|&(_, other)| other == name).unwrap_or(0);
            let members = self.workers.max(order.len()).min(usize::from(self.shards));
            let nobody = vec![None; usize::from(self.shards)];
            let owners = assign(&nobody, even(&nobody, members));
            let owners = (0..self.shards).map(ShardId).zip(owners);
            owners.filter(|(_, rank)| usize::from(rank.0) == place % members).map(|(shard, _)| shard).collect()
        })
    }

    fn message(&mut self, conn: ConnId, message: FromWorker) -> Result<(), Failure> {
        let now = self.now;
        let Some(worker) = self.roster.by_conn(conn) else { return Ok(()) };
        worker.heard = now;
        let id = worker.id.clone();
        match message {
            FromWorker::Ready => self.ready(&id.name, conn),
            FromWorker::Fenced { generation, state } => {
                worker.fenced = Some((generation, state));
                // The answer of one who was too late for a fence counts as ready, and the next fence may be open.
                if !std::mem::replace(&mut worker.ready, true) {
                    self.ask(conn);
                }
                if let Some(state) = state {
                    self.went_beyond(state.position);
                }
            }
            FromWorker::StepDone(done) => return self.step_done(&id, done),
            FromWorker::Trouble { generation, trouble } => return self.trouble(&id, generation, trouble),
            FromWorker::Lacks(step) => self.ledger.lacks(&id, step),
            FromWorker::Differed { position, tensor } => {
                self.note(Note::Differed { name: id.name, position, tensor });
            }
            FromWorker::Probed { peer, reached } => self.probed(&id, &peer, reached),
            FromWorker::Leave => {
                self.out.push(Command::Send(conn, ToWorker::Finish(Finish::Done)));
                self.lose(&id.name, Loss::Left);
            }
        }
        Ok(())
    }

    fn step_done(&mut self, id: &WorkerId, done: StepDone) -> Result<(), Failure> {
        let Some(worker) = self.roster.workers.get_mut(&id.name) else { return Ok(()) };
        let is_new = done.step > worker.last_step;
        worker.last_step = worker.last_step.max(done.step);
        // What led to the plan's start is reported again after every plan, and is no progress.
        let goes_on = |plan: &Arc<Plan>| done.generation == plan.generation && done.step > plan.start.position.step;
        if let Stage::Training { progress, .. } = &mut self.stage
            && self.plan.as_ref().is_some_and(goes_on)
        {
            *progress = true;
            self.reach.progress();
        }
        self.went_beyond(Position::after(done.step));
        self.history.step(self.now, done.generation);
        if let Some(plan) = self.plan.as_ref().filter(|_| is_new) {
            self.paces.step(plan, id, &done);
        }
        let step = done.step;
        if let Some(other) = self.ledger.report(id, done)? {
            self.complain(&id.name, format!("its state after step {step} differs from that of {other}"), false);
        }
        Ok(())
    }

    /// Asks a worker to leave.
    fn drain(&mut self, name: &str) {
        let Some(worker) = self.roster.get(name) else { return };
        let conn = worker.conn;
        self.out.extend(conn.map(|conn| Command::Send(conn, ToWorker::Finish(Finish::Done))));
        self.lose(name, Loss::Drained);
    }

    /// The checkpoint that the newest plan may start from cannot be read: a fence shows whether a worker has its state.
    fn unreadable(&mut self, step: Step, newest: Option<Saved>) {
        let starts_there = self.plan.as_ref().is_some_and(|plan| plan.start.position == Position::after(step));
        if self.ledger.unreadable(step, newest) && starts_there && matches!(self.stage, Stage::Training { .. }) {
            self.fence(&format!("the checkpoint of step {step} cannot be read"));
        }
    }

    fn ready(&mut self, name: &str, conn: ConnId) {
        let Some(worker) = self.roster.workers.get_mut(name) else { return };
        if std::mem::replace(&mut worker.ready, true) {
            return;
        }
        self.out.push(Command::Note(Note::Ready(name.to_owned())));
        self.ask(conn);
    }

    /// Asks a worker that has become ready where it is, if a fence is open.
    fn ask(&mut self, conn: ConnId) {
        if let Stage::Fencing { generation, .. } = self.stage {
            self.out.push(Command::Send(conn, ToWorker::Fence(generation)));
        }
    }

    fn trouble(&mut self, by: &WorkerId, generation: Generation, trouble: Trouble) -> Result<(), Failure> {
        let Some(plan) = self.plan.clone().filter(|plan| plan.generation == generation) else { return Ok(()) };
        let name_of = |rank: Rank| plan.member(rank).map(|member| member.id.name.clone());
        let (about, at_once) = match trouble {
            Trouble::Differs { peer, position, mine, theirs } => {
                let peer = name_of(peer).unwrap_or_default();
                (format!("its state at {position} is {mine}, that of {peer} {theirs}"), false)
            }
            Trouble::StreamBroken(peer) => {
                let Some(name) = name_of(peer) else { return Ok(()) };
                if let Some(worker) = self.roster.workers.get_mut(&name) {
                    worker.data_closed = true;
                }
                self.reach.name(&plan, by, peer);
                (format!("lost its connection to {name}"), false)
            }
            Trouble::Owes(peer) => {
                let Some(peer) = name_of(peer) else { return Ok(()) };
                if matches!(self.stage, Stage::Training { .. }) {
                    self.lose(&peer, Loss::Stuck);
                }
                (format!("waits too long for {peer}"), false)
            }
            Trouble::CannotCopy => ("cannot copy the state that the plan starts from".to_owned(), false),
            Trouble::Damaged(tensor) => (format!("a bit of {tensor} has changed in its memory"), true),
            Trouble::Unusable(unusable) => {
                let Unusable { position, shards, what } = &unusable;
                let list: Vec<String> = shards.iter().map(ShardId::to_string).collect();
                let about = format!("cannot use the vectors of shards {} at {position}: {what}", list.join(", "));
                self.doubt(by, &plan, unusable)?;
                (about, true)
            }
        };
        self.complain(&by.name, about, at_once);
        Ok(())
    }

    /// A worker complains: a new generation follows, at once or as soon as it may.
    fn complain(&mut self, by: &str, about: String, at_once: bool) {
        match &mut self.stage {
            Stage::Training { complaint, .. } => {
                if !std::mem::replace(complaint, true) {
                    self.note(Note::Complaint { by: by.to_owned(), about: about.clone() });
                }
                if at_once {
                    self.fence(&format!("worker {by}: {about}"));
                }
            }
            Stage::Gathering { .. } => self.fence(&format!("worker {by}: {about}")),
            _ => {}
        }
    }

    fn closed(&mut self, conn: ConnId) {
        if let Some(name) = self.roster.close(self.now, conn) {
            self.ledger.closed(&name);
            if matches!(self.stage, Stage::Finishing { .. }) {
                self.roster.remove(&name);
            }
        }
    }

    pub(super) fn lose(&mut self, name: &str, why: Loss) {
        self.ledger.closed(name);
        if let Some(conn) = self.roster.remove(name) {
            self.out.push(Command::Close(conn));
        }
        if self.member_names().iter().any(|member| member == name) {
            self.history.lost(format!("lost worker {name}: {why}"));
        }
        self.note(Note::Lost { name: name.to_owned(), why });
    }

    pub(super) fn restart_clocks(&mut self) {
        let now = self.now;
        self.roster.restart_clocks(now);
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
