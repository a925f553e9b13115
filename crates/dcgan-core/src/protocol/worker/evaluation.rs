//! Parts of evaluations that this worker computes for the coordinator.
//!
//! They have nothing to do with the plan: a fence, a new plan or the end of the membership leaves
//! them alone. The compute threads take them when no gradient is due.

use std::sync::Arc;

use super::{Command, WorkerMachine};
use crate::evaluation::{EvaluationTask, PartId};
use crate::protocol::message::FromWorker;
use crate::state::State;

impl WorkerMachine {
    /// Begins a part that the coordinator asks for, unless it is begun or done.
    pub(super) fn on_evaluate(&mut self, task: EvaluationTask) {
        let id = task.id;
        // The report of it was lost, or the coordinator is another one.
        if let Some(values) = self.retained.evaluated(&id) {
            let result = Ok(values.to_vec());
            return self.report(FromWorker::Evaluated { id, result });
        }
        if self.evaluating.contains_key(&id) {
            return;
        }
        if self.has_too_many_parts(&id) {
            let result = Err("too many parts at once".to_owned());
            return self.report(FromWorker::Evaluated { id, result });
        }
        match self.state_to_evaluate(&task) {
            Ok(state) => {
                self.evaluating.insert(id, Arc::clone(&state));
                self.commands.push(Command::Evaluate(task, state));
            }
            Err(why) => self.report(FromWorker::Evaluated { id, result: Err(why) }),
        }
    }

    /// The state that a task is computed from.
    ///
    /// # Errors
    /// If it is not here, in words.
    fn state_to_evaluate(&mut self, task: &EvaluationTask) -> Result<Arc<State>, String> {
        if task.is_combination() {
            return Ok(Arc::clone(&self.state));
        }
        // If the state is damaged, all snapshots are dropped: they share its memory.
        self.verify_or_discard_state(self.state.all());
        match self.retained.snapshot(task.id.step) {
            Some(state) if is_intact(&state, &task.id) => Ok(state),
            _ => Err(format!("the snapshot of step {} is not here", task.id.step)),
        }
    }

    /// Takes the result of a part from the compute threads, or why there is none.
    pub(super) fn on_evaluated(&mut self, id: PartId, result: Result<Vec<f64>, String>) {
        let Some(state) = self.evaluating.remove(&id) else {
            return;
        };
        // A bit may have flipped while the part was computed. The result of damaged bytes must not
        // be used.
        let is_damaged = state.first_damaged(state.all()).is_some();
        let result = if is_damaged { Err("its state is damaged".to_owned()) } else { result };
        if let Ok(values) = &result {
            self.retained.keep_evaluated(id, values.clone());
        }
        self.report(FromWorker::Evaluated { id, result });
    }
}

/// Returns whether a snapshot is the state that a part names, with all its bits.
fn is_intact(snapshot: &State, id: &PartId) -> bool {
    let digest = State::clone(snapshot).digest();
    digest == id.digest && snapshot.first_damaged(snapshot.all()).is_none()
}
