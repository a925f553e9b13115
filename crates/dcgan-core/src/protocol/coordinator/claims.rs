//! Claims: every message of a worker is compared with the specification, the plan and the worker's
//! place before the machine hears it.
//!
//! The obvious design trusts a worker that was let in. Then one that has lost its way, or lies,
//! ends the run for everybody: a shard number that no plan has is an index out of bounds, a step in
//! the far future ends the log, a state that nobody can have becomes the start of the next plan. So
//! a claim that cannot be true costs the worker that makes it its membership, in words, and nobody
//! else more than a loss does.
//!
//! A claim that is merely overtaken is not false. Messages are repeated, and arrive late: what
//! belongs to an older generation, or to the longer schedule of an earlier coordinator, is ignored.
//! [`Possible`] therefore denies only what no honest worker can say at any time, in whatever order
//! its messages arrive. The simulation holds it to that.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Command, ConnId, CoordinatorMachine, Departure, Notice, Outsider, Stage};
use crate::evaluation::EvaluationInfo;
use crate::ids::{Generation, Position, Rank, ShardId, Step, WorkerId};
use crate::metrics::StepDone;
use crate::protocol::false_claim::{FalseClaim, deny_unless};
use crate::protocol::message::{Complaint, FailedShards, FromWorker, Hello};
use crate::protocol::plan::{Plan, StateRef};

/// A worker that is expelled stays outside for this long the first time. Each later pause is twice
/// as long.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest time for which a worker stays outside.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// The number of expelled workers that are remembered. A further one takes the place of the one
/// whose pause ends first, which may come back sooner than it should.
const EXPELLED_MAX: usize = 64;
/// How far the generation of a member of the stored plan may be ahead of that plan. It is ahead if
/// the run directory was restored from a backup. A hello from further ahead is turned away.
const GENERATIONS_AHEAD_MAX: u64 = 1 << 20;

/// The workers that are kept outside, and the limits of what workers may say.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// The newest generation of an earlier coordinator: that of the plan on disk, or a newer one of
    /// which a member of that plan has told.
    inherited: Generation,
    expelled: BTreeMap<WorkerId, Expelled>,
}

/// A worker that is kept outside.
#[derive(Debug)]
struct Expelled {
    /// The address at which it said that others reach it.
    address: String,
    /// The claim for which it was expelled last.
    claim: FalseClaim,
    /// The time at which it was expelled last.
    since: Duration,
    /// The length of its pause.
    pause: Duration,
}

impl Expelled {
    fn until(&self) -> Duration {
        self.since + self.pause
    }
}

impl Claims {
    /// The claims of a coordinator that starts with this plan on disk.
    pub(super) fn after(plan: Option<&Plan>) -> Self {
        let inherited = plan.map_or(Generation(0), |plan| plan.generation);
        Self { inherited, expelled: BTreeMap::new() }
    }

    /// The newest generation of an earlier coordinator.
    pub(super) fn inherited(&self) -> Generation {
        self.inherited
    }

    /// The workers that are outside at `now`.
    pub(super) fn outside(&self, now: Duration) -> impl Iterator<Item = Outsider> {
        self.expelled.iter().filter_map(move |(id, expelled)| {
            let left = expelled.until().checked_sub(now).filter(|left| !left.is_zero())?;
            let (address, claim) = (expelled.address.clone(), expelled.claim.clone());
            Some(Outsider { id: id.clone(), address, claim, left })
        })
    }

    /// Remembers an expelled worker. Returns how long it stays outside.
    fn expel(
        &mut self,
        now: Duration,
        id: WorkerId,
        address: String,
        claim: FalseClaim,
    ) -> Duration {
        let before = self.expelled.remove(&id);
        let pause = before.map_or(PAUSE_MIN, |before| (2 * before.pause).min(PAUSE_MAX));
        if self.expelled.len() >= EXPELLED_MAX {
            let first = self.expelled.iter().min_by_key(|(_, expelled)| expelled.until());
            if let Some(first) = first.map(|(id, _)| id.clone()) {
                self.expelled.remove(&first);
            }
        }
        self.expelled.insert(id, Expelled { address, claim, since: now, pause });
        pause
    }
}

/// The limits of what one worker can truly say at one moment.
struct Possible<'a> {
    /// The newest plan that anybody may know, with the worker's rank in it.
    plan: Option<(&'a Plan, Option<Rank>)>,
    /// The newest generation that anybody may know.
    newest: Generation,
    /// The newest generation of an earlier coordinator, whose schedule may have been longer.
    inherited: Generation,
    last_step: Step,
    shards: u16,
    metrics: usize,
    evaluation: Option<EvaluationInfo>,
}

