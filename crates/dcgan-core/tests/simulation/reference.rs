//! What an undisturbed run by one process gives, straight from the definition.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use dcgan_core::config::{DataSet, ObjectiveKind, Recipe, shard_ids};
use dcgan_core::ids::{Digest, Position, Step};
use dcgan_core::metrics::Metrics;
use dcgan_core::objective::{Objective, Scratch, Task};
use dcgan_core::reduction::{Node, TreeSum};
use dcgan_core::sharding::Partition;
use dcgan_core::state::{Layout, State};
use dcgan_core::toy::Toy;

pub(crate) struct Reference {
    pub(crate) objective: Arc<Toy>,
    pub(crate) recipe: Recipe,
    pub(crate) partition: Partition,
    pub(crate) digests: BTreeMap<Position, Digest>,
}

impl Reference {
    pub(crate) fn new(shards: u16, last_step: u64) -> Self {
        let images = 10 * usize::from(shards) + 1;
        let recipe = Recipe {
            objective: ObjectiveKind::Toy,
            batch_size: 2 * usize::from(shards),
            shards,
            seed: 22,
            learning_rate: 0.1,
            beta1: 0.5,
            data: DataSet { images, rows: 1, columns: 1, digest: Digest(0) },
        };
        let toy = Toy::new(recipe.clone()).unwrap();
        // One image more than any partition holds: which one is used where does not matter to the toy.
        let partition = Partition::new(1, (0..11).collect());
        let mut state = toy.initial();
        let mut at = Position::after(0);
        let mut digests = BTreeMap::from([(at, state.digest())]);
        while at < Position::after(last_step) {
            let mut sum = TreeSum::new(shards);
            for shard in shard_ids(shards) {
                let task = Task { state: &state, at, shard, partition: &partition };
                sum.insert(Node::leaf(shard), toy.shard(&task, &mut Scratch::default()).into());
            }
            toy.apply(&mut state, at, &sum.take(Node::root(shards)).unwrap());
            at = at.next(toy.phases());
            digests.insert(at, state.digest());
        }
        Self { objective: Arc::new(toy), recipe, partition, digests }
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

    fn initial(&self) -> State {
        self.toy.initial()
    }

    fn phases(&self) -> u8 {
        self.toy.phases()
    }

    fn vector_len(&self, phase: u8) -> usize {
        self.toy.vector_len(phase)
    }

    fn reads(&self, phase: u8) -> &[usize] {
        self.toy.reads(phase)
    }

    fn shard(&self, task: &Task<'_>, scratch: &mut Scratch) -> Vec<f32> {
        let mut vector = self.toy.shard(task, scratch);
        if self.is(How::NotFinite) || (self.is(How::Diverges) && task.at.step >= DIVERGES_AFTER) {
            vector[0] = f32::NAN;
        }
        vector
    }

    fn apply(&self, state: &mut State, at: Position, sum: &[f32]) {
        self.toy.apply(state, at, sum);
        if self.is(How::NextUpdate) {
            self.spoil(How::Once);
            state.tensor_mut(2)[3] += 1.0;
        }
    }

    fn metrics(&self, state: &State) -> Metrics {
        self.toy.metrics(state)
    }
}
