//! Vectors that cannot be summed, because a number in them is not finite or the computation failed:
//! has the training diverged, or is a worker faulty?
//!
//! The obvious answer, to evict the worker that reports such a vector, is wrong when the training
//! has diverged: it would evict one worker after the other. So each such shard is computed once
//! more, by another worker. If that one finds the same, the training has diverged and the run ends.
//! If the others go on from there, the first worker is faulty and is evicted.

use std::collections::{BTreeMap, BTreeSet};

use super::{Command, CoordinatorMachine, Departure, Failure};
use crate::ids::{Generation, Position, Rank, ShardId, WorkerId};
use crate::protocol::message::{FailedShards, Finish, ToWorker};
use crate::protocol::plan::Plan;

/// A worker whose shards have failed in this many generations at one position is left out of plans.
/// Then either another worker passes that position (the first is faulty: it is evicted), or another
/// fails at the same shard (the training has diverged: the run ends). The others may be slower, so
/// without this limit the faulty worker would start new generations before they get that far.
const FAILED_GENERATIONS_MAX: usize = 3;

/// The failed shards at one position, and the workers that failed.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    position: Position,
    /// The shards that failed, each with the workers at which it failed.
    failed_at: BTreeMap<ShardId, BTreeSet<WorkerId>>,
    /// The generations in which shards failed at each worker.
    failures: BTreeMap<WorkerId, BTreeMap<Generation, Company>>,
}

/// The other members of the plan in which a shard failed at a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Company {
    /// There were none: nobody else can compute the shard.
    Alone,
    /// There were some.
    WithOthers,
}

impl Suspects {
    /// Records that shards of `plan` failed at worker `by`.
    ///
    /// # Errors
    /// If one of them has failed at another worker as well, or twice at a worker that is alone: the
    /// training has diverged.
    fn record(&mut self, by: &WorkerId, plan: &Plan, failed: FailedShards) -> Result<(), Failure> {
        let FailedShards { position, shards, what } = failed;
        if self.position != position {
            *self = Self { position, ..Self::default() };
        }
        let company = if plan.members().len() == 1 { Company::Alone } else { Company::WithOthers };
        let generations = self.failures.entry(by.clone()).or_default();
        let failed_alone_before =
            generations.range(..plan.generation).any(|(_, &company)| company == Company::Alone);
        generations.insert(plan.generation, company);

        // A worker without peers has nobody to compare with: its own second attempt decides.
        let is_second_attempt_alone = company == Company::Alone && failed_alone_before;
        for shard in shards {
            let workers = self.failed_at.entry(shard).or_default();
            let failed_at_another = workers.iter().any(|other| other != by);
            let failed_twice = is_second_attempt_alone && workers.contains(by);
            if failed_at_another || failed_twice {
                return Err(Failure::Diverged { position, shard, what });
            }
            workers.insert(by.clone());
        }
        Ok(())
    }

    /// Returns whether shards have failed at a worker so often that it is left out of plans.
    pub(super) fn is_suspect(&self, id: &WorkerId) -> bool {
        self.failures.get(id).is_some_and(|generations| generations.len() >= FAILED_GENERATIONS_MAX)
    }

    /// The workers at which a shard failed that, by this plan, another worker has computed since.
    fn faulty_workers(&self, plan: &Plan) -> BTreeSet<&WorkerId> {
        let mut faulty = BTreeSet::new();
        for (&shard, workers) in &self.failed_at {
            let owner = plan.owner(shard).and_then(|rank| plan.member(rank)).map(|it| &it.id);
            // A worker that failed alone and succeeded on retry is not evicted.
            faulty.extend(workers.iter().filter(|&worker| owner != Some(worker)));
        }
        faulty
    }

    /// Gives failed shards to members at which they have not failed, if there are any.
    pub(super) fn reassign_failed_shards(&self, plan: &mut Plan) {
        if self.position != plan.start.position {
            return;
        }
        for (&shard, workers) in &self.failed_at {
            let Some(owner) = plan.owner(shard) else {
                continue;
            };
            if !has_failed(plan, owner, workers) {
                continue;
            }
            // The member with the fewest shards computes it.
            let untried = plan.ranks().filter(|&rank| !has_failed(plan, rank, workers));
            let Some(taker) = untried.min_by_key(|&rank| plan.shards_of(rank).len()) else {
                continue;
            };
            // If it was the owner's only shard, the owner gets another one for it.
            if plan.shards_of(owner).len() == 1 {
                let theirs = plan.shards_of(taker).iter().copied();
                let in_return = theirs.min_by_key(|other| self.failed_at.contains_key(other));
                if let Some(other) = in_return {
                    plan.move_shard(other, owner);
                }
            }
            plan.move_shard(shard, taker);
        }
    }
}

