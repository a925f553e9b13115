//! Evaluation: the second kind of work.
//!
//! A gradient is due at once: the other members wait for it. An evaluation of the state after a
//! step (how good are the samples?) may come some steps later, and must not make the training
//! slower. So it is split into pieces. Members compute them from the snapshot of the step, each
//! when a compute thread has nothing more urgent to do; then one of them combines the results.
//! A piece that is lost with its worker is computed by another one.
//!
//! Every part is a pure function, so the result depends on the specification and the step alone,
//! whoever computed what and in whichever order.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, Step};
use crate::metrics::NamedMetrics;
use crate::state::State;

/// The part of an objective that evaluates states.
pub trait Evaluation: Send + Sync {
    /// Computes piece `piece` of the evaluation of a state, counted from 0.
    ///
    /// A compute thread is busy with it while gradients may be due, so a piece should take no
    /// longer than the vector of a shard. The number of pieces is
    /// [`EvaluationInfo::pieces`], whatever the number of workers.
    fn piece(&self, state: &State, piece: u16) -> Vec<f64>;

    /// Combines the results of all pieces, in their order, into the values that are reported: one
    /// for each of [`EvaluationInfo::names`].
    fn combine(&self, pieces: &[Vec<f64>]) -> Vec<f64>;
}

/// The properties of an evaluation that the coordinator knows, although it computes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvaluationInfo {
    /// The number of pieces, at least one.
    pub pieces: u16,
    /// The names of the values.
    pub names: &'static [&'static str],
}

/// The name of one part of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartId {
    /// The step whose state is evaluated.
    pub step: Step,
    /// The digest of that state.
    pub digest: Digest,
    /// The number of the piece. The number after the last piece's is the combination.
    pub part: u16,
}

/// A part of an evaluation that a worker is to compute.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationTask {
    /// The part.
    pub id: PartId,
    /// The results of all pieces, in order, if they are to be combined; empty for a piece.
    pub pieces: Arc<Vec<Vec<f64>>>,
}

impl EvaluationTask {
    /// Tells whether the task combines the pieces. It needs no state.
    pub fn is_combination(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// Computes the task. `state` is the state that the task names, and any other for a
    /// combination.
    pub fn compute(&self, evaluation: &dyn Evaluation, state: &State) -> Vec<f64> {
        if self.is_combination() {
            evaluation.combine(&self.pieces)
        } else {
            evaluation.piece(state, self.id.part)
        }
    }
}

/// Evaluates a state on one process: the definition that every distributed evaluation must match.
pub fn evaluate(evaluation: &dyn Evaluation, info: &EvaluationInfo, state: &State) -> Vec<f64> {
    let pieces: Vec<Vec<f64>> =
        (0..info.pieces).map(|piece| evaluation.piece(state, piece)).collect();
    evaluation.combine(&pieces)
}

/// A row of `evaluations.jsonl`: the evaluation of the state after a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRow {
    /// The step.
    pub step: Step,
    /// The values by their names.
    #[serde(flatten)]
    pub values: NamedMetrics,
    /// The digest of the state.
    pub state_digest: Digest,
}
