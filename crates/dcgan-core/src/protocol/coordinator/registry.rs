//! The workers that the coordinator counts on, by name, and their control connections.
//!
//! A worker outlives its connection: a connection that breaks is usually back within a quarter of a
//! second. A worker is therefore removed by a decision of the machine, not by the end of a stream.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use super::ConnId;
use super::ending::RETURN_MAX;
use super::report::{Departure, LastSeen};
use crate::ids::{Generation, Step, WorkerId};
use crate::protocol::message::Hello;
use crate::protocol::plan::StateRef;

/// The number of workers that were removed and are remembered by name. A further one takes the
/// place of the one that was heard first, which is not named any more.
const DEPARTED_MAX: usize = 100;

/// A worker that the coordinator counts on.
#[derive(Debug)]
pub(super) struct WorkerEntry {
    /// The process.
    pub(super) id: WorkerId,
    /// The address at which other workers reach it, as host:port.
    pub(super) address: String,
    /// The fingerprint of its arithmetic.
    pub(super) fingerprint: String,
    /// True if another process wants its name.
    pub(super) name_wanted: bool,
    /// Its control stream; `None` while it may be reconnecting.
    pub(super) conn: Option<ConnId>,
    /// The time at which its control stream closed, while it has none.
    pub(super) closed_at: Option<Duration>,
    /// The time of its last message or heartbeat.
    pub(super) heard_at: Duration,
    /// The time of its last hello.
    pub(super) hello_at: Duration,
    /// True if a peer has complained in this generation that its data stream to this worker
    /// broke.
    pub(super) data_closed: bool,
    /// True if it has its data and has not missed a fence. It is sent fences, and may be a member.
    pub(super) ready: bool,
    /// Its newest answer to a fence.
    pub(super) fence_answer: Option<FenceAnswer>,
    /// The generation of the plan that it had when it said hello.
    pub(super) plan_at_hello: Generation,
    /// The newest fence that it had answered when it said hello.
    pub(super) promised_at_hello: Generation,
    /// The greatest step that it has reported.
    pub(super) last_step: Step,
    /// The generation in which its state was last found to differ from the plan's.
    pub(super) differed_in: Option<Generation>,
    /// Its place in the order in which workers came, from 1.
    pub(super) arrival: u64,
    /// Set if it leaves, and waits until it is released: why it leaves.
    pub(super) leaving: Option<Departure>,
}

/// A worker's answer to a fence.
#[derive(Clone, Copy, Debug)]
pub(super) struct FenceAnswer {
    /// The fence that is answered.
    pub(super) generation: Generation,
    /// The worker's state, if it has sent one.
    pub(super) state: Option<StateRef>,
}

impl WorkerEntry {
    /// Returns whether it can be sent a message now.
    pub(super) fn is_connected(&self) -> bool {
        self.conn.is_some()
    }

    /// Describes it for people, when it is waited for.
    pub(super) fn last_seen(&self, now: Duration) -> LastSeen {
        let ago = now.saturating_sub(self.heard_at);
        LastSeen { name: self.id.name.clone(), step: self.last_step, ago }
    }

    /// Returns whether it has answered the fence of `generation`.
    pub(super) fn has_answered(&self, generation: Generation) -> bool {
        self.fence_answer.is_some_and(|answer| answer.generation == generation)
    }

    /// The state that it gave in its answer to the fence of `generation`.
    pub(super) fn fenced_state(&self, generation: Generation) -> Option<StateRef> {
        match self.fence_answer {
            Some(answer) if answer.generation == generation => answer.state,
            _ => None,
        }
    }

    /// Returns whether it has answered a later fence than that of `generation`.
    pub(super) fn has_promised_after(&self, generation: Generation) -> bool {
        let answered = self.fence_answer.map_or(Generation(0), |answer| answer.generation);
        answered.max(self.promised_at_hello) > generation
    }

