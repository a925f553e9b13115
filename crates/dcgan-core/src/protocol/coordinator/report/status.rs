//! The state of a run at one moment, for people.

use std::time::Duration;

use super::{Departure, LastSeen, Reason, Recovery};
use crate::evaluation::BestEvaluation;
use crate::ids::{Digest, Generation, ShardId, Step, WorkerId};
use crate::protocol::coordinator::registry::WorkerEntry;
use crate::protocol::coordinator::{Alarm, CoordinatorMachine};
use crate::protocol::false_claim::FalseClaim;

/// A run at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The present activity, or the thing that is waited for.
    pub reason: Reason,
    /// The generation of the newest plan; 0 before the first.
    pub generation: Generation,
    /// The last finished step on which all members agree.
    pub step: Step,
    /// The step that ends the run.
    pub last_step: Step,
    /// The step of the newest checkpoint, with the digest of its state.
    pub checkpoint: Option<(Step, Digest)>,
    /// The best state of those that are evaluated.
    pub best: Option<BestEvaluation>,
    /// The alarms that have begun and have not passed.
    pub alarms: Vec<Alarm>,
    /// The workers, members by rank first.
    pub workers: Vec<WorkerStatus>,
    /// The workers that are kept outside.
    pub outside: Vec<Outsider>,
    /// The workers that have left for good, and why.
    pub gone: Vec<(LastSeen, Departure)>,
    /// Interruptions since the coordinator was started, the latest last.
    pub recoveries: Vec<Recovery>,
    /// The names of the workers that a person has asked to leave and that are not released yet.
    pub draining: Vec<String>,
}

/// A worker at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerStatus {
    /// The process.
    pub id: WorkerId,
    /// The address at which other workers reach it, as host:port.
    pub address: String,
    /// Its role in the run.
    pub role: Role,
    /// The last step that it has reported.
    pub step: Step,
    /// The time since it was heard.
    pub heard_ago: Duration,
    /// The milliseconds that it takes for a shard in a step, once they are known.
    pub shard_ms: Option<f64>,
    /// Why it waits outside, if it does.
    pub outside: Option<String>,
}

/// A worker that is kept outside, because it said something that cannot be true.
#[derive(Clone, Debug, PartialEq)]
pub struct Outsider {
    /// The process.
    pub id: WorkerId,
    /// The address at which it said that others reach it.
    pub address: String,
    /// The claim, and what is possible.
    pub claim: FalseClaim,
    /// The time after which it may come back.
    pub left: Duration,
}

/// The role of a worker in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A member of the newest plan, with this rank and these shards.
    Member(u16, Vec<ShardId>),
    /// A ready worker that waits for the first plan.
    Ready,
    /// A ready worker that waits for a free shard.
    Spare,
    /// A worker that fetches its partitions.
    Starting,
    /// A worker that is being tried.
    OnTrial,
    /// A worker that has failed its trial, or has kept the members from going on. It waits to be
    /// tried again.
    Outside,
    /// A worker whose connection closed a moment ago, and may come back.
    Disconnected,
}

impl CoordinatorMachine {
    /// The run at this moment.
    pub fn status(&self, now: Duration) -> Status {
        let mut workers: Vec<WorkerStatus> =
            self.registry.workers.values().map(|worker| self.worker_status(now, worker)).collect();
        workers.sort_by_key(|worker| match worker.role {
            Role::Member(rank, _) => u32::from(rank),
            _ => u32::MAX,
        });
        Status {
            reason: self.reason(),
            generation: self.generation(),
            step: self.reached(),
            last_step: self.outputs.last_step(),
            checkpoint: self.checkpoint().map(|saved| (saved.step, saved.digest)),
            best: self.best_evaluation(),
            alarms: self.alarms(),
            workers,
            outside: self.claims.outside(now).collect(),
            gone: self.registry.gone(now),
            recoveries: self.recoveries.recoveries().cloned().collect(),
            draining: self.draining.names(),
        }
    }

    fn worker_status(&self, now: Duration, worker: &WorkerEntry) -> WorkerStatus {
        WorkerStatus {
            id: worker.id.clone(),
            address: worker.address.clone(),
            role: self.role(worker),
            step: worker.last_step,
            heard_ago: now.saturating_sub(worker.heard_at),
            shard_ms: self.stragglers.shard_ms(&worker.id),
            outside: self.trials.outside(&worker.id).map(str::to_owned),
        }
    }

    fn role(&self, worker: &WorkerEntry) -> Role {
        if !worker.is_connected() {
            return Role::Disconnected;
        }
        if self.trials.outside(&worker.id).is_some() {
            return Role::Outside;
        }
        if self.trials.is_on_trial(&worker.id) {
            return Role::OnTrial;
        }
        if let Some(plan) = &self.plan
            && let Some(rank) = plan.rank_of(&worker.id)
        {
            return Role::Member(rank.0, plan.shards_of(rank).to_vec());
        }
        match (worker.ready, &self.plan) {
            (false, _) => Role::Starting,
            (true, None) => Role::Ready,
            (true, Some(_)) => Role::Spare,
        }
    }
}
