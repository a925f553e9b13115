//! What an undisturbed run by one process gives, straight from the definition.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use dcgan_core::ids::{Digest, Phase, Position, Step};
use dcgan_core::metrics::Metrics;
use dcgan_core::objective::{Objective, Scratch, ShardTask};
use dcgan_core::spec::sharding::Partition;
use dcgan_core::spec::{DatasetInfo, ObjectiveKind, RunSpec};
use dcgan_core::state::{Layout, State};
use dcgan_core::toy::Toy;
use dcgan_core::train::{Shard, train_step};

pub(crate) struct Reference {
    pub(crate) objective: Arc<Toy>,
    pub(crate) spec: RunSpec,
    pub(crate) partition: Partition,
    pub(crate) digests: BTreeMap<Position, Digest>,
}

impl Reference {
    pub(crate) fn new(shards: u16, last_step: u64) -> Self {
        let images = 10 * usize::from(shards) + 1;
        let spec = RunSpec {
            objective: ObjectiveKind::Toy,
            batch_size: 2 * usize::from(shards),
            shards,
            seed: 22,
            learning_rate: 0.1,
            beta1: 0.5,
            data: DatasetInfo { images, rows: 1, columns: 1, digest: Digest(0) },
        };
        let toy = Toy::new(spec.clone()).unwrap();
        // One image more than any partition holds: which one is used where does not matter to the toy.
        let partition = Partition::new(1, (0..11).collect());
        let mut shards = Shard::all(shards, |_| &partition);
        let mut state = toy.initial_state();
        let mut digests = BTreeMap::from([(Position::after(0), state.digest())]);
        for step in 1..=last_step {
            train_step(&toy, &mut shards, &mut state, step, |position, state| {
                digests.insert(position, state.digest());
            });
        }
        drop(shards);
        Self { objective: Arc::new(toy), spec, partition, digests }
    }
}

/// The toy on a machine that may be broken.
pub(crate) struct Spoiled {
    toy: Arc<Toy>,
    how: AtomicU8,
}

/// How a machine is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum How {
    /// It is not.
    Not,
    /// Its next update comes out wrong.
    NextUpdate,
    /// It once did something wrong.
    Once,
    /// Its vectors are not finite.
    NotFinite,
    /// It is not, but the training diverges after some steps.
    Diverges,
    /// It panics.
    Panics,
}

const DIVERGES_AFTER: Step = 4;

impl Spoiled {
    pub(crate) fn new(toy: Arc<Toy>) -> Self {
        Self { toy, how: AtomicU8::new(How::Not as u8) }
    }

    pub(crate) fn spoil(&self, how: How) {
        self.how.store(how as u8, Ordering::Relaxed);
    }

    fn is(&self, how: How) -> bool {
        self.how.load(Ordering::Relaxed) == how as u8
    }

    pub(crate) fn panics(&self) -> bool {
        self.is(How::Panics)
    }
}

impl Objective for Spoiled {
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

    fn shard_gradients(&self, task: &ShardTask<'_>, scratch: &mut Scratch) -> Vec<f32> {
        let mut vector = self.toy.shard_gradients(task, scratch);
        if self.is(How::NotFinite) || (self.is(How::Diverges) && task.at.step >= DIVERGES_AFTER) {
            vector[0] = f32::NAN;
        }
        vector
    }

    fn optimizer_step(&self, state: &mut State, at: Position, sum: &[f32]) {
        self.toy.optimizer_step(state, at, sum);
        if self.is(How::NextUpdate) {
            self.spoil(How::Once);
            state.tensor_mut(2)[3] += 1.0;
        }
    }

    fn metrics(&self, state: &State) -> Metrics {
        self.toy.metrics(state)
    }
}
