//! A look at all trials: what is to be asked, and who has passed or failed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::links::{Link, Pair};
use super::probation::slowness;
use super::{Record, Standing, Transfer};
use crate::ids::WorkerId;
use crate::protocol::coordinator::registry::WorkerEntry;
use crate::protocol::coordinator::stragglers::median;
use crate::protocol::coordinator::{Command, CoordinatorMachine, Notice};
use crate::protocol::message::{ToWorker, TrialTimes};
use crate::protocol::plan::Member;
use crate::words::worker;

/// A worker that does not say in this time whether it reaches another one has not reached it.
/// Probes end after 3 s.
const PROBE_MAX: Duration = Duration::from_secs(4);
/// A worker that has not passed in this time has failed. The copy in it may take 10 s.
const TRIAL_MAX: Duration = Duration::from_secs(30);
impl CoordinatorMachine {
    /// Looks at all trials, if something has happened or time has passed.
    pub(in crate::protocol::coordinator) fn advance_trials(&mut self) {
        if !self.trials.has_changed && self.now < self.trials.look_at {
            return;
        }
        self.trials.has_changed = false;
        let now = self.now;
        self.trials.links.give_up(now.saturating_sub(PROBE_MAX), "no answer to the question");
        self.try_outsiders_again();
        self.ask_for_probes();
        self.ask_for_transfers();
        self.judge();
        self.trials.look_at = self.next_look();
    }

    /// The time of the next look, if nothing happens before.
    fn next_look(&self) -> Duration {
        let mut next = Duration::MAX;
        if let Some(asked) = self.trials.links.oldest_question() {
            next = next.min(asked + PROBE_MAX);
        }
        for record in self.trials.records.values() {
            match record.standing {
                Standing::Outside { until, .. } if until > self.now => next = next.min(until),
                Standing::OnTrial { since, .. } => next = next.min(since + TRIAL_MAX),
                _ => {}
            }
        }
        // A worker that is back, or whose stream is, is noticed when it says so.
        next
    }

    /// Begins to try those again that have waited long enough.
    fn try_outsiders_again(&mut self) {
        let mut due = Vec::new();
        for worker in self.registry.ready() {
            if let Some(Record { standing: Standing::Outside { until, .. }, .. }) =
                self.trials.record(&worker.id)
                && *until <= self.now
            {
                due.push(worker.id.clone());
            }
        }
        for id in due {
            self.trials.begin(self.now, &id);
        }
    }

    /// Asks each worker on trial, and all that count or are on trial as well, to reach each other.
    fn ask_for_probes(&mut self) {
        let is_proven = self.is_core_enough();
        let trials = &mut self.trials;
        let is_compared = |worker: &&WorkerEntry| {
            let id = &worker.id;
            trials.is_fit(id) || trials.is_on_trial(id) || (!is_proven && trials.has_failed(id))
        };
        let present: Vec<_> = self.registry.ready().filter(is_compared).collect();
        let tried: Vec<_> =
            present.iter().filter(|worker| trials.is_on_trial(&worker.id)).collect();
        let mut pairs = Vec::new();
        for worker in &tried {
            for other in present.iter().filter(|other| other.id != worker.id) {
                pairs.push((*worker, other));
                pairs.push((other, *worker));
            }
        }
        for (from, to) in pairs {
            if let Some(conn) = from.conn
                && trials.links.get(&from.id, &to.id).is_none()
            {
                trials.links.set(&from.id, &to.id, Link::Asked(self.now));
                let probe = ToWorker::Probe(to.id.clone(), to.address.clone());
                self.out.push(Command::Send(conn, probe));
            }
        }
    }

