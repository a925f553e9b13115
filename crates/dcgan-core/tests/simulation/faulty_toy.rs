//! The toy objective on a machine that may have a defect.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use dcgan_core::evaluation::Evaluation;
use dcgan_core::ids::{Phase, Position, Step};
use dcgan_core::metrics::Metrics;
use dcgan_core::objective::{Objective, Scratch, ShardTask};
use dcgan_core::state::{Layout, State};
use dcgan_core::toy::Toy;

/// The toy on one worker.
pub(crate) struct FaultyToy {
    toy: Arc<Toy>,
    /// A [`Defect`]. The state machine holds the objective too, so it is changed from outside.
    defect: AtomicU8,
}

/// A defect of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Defect {
    /// The worker is sound.
    None,
    /// The next optimizer step gives a wrong state.
    NextUpdate,
    /// An optimizer step gave a wrong state, and the worker is sound since.
    PastUpdate,
    /// The vectors of its shards are not finite.
    NotFinite,
    /// The worker is sound, but the training diverges after some steps.
    Diverges,
    /// The computation of a shard panics.
    Panics,
}

/// The first step whose vectors are not finite in a training that diverges.
const DIVERGES_AT: Step = 4;

impl FaultyToy {
    pub(crate) fn new(toy: Arc<Toy>) -> Self {
        Self { toy, defect: AtomicU8::new(Defect::None as u8) }
    }

    /// Gives the worker this defect.
    pub(crate) fn set(&self, defect: Defect) {
        self.defect.store(defect as u8, Ordering::Relaxed);
    }

    fn has(&self, defect: Defect) -> bool {
        self.defect.load(Ordering::Relaxed) == defect as u8
    }

    /// Tells if the computation of a shard panics.
    pub(crate) fn panics(&self) -> bool {
        self.has(Defect::Panics)
    }
}

impl Objective for FaultyToy {
    fn layout(&self) -> &Arc<Layout> {
        self.toy.layout()
    }

    fn initial_state(&self) -> State {
        self.toy.initial_state()
    }

    fn phase_vector_len(&self, phase: Phase) -> usize {
        self.toy.phase_vector_len(phase)
    }

    fn tensors_read(&self, phase: Phase) -> &[usize] {
        self.toy.tensors_read(phase)
    }

    fn shard_vector(&self, task: &ShardTask<'_>, scratch: &mut Scratch) -> Vec<f32> {
        let mut vector = self.toy.shard_vector(task, scratch);
        if self.has(Defect::NotFinite)
            || (self.has(Defect::Diverges) && task.at.step >= DIVERGES_AT)
        {
            vector[0] = f32::NAN;
        }
        vector
    }

    fn optimizer_step(&self, state: &mut State, at: Position, sum: &[f32]) {
        self.toy.optimizer_step(state, at, sum);
        if self.has(Defect::NextUpdate) {
            self.set(Defect::PastUpdate);
            state.tensor_mut(2)[3] += 1.0;
        }
    }

    fn metrics(&self, state: &State) -> Metrics {
        self.toy.metrics(state)
    }

    fn ends_run(&self, state: &State) -> bool {
        self.toy.ends_run(state)
    }

    fn evaluation(&self) -> Option<&dyn Evaluation> {
        self.toy.evaluation()
    }
}
