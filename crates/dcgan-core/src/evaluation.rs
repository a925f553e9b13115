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

use std::fmt;
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
    /// The one of these values by which states are compared: the lower it is, the better the state.
    pub criterion: &'static str,
}

/// The best of the states that were evaluated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BestEvaluation {
    /// The step after which the state was reached. Of equal ones it is the first.
    pub step: Step,
    /// Its value of the criterion.
    pub value: f64,
    /// The name of the criterion.
    pub criterion: &'static str,
}

impl EvaluationInfo {
    /// The best of these evaluations; `None` if there is none with a value of the criterion.
    pub fn best<'a>(
        &self,
        evaluations: impl IntoIterator<Item = (Step, &'a NamedMetrics)>,
    ) -> Option<BestEvaluation> {
        let criterion = self.criterion;
        let known = evaluations.into_iter().filter_map(|(step, values)| {
            let value = values.get(criterion).filter(|value| value.is_finite())?;
            Some(BestEvaluation { step, value, criterion })
        });
        known.min_by(|a, b| a.value.total_cmp(&b.value).then(a.step.cmp(&b.step)))
    }
}

impl fmt::Display for BestEvaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:.4} after step {}", self.criterion, self.value, self.step)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_state_has_the_lowest_value_and_of_equal_ones_it_is_the_first() {
        let info =
            EvaluationInfo { pieces: 1, names: &["other", "distance"], criterion: "distance" };
        let values = [(30, 2.0), (10, 3.0), (20, 2.0), (40, f64::NAN)];
        let rows = values.map(|(step, it)| (step, NamedMetrics::new(info.names, [-it, it])));
        let best = info.best(rows.iter().map(|(step, values)| (*step, values))).unwrap();
        assert_eq!((best.step, best.value), (20, 2.0));
        assert_eq!(best.to_string(), "distance 2.0000 after step 20");
        assert_eq!(info.best([(10, &NamedMetrics::default())]), None);
    }
}
