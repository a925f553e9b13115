//! The deeds of bad workers in place of what their machines command, and what must hold all the
//! same.

use std::time::Duration;

use dcgan_core::ids::{Digest, Generation, Position, WorkerId};
use dcgan_core::protocol::message::{Complaint, FromWorker, TrialTimes};
use dcgan_core::protocol::plan::StateRef;
use dcgan_core::protocol::worker::{Command, Event, ReduceFrame, StateCopy};
use dcgan_core::state::State;

use super::World;
use crate::bad::Bad;

/// The time that a slow worker takes for a shard.
const SLOW_SHARD: Duration = Duration::from_millis(500);
/// The times that workers report after a trial: sound ones, and slow ones.
pub(super) const TRIAL_TIMES: TrialTimes = TrialTimes { copy_ms: 1.0, shard_ms: 1.0 };
const SLOW_TRIAL_TIMES: TrialTimes = TrialTimes { copy_ms: 1.0, shard_ms: 100_000.0 };

/// If `--min-workers` honest workers run and reach each other and the coordinator, a step is
/// finished within this time of the last fault, of the last step, and of the last worker that came
/// or went, whatever other workers do. Rule 13 in `docs/protocol.md` has the reason. The search for
/// them takes at most as many plans as there are sets of workers; the longest that was seen is less
/// than half of this.
pub(crate) const STEP_MAX: Duration = Duration::from_secs(1000);

impl World {
    /// Starts a bad worker.
    pub(crate) fn start_bad_worker(&mut self, bad: Bad) {
        let name = format!("x{}", self.bad.len());
        self.bad.insert(name.clone(), bad);
        self.start_worker(name);
    }

    /// The way in which a worker is bad, if it is.
    pub(super) fn bad(&self, name: &str) -> Option<Bad> {
        self.bad.get(name).copied()
    }

    /// The number of workers that run and are not bad.
    pub(super) fn honest_workers(&self) -> usize {
        self.workers.keys().filter(|name| !self.bad.contains_key(*name)).count()
    }

    /// The command that a worker executes in place of one of its machine; `None` if it does
    /// nothing.
    pub(super) fn distort(&mut self, name: &str, command: Command) -> Option<Command> {
        match (self.bad(name)?, command) {
            (Bad::GarbageFrames, Command::Send(to, frame)) => {
                let digest = if self.rng.one_in(2) { Digest(7) } else { frame.digest };
                let mut bucket_sum = frame.bucket_sum.clone();
                bucket_sum.bucket += 1000;
                Some(Command::Send(to, ReduceFrame { digest, bucket_sum, ..frame }))
            }
            (Bad::CopiesForEver | Bad::LiesAboutItsPosition, Command::Copy(..)) => None,
            (Bad::Accuses, Command::Send(..)) => None,
            (
                Bad::LiesAboutItsPosition,
                Command::Report(FromWorker::FenceAck { generation, state }),
            ) => {
                let position = state.map_or(Position::after(0), |state| state.position);
                let step = position.step + 1 + self.rng.below(4) as u64;
                let lie = StateRef {
                    generation: Generation(generation.0 - 1),
                    position: Position::after(step.min(self.reference.last_step)),
                    digest: Digest(7),
                };
                Some(Command::Report(FromWorker::FenceAck { generation, state: Some(lie) }))
            }
            (
                Bad::LiesAboutItsPosition | Bad::WithholdsReports,
                Command::Report(FromWorker::StepDone(_)),
            ) => None,
            (_, command) => Some(command),
        }
    }

    /// A bad worker complains without a reason.
    pub(super) fn accuse(&mut self, name: &str) {
        let worker = &self.workers[name];
        let Some(plan) = worker.plan.clone() else { return };
        let Some(me) = plan.rank_of(&worker.id) else { return };
        let others: Vec<_> = plan.ranks().filter(|&rank| rank != me).collect();
        if others.is_empty() || !self.rng.one_in(20) {
            return;
        }
        let late = others[self.rng.below(others.len())];
        let (generation, complaint) = (plan.generation, Complaint::Timeout(late));
        let complaint = FromWorker::Complaint { generation, complaint };
        self.send_up(name, super::Upward::Message(complaint));
    }

    /// Answers a request for a copy of a worker's state, or lets its trial begin with it.
    pub(super) fn give_copy(&self, donor: &str, state: State) -> State {
        let mut state = state;
        if self.bad(donor) == Some(Bad::GarbageCopies) {
            state.tensor_mut(0)[0] += 1.0;
        }
        state
    }

    /// Ends the trial of a worker that has got a copy, or none.
    pub(super) fn end_trial(
        &mut self,
        name: &str,
        donor: &WorkerId,
        copy: Option<(StateRef, StateCopy)>,
    ) {
        let result = match copy {
            Some((at, copy)) if copy.state.clone().digest() != at.digest => {
                Err("garbage".to_owned())
            }
            Some(_) if self.bad(name) == Some(Bad::Slow) => Ok(SLOW_TRIAL_TIMES),
            Some(_) => Ok(TRIAL_TIMES),
            None => Err("no copy".to_owned()),
        };
        self.worker_event(name, Event::TrialResult(donor.clone(), result));
    }

    /// Returns whether a worker may compute a shard now. A slow one may not compute another for a
    /// while.
    pub(super) fn may_compute(&self, name: &str) -> bool {
        self.slow_until.get(name).is_none_or(|until| *until <= self.now)
    }

    /// Notes that a worker has computed a shard.
    pub(super) fn note_computed(&mut self, name: &str) {
        if self.bad(name) == Some(Bad::Slow) {
            self.slow_until.insert(name.to_owned(), self.now + SLOW_SHARD);
        }
    }

    /// Notes that something has changed on which the progress of honest workers depends.
    pub(super) fn note_change(&mut self) {
        self.changed_at = self.now;
    }

    /// Asserts that honest workers go on.
    pub(super) fn check_progress(&mut self) {
        let honest =
            || self.workers.values().filter(|worker| !self.bad.contains_key(&worker.id.name));
        let running = honest().filter(|worker| worker.stopped_until.is_none()).count();
        let last = Position::after(self.reference.last_step);
        let is_done = honest().any(|worker| worker.machine.at().position >= last);
        let is_disturbed = running < self.setup.min_workers
            || running < honest().count()
            || !self.separated.is_empty()
            || self.coordinator.is_none()
            || self.outcome.is_some()
            || !self.defective.is_empty()
            || !self.liars.is_empty();
        if is_done || is_disturbed {
            self.note_change();
        }
        self.longest_wait = self.longest_wait.max(self.now - self.changed_at);
        assert!(self.now < self.changed_at + STEP_MAX, "no step is finished: {}", self.describe());
    }
}