    /// Returns whether it still trained by the plan of `generation`, undisturbed by a later fence,
    /// when it connected.
    pub(super) fn was_training_in(&self, generation: Generation) -> bool {
        self.plan_at_hello == generation && self.promised_at_hello <= generation
    }
}

/// All workers that are counted on, and what is remembered of those that left.
#[derive(Debug, Default)]
pub(super) struct Registry {
    /// The workers by name.
    pub(super) workers: BTreeMap<String, WorkerEntry>,
    /// The name of the worker at the other end of each connection.
    names: BTreeMap<ConnId, String>,
    /// Workers that were removed and have not come back, by name.
    departed: BTreeMap<String, Departed>,
    /// The number of workers that have come so far.
    arrivals: u64,
}

/// The trace of a worker that was removed.
#[derive(Debug)]
struct Departed {
    id: WorkerId,
    last_step: Step,
    heard_at: Duration,
    why: Departure,
}

impl Departed {
    /// Describes it for people.
    fn last_seen(&self, name: &str, now: Duration) -> LastSeen {
        let ago = now.saturating_sub(self.heard_at);
        LastSeen { name: name.to_owned(), step: self.last_step, ago }
    }
}

impl Registry {
    /// The number of workers that are here or remembered. For tests.
    pub(super) fn len(&self) -> usize {
        self.workers.len() + self.names.len() + self.departed.len()
    }

    /// The worker at the other end of a connection.
    pub(super) fn by_conn(&mut self, conn: ConnId) -> Option<&mut WorkerEntry> {
        self.workers.get_mut(self.names.get(&conn)?)
    }

    /// The worker of this name, whichever process it is.
    pub(super) fn by_name(&self, name: &str) -> Option<&WorkerEntry> {
        self.workers.get(name)
    }

    /// The worker that is exactly this process: another process of the same name does not count.
    pub(super) fn by_id(&self, id: &WorkerId) -> Option<&WorkerEntry> {
        self.workers.get(&id.name).filter(|worker| worker.id == *id)
    }

    /// Enters a worker that said hello. Returns the connection that the new one replaces, if any.
    pub(super) fn register(&mut self, now: Duration, conn: ConnId, hello: Hello) -> Option<ConnId> {
        let name = hello.id.name.clone();
        self.departed.remove(&name);
        self.names.insert(conn, name.clone());

        // The same process is back: what is known about it stays.
        if let Some(worker) = self.workers.get_mut(&name)
            && worker.id == hello.id
        {
            let replaced = worker.conn.replace(conn);
            if let Some(old) = replaced {
                self.names.remove(&old);
            }
            worker.closed_at = None;
            worker.heard_at = now;
            worker.hello_at = now;
            worker.plan_at_hello = hello.plan;
            worker.promised_at_hello = hello.promised;
            return replaced;
        }

        self.arrivals += 1;
        let worker = WorkerEntry {
            id: hello.id,
            address: hello.address,
            fingerprint: hello.fingerprint,
            name_wanted: false,
            conn: Some(conn),
            closed_at: None,
            heard_at: now,
            hello_at: now,
            data_closed: false,
            ready: false,
            fence_answer: None,
            plan_at_hello: hello.plan,
            promised_at_hello: hello.promised,
            last_step: 0,
            differed_in: None,
            arrival: self.arrivals,
            leaving: None,
        };
        self.workers.insert(name, worker);
        None
    }

    /// Notes that a connection closed. Returns the name of the worker that has lost its connection
    /// by that; `None` if the worker has a newer one.
    pub(super) fn close(&mut self, now: Duration, conn: ConnId) -> Option<String> {
        let name = self.names.remove(&conn)?;
        let worker = self.workers.get_mut(&name).filter(|worker| worker.conn == Some(conn))?;
        worker.conn = None;
        worker.closed_at = Some(now);
        Some(name)
    }

