//! The messages that an honest worker can send: each is compared with the specification, the plan
//! and the worker's place.

use crate::evaluation::EvaluationInfo;
use crate::ids::{Generation, Position, Rank, ShardId, Step};
use crate::metrics::StepDone;
use crate::protocol::false_claim::{FalseClaim, deny_unless};
use crate::protocol::message::{Complaint, FailedShards, FromWorker, TrialTimes};
use crate::protocol::plan::{Plan, StateRef};

/// The limits of what one worker can truly say at one moment.
pub(super) struct Possible<'a> {
    /// The newest plan that anybody may know, with the worker's rank in it.
    pub(super) plan: Option<(&'a Plan, Option<Rank>)>,
    /// The newest generation that anybody may know.
    pub(super) newest: Generation,
    /// The newest generation of an earlier coordinator, whose schedule may have been longer.
    pub(super) inherited: Generation,
    pub(super) last_step: Step,
    pub(super) shards: u16,
    pub(super) metrics: usize,
    pub(super) evaluation: Option<EvaluationInfo>,
}

impl Possible<'_> {
    /// The part of a message that counts; `None` if it is overtaken.
    ///
    /// # Errors
    /// If the message cannot be true.
    pub(super) fn hear(&self, message: FromWorker) -> Result<Option<FromWorker>, FalseClaim> {
        match message {
            FromWorker::FenceAck { generation, state } => {
                // The fence of the next generation may be open.
                let newest = self.newest.next();
                deny_unless(generation <= newest, || {
                    (format!("to answer fence {generation}"), format!("the newest is {newest}"))
                })?;
                let state = state.map(|state| self.state(state)).transpose()?.flatten();
                Ok(Some(FromWorker::FenceAck { generation, state }))
            }
            FromWorker::StepDone(done) => {
                let is_in_time = self.step_done(&done)?;
                Ok(is_in_time.then_some(FromWorker::StepDone(done)))
            }
            FromWorker::Complaint { generation, complaint } => {
                self.generation(generation)?;
                // What was complained about in an older generation is over.
                let Some((plan, _)) = self.plan.filter(|(plan, _)| plan.generation == generation)
                else {
                    return Ok(None);
                };
                self.complaint(plan, self.rank_in(generation)?, &complaint)?;
                Ok(Some(FromWorker::Complaint { generation, complaint }))
            }
            FromWorker::Copied(generation) => {
                self.generation(generation)?;
                Ok(self.rank_in(generation)?.map(|_| FromWorker::Copied(generation)))
            }
            FromWorker::StateDiffered { position, .. } if self.is_beyond_end(position) => Ok(None),
            FromWorker::Evaluated { id, ref result } => {
                let parts = self.evaluation.map_or(0, |info| usize::from(info.pieces) + 1);
                deny_unless(usize::from(id.part) < parts, || {
                    let possible = format!("an evaluation has {parts} parts");
                    (format!("part {} of an evaluation", id.part), possible)
                })?;
                let names = self.evaluation.map_or(0, |info| info.names.len());
                let is_combination = usize::from(id.part) + 1 == parts;
                if let Ok(values) = result
                    && is_combination
                {
                    let found = values.len();
                    deny_unless(found == names, || {
                        let claim = format!("an evaluation with {found} values");
                        (claim, format!("it has {names}"))
                    })?;
                }
                Ok(Some(message))
            }
            FromWorker::TrialResult { result: Ok(TrialTimes { copy_ms, shard_ms }), .. } => {
                self.time(copy_ms, "a copy")?;
                self.time(shard_ms, "a shard")?;
                Ok(Some(message))
            }
            // These say nothing that could not be true. That they were asked for is checked where
            // the question is known.
            FromWorker::Ready
            | FromWorker::SnapshotMissing(_)
            | FromWorker::StateDiffered { .. }
            | FromWorker::ProbeResult { .. }
            | FromWorker::TrialResult { .. }
            | FromWorker::Leave => Ok(Some(message)),
        }
    }

    fn generation(&self, generation: Generation) -> Result<(), FalseClaim> {
        let newest = self.newest;
        deny_unless(generation <= newest, || {
            (format!("to be in generation {generation}"), format!("the newest plan is {newest}"))
        })
    }

    /// The worker's rank in the plan of a generation, if that is the newest plan.
    ///
    /// # Errors
    /// If it is, and the worker is not a member.
    fn rank_in(&self, generation: Generation) -> Result<Option<Rank>, FalseClaim> {
        match self.plan {
            Some((plan, rank)) if plan.generation == generation => {
                deny_unless(rank.is_some(), || {
                    let claim = format!("to have trained in generation {generation}");
                    (claim, "it is not a member of that plan".to_owned())
                })?;
                Ok(rank)
            }
            _ => Ok(None),
        }
    }

    /// Returns whether a position lies behind the end of the run.
    fn is_beyond_end(&self, position: Position) -> bool {
        position > Position::after(self.last_step)
    }

    /// Returns whether a position is one that the run comes by. An earlier coordinator may have had
    /// a longer schedule.
    ///
    /// # Errors
    /// If no coordinator can have led a worker there.
    fn position(&self, generation: Generation, position: Position) -> Result<bool, FalseClaim> {
        let last_step = self.last_step;
        if !self.is_beyond_end(position) {
            return Ok(true);
        }
        deny_unless(generation <= self.inherited, || {
            (format!("to have reached {position}"), format!("the last step is {last_step}"))
        })?;
        Ok(false)
    }

    /// A worker's state in the answer to a fence; `None` if it is of no use to this run.
    fn state(&self, state: StateRef) -> Result<Option<StateRef>, FalseClaim> {
        let StateRef { generation, position, .. } = state;
        self.generation(generation)?;
        // Without a plan there is only the initial state.
        deny_unless(generation > Generation(0) || position == Position::after(0), || {
            let claim = format!("to have reached {position} without a plan");
            (claim, "without a plan a worker has the initial state".to_owned())
        })?;
        if let (Some(_), Some((plan, _))) = (self.rank_in(generation)?, self.plan) {
            let start = plan.start.position;
            deny_unless(position >= start, || {
                let claim = format!("to be at {position} in generation {generation}");
                (claim, format!("that generation begins at {start}"))
            })?;
        }
        Ok(self.position(generation, position)?.then_some(state))
    }

    fn step_done(&self, done: &StepDone) -> Result<bool, FalseClaim> {
        let StepDone { step, generation, world_size, .. } = *done;
        self.generation(generation)?;
        deny_unless(step > 0 && generation > Generation(0), || {
            let claim = format!("to have finished step {step} in generation {generation}");
            (claim, "steps and generations are counted from 1".to_owned())
        })?;
        let shards = self.shards;
        let mut members = (1..=shards, format!("there are {shards} shards"));
        if let (Some(_), Some((plan, _))) = (self.rank_in(generation)?, self.plan) {
            let (count, start) = (plan.members().len() as u16, plan.start.position.step);
            members = (count..=count, format!("there are {count}"));
            deny_unless(step > start, || {
                let claim = format!("to have finished step {step} in generation {generation}");
                (claim, format!("that generation begins after step {start}"))
            })?;
        }
        deny_unless(members.0.contains(&world_size), || {
            (format!("{world_size} members in generation {generation}"), members.1)
        })?;
        let (found, metrics) = (done.metrics.len(), self.metrics);
        deny_unless(found == metrics, || {
            (format!("{found} metrics of step {step}"), format!("there are {metrics}"))
        })?;
        for ms in [done.step_ms, done.allreduce_ms] {
            self.time(ms.into(), &format!("step {step}"))?;
        }
        self.position(generation, Position::after(step))
    }

    fn time(&self, ms: f64, what: &str) -> Result<(), FalseClaim> {
        deny_unless(ms.is_finite() && ms >= 0.0, || {
            let claim = format!("that {what} took {ms} ms");
            (claim, "a time is a finite number that is not negative".to_owned())
        })
    }

    fn complaint(
        &self,
        plan: &Plan,
        me: Option<Rank>,
        complaint: &Complaint,
    ) -> Result<(), FalseClaim> {
        let members = plan.members().len();
        let peer = |peer: Rank| {
            deny_unless(plan.member(peer).is_some() && Some(peer) != me, || {
                let possible = format!("the plan has {members} members, and it has a rank itself");
                (format!("that rank {peer} is another member"), possible)
            })
        };
        let position = |position: Position| {
            let start = plan.start.position;
            deny_unless(position >= start && !self.is_beyond_end(position), || {
                let last = self.last_step;
                let possible = format!("the plan leads from {start} to the end of step {last}");
                (format!("to compute at {position}"), possible)
            })
        };
        match complaint {
            Complaint::StreamBroken(rank) | Complaint::Timeout(rank) => peer(*rank),
            Complaint::StateMismatch { peer: rank, position: at, .. } => {
                peer(*rank)?;
                position(*at)
            }
            Complaint::ShardsFailed(FailedShards { position: at, shards, .. }) => {
                position(*at)?;
                let stranger = shards.iter().find(|&&shard| plan.owner(shard) != me);
                if let Some(&ShardId(shard)) = stranger {
                    let count = plan.shards();
                    let possible = format!("the plan gives it others, of {count} in all");
                    return Err(FalseClaim::new(format!("shard {shard} as its own"), possible));
                }
                let is_list = !shards.is_empty() && shards.is_sorted_by(|a, b| a < b);
                deny_unless(is_list, || {
                    let claim = "failed shards without order or number".to_owned();
                    (claim, "each is named once, in order".to_owned())
                })
            }
            Complaint::CopyFailed | Complaint::StateCorrupted(_) => Ok(()),
        }
    }
}
