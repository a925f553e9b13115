//! The run directory: all that survives a coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dcgan_core::ids::{Digest, Step};
use dcgan_core::metrics::{MetricsRow, NamedMetrics};
use dcgan_core::protocol::coordinator::{PersistedOutputs, SavedCheckpoint};
use dcgan_core::protocol::plan::Plan;
use dcgan_core::spec::schedule::Schedule;
use dcgan_core::state::{Layout, State};

/// The files that the coordinator has written.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) plan: Option<Arc<Plan>>,
    pub(crate) fingerprint: Option<String>,
    pub(crate) rows: Vec<MetricsRow>,
    pub(crate) checkpoints: BTreeMap<Step, (SavedCheckpoint, Arc<Vec<u8>>)>,
    pub(crate) grids: BTreeSet<Step>,
    pub(crate) evaluations: BTreeMap<Step, NamedMetrics>,
}

impl Disk {
    /// The summary that a coordinator reads when it starts.
    pub(crate) fn persisted(&self, schedule: &Schedule) -> PersistedOutputs {
        PersistedOutputs {
            rows: self.rows.iter().map(|row| (row.step, row.state_digest)).collect(),
            checkpoint: self.checkpoint_to_go_on_from(schedule),
            grids: self.grids.clone(),
            evaluations: self.evaluations.clone(),
        }
    }
}

impl Disk {
    /// The newest checkpoint, or the newest one before an evaluation that is not on disk and
    /// decides whether the run goes on.
    fn checkpoint_to_go_on_from(&self, schedule: &Schedule) -> Option<SavedCheckpoint> {
        let newest_through = |step: Step| {
            let newest = self.checkpoints.range(..=step).next_back();
            newest.map(|(_, (saved, _))| saved.clone())
        };
        let newest = newest_through(Step::MAX)?;
        // A state that ends the run is the last one.
        let undecided = schedule.verdict_before(newest.step).filter(|_| !newest.ends_run);
        match undecided.filter(|step| !self.evaluations.contains_key(step)) {
            None => Some(newest),
            Some(undecided) => newest_through(undecided),
        }
    }
}

/// Encodes a state as a file: all of its numbers. Gives the digest, too.
pub(crate) fn encode(state: &State) -> (Digest, Arc<Vec<u8>>) {
    let tensors = 0..state.layout().tensors().len();
    let bytes =
        tensors.flat_map(|index| state.tensor(index).to_vec()).flat_map(f32::to_le_bytes).collect();
    (state.clone().digest(), Arc::new(bytes))
}

/// Decodes the state in a file.
pub(crate) fn decode(layout: &Arc<Layout>, bytes: &[u8]) -> State {
    let mut state = State::zeros(Arc::clone(layout));
    let mut values =
        bytes.chunks_exact(4).map(|value| f32::from_le_bytes(value.try_into().unwrap()));
    for index in 0..layout.tensors().len() {
        state.tensor_mut(index).fill_with(|| values.next().unwrap());
    }
    state
}
