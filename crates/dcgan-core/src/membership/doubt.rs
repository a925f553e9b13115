//! Vectors that cannot be summed: is it the training, or the worker?
//!
//! Evicting whoever finds numbers that are not finite would evict one worker after another from a training that has
//! diverged. So each such vector is computed once more, by another worker. If that finds the same, the training ends; if
//! the others go on from there, the first worker goes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Command, Failure, Loss, Membership};
use crate::ids::{Generation, Position, Rank, ShardId, WorkerId};
use crate::message::{Finish, ToWorker, Unusable};
use crate::plan::Plan;

/// A worker that fails in so many generations at one position fails at whatever it is given: it stays out of the plan until
/// others have gone beyond, and it goes, or have failed at its shards as well. They may be slower than it.
const ROUNDS_MAX: usize = 3;

/// What is in doubt, at one position.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    position: Position,
    /// Who could not use which shard's vector.
    found_by: BTreeMap<ShardId, BTreeSet<WorkerId>>,
    /// In which generations each of them said so, and whether it was alone.
    rounds: BTreeMap<WorkerId, BTreeMap<Generation, bool>>,
}

impl Membership {
    /// A worker says that it cannot use vectors of its own.
    pub(super) fn doubt(&mut self, by: &WorkerId, plan: &Plan, unusable: Unusable) -> Result<(), Failure> {
        let Unusable { position, shards, what } = unusable;
        let alone = plan.members.len() == 1;
        if self.doubts.position != position {
            self.doubts = Doubts { position, ..Doubts::default() };
        }
        let Doubts { found_by, rounds, .. } = &mut self.doubts;
        let rounds = rounds.entry(by.clone()).or_default();
        let again = rounds.range(..plan.generation).any(|(_, &alone)| alone);
        rounds.insert(plan.generation, alone);
        for shard in shards {
            let found_by = found_by.entry(shard).or_default();
            let agreed = found_by.iter().any(|other| other != by) || (alone && again && found_by.contains(by));
            if agreed {
                return Err(Failure::Diverged { position, shard, what });
            }
            found_by.insert(by.clone());
        }
        if self.doubts.is_hopeless(by) && self.fit() < self.min_workers && !alone {
            // Without it nobody goes on, and so nobody finds out: another may come in its place.
            self.expel(by, position);
        }
        Ok(())
    }

    /// How many workers reach each other and have not failed too often.
    pub(super) fn fit(&self) -> usize {
        let is_fit = |id: &WorkerId| !self.reach.is_outside(id) && !self.doubts.is_hopeless(id);
        self.roster.ready().filter(|worker| is_fit(&worker.id)).count()
    }

    /// Somebody has gone beyond what was in doubt: who could not, goes.
    pub(super) fn went_beyond(&mut self, reached: Position) {
        if self.doubts.found_by.is_empty() || reached <= self.doubts.position {
            return;
        }
        let Doubts { position, found_by, .. } = std::mem::take(&mut self.doubts);
        let Some(plan) = self.plan.clone() else { return };
        // Who was alone, and could at the second attempt, is not to blame.
        let owner = |shard: ShardId| plan.member(plan.owner(shard)).map(|member| &member.id);
        let others: BTreeSet<&WorkerId> =
            found_by.iter().flat_map(|(&shard, by)| by.iter().filter(move |&by| owner(shard) != Some(by))).collect();
        for by in others {
            self.expel(by, position);
        }
    }

    fn expel(&mut self, by: &WorkerId, position: Position) {
        let Some(worker) = self.roster.get(&by.name).filter(|worker| worker.id == *by) else { return };
        if let Some(conn) = worker.conn {
            let why = format!("its vectors at {position} were not finite numbers, and other workers' were");
            self.out.push(Command::Send(conn, ToWorker::Finish(Finish::Failed(why))));
        }
        self.lose(&by.name, Loss::Unusable);
    }
}

impl Doubts {
    /// Whether a worker has failed too often to be given anything, at the position that is in doubt.
    pub(super) fn is_hopeless(&self, id: &WorkerId) -> bool {
        self.rounds.get(id).is_some_and(|rounds| rounds.len() >= ROUNDS_MAX)
    }

    /// Gives shards that are in doubt to members who have not tried them, if there are any.
    pub(super) fn pass_on(&self, plan: &mut Plan) {
        if self.position != plan.start.position {
            return;
        }
        for (&shard, tried) in &self.found_by {
            let has_tried = |rank: Rank| plan.member(rank).is_some_and(|member| tried.contains(&member.id));
            let owner = plan.owner(shard);
            let fresh = plan.ranks().filter(|&rank| has_tried(owner) && !has_tried(rank));
            let Some(taker) = fresh.min_by_key(|&rank| plan.shards_of(rank).count()) else { continue };
            // Nobody is left without a shard.
            let in_return = plan.shards_of(taker).min_by_key(|other| self.found_by.contains_key(other));
            if let Some(other) = in_return.filter(|_| plan.shards_of(owner).count() == 1) {
                plan.owners[usize::from(other.0)] = owner;
            }
            plan.owners[usize::from(shard.0)] = taker;
        }
    }
}