    /// Removes a worker. Returns its connection, which is to be closed.
    pub(super) fn remove(&mut self, name: &str, why: Departure) -> Option<ConnId> {
        let WorkerEntry { id, last_step, heard_at, conn, .. } = self.workers.remove(name)?;
        // Names are what workers call themselves: there is no end of them.
        if self.departed.len() >= DEPARTED_MAX {
            let first = self.departed.iter().min_by_key(|(_, departed)| departed.heard_at);
            if let Some(first) = first.map(|(name, _)| name.clone()) {
                self.departed.remove(&first);
            }
        }
        self.departed.insert(name.to_owned(), Departed { id, last_step, heard_at, why });
        if let Some(conn) = conn {
            self.names.remove(&conn);
        }
        conn
    }

    /// The workers that have their data and have not missed a fence: they are sent fences.
    pub(super) fn ready(&self) -> impl Iterator<Item = &WorkerEntry> {
        self.workers.values().filter(|worker| worker.ready)
    }

    /// The workers that can be sent a message now, with their connections.
    pub(super) fn connected(&self) -> impl Iterator<Item = (&WorkerEntry, ConnId)> {
        self.workers.values().filter_map(|worker| Some((worker, worker.conn?)))
    }

    /// The most frequent fingerprint of these workers, and how many have it. On a tie it is that of
    /// the worker that came first.
    pub(super) fn most_frequent_fingerprint(
        &self,
        counts: impl Fn(&WorkerEntry) -> bool,
    ) -> Option<(String, usize)> {
        let mut groups: BTreeMap<&str, (usize, Reverse<u64>)> = BTreeMap::new();
        for worker in self.workers.values().filter(|worker| counts(worker)) {
            let arrival = Reverse(worker.arrival);
            let group = groups.entry(&worker.fingerprint).or_insert((0, arrival));
            *group = (group.0 + 1, group.1.max(arrival));
        }
        let (fingerprint, (count, _)) = groups.into_iter().max_by_key(|(_, group)| *group)?;
        Some((fingerprint.to_owned(), count))
    }

    /// The trace of this process, if it was removed and may come back with its state: it was heard
    /// of until [`RETURN_MAX`] before `since` or later.
    pub(super) fn may_return(
        &self,
        id: &WorkerId,
        since: Duration,
        now: Duration,
    ) -> Option<LastSeen> {
        let departed = self.departed.get(&id.name).filter(|departed| departed.id == *id)?;
        let was_here = departed.heard_at + RETURN_MAX >= since;
        (was_here && departed.why.may_return()).then(|| departed.last_seen(&id.name, now))
    }

    /// Notes that the process of the worker of this name, which was removed, has ended.
    pub(super) fn note_end(&mut self, name: &str, why: Departure) {
        // That of a worker that was drained ends because of that.
        if let Some(departed) = self.departed.get_mut(name)
            && !departed.why.is_final()
        {
            departed.why = why;
        }
    }

    /// The workers that can be sent a message now, and their connections.
    pub(super) fn connected_ids(&self) -> BTreeMap<WorkerId, ConnId> {
        self.connected().map(|(worker, conn)| (worker.id.clone(), conn)).collect()
    }

    /// The workers that were removed and may come back, the one heard last first.
    pub(super) fn missing(&self, now: Duration) -> Vec<LastSeen> {
        let missing = self.departed.iter().filter(|(_, departed)| !departed.why.is_final());
        let mut missing: Vec<LastSeen> =
            missing.map(|(name, departed)| departed.last_seen(name, now)).collect();
        missing.sort_by_key(|seen| seen.ago);
        missing
    }

    /// Returns whether the worker of this name is gone for good.
    pub(super) fn is_gone(&self, name: &str) -> bool {
        self.departed.get(name).is_some_and(|departed| departed.why.is_final())
    }

    /// The workers that are gone for good, by name, and why.
    pub(super) fn gone(&self, now: Duration) -> Vec<(LastSeen, Departure)> {
        let gone = self.departed.iter().filter(|(_, departed)| departed.why.is_final());
        gone.map(|(name, departed)| (departed.last_seen(name, now), departed.why.clone())).collect()
    }

