//! What a person wants to know of a run, at one moment.

use std::time::Duration;

use super::{Reason, Recovery};
use crate::ids::{Digest, Generation, ShardId, Step, WorkerId};
use crate::protocol::coordinator::CoordinatorMachine;
use crate::protocol::plan::Plan;

/// A run at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// What is being done or waited for.
    pub reason: Reason,
    /// The newest plan's number; 0 before the first.
    pub generation: Generation,
    /// The last finished step on which all members agree.
    pub step: Step,
    /// The step that ends the run.
    pub last_step: Step,
    /// The newest checkpoint, with its digest.
    pub checkpoint: Option<(Step, Digest)>,
    /// The workers, members by rank first.
    pub workers: Vec<WorkerStatus>,
    /// Interruptions since the coordinator was started, the latest last.
    pub recoveries: Vec<Recovery>,
}

/// A worker at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerStatus {
    /// Which process.
    pub id: WorkerId,
    /// Where others reach it.
    pub address: String,
    /// What it is in the run.
    pub role: Role,
    /// The last step that it has reported.
    pub step: Step,
    /// How long ago it was heard.
    pub heard_ago: Duration,
    /// Milliseconds that it takes for a shard in a step, once that is known.
    pub shard_ms: Option<f64>,
}

/// What a worker is in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A member of the newest plan, with its rank and shards.
    Member(u16, Vec<ShardId>),
    /// Ready, and waiting for a place.
    Spare,
    /// Fetching its data.
    Starting,
    /// Waiting until it reaches its peers.
    Outside,
    /// Its connection closed a moment ago.
    Away,
}

impl CoordinatorMachine {
    /// The run at this moment.
    pub fn status(&self, now: Duration) -> Status {
        let role = |id: &WorkerId, ready: bool, connected: bool| {
            let rank =
                |plan: &Plan| plan.rank_of(id).map(|rank| (rank.0, plan.shards_of(rank).collect()));
            match self.plan.as_deref().and_then(rank) {
                _ if self.reachability.is_outside(id) => Role::Outside,
                _ if !connected => Role::Away,
                Some((rank, shards)) => Role::Member(rank, shards),
                None if ready => Role::Spare,
                None => Role::Starting,
            }
        };
        let status = |worker: &crate::protocol::coordinator::registry::Worker| WorkerStatus {
            id: worker.id.clone(),
            address: worker.address.clone(),
            role: role(&worker.id, worker.ready, worker.is_connected()),
            step: worker.last_step,
            heard_ago: now.saturating_sub(worker.heard),
            shard_ms: self.stragglers.shard_ms(&worker.id),
        };
        let mut workers: Vec<WorkerStatus> = self.registry.workers.values().map(status).collect();
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
            workers,
            recoveries: self.recoveries.recoveries().cloned().collect(),
        }
    }
}
