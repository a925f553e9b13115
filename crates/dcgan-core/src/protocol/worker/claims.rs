//! Claims: what the coordinator and other workers say is compared with the specification, the
//! schedule and the plan before the machine hears it.
//!
//! A coordinator that says what cannot be true is a program that has gone wrong, or the wrong
//! program. Its stream is closed with the reason, and opened again. What other workers say that
//! cannot be true is dropped: whoever opens a stream may call itself a member, so nobody is blamed
//! for it but by the coordinator's plan.

use super::{ReduceFrame, WorkerMachine};
use crate::evaluation::PartId;
use crate::ids::{Generation, Position, Rank};
use crate::metrics::StepDone;
use crate::protocol::false_claim::{FalseClaim, deny_unless};
use crate::protocol::message::ToWorker;
use crate::protocol::plan::Plan;
use crate::reduction::check_sum;

/// A fence or a plan that is further than this ahead of the newest fence is refused. At a thousand
/// generations a second it takes seven weeks to come that far.
const GENERATIONS_AHEAD_MAX: u64 = 1 << 32;
/// The number of parts of evaluations that compute threads have at once. A further one is answered
/// with a failure. The coordinator asks a worker for one part at a time.
const PARTS_MAX: usize = 16;

impl WorkerMachine {
    /// Checks a message of the coordinator.
    ///
    /// # Errors
    /// If it cannot be true.
    pub(super) fn check_message(&self, message: &ToWorker) -> Result<(), FalseClaim> {
        match message {
            ToWorker::Fence(generation) => self.check_generation(*generation),
            ToWorker::Plan(plan) => self.check_plan(plan),
            ToWorker::Persisted(step) => {
                let last_step = self.schedule.map_or(0, |schedule| schedule.last_step);
                deny_unless(*step <= last_step, || {
                    let claim = format!("that everything up to step {step} is on disk");
                    (claim, format!("the last step is {last_step}"))
                })
            }
            ToWorker::TrainThrough(step) => {
                let schedule = self.schedule.filter(|schedule| schedule.verdict_every().is_some());
                let last_step = schedule.map_or(0, |schedule| schedule.last_step);
                deny_unless(*step <= last_step, || {
                    let claim = format!("to train through step {step}");
                    let possible = match schedule {
                        Some(_) => format!("the last step is {last_step}"),
                        None => "no evaluation may end this run".to_owned(),
                    };
                    (claim, possible)
                })
            }
            // These ask for something that is here or not.
            ToWorker::RequestSnapshot(_)
            | ToWorker::RetainSnapshot(_)
            | ToWorker::Probe(..)
            | ToWorker::Trial(..)
            | ToWorker::Evaluate(_)
            | ToWorker::Finish(_) => Ok(()),
        }
    }

    fn check_generation(&self, generation: Generation) -> Result<(), FalseClaim> {
        let newest = self.promised;
        let is_near = generation.0.saturating_sub(newest.0) <= GENERATIONS_AHEAD_MAX;
        deny_unless(generation > Generation(0) && is_near, || {
            (format!("generation {generation}"), format!("the newest fence was {newest}"))
        })
    }

    /// Checks a plan, of the coordinator or of another worker.
    ///
    /// # Errors
    /// If no coordinator of this run makes such a plan.
    pub(super) fn check_plan(&self, plan: &Plan) -> Result<(), FalseClaim> {
        self.check_generation(plan.generation)?;
        let (found, shards) = (plan.shards(), self.shards);
        deny_unless(found == shards, || {
            (format!("a plan with {found} shards"), format!("the run has {shards}"))
        })?;
        let start = plan.start;
        deny_unless(start.generation == plan.generation, || {
            let claim = format!("a plan that starts in generation {}", start.generation);
            (claim, format!("it is the plan of generation {}", plan.generation))
        })?;
        let last_step = self.schedule.map_or(0, |schedule| schedule.last_step);
        deny_unless(start.position <= Position::after(last_step), || {
            let claim = format!("a plan that starts from {}", start.position);
            (claim, format!("the last step is {last_step}"))
        })
    }

    /// Returns whether another worker can have this plan from the coordinator and open a stream to
    /// this one with it.
    pub(super) fn is_possible_peer_plan(&self, plan: &Plan) -> bool {
        plan.rank_of(&self.id).is_some() && self.check_plan(plan).is_ok()
    }

    /// Returns whether a rank is that of another member of this worker's plan.
    pub(super) fn is_other_member(&self, rank: Rank) -> bool {
        self.plan.as_ref().is_some_and(|(plan, me)| rank != *me && plan.member(rank).is_some())
    }

    /// Returns whether a frame of a phase that has not begun here can be the sender's. A member
    /// sends each of its sums once, so what waits is at most the sums of a phase for each member.
    pub(super) fn is_possible_frame(&self, from: Rank, frame: &ReduceFrame) -> bool {
        let Some((plan, me)) = &self.plan else {
            return false;
        };
        let len = self.objective.phase_vector_len(frame.position.phase);
        check_sum(plan, *me, len, from, &frame.bucket_sum).is_ok()
    }

    /// Returns whether a report that came with a copy of a plan's start state can be one of the
    /// steps that led there. This worker will repeat it as its own word.
    pub(super) fn is_possible_report(&self, plan: &Plan, done: &StepDone) -> bool {
        let StepDone { step, generation, world_size, .. } = *done;
        let is_before_start = step > 0 && step <= plan.start.position.step;
        let is_earlier = generation > Generation(0) && generation < plan.generation;
        let has_times = [done.step_ms, done.allreduce_ms].iter().all(|ms| *ms >= 0.0);
        let are_finite = done.step_ms.is_finite() && done.allreduce_ms.is_finite();
        let is_world = (1..=plan.shards()).contains(&world_size);
        // The state after the last of them is the one that was copied.
        let is_start = step == plan.start.position.step && plan.start.position.is_step_boundary();
        let is_its_state = !is_start || done.digest == plan.start.digest;
        is_before_start && is_earlier && has_times && are_finite && is_world && is_its_state
    }

    /// Returns whether a further part of an evaluation is too many.
    pub(super) fn has_too_many_parts(&self, id: &PartId) -> bool {
        self.evaluating.len() >= PARTS_MAX && !self.evaluating.contains_key(id)
    }

    /// The number of things that others made this worker keep. For tests.
    #[doc(hidden)]
    pub fn kept_for_others(&self) -> usize {
        self.early_frames.len() + self.evaluating.len() + self.retained.len()
    }
}
