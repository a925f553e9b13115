//! A training step on one worker: compute, reduce, apply.
//!
//! This is the distributed form of [`train_step`](crate::train::train_step). There, one loop
//! computes a phase. Here, the same stages are spread over events:
//!
//! ```text
//! train.rs                             here
//! for each shard: shard_vector      begin_phase: asks the compute threads for its shards
//! sum.insert(shard, vector)            on_shard_result, contribute: adds to the all-reduce
//!                                      on_frame: adds bucket sums of the other members
//! sum.take(root); optimizer_step       apply_if_reduced: each member applies the same sum
//! next phase                           finish_step after the last phase; begin_phase
//! ```
//!
//! No member is told to apply a sum. Each does so as soon as its own all-reduce is finished, and
//! all of them reach the same state.

use std::sync::Arc;
use std::time::Duration;

use super::retained::Kept;
use super::{Command, ReduceFrame, ShardResult, VectorKey, WorkerMachine};
use crate::ids::{Position, Rank, ShardId};
use crate::metrics::StepDone;
use crate::protocol::message::{Complaint, FailedShards, FromWorker};
use crate::protocol::plan::StateRef;
use crate::reduction::{AllReduce, BucketSum, Subtree};
use crate::state::State;
use crate::state::values::SharedValues;

/// The name of a frame of a phase that has not begun: its sender, its position, its bucket and its
/// subtree.
pub(super) type EarlyFrame = (Rank, Position, u32, Option<Subtree>);

/// The phase that is being computed and reduced.
pub(super) struct PhaseReduction {
    pub(super) all_reduce: AllReduce,
    /// The time at which this worker's last own vector was added; `None` before.
    pub(super) contributed_at: Option<Duration>,
    /// The time of the last complaint about a late member.
    pub(super) complained_at: Option<Duration>,
}

impl WorkerMachine {
    /// Begins the phase that follows the state, unless there is nothing to train or the state is
    /// not the plan's.
    pub(super) fn begin_phase(&mut self) {
        let (Some((plan, rank)), Some(schedule)) = (self.plan.clone(), self.schedule) else {
            return;
        };
        let is_finished =
            self.at.position >= Position::after(schedule.last_step) || self.state_ends_run();
        if self.train_through.is_some_and(|step| self.at.position >= Position::after(step)) {
            self.timer.pause();
            return;
        }
        let is_in_plan = self.at.generation == plan.generation;
        if is_finished || !is_in_plan || self.reduction.is_some() || self.copying.is_some() {
            return;
        }

        self.timer.end_pause(self.now);
        let len = self.objective.phase_vector_len(self.at.position.phase);
        let all_reduce = AllReduce::new(Arc::clone(&plan), rank, len);
        self.reduction =
            Some(PhaseReduction { all_reduce, contributed_at: None, complained_at: None });

        // Compute this worker's shards. Under a new plan some may have been computed from this very
        // state.
        let own = plan.shards_of(rank);
        self.computed.begin(plan.shards(), own, len);
        let missing: Vec<ShardId> =
            own.iter().copied().filter(|&shard| !self.computed.has(shard)).collect();
        if !missing.is_empty() {
            let state = Arc::clone(&self.state);
            self.commands.push(Command::Compute(self.vector_key(), state, missing));
        }
        for (subtree, sum) in self.computed.sums() {
            self.contribute(subtree, sum);
        }

        // Take the frames of members that have begun this phase earlier.
        for ((from, ..), frame) in std::mem::take(&mut self.early_frames) {
            self.on_frame(from, frame);
        }
    }

    /// Tells whether the state itself ends the run.
    fn state_ends_run(&self) -> bool {
        let Position { step, .. } = self.at.position;
        step > 0 && self.at.position.is_step_boundary() && self.objective.ends_run(&self.state)
    }

