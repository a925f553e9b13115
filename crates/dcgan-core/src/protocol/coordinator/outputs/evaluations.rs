//! The evaluations that are due, until their results are on disk.
//!
//! Each worker that holds the snapshot computes one part at a time, and gets the next one when it
//! is done: a slow worker computes fewer. A part whose worker leaves, fails or is too slow goes to
//! another one. When all pieces are here, one worker combines them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::super::{Command, ConnId};
use super::snapshots::PlanView;
use super::step_reports::StepReports;
use crate::evaluation::{EvaluationInfo, EvaluationTask, PartId};
use crate::ids::{Digest, Step, WorkerId};
use crate::protocol::message::ToWorker;

/// A worker that takes longer than this for a part is given up, and another one is asked.
const PART_TIMEOUT: Duration = Duration::from_secs(60);

/// An evaluation that is due.
#[derive(Debug)]
struct DueEvaluation {
    /// The digest of the state that is evaluated.
    digest: Digest,
    /// The pieces, and after them the combination.
    parts: Vec<Part>,
    /// The workers that could not compute a part.
    failed: BTreeSet<WorkerId>,
    /// The workers that took too long for a part, and have not answered yet.
    late: BTreeSet<WorkerId>,
}

/// A part of an evaluation.
#[derive(Debug)]
enum Part {
    Due,
    Asked { worker: WorkerId, since: Duration },
    Done(Vec<f64>),
}

/// The evaluations that are due, by step.
#[derive(Debug, Default)]
pub(super) struct Evaluations {
    due: BTreeMap<Step, DueEvaluation>,
    /// Evaluations that were due and whose snapshot no worker holds any more.
    given_up: BTreeMap<Step, DueEvaluation>,
}

/// The evaluations of which no member can compute a piece any more.
#[derive(Debug, Default)]
pub(super) struct Assigned {
    /// Those that are left out.
    pub(super) given_up: Vec<Step>,
    /// The first one that decides whether the run goes on.
    pub(super) lost: Option<Step>,
}

impl DueEvaluation {
    fn new(digest: Digest, info: &EvaluationInfo) -> Self {
        let parts = (0..=info.pieces).map(|_| Part::Due).collect();
        Self::with_parts(digest, parts)
    }

    fn with_parts(digest: Digest, parts: Vec<Part>) -> Self {
        Self { digest, parts, failed: BTreeSet::new(), late: BTreeSet::new() }
    }

    /// The same evaluation, of which nothing is computed.
    fn begun_anew(&self) -> Self {
        Self::with_parts(self.digest, self.parts.iter().map(|_| Part::Due).collect())
    }

    /// The results of all pieces, in order; `None` while one is missing.
    fn pieces(&self) -> Option<Vec<Vec<f64>>> {
        let (_, pieces) = self.parts.split_last()?;
        let result = |part: &Part| match part {
            Part::Done(values) => Some(values.clone()),
            Part::Due | Part::Asked { .. } => None,
        };
        pieces.iter().map(result).collect()
    }

    /// The parts that can be computed and that nobody computes, as tasks.
    fn open_tasks(&self, step: Step) -> Vec<EvaluationTask> {
        let combination = self.parts.len() - 1;
        let mut tasks = Vec::new();
        for (part, state) in self.parts.iter().enumerate() {
            if !matches!(state, Part::Due) {
                continue;
            }
            let pieces = if part == combination { self.pieces() } else { Some(Vec::new()) };
            if let Some(pieces) = pieces.map(Arc::new) {
                let id = PartId { step, digest: self.digest, part: part as u16 };
                tasks.push(EvaluationTask { id, pieces });
            }
        }
        tasks
    }
}

impl Evaluations {
    /// Adds the evaluation of the state after `step`.
    pub(super) fn add(&mut self, step: Step, digest: Digest, info: &EvaluationInfo) {
        self.due.entry(step).or_insert_with(|| DueEvaluation::new(digest, info));
    }

    /// The first step whose evaluation is due.
    pub(super) fn first_step(&self) -> Option<Step> {
        self.due.keys().next().copied()
    }

    /// Asks workers that are free for the parts that are due. An evaluation of which no member can
    /// compute a piece any more is given up, or lost if it `decides` whether the run goes on.
    ///
    /// `is_run_over` is true if an evaluation is all that the run waits for, and no worker is left.
    pub(super) fn assign(
        &mut self,
        now: Duration,
        reports: &StepReports,
        view: &PlanView<'_>,
        is_run_over: bool,
        decides: impl Fn(Step) -> bool,
        out: &mut Vec<Command>,
    ) -> Assigned {
        let mut lost = None;
        if self.due.is_empty() {
            return Assigned::default();
        }
        self.take_back_late_parts(now);
        let mut free = view.connected.clone();
        for worker in self.busy() {
            free.remove(worker);
        }
        let last_steps = reports.last_steps();
        let mut hopeless = Vec::new();
        for (&step, evaluation) in &mut self.due {
            let holders = reports.holders(step, evaluation.digest);
            let DueEvaluation { failed, late, .. } = &*evaluation;
            let able: Vec<WorkerId> = view
                .connected
                .keys()
                .filter(|worker| {
                    // Members that go on after a start have copied its state, without a report.
                    let has_started_there = view.start == step
                        && decides(step)
                        && view.members.contains(worker)
                        && last_steps.get(worker).is_some_and(|&last| last > step);
                    has_started_there || holders.is_some_and(|holders| holders.contains(worker))
                })
                .filter(|worker| !failed.contains(worker) && !late.contains(worker))
                .cloned()
                .collect();
            if decides(step) {
                // Where all are late, to go back would help nobody.
                let is_one_free = view.members.iter().any(|member| !late.contains(member));
                if able.is_empty() && is_one_free && view.are_beyond(step, last_steps) {
                    lost = lost.or(Some(step));
                }
            } else if able.is_empty() && (is_run_over || view.have_passed(step, last_steps)) {
                hopeless.push(step);
            }
            let able_and_free: Vec<(WorkerId, ConnId)> = able
                .into_iter()
                .filter_map(|worker| free.get(&worker).map(|&conn| (worker, conn)))
                .collect();
            if able_and_free.is_empty() {
                continue;
            }
            for (task, (worker, conn)) in evaluation.open_tasks(step).into_iter().zip(able_and_free)
            {
                free.remove(&worker);
                let part = usize::from(task.id.part);
                evaluation.parts[part] = Part::Asked { worker, since: now };
                out.push(Command::Send(conn, ToWorker::Evaluate(task)));
            }
        }
        for step in &hopeless {
            if let Some(evaluation) = self.due.remove(step) {
                self.given_up.insert(*step, evaluation.begun_anew());
            }
        }
        Assigned { given_up: hopeless, lost }
    }

