//! Membership is earned: a worker counts for a plan once it has shown that it can do a member's
//! work.
//!
//! The obvious design plans every worker that says it is ready. Then one worker with a wrong
//! address stops all others: no plan with it can finish a step. So each worker that is ready is
//! tried first, while the others train on: it and every worker that counts reach each other, in
//! both directions, and it copies a member's state and computes a shard from it. A worker that
//! fails waits outside, and is tried again after a pause that grows. So does one that has passed
//! and then keeps a plan from finishing a step: see `search.rs`.
//!
//! Before a first step is finished, nobody has shown more than the others. Then all are compared,
//! and those are taken away that reach the fewest: see [`Links::group`].

mod links;
mod probation;
mod round;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::registry::WorkerEntry;
use super::{CoordinatorMachine, Departure, Notice, Stage};
use crate::ids::WorkerId;
use crate::protocol::message::TrialTimes;
use crate::protocol::plan::Plan;
use crate::words::worker;
use links::{Link, Links};

/// The first time that a worker waits outside. Each later time is twice as long.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest time that a worker waits outside before it is tried again.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A worker that has counted for this long without a break waits no longer than at first, should it
/// have to wait outside again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// Workers that are gone and would have to wait outside are remembered by name: so many of them.
const REMEMBERED_MAX: usize = 1000;

/// The standings of all workers.
#[derive(Debug, Default)]
pub(super) struct Trials {
    /// By name: a process that replaces another one begins with its pause.
    records: BTreeMap<String, Record>,
    links: Links,
    /// The members of a stored plan. They were members before this coordinator was started.
    trusted: BTreeSet<WorkerId>,
    /// The members' median milliseconds for a shard, before the last plan.
    median_ms: Option<f64>,
    /// True if something has happened since the last look.
    has_changed: bool,
    /// The time of the next look, if nothing happens before.
    look_at: Duration,
}

/// The standing of one worker.
#[derive(Debug)]
struct Record {
    id: WorkerId,
    standing: Standing,
    /// How long it waits outside the next time.
    pause: Duration,
    /// The times of its last trial.
    times: Option<TrialTimes>,
    /// The reason for which it waits outside, as people were told last.
    told: Option<String>,
}

/// The part that a worker may take.
#[derive(Debug)]
enum Standing {
    /// The worker is being tried.
    OnTrial { since: Duration, transfer: Transfer },
    /// The worker counts for plans.
    Fit { since: Duration },
    /// The worker waits, for this reason.
    ///
    /// If it has cost the members something, so does every process of its name.
    Outside { until: Duration, why: String, has_cost: bool },
    /// The process is gone. Only its pause is remembered.
    Gone,
}

/// The part of a trial that a member helps with: to copy its state, and to compute from it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Transfer {
    /// No member was asked yet, after so many that could not help.
    Due { failed: usize },
    /// This member's state is being copied, since this time.
    Running { donor: WorkerId, failed: usize },
    /// The copy and the computation are done.
    Done,
}

impl Trials {
    /// The trials of a coordinator that finds this plan on its disk.
    pub(super) fn new(stored: Option<&Plan>) -> Self {
        let mut trials = Self::default();
        if let Some(plan) = stored {
            let members: Vec<&WorkerId> = plan.members().iter().map(|member| &member.id).collect();
            trials.links.trust(&members);
            trials.trusted = members.into_iter().cloned().collect();
        }
        trials
    }

    fn record(&self, id: &WorkerId) -> Option<&Record> {
        self.records.get(&id.name).filter(|record| record.id == *id)
    }

    /// Returns whether a worker counts for plans.
    pub(super) fn is_fit(&self, id: &WorkerId) -> bool {
        matches!(self.record(id), Some(Record { standing: Standing::Fit { .. }, .. }))
    }

    /// Returns whether a worker has failed its trial, and has cost the members nothing.
    fn has_failed(&self, id: &WorkerId) -> bool {
        let record = self.record(id);
        matches!(record, Some(Record { standing: Standing::Outside { has_cost: false, .. }, .. }))
    }

    /// Returns whether a worker is being tried.
    pub(super) fn is_on_trial(&self, id: &WorkerId) -> bool {
        matches!(self.record(id), Some(Record { standing: Standing::OnTrial { .. }, .. }))
    }

    /// The reason why a worker waits outside, if it does.
    pub(super) fn outside(&self, id: &WorkerId) -> Option<&str> {
        match self.record(id) {
            Some(Record { standing: Standing::Outside { why, .. }, .. }) => Some(why),
            _ => None,
        }
    }

    /// Has the next look come at once.
    fn mark(&mut self) {
        self.has_changed = true;
    }