    /// The key of vectors that are computed from the state as it is.
    fn vector_key(&self) -> VectorKey {
        VectorKey {
            at: self.at.position,
            digest: self.at.digest,
            state_version: self.state_version,
        }
    }

    /// Tells whether results of the plan may be applied: no newer fence has been answered.
    pub(super) fn may_apply(&self) -> bool {
        self.promised == self.generation()
    }

    /// Takes the result of a shard from the compute threads.
    pub(super) fn on_shard_result(
        &mut self,
        key: VectorKey,
        shard: ShardId,
        ShardResult(result): ShardResult,
    ) {
        // A result that was computed from an earlier state is of no use.
        if key != self.vector_key() {
            return;
        }
        match result {
            Ok(vector) => {
                // The vector is kept until the state changes, by itself or in a sum. If a new plan
                // starts from this state, only the shards of lost members have to be computed
                // again.
                if let Some((subtree, sum)) = self.computed.insert(Subtree::leaf(shard), vector) {
                    self.contribute(subtree, sum);
                }
            }
            Err(reason) => {
                // A compute thread may finish a shard that the newest plan has given to another
                // member.
                if self.plan.as_ref().is_some_and(|(plan, rank)| plan.owner(shard) == Some(*rank)) {
                    self.failed.insert(shard, reason);
                }
            }
        }
        self.complain_about_failed_shards();
    }

    /// Complains about this worker's shards that could not be computed, once all have been tried.
    ///
    /// All of them go into one complaint, so that the coordinator can compare it with the
    /// complaints of other workers: it has to tell a broken worker from a training that diverges.
    fn complain_about_failed_shards(&mut self) {
        let (Some((plan, rank)), Some(_)) = (&self.plan, &self.reduction) else {
            return;
        };
        if self.computed.shards() + self.failed.len() < plan.shards_of(*rank).len() {
            return;
        }
        let Some(what) = self.failed.values().next().cloned() else {
            return;
        };
        self.complain(Complaint::ShardsFailed(FailedShards {
            position: self.at.position,
            shards: self.failed.keys().copied().collect(),
            what,
        }));
    }

    /// Adds the vectors of some of this worker's shards, added up along the tree, to the
    /// all-reduce.
    fn contribute(&mut self, subtree: Subtree, sum: SharedValues) {
        let Some(reduction) = &mut self.reduction else {
            return;
        };
        let bucket_sums = reduction.all_reduce.contribute(subtree, sum);
        if reduction.all_reduce.has_contributed() {
            reduction.contributed_at.get_or_insert(self.now);
            // Verify the state before the last contribution leaves. Nobody can apply the sum
            // without it, so a sum that was computed from damaged bytes is never applied.
            let objective = Arc::clone(&self.objective);
            let read = objective.tensors_read(self.at.position.phase);
            if !self.verify_or_discard_state(read.iter().copied()) {
                return;
            }
        }
        self.send(bucket_sums);
        self.apply_if_reduced();
    }

    /// Sends bucket sums to other members, with the name of the state that they come from.
    fn send(&mut self, bucket_sums: Vec<(Rank, BucketSum)>) {
        let StateRef { position, digest, .. } = self.at;
        let generation = self.generation();
        for (to, bucket_sum) in bucket_sums {
            let frame = ReduceFrame { generation, position, digest, bucket_sum };
            self.commands.push(Command::Send(to, frame));
        }
    }