impl Possible<'_> {
    /// The part of a message that counts; `None` if it is overtaken.
    ///
    /// # Errors
    /// If the message cannot be true.
    fn hear(&self, message: FromWorker) -> Result<Option<FromWorker>, FalseClaim> {
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
            FromWorker::TrialResult { result: Ok(ms), .. } => {
                self.time(ms, "a shard")?;
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

impl CoordinatorMachine {
    /// The newest generation that anybody may know.
    pub(super) fn newest_generation(&self) -> Generation {
        self.generation().max(self.claims.inherited())
    }

    /// The part of a worker's message that counts; `None` if it is overtaken.
    ///
    /// # Errors
    /// If it cannot be true.
    pub(super) fn hear(
        &self,
        id: &WorkerId,
        message: FromWorker,
    ) -> Result<Option<FromWorker>, FalseClaim> {
        let plan = self.plan.as_deref();
        let possible = Possible {
            plan: plan.map(|plan| (plan, plan.rank_of(id))),
            newest: self.newest_generation(),
            inherited: self.claims.inherited(),
            last_step: self.outputs.last_step(),
            shards: self.shards,
            metrics: self.outputs.metrics(),
            evaluation: self.outputs.evaluation(),
        };
        possible.hear(message)
    }

    /// Hears what a hello says of generations. A member of the plan on disk may follow a newer one,
    /// if the directory was restored from a backup: the next plan is newer than both.
    ///
    /// # Errors
    /// If it cannot be true.
    pub(super) fn hear_hello(&mut self, hello: &Hello) -> Result<(), FalseClaim> {
        let Hello { plan, promised, .. } = *hello;
        deny_unless(plan <= promised, || {
            let claim = format!("to follow plan {plan} and to have answered fence {promised}");
            (claim, "a plan comes after its fence".to_owned())
        })?;
        // The fence of the generation after the newest one may have been open.
        let told = plan.max(Generation(promised.0.saturating_sub(1)));
        let newest = self.newest_generation();
        if told <= newest {
            return Ok(());
        }
        let is_member = self.members().iter().any(|member| member.id == hello.id);
        let is_near = told.0 - newest.0 <= GENERATIONS_AHEAD_MAX;
        let is_first = matches!(self.stage, Stage::Gathering { .. });
        deny_unless(is_member && is_near && is_first, || {
            (format!("to know of generation {told}"), format!("the newest plan is {newest}"))
        })?;
        self.claims.inherited = told;
        Ok(())
    }

    /// The words for a worker that is kept outside, if this one is.
    pub(super) fn reason_outside(&self, id: &WorkerId) -> Option<String> {
        let expelled = self.claims.expelled.get(id)?;
        let left = expelled.until().checked_sub(self.now).filter(|left| !left.is_zero())?;
        Some(turned_away(&expelled.claim, left))
    }

    /// Expels a worker for a claim that cannot be true. The others go on as after any loss.
    pub(super) fn expel(&mut self, id: &WorkerId, claim: FalseClaim) {
        let Some(worker) = self.registry.by_id(id) else {
            return;
        };
        let (conn, address) = (worker.conn, worker.address.clone());
        self.keep_outside(conn, id, address, claim.clone());
        self.remove_worker(&id.name, Departure::FalseClaim(claim));
    }

    /// Turns a worker away for a claim that cannot be true, for a pause that grows.
    pub(super) fn keep_outside(
        &mut self,
        conn: Option<ConnId>,
        id: &WorkerId,
        address: String,
        claim: FalseClaim,
    ) {
        let pause = self.claims.expel(self.now, id.clone(), address.clone(), claim.clone());
        if let Some(conn) = conn {
            self.out.push(Command::TurnAway(conn, turned_away(&claim, pause)));
        }
        self.notify(Notice::FalseClaim { name: id.name.clone(), address, claim, pause });
    }

    /// Expels the members whose answers to a fence cannot be true beside those of the others.
    ///
    /// No member can be two phases ahead of another one, because every sum needs all of them. Where
    /// the answers say otherwise, most members are believed.
    pub(super) fn expel_impossible_answers(&mut self, generation: Generation) {
        let mut states = self.member_states(generation);
        states.sort_by_key(|&(_, position)| position);
        let Some(&(_, most)) = states.get(states.len() / 2) else {
            return;
        };
        for (id, position) in states.into_iter().filter(|&(_, position)| position > most.next()) {
            let claim = format!("to be at {position} in generation {}", self.generation());
            let possible = format!("most members are at {most} or before, and all go together");
            self.expel(&id, FalseClaim::new(claim, possible));
        }
    }

    /// The furthest position in the newest generation that answers to a fence vouch for: one phase
    /// further than what half of the members are at. Of two members that contradict each other, the
    /// one that is behind is believed: the steps in between are computed again, to the same bits.
    pub(super) fn vouched_position(&self, generation: Generation) -> Option<Position> {
        let mut states = self.member_states(generation);
        states.sort_by_key(|&(_, position)| position);
        let half = states.len().div_ceil(2).checked_sub(1)?;
        states.get(half).map(|(_, position)| position.next())
    }

    /// The members that answered the fence of `generation` with a state of the newest plan.
    fn member_states(&self, generation: Generation) -> Vec<(WorkerId, Position)> {
        let newest = self.generation();
        let states = self.registry.ready().filter_map(|worker| {
            let state = worker.fenced_state(generation)?;
            (state.generation == newest).then(|| (worker.id.clone(), state.position))
        });
        states.collect()
    }
}

impl CoordinatorMachine {
    /// The number of things that workers made this machine keep. For tests.
    #[doc(hidden)]
    pub fn kept_for_others(&self) -> usize {
        self.claims.expelled.len() + self.registry.len() + self.outputs.reports()
    }
}

/// The words for a worker that is turned away.
fn turned_away(claim: &FalseClaim, left: Duration) -> String {
    let seconds = left.as_secs_f64().ceil();
    format!("this worker was expelled: {claim}; it may come back in {seconds} s")
}
