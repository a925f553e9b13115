//! The writes that wait for the disk, and the one that is on its way to it.
//!
//! A disk may take seconds for a write, or hang. The machine goes on meanwhile and only keeps in
//! mind what is not durable yet. One write is on its way at a time. What is large does not pile up
//! when it is due faster than the disk takes it: rows are written as a group, and of the
//! checkpoints and grids that wait the oldest are left out. People are told of the first, and at
//! the end of the write of the others.
//!
//! A write that fails goes back to those that wait. If only one file cannot be written, a plan must
//! not wait behind it: nobody could replace a worker that dies meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use super::super::{Command, Notice};
use super::SavedCheckpoint;
use crate::evaluation::EvaluationRow;
use crate::ids::Step;
use crate::metrics::MetricsRow;
use crate::protocol::plan::Plan;

/// The number of grids that may wait for the disk. A snapshot of the DCGAN takes 6 MB of memory.
const GRIDS_MAX: usize = 4;
/// The number of checkpoints that may wait, however many the run keeps.
const CHECKPOINTS_MAX: usize = 16;

/// Something to make durable.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// The newest plan.
    Plan {
        /// The plan.
        plan: Arc<Plan>,
        /// The fingerprint of the run's arithmetic.
        fingerprint: String,
    },
    /// Rows of metrics, in order, to be appended.
    Rows(Vec<MetricsRow>),
    /// The result of an evaluation, to be appended.
    Evaluation(EvaluationRow),
    /// A checkpoint.
    Checkpoint {
        /// The checkpoint's step, digest and log window.
        saved: SavedCheckpoint,
        /// The state, in the format of a checkpoint file.
        bytes: Arc<Vec<u8>>,
    },
    /// A snapshot that is kept until its grid is drawn.
    PendingGrid {
        /// The step after which it was taken.
        step: Step,
        /// The state, in the format of a checkpoint file.
        bytes: Arc<Vec<u8>>,
    },
}

impl Write {
    /// The step of a checkpoint, a grid or an evaluation.
    pub(in super::super) fn step(&self) -> Option<Step> {
        match self {
            Self::Checkpoint { saved, .. } => Some(saved.step),
            Self::PendingGrid { step, .. } => Some(*step),
            Self::Evaluation(row) => Some(row.step),
            Self::Plan { .. } | Self::Rows(_) => None,
        }
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan { plan, .. } => write!(f, "the plan of generation {}", plan.generation),
            Self::Rows(rows) => match &rows[..] {
                [] => write!(f, "no row"),
                [row] => write!(f, "the row of step {}", row.step),
                [first, .., last] => write!(f, "the rows of steps {} to {}", first.step, last.step),
            },
            Self::Evaluation(row) => write!(f, "the evaluation of step {}", row.step),
            Self::Checkpoint { saved, .. } => write!(f, "the checkpoint of step {}", saved.step),
            Self::PendingGrid { step, .. } => write!(f, "the snapshot for the grid of step {step}"),
        }
    }
}

/// A checkpoint that waits, with its state.
type WaitingCheckpoint = (SavedCheckpoint, Arc<Vec<u8>>);

/// The writes that are not durable yet.
#[derive(Debug)]
pub(super) struct Writes {
    /// The number of checkpoints that may wait.
    checkpoints_max: usize,
    /// The write that is on its way to the disk.
    started: Option<Write>,
    plan: Option<(Arc<Plan>, String)>,
    rows: Vec<MetricsRow>,
    /// The last step that a durable row averages, while rows are on their way or wait.
    rows_durable_through: Option<Step>,
    evaluations: VecDeque<EvaluationRow>,
    checkpoints: BTreeMap<Step, WaitingCheckpoint>,
    grids: BTreeMap<Step, Arc<Vec<u8>>>,
    /// Checkpoints and grids that were left out since the last write came to its end.
    left_out: LeftOut,
}

/// The number of checkpoints and of grids that were left out, each with the last step.
#[derive(Debug, Default)]
struct LeftOut {
    checkpoints: (usize, Step),
    grids: (usize, Step),
}