    /// Asks each worker on trial to copy a member's state. Before there is one, nobody is asked.
    fn ask_for_transfers(&mut self) {
        let donors = self.donors();
        for worker in self.registry.ready() {
            let Some(conn) = worker.conn else { continue };
            let Some(record) = self.trials.records.get_mut(&worker.id.name) else { continue };
            let Standing::OnTrial { transfer, .. } = &mut record.standing else { continue };
            let Transfer::Due { failed } = *transfer else { continue };
            if record.id != worker.id || donors.is_empty() {
                continue;
            }
            // Workers that come at the same time begin with different members.
            let place = (worker.arrival as usize + failed) % donors.len();
            let (donor, address) = donors[place].clone();
            *transfer = Transfer::Running { donor: donor.clone(), failed };
            self.out.push(Command::Send(conn, ToWorker::Trial(donor, address)));
        }
    }

    /// The members that have finished a step together: their state can be copied.
    fn donors(&self) -> Vec<(WorkerId, String)> {
        let core = self.progress.core();
        let donors = self.fit_workers().filter(|worker| core.contains(&worker.id));
        donors.map(|worker| (worker.id.clone(), worker.address.clone())).collect()
    }

    /// Takes what came of a worker's trial with the state of `donor`.
    pub(in crate::protocol::coordinator) fn on_trial_result(
        &mut self,
        by: &WorkerId,
        donor: &WorkerId,
        result: Result<TrialTimes, String>,
    ) {
        let donors = self.donors().len();
        let Some(record) = self.trials.records.get_mut(&by.name) else { return };
        let Standing::OnTrial { transfer, .. } = &mut record.standing else { return };
        let Transfer::Running { donor: asked, failed } = transfer else { return };
        if record.id != *by || asked != donor {
            return;
        }
        let failed = *failed + 1;
        *transfer = if result.is_ok() { Transfer::Done } else { Transfer::Due { failed } };
        record.times = result.as_ref().ok().copied();
        self.trials.mark();
        match result {
            Ok(TrialTimes { shard_ms, .. }) => {
                let median_ms = self.median_shard_ms();
                if let Some(why) = median_ms.and_then(|median_ms| slowness(shard_ms, median_ms)) {
                    self.fail_trial(by, &why);
                }
            }
            // It may be the donor's fault, so the others are asked as well.
            Err(_) if failed < donors => {}
            Err(why) => {
                let why = format!(
                    "it cannot copy the state of {} and compute a shard: {why}",
                    worker(&donor.name)
                );
                self.fail_trial(by, &why);
            }
        }
    }

    /// Remembers how long the members take for a shard, before they are measured anew.
    pub(in crate::protocol::coordinator) fn remember_shard_times(&mut self) {
        self.trials.median_ms = self.median_shard_ms();
    }

    /// The members' median time for a shard, now or before the last plan; `None` if none is known.
    fn median_shard_ms(&self) -> Option<f64> {
        let measured = |member: &Member| self.stragglers.shard_ms(&member.id);
        let now = median(self.members().iter().filter_map(measured).collect());
        now.or(self.trials.median_ms)
    }

    /// Decides who has passed, and who has failed.
    fn judge(&mut self) {
        if self.is_core_enough() {
            let fit = self.fit_workers().map(|worker| worker.id.clone()).collect();
            self.judge_newcomers(fit);
        } else {
            self.judge_all();
        }
    }

    /// Returns whether enough of those that count have finished a step together.
    pub(super) fn is_core_enough(&self) -> bool {
        let core = self.progress.core();
        let proven = self.fit_workers().filter(|worker| core.contains(&worker.id)).count();
        proven >= self.min_workers
    }

    /// The ready workers on trial, in order of their arrival, each with the time since when.
    fn on_trial(&self) -> Vec<(WorkerId, Duration)> {
        let mut tried = Vec::new();
        for worker in self.registry.ready() {
            if let Some(Record { standing: Standing::OnTrial { since, .. }, .. }) =
                self.trials.record(&worker.id)
            {
                tried.push((worker.arrival, worker.id.clone(), *since));
            }
        }
        tried.sort_unstable();
        tried.into_iter().map(|(_, id, since)| (id, since)).collect()
    }

