//! The answer to a worker's hello: a refusal, or what the worker needs to know.

use super::{Command, ConnId, CoordinatorMachine, Departure, Notice, Stage};
use crate::ids::{ShardId, WorkerId};
use crate::protocol::message::{Hello, PROTOCOL, Refusal, ToWorker};
use crate::protocol::plan::{assign, even_loads};

impl CoordinatorMachine {
    /// Takes the first message of a control stream.
    pub(super) fn on_hello(&mut self, conn: ConnId, hello: Hello) {
        if let Some(refusal) = self.refusal(&hello) {
            self.out.push(Command::Refuse(conn, refusal));
            return;
        }
        if let Some(why) = self.reason_to_wait(&hello) {
            self.out.push(Command::TurnAway(conn, why));
            return;
        }
        if let Err(claim) = self.hear_hello(&hello) {
            self.keep_outside(Some(conn), &hello.id, hello.address, claim);
            return;
        }
        let id = hello.id.clone();
        let lacks_plan = hello.plan < self.generation();

        // A newer process of the same name replaces an older one.
        if self.registry.by_name(&id.name).is_some_and(|worker| worker.id != id) {
            self.remove_worker(&id.name, Departure::Replaced);
        }
        if self.registry.by_name(&id.name).is_none() {
            self.notify(Notice::Connected(id.name.clone()));
            self.notify_of_fingerprint(&hello);
        }

        // Requests to its earlier connection are lost, and made again.
        self.outputs.on_closed(&id.name);
        self.trials.on_reconnected(&id);
        if let Some(replaced) = self.registry.register(self.now, conn, hello) {
            self.out.push(Command::Close(replaced));
        }
        if self.draining.contains(&id) {
            self.drain(&id.name);
        }

        // Tell it what the others were told while it was not connected.
        self.out.push(Command::Welcome(conn, self.likely_shards(&id.name)));
        self.out.push(Command::Send(conn, ToWorker::Persisted(self.announced_persisted)));
        if let Some(step) = self.outputs.horizon() {
            self.out.push(Command::Send(conn, ToWorker::TrainThrough(step)));
        }
        if let Some(step) = self.outputs.requested_checkpoint() {
            self.out.push(Command::Send(conn, ToWorker::RetainSnapshot(step)));
        }
        if let Some(message) = self.message_of_stage(&id, lacks_plan) {
            self.out.push(Command::Send(conn, message));
        }
    }

    /// The message of the present stage that a worker has missed, if there is one.
    fn message_of_stage(&self, id: &WorkerId, lacks_plan: bool) -> Option<ToWorker> {
        match &self.stage {
            Stage::Fencing { generation, .. } => {
                let worker = self.registry.by_id(id)?;
                worker.ready.then_some(ToWorker::Fence(*generation))
            }
            Stage::Training { .. } => {
                let plan = self.plan.as_ref().filter(|plan| plan.rank_of(id).is_some())?;
                lacks_plan.then(|| ToWorker::Plan(plan.clone()))
            }
            Stage::Finishing { finish, .. } => Some(ToWorker::Finish(finish.clone())),
            // A plan that is being stored goes to all members when it is on disk.
            Stage::Storing { .. }
            | Stage::Gathering { .. }
            | Stage::Saving { .. }
            | Stage::Done => None,
        }
    }

    /// The reason to turn a worker away, if there is one.
    fn refusal(&self, hello: &Hello) -> Option<Refusal> {
        if hello.protocol != PROTOCOL {
            return Some(Refusal::Protocol { coordinator: PROTOCOL, worker: hello.protocol });
        }
        if let Some(worker) = hello.run
            && worker != self.run
        {
            return Some(Refusal::OtherRun { coordinator: self.run, worker });
        }
        if let Some(run) = &self.fingerprint
            && *run != hello.fingerprint
        {
            let (run, worker) = (run.clone(), hello.fingerprint.clone());
            return Some(Refusal::Fingerprint { run, worker });
        }
        let same_name = self.registry.by_name(&hello.id.name)?;
        if same_name.is_connected() && same_name.id > hello.id {
            return Some(Refusal::Replaced(hello.id.name.clone()));
        }
        None
    }

    /// The reason for a worker to try again later, if there is one.
    fn reason_to_wait(&mut self, hello: &Hello) -> Option<String> {
        if let Some(why) = self.reason_outside(&hello.id) {
            return Some(why);
        }
        // A process that is restarted finds its old connection closed, or waits until nothing was
        // heard on it for 3 s. A process that is heard keeps its name, whoever else wants it.
        let name = &hello.id.name;
        let worker = self.registry.workers.get_mut(name)?;
        if worker.id == hello.id || !worker.is_connected() {
            return None;
        }
        if !std::mem::replace(&mut worker.name_wanted, true) {
            self.notify(Notice::NameTaken(name.clone()));
        }
        Some(format!(
            "another worker named {name} is connected: waiting until it is gone; give one of the \
             two another --name"
        ))
    }

    /// Says so if a worker computes with other last bits than those before it. The first plan
    /// decides who takes part, not the first hello: that may be the wrong one.
    fn notify_of_fingerprint(&mut self, hello: &Hello) {
        let most = self.registry.most_frequent_fingerprint(|_| true);
        if let Some((others, _)) = most
            && self.fingerprint.is_none()
            && others != hello.fingerprint
        {
            let (name, fingerprint) = (hello.id.name.clone(), hello.fingerprint.clone());
            self.notify(Notice::FingerprintsDiffer { name, fingerprint, others });
        }
    }

    /// Refuses the workers whose fingerprint is not the run's: the first plan has decided it.
    pub(super) fn refuse_other_fingerprints(&mut self, run: &str) {
        let mut others = Vec::new();
        for worker in self.registry.workers.values().filter(|it| it.fingerprint != run) {
            others.push((worker.id.name.clone(), worker.conn, worker.fingerprint.clone()));
        }
        for (name, conn, worker) in others {
            let refusal = Refusal::Fingerprint { run: run.to_owned(), worker };
            self.out.extend(conn.map(|conn| Command::Refuse(conn, refusal)));
            self.remove_worker(&name, Departure::OtherFingerprint);
        }
    }

    /// The shards that a worker will probably own, so that it fetches their partitions first.
    fn likely_shards(&self, name: &str) -> Vec<ShardId> {
        // A member of the last plan by this name: shards move as little as possible.
        if let Some(plan) = &self.plan {
            for (member, rank) in plan.members().iter().zip(plan.ranks()) {
                if member.id.name == name {
                    return plan.shards_of(rank).to_vec();
                }
            }
        }

        // Otherwise guess the first plan: ranks in the order in which workers came.
        let mut arrivals: Vec<(u64, &str)> = Vec::new();
        for (other, worker) in &self.registry.workers {
            arrivals.push((worker.arrival, other));
        }
        arrivals.sort_unstable();
        let place = arrivals.iter().position(|&(_, other)| other == name).unwrap_or(0);
        let members = self.workers.max(arrivals.len()).min(usize::from(self.shards));
        let no_owners = vec![None; usize::from(self.shards)];
        let owners = assign(&no_owners, even_loads(&no_owners, members));
        let mut shards = Vec::new();
        for (shard, owner) in (0..self.shards).map(ShardId).zip(owners) {
            if usize::from(owner.0) == place % members {
                shards.push(shard);
            }
        }
        shards
    }
}
