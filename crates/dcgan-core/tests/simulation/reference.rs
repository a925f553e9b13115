//! The oracle: an undisturbed run by one process, straight from the definition of a training step.

use std::collections::BTreeMap;
use std::sync::Arc;

use dcgan_core::ids::{Digest, Position};
use dcgan_core::objective::Objective;
use dcgan_core::spec::sharding::Partition;
use dcgan_core::spec::{DatasetInfo, ObjectiveKind, RunSpec};
use dcgan_core::toy::Toy;
use dcgan_core::train::{Shard, train_step};

/// A run of the toy, and its digest at every position.
pub(crate) struct Reference {
    pub(crate) objective: Arc<Toy>,
    pub(crate) spec: RunSpec,
    pub(crate) partition: Partition,
    pub(crate) digests: BTreeMap<Position, Digest>,
}

impl Reference {
    /// Computes the run.
    pub(crate) fn new(shards: u16, last_step: u64) -> Self {
        let images = 10 * usize::from(shards) + 1;
        let data = DatasetInfo { images, rows: 1, columns: 1, digest: Digest(0) };
        let builder = RunSpec::builder().objective(ObjectiveKind::Toy).shards(shards);
        let builder = builder.batch_size(2 * usize::from(shards)).learning_rate(0.1);
        let spec = builder.build(data).unwrap();
        let toy = Toy::new(spec.clone());
        // One partition serves all shards. It has one image more than a real one ever holds, and
        // the toy does not care which image it gets.
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
