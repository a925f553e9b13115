//! The step: compute, reduce, apply.

use std::sync::Arc;

use super::{Command, Frame, Round, StepMachine, Vector, Work};
use crate::ids::{Position, Rank, ShardId};
use crate::message::{FromWorker, Trouble, Unusable};
use crate::metrics::StepDone;
use crate::plan::StateAt;
use crate::reduction::{AllReduce, Piece};
use crate::state::State;

impl StepMachine {
    /// Begins the phase that follows the state, if it is to be trained.
    pub(super) fn begin_round(&mut self) {
        let (Some((plan, rank)), Some(schedule)) = (self.plan.clone(), self.schedule) else { return };
        let finished = self.at.position >= Position::after(schedule.last_step);
        let reached_here = self.at.generation == plan.generation;
        if finished || !reached_here || self.round.is_some() || self.copying.is_some() {
            return;
        }
        let len = self.objective.vector_len(self.at.position.phase);
        let reduce = AllReduce::new(Arc::clone(&plan), rank, len);
        self.round = Some(Round { reduce, contributed_at: None, complained_at: None });
        let (kept, missing): (Vec<ShardId>, Vec<ShardId>) =
            plan.shards_of(rank).partition(|shard| self.computed.contains_key(shard));
        if !missing.is_empty() {
            self.out.push(Command::Compute(self.work(), Arc::clone(&self.state), missing));
        }
        for shard in kept {
            self.contribute(shard);
        }
        for (from, frame) in std::mem::take(&mut self.early) {
            self.frame(from, frame);
        }
    }

    pub(super) fn work(&self) -> Work {
        Work { at: self.at.position, digest: self.at.digest, lineage: self.lineage }
    }

    /// Whether results of the newest plan may be applied.
    pub(super) fn may_apply(&self) -> bool {
        self.promised == self.generation()
    }

    pub(super) fn take_vector(&mut self, work: Work, shard: ShardId, Vector(usable): Vector) {
        if work != self.work() {
            return;
        }
        match usable {
            Ok(vector) => {
                // It is kept until the state changes: after a fence only what was lost is computed again.
                self.computed.insert(shard, vector);
                self.contribute(shard);
            }
            Err(what) => drop(self.unusable.insert(shard, what)),
        }
        self.complain_of_unusable();
    }

    /// Once all own shards are computed, says which of their vectors cannot be summed: all of them at once, so that the
    /// coordinator sees whether others find the same.
    fn complain_of_unusable(&mut self) {
        let (Some((plan, rank)), Some(_)) = (&self.plan, &self.round) else { return };
        let is_open = |shard: &ShardId| !self.computed.contains_key(shard) && !self.unusable.contains_key(shard);
        if plan.shards_of(*rank).any(|shard| is_open(&shard)) {
            return;
        }
        let shards: Vec<ShardId> = plan.shards_of(*rank).filter(|shard| self.unusable.contains_key(shard)).collect();
        if let Some(what) = shards.first().map(|first| self.unusable[first].clone()) {
            self.complain(Trouble::Unusable(Unusable { position: self.at.position, shards, what }));
        }
    }

    pub(super) fn contribute(&mut self, shard: ShardId) {
        let (Some((plan, rank)), Some(round)) = (&self.plan, &mut self.round) else { return };
        if plan.owner(shard) != *rank {
            return;
        }
        let pieces = round.reduce.contribute(shard, self.computed[&shard].clone());
        if round.reduce.contributed() {
            round.contributed_at.get_or_insert(self.now);
            // Before the last part leaves, without which nobody can apply anything.
            let objective = Arc::clone(&self.objective);
            if !self.check(objective.reads(self.at.position.phase).iter().copied()) {
                return;
            }
        }
        self.send(pieces);
        self.apply_if_reduced();
    }

    pub(super) fn send(&mut self, pieces: Vec<(Rank, Piece)>) {
        let StateAt { position, digest, .. } = self.at;
        let generation = self.generation();
        let frames = pieces.into_iter().map(|(to, piece)| (to, Frame { generation, position, digest, piece }));
        self.out.extend(frames.map(|(to, frame)| Command::Send(to, frame)));
    }

    pub(super) fn frame(&mut self, from: Rank, frame: Frame) {
        let Some((plan, _)) = &self.plan else { return };
        if frame.generation != plan.generation || !self.may_apply() {
            return;
        }
        let position = if self.copying.is_some() { plan.start.position } else { self.at.position };
        if frame.position == position.next(self.objective.phases())
            || (self.round.is_none() && frame.position == position)
        {
            // Bounded: a peer is at most one phase ahead, and sends each of its pieces once.
            self.early.push((from, frame));
            return;
        }
        if frame.position != position {
            return;
        }
        if frame.digest != self.at.digest {
            let (mine, theirs) = (self.at.digest, frame.digest);
            self.complain(Trouble::Differs { peer: from, position, mine, theirs });
            return;
        }
        let Some(round) = &mut self.round else { return };
        match round.reduce.receive(from, frame.piece) {
            Ok(pieces) => self.send(pieces),
            // A peer of another mind about the plan: as good as a broken stream.
            Err(_) => self.complain(Trouble::StreamBroken(from)),
        }
        self.apply_if_reduced();
    }

    pub(super) fn apply_if_reduced(&mut self) {
        if !self.may_apply() {
            return;
        }
        let Some(round) = self.round.take_if(|round| round.reduce.is_finished()) else { return };
        let (generation, at) = (self.generation(), self.at.position);
        let mut state = State::clone(&self.state);
        self.objective.apply(&mut state, at, &round.reduce.sum());
        if let Some(tensor) = state.found_damaged() {
            return self.lose_state(tensor);
        }
        self.at = StateAt { generation, position: at.next(self.objective.phases()), digest: state.digest() };
        self.state = Arc::new(state);
        self.computed.clear();
        self.unusable.clear();
        self.pace.reduced(self.now.saturating_sub(round.contributed_at.unwrap_or(self.now)));
        if self.at.position.is_step_boundary() {
            self.finish_step();
        }
        self.begin_round();
    }

    pub(super) fn finish_step(&mut self) {
        let (step_ms, allreduce_ms) = self.pace.step(self.now);
        let done = StepDone {
            step: self.at.position.step,
            generation: self.generation(),
            world_size: self.plan.as_ref().map_or(0, |(plan, _)| plan.members.len() as u16),
            digest: self.at.digest,
            metrics: self.objective.metrics(&self.state),
            step_ms,
            allreduce_ms,
        };
        self.memory.remember(done.clone());
        self.keep_snapshot();
        self.report(FromWorker::StepDone(done));
    }

    pub(super) fn keep_snapshot(&mut self) {
        let step = self.at.position.step;
        let due = self.schedule.is_some_and(|schedule| schedule.checkpoint_due(step) || schedule.grid_due(step));
        self.memory.keep(step, Arc::clone(&self.state), due);
    }
}
