//! The definition of a training.
//!
//! This is what a run computes, on one process and without a network. However many workers take
//! part, and whatever happens to them, they end with the bits that these functions give: the tests,
//! the simulation and the benchmarks compare everything else with them. The distributed form of the
//! same loop is [`protocol::worker`](crate::protocol::worker).

use crate::ids::{Phase, Position, ShardId, Step};
use crate::objective::{Objective, Scratch, ShardTask};
use crate::reduction::{Subtree, TreeSum};
use crate::spec::sharding::Partition;
use crate::state::State;
use crate::state::values::SharedValues;

/// One logical shard of the batch, with the images that it draws from.
pub struct Shard<'a> {
    id: ShardId,
    partition: &'a Partition,
    scratch: Scratch,
}

impl<'a> Shard<'a> {
    /// All shards of the batch; `partition_of` gives the images of each.
    pub fn all(shards: u16, partition_of: impl Fn(ShardId) -> &'a Partition) -> Vec<Self> {
        let shard = |id| Self { id, partition: partition_of(id), scratch: Scratch::default() };
        (0..shards).map(ShardId).map(shard).collect()
    }
}

/// Computes training step `step`, counted from 1, on a state after step `step - 1`.
///
/// The order is that of Goodfellow et al., "Generative Adversarial Nets" (NIPS 2014, algorithm 1),
/// with the non-saturating loss for the generator and an Adam update after each of the three
/// passes. `after_update` sees every position that the state reaches.
pub fn train_step(
    objective: &dyn Objective,
    shards: &mut [Shard<'_>],
    state: &mut State,
    step: Step,
    mut after_update: impl FnMut(Position, &mut State),
) {
    let mut update = |phase: Phase| {
        let at = Position { step: step - 1, phase };
        let sum = sum_over_shards(objective, shards, state, at);
        objective.optimizer_step(state, at, &sum);
        after_update(at.next(), state);
    };

    // Every shard draws its minibatch of real images x and of latents z. Both are functions of
    // (seed, step, shard), so each phase draws what it needs and there is nothing to do up front.

    // The discriminator D on real images x: loss -log D(x). Reduce the gradients, update D.
    update(Phase::DiscriminatorReal);

    // D on fakes G(z), with the generator G fixed: loss -log(1 - D(G(z))). Reduce, update D.
    update(Phase::DiscriminatorFake);

    // G through the updated D, on the same fakes: loss -log D(G(z)). Reduce, update G.
    update(Phase::Generator);
}

/// Computes the vector of every shard, and adds them up in the order of the reduction tree.
fn sum_over_shards(
    objective: &dyn Objective,
    shards: &mut [Shard<'_>],
    state: &State,
    at: Position,
) -> SharedValues {
    let count = shards.len() as u16;
    let mut sum = TreeSum::new(count);
    for Shard { id, partition, scratch } in shards {
        let task = ShardTask { state, at, shard: *id, partition };
        let vector = objective.shard_vector(&task, scratch);
        sum.insert(Subtree::leaf(*id), vector.into());
    }
    sum.take(Subtree::root(count)).expect("every shard has been added")
}
