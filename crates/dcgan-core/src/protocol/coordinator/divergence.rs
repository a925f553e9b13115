//! Vectors that cannot be summed: is it the training, or the worker?
//!
//! Evicting whoever finds numbers that are not finite would evict one worker after another from a training that has
//! diverged. So each such vector is computed once more, by another worker. If that finds the same, the training ends; if
//! the others go on from there, the first worker goes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Command, CoordinatorMachine, Departure, Failure};
use crate::ids::{Generation, Position, Rank, ShardId, WorkerId};
use crate::protocol::message::{FailedShards, Finish, ToWorker};
use crate::protocol::plan::Plan;

/// A worker that fails in so many generations at one position fails at whatever it is given: it stays out of the plan until
/// others have gone beyond, and it goes, or have failed at its shards as well. They may be slower than it.
const ROUNDS_MAX: usize = 3;

/// What is in doubt, at one position.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    position: Position,
    /// Who could not use which shard's vector.
    found_by: BTreeMap<ShardId, BTreeSet<WorkerId>>,
    /// In which generations each of them said so, and whether it was alone.
    rounds: BTreeMap<WorkerId, BTreeMap<Generation, bool>>,
}

impl CoordinatorMachine {
    /// A worker says that it cannot use vectors of its own.
    pub(super) fn suspect(
        &mut self,
        by: &WorkerId,
        plan: &Plan,
        unusable: FailedShards,
    ) -> Result<(), Failure> {
        let FailedShards { position, shards, what } = unusable;
        let alone = plan.members.len() == 1;
        if self.suspects.position != position {
            self.suspects = Suspects { position, ..Suspects::default() };
        }
        let Suspects { found_by, rounds, .. } = &mut self.suspects;
        let rounds = rounds.entry(by.clone()).or_default();
        let again = rounds.range(..plan.generation).any(|(_, &alone)| alone);
        rounds.insert(plan.generation, alone);
        for shard in shards {
            let found_by = found_by.entry(shard).or_default();
            let agreed = found_by.iter().any(|other| other != by)
                || (alone && again && found_by.contains(by));
            if agreed {
                return Err(Failure::Diverged { position, shard, what });
            }
            found_by.insert(by.clone());
        }
        if self.suspects.is_suspect(by) && self.healthy_workers() < self.min_workers && !alone {
            // Without it nobody goes on, and so nobody finds out: another may come in its place.
            self.evict(by, position);
        }
        Ok(())
    }

    /// How many workers reach each other and have not failed too often.
    pub(super) fn healthy_workers(&self) -> usize {
        let is_healthy =
            |id: &WorkerId| !self.reachability.is_outside(id) && !self.suspects.is_suspect(id);
        self.registry.ready().filter(|worker| is_healthy(&worker.id)).count()
    }

    /// Somebody has gone beyond what was in doubt: who could not, goes.
    pub(super) fn resolve_suspects(&mut self, reached: Position) {
        if self.suspects.found_by.is_empty() || reached <= self.suspects.position {
            return;
        }
        let Suspects { position, found_by, .. } = std::mem::take(&mut self.suspects);
        let Some(plan) = self.plan.clone() else {
            return;
        };
        // Who was alone, and could at the second attempt, is not to blame.
        let owner = |shard: ShardId| plan.member(plan.owner(shard)).map(|member| &member.id);
        let others: BTreeSet<&WorkerId> = found_by
            .iter()
            .flat_map(|(&shard, by)| by.iter().filter(move |&by| owner(shard) != Some(by)))
            .collect();
        for by in others {
            self.evict(by, position);
        }
    }

    fn evict(&mut self, by: &WorkerId, position: Position) {
        let Some(worker) = self.registry.get(&by.name).filter(|worker| worker.id == *by) else {
            return;
        };
        if let Some(conn) = worker.conn {
            let why = format!(
                "its vectors at {position} were not finite numbers, and other workers' were"
            );
            self.out.push(Command::Send(conn, ToWorker::Finish(Finish::Failed(why))));
        }
        self.remove_worker(&by.name, Departure::FailedShards);
    }
}

impl Suspects {
    /// Whether a worker has failed too often to be given anything, at the position that is in doubt.
    pub(super) fn is_suspect(&self, id: &WorkerId) -> bool {
        self.rounds.get(id).is_some_and(|rounds| rounds.len() >= ROUNDS_MAX)
    }

    /// Gives shards that are in doubt to members who have not tried them, if there are any.
    pub(super) fn reassign_failed_shards(&self, plan: &mut Plan) {
        if self.position != plan.start.position {
            return;
        }
        for (&shard, tried) in &self.found_by {
            let has_tried =
                |rank: Rank| plan.member(rank).is_some_and(|member| tried.contains(&member.id));
            let owner = plan.owner(shard);
            let fresh = plan.ranks().filter(|&rank| has_tried(owner) && !has_tried(rank));
            let Some(taker) = fresh.min_by_key(|&rank| plan.shards_of(rank).count()) else {
                continue;
            };
            // Nobody is left without a shard.
            let in_return =
                plan.shards_of(taker).min_by_key(|other| self.found_by.contains_key(other));
            if let Some(other) = in_return.filter(|_| plan.shards_of(owner).count() == 1) {
                plan.owners[usize::from(other.0)] = owner;
            }
            plan.owners[usize::from(shard.0)] = taker;
        }
    }
}