impl Writes {
    /// No writes, for a run of whose checkpoints so many may wait for the disk. Where none is kept
    /// for its evaluation, these are as many as the run keeps: an older one would be removed as
    /// soon as the others are written.
    pub(super) fn new(checkpoints_max: usize) -> Self {
        Self {
            checkpoints_max: checkpoints_max.clamp(1, CHECKPOINTS_MAX),
            started: None,
            plan: None,
            rows: Vec::new(),
            rows_durable_through: None,
            evaluations: VecDeque::new(),
            checkpoints: BTreeMap::new(),
            grids: BTreeMap::new(),
            left_out: LeftOut::default(),
        }
    }

    /// Adds the plan that is to be stored. It replaces one that waits.
    pub(super) fn add_plan(&mut self, plan: Arc<Plan>, fingerprint: String) {
        self.plan = Some((plan, fingerprint));
    }

    /// Adds a row. `logged` is the last step that an earlier row averages.
    pub(super) fn add_row(&mut self, row: MetricsRow, logged: Step) {
        self.rows_durable_through.get_or_insert(logged);
        self.rows.push(row);
    }

    /// Adds the result of an evaluation.
    pub(super) fn add_evaluation(&mut self, row: EvaluationRow) {
        self.evaluations.push_back(row);
    }

    /// Adds a checkpoint. If too many wait, the oldest is left out.
    pub(super) fn add_checkpoint(
        &mut self,
        saved: SavedCheckpoint,
        bytes: Arc<Vec<u8>>,
        out: &mut Vec<Command>,
    ) {
        self.checkpoints.insert(saved.step, (saved, bytes));
        self.leave_out_checkpoints(self.checkpoints_max, out);
    }

    /// Leaves out all waiting checkpoints but the newest `keep`.
    pub(super) fn leave_out_checkpoints(&mut self, keep: usize, out: &mut Vec<Command>) {
        while self.checkpoints.len() > keep
            && let Some((step, _)) = self.checkpoints.pop_first()
        {
            if count_one(&mut self.left_out.checkpoints, step) {
                out.push(Command::Notice(Notice::CheckpointLeftOut(step)));
            }
        }
    }

    /// Adds the snapshot of a grid. If too many wait, the oldest is left out.
    pub(super) fn add_grid(&mut self, step: Step, bytes: Arc<Vec<u8>>, out: &mut Vec<Command>) {
        self.grids.insert(step, bytes);
        if self.grids.len() > GRIDS_MAX
            && let Some((step, _)) = self.grids.pop_first()
            && count_one(&mut self.left_out.grids, step)
        {
            out.push(Command::Notice(Notice::GridLeftOut(step)));
        }
    }

    /// Starts the next write, unless one is on its way.
    ///
    /// The plan comes first, because workers wait for it. Then comes what belongs to the earliest
    /// step, the checkpoint of a step last: a run that resumes at a checkpoint computes nothing
    /// before it again. All rows that wait go together.
    pub(super) fn start_next(&mut self) -> Option<Write> {
        if self.started.is_some() {
            return None;
        }
        let next = self.take_next()?;
        self.started = Some(next.clone());
        Some(next)
    }

    fn take_next(&mut self) -> Option<Write> {
        if let Some((plan, fingerprint)) = self.plan.take() {
            return Some(Write::Plan { plan, fingerprint });
        }
        let first_steps = [
            self.rows.first().map(|row| row.step),
            self.evaluations.front().map(|row| row.step),
            self.grids.keys().next().copied(),
            self.checkpoints.keys().next().copied(),
        ];
        let earliest = first_steps.into_iter().flatten().min()?;
        let [rows, evaluations, grids, _] = first_steps.map(|first| first == Some(earliest));
        Some(if rows {
            Write::Rows(std::mem::take(&mut self.rows))
        } else if evaluations {
            Write::Evaluation(self.evaluations.pop_front()?)
        } else if grids {
            let (step, bytes) = self.grids.pop_first()?;
            Write::PendingGrid { step, bytes }
        } else {
            let (_, (saved, bytes)) = self.checkpoints.pop_first()?;
            Write::Checkpoint { saved, bytes }
        })
    }

