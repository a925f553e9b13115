//! Evaluation: the second kind of work.
//!
//! A gradient is due at once: the other members wait for it. An evaluation of the state after a
//! step (how good are the samples?) may come some steps later, and must not make the training
//! slower. So it is split into slices. Members compute them from the snapshot of the step, each
//! when a compute thread has nothing more urgent to do; then one of them combines the results.
//! A slice that is lost with its worker is computed by another one.
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
    /// Computes slice `slice` of the evaluation of a state, counted from 0.
    ///
    /// A compute thread is busy with it while gradients may be due, so a slice should take no
    /// longer than the vector of a shard. The number of slices is
    /// [`EvaluationInfo::slices`], whatever the number of workers.
    fn slice(&self, state: &State, slice: u16) -> Vec<f64>;

    /// Combines the results of all slices, in their order, into the values that are reported: one
    /// for each of [`EvaluationInfo::names`].
    fn combine(&self, slices: &[Vec<f64>]) -> Vec<f64>;
}

/// The properties of an evaluation that the coordinator knows, although it computes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvaluationInfo {
    /// The number of slices, at least one.
    pub slices: u16,
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
    /// The number of the slice. The number after the last slice's is the combination.
    pub part: u16,
}

/// A part of an evaluation that a worker is to compute.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationTask {
    /// The part.
    pub id: PartId,
    /// The results of all slices, in order, if they are to be combined; empty for a slice.
    pub slices: Arc<Vec<Vec<f64>>>,
}

impl EvaluationTask {
    /// Tells whether the task combines the slices. It needs no state.
    pub fn is_combination(&self) -> bool {
        !self.slices.is_empty()
    }

    /// Computes the task. `state` is the state that the task names, and any other for a
    /// combination.
    pub fn compute(&self, evaluation: &dyn Evaluation, state: &State) -> Vec<f64> {
        if self.is_combination() {
            evaluation.combine(&self.slices)
        } else {
            evaluation.slice(state, self.id.part)
        }
    }
}

/// Evaluates a state on one process: the definition that every distributed evaluation must match.
pub fn evaluate(evaluation: &dyn Evaluation, info: &EvaluationInfo, state: &State) -> Vec<f64> {
    let slices: Vec<Vec<f64>> =
        (0..info.slices).map(|slice| evaluation.slice(state, slice)).collect();
    evaluation.combine(&slices)
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