    /// Begins an evaluation that is due anew, because its state is computed again.
    pub(super) fn begin_anew(&mut self, step: Step) {
        if let Some(evaluation) = self.due.get_mut(&step) {
            *evaluation = evaluation.begun_anew();
        }
    }

    /// The workers that compute a part now, as far as is known.
    fn busy(&self) -> impl Iterator<Item = &WorkerId> {
        self.due.values().flat_map(|evaluation| {
            let asked = evaluation.parts.iter().filter_map(|part| match part {
                Part::Asked { worker, .. } => Some(worker),
                Part::Due | Part::Done(_) => None,
            });
            asked.chain(&evaluation.late)
        })
    }

    /// Takes back the parts that take too long. Their workers are asked for no other part until
    /// they have answered.
    fn take_back_late_parts(&mut self, now: Duration) {
        for DueEvaluation { parts, late, .. } in self.due.values_mut() {
            for part in parts {
                if let Part::Asked { worker, since } = part
                    && now >= *since + PART_TIMEOUT
                {
                    late.insert(worker.clone());
                    *part = Part::Due;
                }
            }
        }
    }

    /// Returns whether a worker was asked for a part and has not answered.
    pub(super) fn was_asked(&self, worker: &WorkerId, id: &PartId) -> bool {
        let evaluation = self.due.get(&id.step).filter(|due| due.digest == id.digest);
        evaluation.is_some_and(|due| {
            let part = due.parts.get(usize::from(id.part));
            let is_asked =
                matches!(part, Some(Part::Asked { worker: asked, .. }) if asked == worker);
            is_asked || due.late.contains(worker)
        })
    }

    /// Takes the result of a part, or why a worker has none. When the combination is done, returns
    /// the state's digest and the values.
    pub(super) fn on_result(
        &mut self,
        worker: &WorkerId,
        id: PartId,
        info: &EvaluationInfo,
        result: Result<Vec<f64>, String>,
    ) -> Option<(Digest, Vec<f64>)> {
        let evaluation = self.due.get_mut(&id.step).filter(|due| due.digest == id.digest)?;
        evaluation.late.remove(worker);
        let combination = evaluation.parts.len() - 1;
        // Nobody can combine what is not there.
        if usize::from(id.part) == combination && evaluation.pieces().is_none() {
            return None;
        }
        let part = evaluation.parts.get_mut(usize::from(id.part))?;
        let is_usable = |values: &[f64]| {
            // Numbers that are not finite have no place in a file of JSON objects, and a piece with
            // one spoils the combination.
            let has_names = usize::from(id.part) != combination || values.len() == info.names.len();
            has_names && values.iter().all(|it| it.is_finite())
        };
        match result {
            Ok(values) if is_usable(&values) => *part = Part::Done(values),
            Ok(_) | Err(_) => {
                evaluation.failed.insert(worker.clone());
                if matches!(part, Part::Asked { worker: asked, .. } if asked == worker) {
                    *part = Part::Due;
                }
            }
        }
        let Part::Done(values) = &evaluation.parts[combination] else {
            return None;
        };
        let result = (evaluation.digest, values.clone());
        self.due.remove(&id.step);
        Some(result)
    }

    /// Takes back the parts of a worker whose connection closed.
    pub(super) fn on_closed(&mut self, name: &str) {
        for DueEvaluation { parts, late, .. } in self.due.values_mut() {
            late.retain(|worker| worker.name != name);
            for part in parts {
                if matches!(part, Part::Asked { worker, .. } if worker.name == name) {
                    *part = Part::Due;
                }
            }
        }
    }

    /// Forgets what was given up of steps up to `step`: they are not computed again.
    pub(super) fn forget_through(&mut self, step: Step) {
        self.given_up.retain(|&given_up, _| given_up > step);
    }

    /// Notes that a worker has reported `step`, and so holds its snapshot (again).
    pub(super) fn on_report(&mut self, worker: &WorkerId, step: Step) {
        if let Some(evaluation) = self.due.get_mut(&step) {
            evaluation.failed.remove(worker);
        }
    }

    /// Prepares for the steps after `step` being computed again: evaluations from `step` on that
    /// were given up become due again, and workers that failed may hold the snapshot soon.
    pub(super) fn restart_after(&mut self, step: Step) {
        self.due.extend(self.given_up.split_off(&step));
        for (_, evaluation) in self.due.range_mut(step..) {
            evaluation.failed.clear();
        }
    }

    /// Drops all evaluations that are due, and returns their steps.
    pub(super) fn clear(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.due).into_keys().collect()
    }
}
