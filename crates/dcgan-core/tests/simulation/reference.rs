//! What an undisturbed run by one process gives, straight from the definition.

use std::collections::BTreeMap;
use std::sync::Arc;

use dcgan_core::config::{DataSet, ObjectiveKind, Recipe, shard_ids};
use dcgan_core::ids::{Digest, Position};
use dcgan_core::objective::{Objective, Scratch, Task};
use dcgan_core::reduction::{Node, TreeSum};
use dcgan_core::sharding::Partition;
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
                sum.insert(Node::leaf(shard), Arc::new(toy.shard(&task, &mut Scratch::default())));
            }
            toy.apply(&mut state, at, &sum.take(Node::root(shards)).unwrap());
            at = at.next(toy.phases());
            digests.insert(at, state.digest());
        }
        Self { objective: Arc::new(toy), recipe, partition, digests }
    }
}