    /// Begins to try a worker, unless its name has to wait outside.
    fn begin(&mut self, now: Duration, id: &WorkerId) {
        self.mark();
        let pause = match self.records.get_mut(&id.name) {
            Some(record) => {
                // A name that has cost the members a plan waits, whichever process has it.
                if let Standing::Outside { until, has_cost, .. } = &record.standing
                    && *until > now
                    && (*has_cost || record.id == *id)
                {
                    record.id = id.clone();
                    return;
                }
                record.pause
            }
            None => PAUSE_MIN,
        };
        let standing = if self.trusted.contains(id) {
            Standing::Fit { since: now }
        } else {
            self.links.forget(id);
            Standing::OnTrial { since: now, transfer: Transfer::Due { failed: 0 } }
        };
        let told = self.records.remove(&id.name).and_then(|record| record.told);
        let record = Record { id: id.clone(), standing, pause, times: None, told };
        self.records.insert(id.name.clone(), record);
    }

    /// Lets a worker wait outside. Returns for how long, if people were not told the same before.
    fn put_outside(
        &mut self,
        now: Duration,
        id: &WorkerId,
        why: &str,
        has_cost: bool,
    ) -> Option<Duration> {
        self.mark();
        self.trusted.remove(id);
        let record = self.records.entry(id.name.clone()).or_insert_with(|| Record {
            id: id.clone(),
            standing: Standing::Gone,
            pause: PAUSE_MIN,
            times: None,
            told: None,
        });
        if let Standing::Fit { since } = record.standing
            && now >= since + FORGIVEN_AFTER
        {
            record.pause = PAUSE_MIN;
        }
        let pause = record.pause;
        record.id = id.clone();
        record.pause = (2 * pause).min(PAUSE_MAX);
        record.standing = Standing::Outside { until: now + pause, why: why.to_owned(), has_cost };
        let is_known = record.told.as_deref() == Some(why) && pause == PAUSE_MAX;
        record.told = Some(why.to_owned());
        (!is_known).then_some(pause)
    }

    /// Forgets a process that is gone, but not what its name has cost the members.
    pub(super) fn on_removed(&mut self, id: &WorkerId) {
        self.mark();
        self.links.forget(id);
        self.trusted.remove(id);
        if let Some(record) = self.records.get_mut(&id.name).filter(|record| record.id == *id) {
            match record.standing {
                Standing::Outside { .. } => {}
                _ if record.pause > PAUSE_MIN => record.standing = Standing::Gone,
                _ => drop(self.records.remove(&id.name)),
            }
        }
        while self.records.len() > REMEMBERED_MAX {
            let gone = |(_, record): &(&String, &Record)| matches!(record.standing, Standing::Gone);
            let Some(name) = self.records.iter().find(gone).map(|(name, _)| name.clone()) else {
                break;
            };
            self.records.remove(&name);
        }
    }

    /// Asks a worker again what it was asked before: its control stream is another one.
    pub(super) fn on_reconnected(&mut self, id: &WorkerId) {
        self.mark();
        self.links.forget_questions_to(id);
        if let Some(record) = self.records.get_mut(&id.name).filter(|record| record.id == *id)
            && let Standing::OnTrial { transfer, .. } = &mut record.standing
            && let Transfer::Running { failed, .. } = transfer
        {
            *transfer = Transfer::Due { failed: *failed };
        }
    }

    /// Notes that the members of a plan train, and so have shown all that a trial would show.
    pub(super) fn trust(&mut self, now: Duration, plan: &Plan) {
        let members: Vec<&WorkerId> = plan.members().iter().map(|member| &member.id).collect();
        self.links.trust(&members);
        for id in members {
            if !self.is_fit(id) {
                self.trusted.insert(id.clone());
                self.begin(now, id);
            }
        }
    }
}

impl CoordinatorMachine {
    /// Begins to try a worker that has become ready.
    pub(super) fn begin_trial(&mut self, id: &WorkerId) {
        self.trials.begin(self.now, id);
    }

    /// Takes the answer to a probe from worker `by` to worker `peer`.
    pub(super) fn on_probe_result(
        &mut self,
        by: &WorkerId,
        peer: &WorkerId,
        result: Result<(), String>,
    ) {
        // Only what was asked is news: an answer may be repeated, or late.
        if let Some(Link::Asked(_)) = self.trials.links.get(by, peer) {
            let is_broken = result.is_err();
            let link = result.map_or_else(Link::Broken, |()| Link::Reached);
            self.trials.links.set(by, peer, link);
            // A look is worthwhile when enough is known about a worker.
            if is_broken || [by, peer].iter().any(|id| !self.trials.links.is_asked(id)) {
                self.trials.mark();
            }
        }
    }

