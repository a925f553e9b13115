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

use super::possible::Possible;
use super::{Command, ConnId, CoordinatorMachine, Departure, Notice, Outsider, Stage};
use crate::ids::{Generation, Position, WorkerId};
use crate::protocol::false_claim::{FalseClaim, deny_unless};
use crate::protocol::message::{FromWorker, Hello};
use crate::protocol::plan::Plan;

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

    /// Expels the members that say, in their answers to a fence, that they have finished a step of
    /// the present plan, and keep back their report of it. A worker reports each step before it
    /// answers.
    pub(super) fn expel_silent_answers(&mut self, generation: Generation) {
        let start = self.plan.as_ref().map_or(0, |plan| plan.start.position.step);
        for (id, Position { step, .. }) in self.member_states(generation) {
            if step > start && self.outputs.is_report_missing(&id, step) {
                let claim = format!("to have finished step {step} without a report of it");
                let possible = "a worker reports a step before it answers a fence".to_owned();
                self.expel(&id, FalseClaim::new(claim, possible));
            }
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