    /// Restarts the clocks of all workers, after a time in which the coordinator could not hear.
    pub(super) fn restart_clocks(&mut self, now: Duration) {
        for worker in self.workers.values_mut() {
            worker.heard_at = now;
            if worker.closed_at.is_some() {
                worker.closed_at = Some(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::PROTOCOL;

    fn hello(name: &str, incarnation: u64) -> Hello {
        Hello {
            run: None,
            id: WorkerId { name: name.to_owned(), incarnation },
            protocol: PROTOCOL,
            fingerprint: "toy".to_owned(),
            address: format!("{name}:1"),
            plan: Generation(0),
            promised: Generation(0),
        }
    }

    #[test]
    fn a_late_close_of_an_old_connection_does_not_disconnect_a_worker_that_is_back() {
        let mut registry = Registry::default();
        assert_eq!(registry.register(Duration::ZERO, ConnId(1), hello("a", 7)), None);
        assert_eq!(registry.register(Duration::ZERO, ConnId(2), hello("a", 7)), Some(ConnId(1)));
        assert_eq!(registry.close(Duration::ZERO, ConnId(1)), None);
        assert!(registry.by_name("a").is_some_and(WorkerEntry::is_connected));
        assert_eq!(registry.close(Duration::ZERO, ConnId(2)).as_deref(), Some("a"));
        assert!(!registry.by_name("a").is_some_and(WorkerEntry::is_connected));
    }

    #[test]
    fn names_of_workers_that_left_are_not_kept_without_end() {
        let mut registry = Registry::default();
        for number in 0..2 * DEPARTED_MAX as u64 {
            let name = format!("w{number}");
            let now = Duration::from_secs(number);
            registry.register(now, ConnId(number), hello(&name, 7));
            registry.remove(&name, Departure::Closed);
        }
        let missing = registry.missing(Duration::from_secs(1000));
        assert_eq!((missing.len(), &*missing[0].name), (DEPARTED_MAX, "w199"));
    }

    #[test]
    fn a_removed_worker_is_missing_until_it_says_hello_again() {
        let mut registry = Registry::default();
        registry.register(Duration::from_secs(1), ConnId(1), hello("a", 7));
        assert_eq!(registry.remove("a", Departure::Silent), Some(ConnId(1)));
        let missing = vec![LastSeen { name: "a".to_owned(), step: 0, ago: Duration::from_secs(4) }];
        assert_eq!(registry.missing(Duration::from_secs(5)), missing);
        registry.register(Duration::from_secs(6), ConnId(2), hello("a", 8));
        assert_eq!(registry.missing(Duration::from_secs(6)), []);
    }

    #[test]
    fn a_worker_that_is_gone_for_good_is_not_missing() {
        let mut registry = Registry::default();
        for (number, why) in [(1, Departure::Drained), (2, Departure::Ended)] {
            registry.register(Duration::ZERO, ConnId(number), hello(&format!("w{number}"), 7));
            registry.remove(&format!("w{number}"), why);
        }
        let names = |registry: &Registry| -> (Vec<String>, Vec<(String, Departure)>) {
            let now = Duration::from_secs(1);
            let missing = registry.missing(now).into_iter().map(|seen| seen.name).collect();
            (missing, registry.gone(now).into_iter().map(|(it, why)| (it.name, why)).collect())
        };
        let drained = ("w1".to_owned(), Departure::Drained);
        assert_eq!(names(&registry), (vec!["w2".to_owned()], vec![drained.clone()]));
        for name in ["w1", "w2"] {
            registry.note_end(name, Departure::GivenUp);
        }
        let given_up = ("w2".to_owned(), Departure::GivenUp);
        assert_eq!(names(&registry), (vec![], vec![drained.clone(), given_up]));
        registry.register(Duration::ZERO, ConnId(3), hello("w2", 8));
        assert_eq!(names(&registry), (vec![], vec![drained]));
    }
}