    /// Lets a worker that has failed its trial wait outside, and tells people why.
    fn fail_trial(&mut self, id: &WorkerId, why: &str) {
        let pause = self.trials.put_outside(self.now, id, why, false);
        self.tell_outside(id, why, pause);
    }

    /// Lets a worker wait outside that has kept the members from going on, and tells people why.
    pub(super) fn leave_out(&mut self, id: &WorkerId, why: &str) {
        self.progress.blame(id);
        let pause = self.trials.put_outside(self.now, id, why, true);
        self.tell_outside(id, why, pause);
    }

    fn tell_outside(&mut self, id: &WorkerId, why: &str, pause: Option<Duration>) {
        let (Some(pause), Some(worker)) = (pause, self.registry.by_id(id)) else {
            return;
        };
        let (name, address) = (id.name.clone(), worker.address.clone());
        let (why, seconds) = (why.to_owned(), pause.as_secs());
        self.notify(Notice::Outside { name, address, why, seconds });
    }

    /// Notes that a worker is about to be removed. If it is lost before a plan that it has joined
    /// has finished a step, its name waits before it can join again: each time costs the others a
    /// fence.
    pub(super) fn note_removal(&mut self, name: &str, why: &Departure) {
        let Some(id) = self.registry.by_name(name).map(|worker| worker.id.clone()) else {
            return;
        };
        let is_loss = matches!(why, Departure::Closed | Departure::Silent);
        let has_progress = !matches!(self.stage, Stage::Training { has_progress: false, .. });
        let core = self.progress.core();
        let is_newcomer = !core.is_empty() && !core.contains(&id);
        let is_member = self.members().iter().any(|member| member.id == id);
        if is_loss && is_member && is_newcomer && !has_progress {
            let why = "it was lost before the plan that it had joined finished a step";
            self.trials.put_outside(self.now, &id, why, true);
        }
        self.trials.on_removed(&id);
    }

    /// The workers that count for plans and are here.
    pub(super) fn fit_workers(&self) -> impl Iterator<Item = &WorkerEntry> {
        self.registry.ready().filter(|worker| self.trials.is_fit(&worker.id))
    }

    /// Returns whether a worker that is ready is still being tried.
    pub(super) fn is_anybody_on_trial(&self) -> bool {
        self.registry.ready().any(|worker| self.trials.is_on_trial(&worker.id))
    }

    /// Chooses the workers that are tried next, after plans that have finished no step: the others
    /// wait outside, and one of the chosen that does so need not wait any longer.
    pub(super) fn search_for_members(&mut self) {
        let Some(plan) = self.plan.clone().filter(|_| self.progress.is_search_due()) else {
            return;
        };
        // What was said of those that were left out since the last step may be false, and no trial
        // since then can tell.
        let (mut workers, mut outsiders) = (Vec::new(), Vec::new());
        for worker in self.registry.ready() {
            let id = &worker.id;
            if worker.leaving.is_some() || self.is_kept_as_suspect(id) {
                continue;
            }
            if self.trials.is_fit(id) || self.progress.is_blamed(id) {
                let is_new = !self.progress.core().contains(id);
                let mut members = plan.members().iter();
                let lacked_state = members.any(|member| member.id == *id && !member.holds_start);
                let shown = (self.progress.quarrels(id), is_new, lacked_state, worker.arrival);
                workers.push((shown, id.clone()));
            } else {
                outsiders.push(id.clone());
            }
        }
        // Who is in most complaints comes first, then who has shown least.
        workers.sort_by(|one, other| other.cmp(one));
        let workers: Vec<WorkerId> = workers.into_iter().map(|(_, id)| id).collect();
        let min = self.min_workers;
        let Some(chosen) = self.progress.choose(&plan, &workers, &outsiders, min) else {
            return;
        };
        for id in workers.into_iter().chain(outsiders) {
            let is_fit = self.trials.is_fit(&id);
            if chosen.contains(&id) {
                self.progress.absolve(&id);
                if !is_fit {
                    self.pass(&id);
                }
            } else if is_fit {
                let about = self.accusations_about(&id);
                self.leave_out(&id, &format!("with it the members finished no step{about}"));
                if self.progress.is_late(&id) {
                    self.remove_worker(&id.name, Departure::Late);
                }
            }
        }
    }

    /// The complaints about a worker, and its own about others, as the end of a sentence.
    fn accusations_about(&self, id: &WorkerId) -> String {
        let mut said = String::new();
        for (by, about, why) in self.progress.accusations() {
            if by == id || about == id {
                said += &format!("; {}: {why}", worker(&by.name));
            }
        }
        said
    }
}