    /// Takes the write that was on its way: it has come to its end. Says how much was left out
    /// meanwhile.
    pub(super) fn finish(&mut self, out: &mut Vec<Command>) -> Option<Write> {
        let write = self.started.take()?;
        let LeftOut { checkpoints, grids } = std::mem::take(&mut self.left_out);
        // The first of each was said at once.
        if checkpoints.0 > 1 {
            let (count, last) = (checkpoints.0 - 1, checkpoints.1);
            out.push(Command::Notice(Notice::MoreCheckpointsLeftOut { count, last }));
        }
        if grids.0 > 1 {
            let (count, last) = (grids.0 - 1, grids.1);
            out.push(Command::Notice(Notice::MoreGridsLeftOut { count, last }));
        }
        if let Write::Rows(rows) = &write {
            let last = rows.last().map(|row| row.step);
            self.rows_durable_through = last.filter(|_| !self.rows.is_empty());
        }
        Some(write)
    }

    /// Puts the write that was on its way back to those that wait, as if it had never started.
    pub(super) fn postpone(&mut self, out: &mut Vec<Command>) {
        match self.started.take() {
            Some(Write::Plan { plan, fingerprint }) => {
                // A newer plan replaces it.
                self.plan.get_or_insert((plan, fingerprint));
            }
            Some(Write::Rows(mut rows)) => {
                rows.append(&mut self.rows);
                self.rows = rows;
            }
            Some(Write::Evaluation(row)) => self.evaluations.push_front(row),
            Some(Write::Checkpoint { saved, bytes }) => self.add_checkpoint(saved, bytes, out),
            Some(Write::PendingGrid { step, bytes }) => self.add_grid(step, bytes, out),
            None => {}
        }
    }

    /// Takes the write that was on its way, which is not durable and never will be.
    pub(super) fn give_up(&mut self) -> Option<Write> {
        self.started.take()
    }

    /// Drops everything that waits. What is dropped never counts as durable.
    pub(super) fn clear(&mut self) {
        let (started, rows_durable_through) = (self.started.take(), self.rows_durable_through);
        *self = Self { started, rows_durable_through, ..Self::new(self.checkpoints_max) };
    }

    /// Returns whether the evaluation of this step is not durable yet.
    pub(super) fn has_evaluation(&self, step: Step) -> bool {
        let started = matches!(&self.started, Some(Write::Evaluation(row)) if row.step == step);
        started || self.evaluations.iter().any(|row| row.step == step)
    }

    /// The last step that a durable row averages; `None` if all rows are durable.
    pub(super) fn rows_durable_through(&self) -> Option<Step> {
        self.rows_durable_through
    }

    /// The steps of the checkpoints that are not durable yet.
    fn checkpoints(&self) -> impl Iterator<Item = Step> {
        let started = self.started.iter().filter_map(|write| match write {
            Write::Checkpoint { saved, .. } => Some(saved.step),
            _ => None,
        });
        started.chain(self.checkpoints.keys().copied())
    }

    /// Returns whether a checkpoint of this step or a later one is not durable yet.
    pub(super) fn has_checkpoint(&self, step: Step) -> bool {
        self.checkpoints().any(|checkpoint| checkpoint >= step)
    }

    /// The first step with a checkpoint, a grid or an evaluation that is not durable yet.
    pub(super) fn first_step(&self) -> Option<Step> {
        let started = self.started.iter().filter_map(Write::step);
        let evaluations = self.evaluations.iter().map(|row| row.step);
        let waiting = self.checkpoints.keys().chain(self.grids.keys()).copied();
        started.chain(evaluations).chain(waiting).min()
    }

    /// Returns whether nothing is on its way and nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.started.is_none()
            && self.plan.is_none()
            && self.rows.is_empty()
            && self.evaluations.is_empty()
            && self.checkpoints.is_empty()
            && self.grids.is_empty()
    }
}

/// Counts one more that is left out; returns true if it is the first.
fn count_one(left_out: &mut (usize, Step), step: Step) -> bool {
    *left_out = (left_out.0 + 1, step);
    left_out.0 == 1
}