/// Returns whether the member of a rank is one of `workers`, at which a shard has failed.
fn has_failed(plan: &Plan, rank: Rank, workers: &BTreeSet<WorkerId>) -> bool {
    plan.member(rank).is_some_and(|member| workers.contains(&member.id))
}

impl CoordinatorMachine {
    /// Takes a worker's complaint that vectors of its own shards cannot be summed.
    ///
    /// # Errors
    /// If the training has diverged.
    pub(super) fn on_failed_shards(
        &mut self,
        by: &WorkerId,
        plan: &Plan,
        failed: FailedShards,
    ) -> Result<(), Failure> {
        let position = failed.position;
        self.suspects.record(by, plan, failed)?;

        // Without the suspect too few workers are left to go on and to find out who is right. It is
        // evicted now, so that another worker may come in its place.
        let is_alone = plan.members().len() == 1;
        if self.suspects.is_suspect(by) && self.healthy_workers() < self.min_workers && !is_alone {
            self.evict(by, position);
        }
        Ok(())
    }

    /// The number of ready workers that are neither on trial, nor outside, nor suspect.
    pub(super) fn healthy_workers(&self) -> usize {
        self.registry
            .ready()
            .filter(|worker| self.trials.is_fit(&worker.id))
            .filter(|worker| !self.suspects.is_suspect(&worker.id))
            .count()
    }

    /// Evicts the faulty workers once others have gone beyond the position of the failed shards.
    pub(super) fn resolve_suspects(&mut self, reached: Position) {
        if self.suspects.failed_at.is_empty() || reached <= self.suspects.position {
            return;
        }
        let suspects = std::mem::take(&mut self.suspects);
        let Some(plan) = self.plan.clone() else {
            return;
        };
        for worker in suspects.faulty_workers(&plan) {
            self.evict(worker, suspects.position);
        }
    }

    /// Removes a worker whose vectors at `position` were wrong, and tells it why.
    fn evict(&mut self, id: &WorkerId, position: Position) {
        let Some(worker) = self.registry.by_id(id) else {
            return;
        };
        if let Some(conn) = worker.conn {
            let why = format!(
                "its vectors at {position} could not be used, but those of other workers could: \
                 check this machine"
            );
            self.out.push(Command::Send(conn, ToWorker::Finish(Finish::Failed(why))));
        }
        self.remove_worker(&id.name, Departure::BadResults);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::plan::fixture;

    fn failed(plan: &Plan, shard: u16) -> FailedShards {
        let what = "inf".to_owned();
        FailedShards { position: plan.start.position, shards: vec![ShardId(shard)], what }
    }

    #[test]
    fn a_failed_shard_moves_to_another_member() {
        let mut plan = Plan::clone(&fixture::plan(3, &[0, 0, 1]));
        let mut suspects = Suspects::default();
        let worker = plan.members()[0].id.clone();
        assert_eq!(suspects.record(&worker, &plan, failed(&plan, 1)), Ok(()));
        suspects.reassign_failed_shards(&mut plan);
        assert_eq!(plan.owners(), [Rank(0), Rank(1), Rank(1)]);
        assert_eq!(suspects.faulty_workers(&plan), BTreeSet::from([&worker]));
    }

    #[test]
    fn a_shard_that_fails_at_two_workers_shows_that_the_training_has_diverged() {
        let plan = fixture::plan(3, &[0, 0, 1]);
        let mut suspects = Suspects::default();
        assert_eq!(suspects.record(&plan.members()[0].id, &plan, failed(&plan, 1)), Ok(()));
        let again = suspects.record(&plan.members()[1].id, &plan, failed(&plan, 1));
        let position = plan.start.position;
        let diverged = Failure::Diverged { position, shard: ShardId(1), what: "inf".to_owned() };
        assert_eq!(again, Err(diverged));
    }
}
