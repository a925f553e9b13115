//! The worker's own state: its verification, and its replacement by another one.
//!
//! A bit that flips in memory would spread to every member with the next sum. Therefore a worker
//! hashes its state again before others rely on it: before it answers a fence, before it serves a
//! copy or a snapshot, and before its last contribution to a phase leaves.

use std::sync::Arc;

use super::WorkerMachine;
use crate::ids::{Generation, Position, Step};
use crate::objective::Objective;
use crate::protocol::message::Complaint;
use crate::protocol::plan::StateRef;
use crate::state::State;

/// The state before the first step, with its identity.
pub(super) fn initial_state(objective: &dyn Objective) -> (State, StateRef) {
    let mut state = objective.initial_state();
    let at = StateRef {
        generation: Generation(0),
        position: Position::after(0),
        digest: state.digest(),
    };
    (state, at)
}

impl WorkerMachine {
    /// Hashes the given tensors of the state again, and returns true if they are intact. If not,
    /// the state is discarded.
    pub(super) fn verify_or_discard_state(
        &mut self,
        tensors: impl IntoIterator<Item = usize>,
    ) -> bool {
        let Some(tensor) = self.state.first_damaged(tensors).map(str::to_owned) else {
            return true;
        };
        self.discard_state(&tensor);
        false
    }

    /// Replaces a damaged state by the initial one, and asks for a new generation, whose plan makes
    /// this worker copy an intact state.
    ///
    /// The initial state is the only one that every worker has without asking.
    pub(super) fn discard_state(&mut self, damaged_tensor: &str) {
        let (initial, at) = initial_state(&*self.objective);
        self.replace_state(initial, at);
        self.reduction = None;
        // Snapshots share their memory with the state.
        self.retained.drop_snapshots();
        self.complain(Complaint::StateCorrupted(damaged_tensor.to_owned()));
    }

    /// Replaces a state after `step`, which is of no use, by the initial one.
    pub(super) fn go_back(&mut self, step: Step) {
        let (initial, at) = initial_state(&*self.objective);
        self.replace_state(initial, at);
        self.reduction = None;
        self.copying = None;
        self.early_frames.clear();
        self.retained.drop_snapshots_after(step);
    }

    /// Continues with another state, and drops everything that was computed from the one before.
    pub(super) fn replace_state(&mut self, state: State, at: StateRef) {
        self.state = Arc::new(state);
        self.at = at;
        self.state_version += 1;
        self.retained.drop_reports_after(at.position.step);
        self.computed.clear();
        self.failed.clear();
    }

    /// Changes one bit of the state without changing its digest, as bad memory does. For tests of
    /// the detection.
    #[doc(hidden)]
    pub fn flip_a_bit(&mut self, place: usize) {
        Arc::make_mut(&mut self.state).flip_a_bit(place);
    }
}
