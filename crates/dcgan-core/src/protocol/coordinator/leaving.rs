//! Workers that leave: they were told to stop, or a person drains them.
//!
//! A worker that leaves may hold the only copy of the newest state. So it stays a member until it
//! is *released*. Its leaving opens a fence, and the answers show who holds what. If a worker that
//! stays holds everything that the others hold, they are released, and the next plan is made
//! without them. If none does, the state is saved first, as at the end of a run.

use std::collections::BTreeSet;

use super::registry::WorkerEntry;
use super::{Command, CoordinatorMachine, Departure, Notice, Stage};
use crate::ids::{Generation, Step, WorkerId};
use crate::protocol::message::{Finish, ToWorker};
use crate::protocol::plan::Plan;

/// Workers that a person has asked to leave and that were not released yet. Each was in the
/// registry when it was asked, and one that was lost is still to leave when it comes back.
#[derive(Debug, Default)]
pub(super) struct Draining(BTreeSet<WorkerId>);

impl Draining {
    /// Returns whether this process was asked to leave.
    pub(super) fn contains(&self, id: &WorkerId) -> bool {
        self.0.contains(id)
    }

    /// Forgets a process: it was released, or has ended.
    pub(super) fn forget(&mut self, name: &str) {
        self.0.retain(|id| id.name != name);
    }

    /// The names of the workers.
    pub(super) fn names(&self) -> Vec<String> {
        self.0.iter().map(|id| id.name.clone()).collect()
    }
}

impl CoordinatorMachine {
    /// Notes that a worker leaves because it was told to stop.
    pub(super) fn on_leave(&mut self, name: &str) {
        if let Some(worker) = self.registry.workers.get_mut(name) {
            worker.leaving.get_or_insert(Departure::Left);
            // The run is over anyway.
            if let (Stage::Finishing { finish, .. }, Some(conn)) = (&self.stage, worker.conn) {
                self.out.push(Command::Send(conn, ToWorker::Finish(finish.clone())));
            }
        }
    }

    /// Notes that a worker leaves because a person asks for it.
    pub(super) fn drain(&mut self, name: &str) {
        if let Some(worker) = self.registry.workers.get_mut(name) {
            worker.leaving = Some(Departure::Drained);
            self.draining.0.insert(worker.id.clone());
        }
    }

    /// Returns whether the worker of this name was asked to leave, or has left for good.
    pub fn leaves_for_good(&self, name: &str) -> bool {
        self.draining.0.iter().any(|id| id.name == name) || self.registry.is_gone(name)
    }

    /// Releases the workers that leave and hold nothing that the run needs: spares, and those that
    /// were never given a state.
    pub(super) fn release_spares(&mut self) {
        let plan = match &self.stage {
            Stage::Storing { plan, outcome: None } => Some(plan),
            Stage::Training { .. } | Stage::Gathering { .. } => self.plan.as_ref(),
            _ => return,
        };
        // Who is no member has nothing that the members lack. Whoever is left of the last plan of
        // an earlier coordinator may.
        let is_adopting = plan.is_some() && matches!(self.stage, Stage::Gathering { .. });
        let is_spare = |worker: &WorkerEntry| {
            !is_adopting && plan.is_none_or(|plan| plan.rank_of(&worker.id).is_none())
        };
        let leaving = self.registry.workers.values().filter(|worker| worker.leaving.is_some());
        let spares = leaving.filter(|worker| is_spare(worker));
        let names: Vec<String> = spares.map(|worker| worker.id.name.clone()).collect();
        self.release(&names);
    }

    /// The notice that a member of this plan leaves, if one does: the cause of a fence.
    pub(super) fn leaving_member(&self, plan: &Plan) -> Option<Notice> {
        plan.members().iter().find_map(|member| {
            let why = self.registry.by_id(&member.id)?.leaving.clone()?;
            Some(Notice::Lost { name: member.id.name.clone(), why })
        })
    }

    /// The names of the workers that leave and have answered the fence of `generation`.
    pub(super) fn leavers(&self, generation: Generation) -> Vec<String> {
        let answered = self.registry.ready().filter(|worker| worker.has_answered(generation));
        let leaving = answered.filter(|worker| worker.leaving.is_some());
        leaving.map(|worker| worker.id.name.clone()).collect()
    }

    /// Returns whether a worker that stays, and may be planned, has finished every step that the
    /// workers that leave have finished, by their answers to the fence of `generation`.
    pub(super) fn do_others_hold_all(&self, generation: Generation) -> bool {
        // A later generation comes first: see `planner::choose_start`.
        let furthest = |leaves: bool| -> Option<(Generation, Step)> {
            let workers = self.registry.ready().filter(|it| it.leaving.is_some() == leaves);
            let workers = workers.filter(|it| leaves || self.may_be_planned(it));
            let states = workers.filter_map(|it| it.fenced_state(generation));
            states.map(|state| (state.generation, state.position.step)).max()
        };
        furthest(false).is_some_and(|staying| furthest(true).is_none_or(|left| left <= staying))
    }

    /// Releases workers: they are told to end, and removed.
    pub(super) fn release(&mut self, names: &[String]) {
        for name in names {
            self.draining.forget(name);
            let Some(worker) = self.registry.by_name(name) else {
                continue;
            };
            let why = worker.leaving.clone().unwrap_or(Departure::Left);
            if let Some(conn) = worker.conn {
                self.out.push(Command::Send(conn, ToWorker::Finish(Finish::Released)));
            }
            self.remove_worker(name, why);
        }
    }
}
