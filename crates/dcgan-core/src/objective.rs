//! What a model gives to the engine. The engine owns threads, streams and order; the objective owns the arithmetic.

use std::any::Any;
use std::sync::Arc;

use crate::ids::{Phase, Position, ShardId};
use crate::metrics::Metrics;
use crate::spec::sharding::Partition;
use crate::state::{Layout, State};

/// Something that is trained by ordered phases, such as "discriminator on real", "discriminator on fake", "generator".
///
/// Each phase yields a flat vector for every shard, which holds gradients, batch statistics and metrics together; the
/// engine adds them up over the shards, in an order of its own that never changes, and hands the sum to every worker.
pub trait Objective: Send + Sync {
    /// Names and shapes of the state's tensors.
    fn layout(&self) -> &Arc<Layout>;

    /// The state before the first step; the same wherever it is computed.
    fn initial_state(&self) -> State;

    /// Elements of the vector of a phase.
    fn phase_vector_len(&self, phase: Phase) -> usize;

    /// The tensors that a phase's vectors are computed from.
    fn tensors_read(&self, phase: Phase) -> &[usize];

    /// The vector of one shard: a function of the task and the shard's data alone.
    fn shard_gradients(&self, task: &ShardTask<'_>, scratch: &mut Scratch) -> Vec<f32>;

    /// Computes into `scratch` what the shard's next phase needs and the update in between does not change. Called after
    /// [`Objective::shard_gradients`] with the same task while a thread would wait for the sum; it may never be called.
    fn compute_ahead(&self, _task: &ShardTask<'_>, _scratch: &mut Scratch) {}

    /// Applies the sum of all shards' vectors to the state at `at`, which reaches `at.next()`.
    fn optimizer_step(&self, state: &mut State, at: Position, sum: &[f32]);

    /// The losses and accuracies of the step that the state has just finished.
    fn metrics(&self, state: &State) -> Metrics;
}

/// What to compute.
#[derive(Clone, Copy)]
pub struct ShardTask<'a> {
    /// The state that the vector is computed from.
    pub state: &'a State,
    /// Its position: phase `at.phase` of step `at.step + 1` is computed.
    pub at: Position,
    /// For which shard.
    pub shard: ShardId,
    /// The shard's images.
    pub partition: &'a Partition,
}

/// What a shard's next phase can reuse, such as the generator's graph. It may be lost at any time.
#[derive(Default)]
pub struct Scratch(pub Option<Box<dyn Any>>);
