//! The step: compute, reduce, apply.

use std::sync::Arc;

use super::{Command, GradientKey, PhaseReduction, ReduceFrame, ShardResult, WorkerMachine};
use crate::ids::{Position, Rank, ShardId};
use crate::metrics::StepDone;
use crate::protocol::message::{Complaint, FailedShards, FromWorker};
use crate::protocol::plan::StateRef;
use crate::reduction::{AllReduce, BucketSum};
use crate::state::State;

impl WorkerMachine {
    /// Begins the phase that follows the state, if it is to be trained.
    pub(super) fn begin_phase(&mut self) {
        let (Some((plan, rank)), Some(schedule)) = (self.plan.clone(), self.schedule) else {
            return;
        };
        let finished = self.at.position >= Position::after(schedule.last_step);
        let reached_here = self.at.generation == plan.generation;
        if finished || !reached_here || self.reduction.is_some() || self.copying.is_some() {
            return;
        }
        let len = self.objective.phase_vector_len(self.at.position.phase);
        let reduce = AllReduce::new(Arc::clone(&plan), rank, len);
        self.reduction = Some(PhaseReduction { reduce, contributed_at: None, complained_at: None });
        let (kept, missing): (Vec<ShardId>, Vec<ShardId>) =
            plan.shards_of(rank).partition(|shard| self.computed.contains_key(shard));
        if !missing.is_empty() {
            self.out.push(Command::Compute(self.gradient_key(), Arc::clone(&self.state), missing));
        }
        for shard in kept {
            self.contribute(shard);
        }
        for (from, frame) in std::mem::take(&mut self.early) {
            self.on_frame(from, frame);
        }
    }

    pub(super) fn gradient_key(&self) -> GradientKey {
        GradientKey {
            at: self.at.position,
            digest: self.at.digest,
            state_version: self.state_version,
        }
    }

    /// Whether results of the newest plan may be applied.
    pub(super) fn may_apply(&self) -> bool {
        self.promised == self.generation()
    }

    pub(super) fn on_shard_result(
        &mut self,
        key: GradientKey,
        shard: ShardId,
        ShardResult(usable): ShardResult,
    ) {
        if key != self.gradient_key() {
            return;
        }
        match usable {
            Ok(vector) => {
                // It is kept until the state changes: after a fence only what was lost is computed again.
                self.computed.insert(shard, vector);
                self.contribute(shard);
            }
            Err(what) => drop(self.failed.insert(shard, what)),
        }
        self.complain_of_unusable();
    }

    /// Once all own shards are computed, says which of their vectors cannot be summed: all of them at once, so that the
    /// coordinator sees whether others find the same.
    fn complain_of_unusable(&mut self) {
        let (Some((plan, rank)), Some(_)) = (&self.plan, &self.reduction) else {
            return;
        };
        let is_open = |shard: &ShardId| {
            !self.computed.contains_key(shard) && !self.failed.contains_key(shard)
        };
        if plan.shards_of(*rank).any(|shard| is_open(&shard)) {
            return;
        }
        let shards: Vec<ShardId> =
            plan.shards_of(*rank).filter(|shard| self.failed.contains_key(shard)).collect();
        if let Some(what) = shards.first().map(|first| self.failed[first].clone()) {
            self.complain(Complaint::ShardsFailed(FailedShards {
                position: self.at.position,
                shards,
                what,
            }));
        }
    }

    pub(super) fn contribute(&mut self, shard: ShardId) {
        let (Some((plan, rank)), Some(reduction)) = (&self.plan, &mut self.reduction) else {
            return;
        };
        if plan.owner(shard) != *rank {
            return;
        }
        let bucket_sums = reduction.reduce.contribute(shard, self.computed[&shard].clone());
        if reduction.reduce.contributed() {
            reduction.contributed_at.get_or_insert(self.now);
            // Before the last part leaves, without which nobody can apply anything.
            let objective = Arc::clone(&self.objective);
            if !self.verify_state(objective.tensors_read(self.at.position.phase).iter().copied()) {
                return;
            }
        }
        self.send(bucket_sums);
        self.apply_if_reduced();
    }

    pub(super) fn send(&mut self, bucket_sums: Vec<(Rank, BucketSum)>) {
        let StateRef { position, digest, .. } = self.at;
        let generation = self.generation();
        let frames = bucket_sums
            .into_iter()
            .map(|(to, bucket_sum)| (to, ReduceFrame { generation, position, digest, bucket_sum }));
        self.out.extend(frames.map(|(to, frame)| Command::Send(to, frame)));
    }

    pub(super) fn on_frame(&mut self, from: Rank, frame: ReduceFrame) {
        let Some((plan, _)) = &self.plan else { return };
        if frame.generation != plan.generation || !self.may_apply() {
            return;
        }
        let position = if self.copying.is_some() { plan.start.position } else { self.at.position };
        if frame.position == position.next()
            || (self.reduction.is_none() && frame.position == position)
        {
            // Bounded: a peer is at most one phase ahead, and sends each of its bucket_sums once.
            self.early.push((from, frame));
            return;
        }
        if frame.position != position {
            return;
        }
        if frame.digest != self.at.digest {
            let (mine, theirs) = (self.at.digest, frame.digest);
            self.complain(Complaint::StateMismatch { peer: from, position, mine, theirs });
            return;
        }
        let Some(reduction) = &mut self.reduction else {
            return;
        };
        match reduction.reduce.receive(from, frame.bucket_sum) {
            Ok(bucket_sums) => self.send(bucket_sums),
            // A peer of another mind about the plan: as good as a broken stream.
            Err(_) => self.complain(Complaint::StreamBroken(from)),
        }
        self.apply_if_reduced();
    }

    pub(super) fn apply_if_reduced(&mut self) {
        if !self.may_apply() {
            return;
        }
        let Some(reduction) = self.reduction.take_if(|reduction| reduction.reduce.is_finished())
        else {
            return;
        };
        let (generation, at) = (self.generation(), self.at.position);
        let mut state = State::clone(&self.state);
        self.objective.optimizer_step(&mut state, at, &reduction.reduce.sum());
        if let Some(tensor) = state.found_damaged() {
            return self.discard_state(tensor);
        }
        self.at = StateRef { generation, position: at.next(), digest: state.digest() };
        self.state = Arc::new(state);
        self.computed.clear();
        self.failed.clear();
        self.timer.reduced(self.now.saturating_sub(reduction.contributed_at.unwrap_or(self.now)));
        if self.at.position.is_step_boundary() {
            self.finish_step();
        }
        self.begin_phase();
    }

    pub(super) fn finish_step(&mut self) {
        let (step_ms, allreduce_ms) = self.timer.step(self.now);
        let done = StepDone {
            step: self.at.position.step,
            generation: self.generation(),
            world_size: self.plan.as_ref().map_or(0, |(plan, _)| plan.members.len() as u16),
            digest: self.at.digest,
            metrics: self.objective.metrics(&self.state),
            step_ms,
            allreduce_ms,
        };
        self.retained.remember(done.clone());
        self.keep_snapshot();
        self.report(FromWorker::StepDone(done));
    }

    pub(super) fn keep_snapshot(&mut self) {
        let step = self.at.position.step;
        let due = self
            .schedule
            .is_some_and(|schedule| schedule.checkpoint_due(step) || schedule.grid_due(step));
        self.retained.keep(step, Arc::clone(&self.state), due);
    }
}