    /// Lets those take part that have passed with all `fit` workers. Enough of these have finished
    /// a step together, so a newcomer that does not fit in is the one to wait.
    fn judge_newcomers(&mut self, mut fit: Vec<WorkerId>) {
        for (id, since) in self.on_trial() {
            let pairs = || fit.iter().map(|other| (other, self.trials.links.pair(&id, other)));
            if let Some((other, _)) = pairs().find(|(_, pair)| *pair == Pair::Broken) {
                let why = self.in_words(&id, other);
                self.fail_trial(&id, &why);
            } else if pairs().all(|(_, pair)| pair == Pair::Reached) && self.has_copied(&id) {
                self.pass(&id);
                fit.push(id);
            } else if self.now >= since + TRIAL_MAX {
                let seconds = TRIAL_MAX.as_secs();
                let why = format!(
                    "it did not copy a state and compute a shard in {seconds} s: check the network \
                     and the load of its machine"
                );
                self.fail_trial(&id, &why);
            }
        }
    }

    /// Compares all workers that count, are on trial or have failed, and lets those take part that
    /// reach each other. One that came early may have kept out all others. Waits for their answers,
    /// but not for those of workers that came later.
    fn judge_all(&mut self) {
        let tried = self.on_trial();
        let Some(oldest) = tried.iter().map(|(_, since)| *since).min() else {
            return;
        };
        let mut all = BTreeMap::new();
        for worker in self.registry.ready() {
            let id = &worker.id;
            if self.trials.is_fit(id) || self.trials.is_on_trial(id) || self.trials.has_failed(id) {
                all.insert(worker.id.clone(), worker.arrival);
            }
        }
        let is_overdue = self.now >= oldest + PROBE_MAX;
        let is_open = |one: &WorkerId, other: &WorkerId| {
            one != other && self.trials.links.pair(one, other) == Pair::Open
        };
        let is_anything_open = all.keys().any(|one| all.keys().any(|other| is_open(one, other)));
        if is_anything_open && !is_overdue {
            return;
        }
        let group = self.trials.links.group(&all, self.progress.core());
        for id in all.keys() {
            if group.contains(id) {
                if !self.trials.is_fit(id) {
                    self.pass(id);
                }
                continue;
            }
            if self.trials.has_failed(id) {
                continue;
            }
            let broken =
                group.iter().find(|other| self.trials.links.pair(id, other) == Pair::Broken);
            if let Some(other) = broken {
                let why = self.in_words(id, other);
                self.fail_trial(id, &why);
            }
        }
    }

    /// Returns whether a worker has copied a state, or there is nobody to copy one from.
    fn has_copied(&self, id: &WorkerId) -> bool {
        match self.trials.record(id).map(|record| &record.standing) {
            Some(Standing::OnTrial { transfer: Transfer::Done, .. }) => true,
            Some(Standing::OnTrial { .. }) => self.donors().is_empty(),
            _ => false,
        }
    }

    /// Lets a worker take part.
    pub(super) fn pass(&mut self, id: &WorkerId) {
        self.trials.mark();
        if let Some(record) = self.trials.records.get_mut(&id.name) {
            record.standing = Standing::Fit { since: self.now };
            // Others that come later know that it is back.
            if record.told.take().is_some() {
                self.notify(Notice::Readmitted(id.name.clone()));
            }
        }
    }

    /// Why a worker cannot train with `other`, with the option that mends it.
    fn in_words(&self, id: &WorkerId, other: &WorkerId) -> String {
        let address = |id: &WorkerId| {
            self.registry.by_id(id).map_or_else(String::new, |worker| worker.address.clone())
        };
        if let Some(Link::Broken(why)) = self.trials.links.get(other, id) {
            let other = worker(&other.name);
            return format!(
                "{other} does not reach it at {}: {why}. If others reach it elsewhere, \
                 start it with --advertise HOST:PORT",
                address(id)
            );
        }
        let why = match self.trials.links.get(id, other) {
            Some(Link::Broken(why)) => why,
            _ => "no answer",
        };
        let called = worker(&other.name);
        format!(
            "it does not reach {called} at {}: {why}. If others reach {called} elsewhere, start \
             that one with --advertise HOST:PORT",
            address(other)
        )
    }
}