    /// Takes a bucket sum from another member.
    pub(super) fn on_frame(&mut self, from: Rank, frame: ReduceFrame) {
        let Some((plan, _)) = &self.plan else { return };
        let is_heard = self.may_apply() && self.is_other_member(from);
        if frame.generation != plan.generation || !is_heard {
            return;
        }

        // Keep the frame of a phase that this worker has not begun. While it copies the start
        // state, members that hold that state have begun already.
        let position = if self.copying.is_some() { plan.start.position } else { self.at.position };
        let is_next_phase = frame.position == position.next();
        let is_waiting_phase = frame.position == position && self.reduction.is_none();
        if is_next_phase || is_waiting_phase {
            // The buffer is bounded: a member is at most one phase ahead, because the next sum
            // needs this worker's contribution, and each of its sums is kept once.
            if !self.is_possible_frame(from, &frame) {
                return self.complain(Complaint::StreamBroken(from));
            }
            let BucketSum { bucket, subtree, .. } = frame.bucket_sum;
            self.early_frames.entry((from, frame.position, bucket, subtree)).or_insert(frame);
            return;
        }
        // The frame of a phase that has been applied is a repetition.
        if frame.position != position {
            return;
        }

        // Never sum what was computed from different states.
        if frame.digest != self.at.digest {
            let (mine, theirs) = (self.at.digest, frame.digest);
            self.complain(Complaint::StateMismatch { peer: from, position, mine, theirs });
            return;
        }

        let Some(reduction) = &mut self.reduction else {
            return;
        };
        match reduction.all_reduce.receive(from, frame.bucket_sum) {
            Ok(bucket_sums) => self.send(bucket_sums),
            // The member disagrees about the plan, so nothing more of its stream can be used.
            Err(_) => self.complain(Complaint::StreamBroken(from)),
        }
        self.apply_if_reduced();
    }

    /// Updates the state if the sum over all shards is complete, and begins the next phase.
    fn apply_if_reduced(&mut self) {
        // A fenced worker must not move on: its answer has named its state.
        if !self.may_apply() {
            return;
        }
        let Some(reduction) =
            self.reduction.take_if(|reduction| reduction.all_reduce.is_finished())
        else {
            return;
        };

        // Update a copy, which shares the tensors that the phase does not change. The old state
        // stays intact for compute threads and for workers that copy it.
        let at = self.at.position;
        let mut state = State::clone(&self.state);
        self.objective.optimizer_step(&mut state, at, &reduction.all_reduce.sum());
        if let Some(tensor) = state.damaged_before_update() {
            return self.discard_state(tensor);
        }

        self.at =
            StateRef { generation: self.generation(), position: at.next(), digest: state.digest() };
        self.state = Arc::new(state);
        self.computed.clear();
        self.failed.clear();

        let waiting_since = reduction.contributed_at.unwrap_or(self.now);
        self.timer.add_allreduce(self.now.saturating_sub(waiting_since));
        if self.at.position.is_step_boundary() {
            self.finish_step();
        }
        self.begin_phase();
    }

    /// Reports the step that was just finished, and keeps its report and snapshot.
    fn finish_step(&mut self) {
        let times = self.timer.finish_step(self.now);
        let done = StepDone {
            step: self.at.position.step,
            generation: self.generation(),
            world_size: self.plan.as_ref().map_or(0, |(plan, _)| plan.members().len() as u16),
            digest: self.at.digest,
            ends_run: self.state_ends_run(),
            metrics: self.objective.metrics(&self.state),
            step_ms: times.step_ms,
            allreduce_ms: times.allreduce_ms,
        };
        self.retained.keep_report(done.clone());
        self.keep_snapshot();
        self.report(FromWorker::StepDone(done));
    }

    /// Keeps a snapshot of the state, which is at the end of a step.
    pub(super) fn keep_snapshot(&mut self) {
        let step = self.at.position.step;
        let is_scheduled = self.state_ends_run()
            || self
                .schedule
                .is_some_and(|schedule| schedule.checkpoint_due(step) || schedule.grid_due(step));
        let is_vital = self.schedule.is_some_and(|schedule| schedule.verdict_due(step));
        let kept = match (is_vital, is_scheduled) {
            (true, _) => Kept::ForVerdict,
            (false, true) => Kept::UntilPersisted,
            (false, false) => Kept::UntilNext,
        };
        self.retained.keep_snapshot(step, Arc::clone(&self.state), kept);
    }
}
