//! Who is here: the workers, by name, and their connections.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ConnId;
use super::report::LastSeen;
use crate::ids::{Generation, Step, WorkerId};
use crate::protocol::message::Hello;
use crate::protocol::plan::StateRef;

/// A worker that is counted on.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) address: String,
    /// Its control stream; none while it may be on its way back.
    pub(super) conn: Option<ConnId>,
    pub(super) closed_at: Option<Duration>,
    pub(super) heard: Duration,
    /// Others complain that their streams to it broke.
    pub(super) data_closed: bool,
    /// May be planned.
    pub(super) ready: bool,
    /// Its answer to the open fence.
    pub(super) fenced: Option<(Generation, Option<StateRef>)>,
    /// The generation of its plan, and its newest promise, when it said hello.
    pub(super) plan: Generation,
    pub(super) promised: Generation,
    pub(super) last_step: Step,
    /// In which order workers came.
    pub(super) joined: u64,
}

impl Worker {
    /// Whether it can be asked something now.
    pub(super) fn is_connected(&self) -> bool {
        self.conn.is_some()
    }

    /// Its answer to the fence of `generation`.
    pub(super) fn answer(&self, generation: Generation) -> Option<StateRef> {
        self.fenced.filter(|(fenced, _)| *fenced == generation).and_then(|(_, state)| state)
    }

    pub(super) fn has_answered(&self, generation: Generation) -> bool {
        self.fenced.is_some_and(|(fenced, _)| fenced == generation)
    }
}

#[derive(Debug, Default)]
pub(super) struct Registry {
    pub(super) workers: BTreeMap<String, Worker>,
    conns: BTreeMap<ConnId, String>,
    departed: BTreeMap<String, (Step, Duration)>,
    arrivals: u64,
}

impl Registry {
    /// The worker at the other end of a connection.
    pub(super) fn by_conn(&mut self, conn: ConnId) -> Option<&mut Worker> {
        self.workers.get_mut(self.conns.get(&conn)?)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Worker> {
        self.workers.get(name)
    }

    /// Enters a worker that said hello; gives a connection that it replaces.
    pub(super) fn register(&mut self, now: Duration, conn: ConnId, hello: Hello) -> Option<ConnId> {
        let name = hello.id.name.clone();
        self.departed.remove(&name);
        self.conns.insert(conn, name.clone());
        if let Some(worker) = self.workers.get_mut(&name).filter(|worker| worker.id == hello.id) {
            let replaced = worker.conn.replace(conn);
            if let Some(old) = replaced {
                self.conns.remove(&old);
            }
            (worker.closed_at, worker.heard) = (None, now);
            (worker.plan, worker.promised) = (hello.plan, hello.promised);
            return replaced;
        }
        self.arrivals += 1;
        let worker = Worker {
            id: hello.id,
            address: hello.address,
            conn: Some(conn),
            closed_at: None,
            heard: now,
            data_closed: false,
            ready: false,
            fenced: None,
            plan: hello.plan,
            promised: hello.promised,
            last_step: 0,
            joined: self.arrivals,
        };
        self.workers.insert(name, worker);
        None
    }

    /// Notes that a connection closed; gives the name of a worker whose connection it was.
    pub(super) fn close(&mut self, now: Duration, conn: ConnId) -> Option<String> {
        let name = self.conns.remove(&conn)?;
        let worker = self.workers.get_mut(&name).filter(|worker| worker.conn == Some(conn))?;
        (worker.conn, worker.closed_at) = (None, Some(now));
        Some(name)
    }

    /// Counts on a worker no longer; gives the connection to be closed.
    pub(super) fn remove(&mut self, name: &str) -> Option<ConnId> {
        let worker = self.workers.remove(name)?;
        self.departed.insert(name.to_owned(), (worker.last_step, worker.heard));
        if let Some(conn) = worker.conn {
            self.conns.remove(&conn);
        }
        worker.conn
    }

    /// Those that may be planned, or asked where they are.
    pub(super) fn ready(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values().filter(|worker| worker.ready)
    }

    pub(super) fn connected(&self) -> impl Iterator<Item = (&Worker, ConnId)> {
        self.workers.values().filter_map(|worker| Some((worker, worker.conn?)))
    }

    /// Workers that were here, the latest first.
    pub(super) fn missing(&self, now: Duration) -> Vec<LastSeen> {
        let mut missing: Vec<LastSeen> = self
            .departed
            .iter()
            .map(|(name, &(step, heard))| LastSeen {
                name: name.clone(),
                step,
                ago: now.saturating_sub(heard),
            })
            .collect();
        missing.sort_by_key(|seen| seen.ago);
        missing
    }

    /// Restarts every clock: time passed in which nothing could be heard.
    pub(super) fn restart_clocks(&mut self, now: Duration) {
        for worker in self.workers.values_mut() {
            worker.heard = now;
            worker.closed_at = worker.closed_at.map(|_| now);
        }
    }
}
