//! The interface between the engine and the model that it trains.
//!
//! The engine owns threads, streams and the order of events; the objective owns the arithmetic. An
//! objective is a set of pure functions: the same arguments always give the same bits, on every
//! machine of the same fingerprint.

use std::any::Any;
use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::evaluation::Evaluation;
use crate::ids::{Phase, Position, ShardId};
use crate::metrics::Metrics;
use crate::spec::sharding::Partition;
use crate::state::{Layout, State};

/// A model with its losses and its optimizer.
///
/// # Order of the calls
///
/// Once, when a worker starts, its state machine calls [`layout`](Self::layout) and
/// [`initial_state`](Self::initial_state). Then, in every phase of every step:
///
/// 1. The machine asks for [`phase_vector_len`](Self::phase_vector_len), to divide the vector among
///    the members.
/// 2. The compute threads call [`shard_vectors`](Self::shard_vectors), each with as many of the
///    worker's shards at once as [`shards_at_once`](Self::shards_at_once) says.
/// 3. A compute thread with nothing left to do calls [`compute_ahead`](Self::compute_ahead) with
///    the same shards, while the machine waits for the other members.
/// 4. Before the worker's last contribution leaves, the machine verifies the digests of
///    [`tensors_read`](Self::tensors_read).
/// 5. When the sum is complete, the machine of every worker calls
///    [`optimizer_step`](Self::optimizer_step) with the same sum. After the last phase it calls
///    [`metrics`](Self::metrics).
///
/// After a failure, any of these calls may be repeated, with an older state as well.
///
/// # The vector of a phase
///
/// A phase yields one flat vector for each shard. It holds everything that has to be summed over
/// the shards, so that one all-reduce is enough. By convention its layout is
/// `[gradients | batch statistics | loss | accuracy]`: the gradients of all trained tensors one
/// after the other, the mean and the variance of each batch norm, and two numbers. The engine knows
/// the length only. It sums and never divides: [`optimizer_step`](Self::optimizer_step) divides by
/// the number of shards where it needs a mean.
pub trait Objective: Send + Sync {
    /// The names and shapes of the state's tensors.
    fn layout(&self) -> &Arc<Layout>;

    /// The state before the first step. Every worker computes the same bits.
    fn initial_state(&self) -> State;

    /// The number of elements in the vector of a phase.
    fn phase_vector_len(&self, phase: Phase) -> usize;

    /// The indices, in the layout, of the tensors that a phase's vectors are computed from.
    fn tensors_read(&self, phase: Phase) -> &[usize];

    /// Computes the vector of one shard, of length [`phase_vector_len`](Self::phase_vector_len).
    ///
    /// The result depends on `task` alone: with an empty `scratch` it has the same bits.
    fn shard_vector(&self, task: &ShardTask<'_>, scratch: &mut Scratch) -> Vec<f32>;

    /// The number of shards that [`shard_vectors`](Self::shard_vectors) is to be given at once. The
    /// last call of a phase may get fewer.
    ///
    /// The default is one, which spreads the shards best over the threads. A device that computes
    /// all shards of a worker anyway saves copies to and from it when it gets them at once.
    fn shards_at_once(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    /// Computes the vectors of several shards, one for each task, with one scratch for each. All
    /// tasks have the same state and position.
    ///
    /// Each vector has the bits that [`shard_vector`](Self::shard_vector) gives: they do not depend
    /// on the other shards of the call. The default computes one shard after the other.
    fn shard_vectors(&self, tasks: &[ShardTask<'_>], scratches: &mut [Scratch]) -> Vec<Vec<f32>> {
        let pairs = tasks.iter().zip(scratches);
        pairs.map(|(task, scratch)| self.shard_vector(task, scratch)).collect()
    }

    /// Computes into the scratches a part of the shards' next phase that the optimizer step in
    /// between does not change.
    ///
    /// Called with the tasks of an earlier [`shard_vectors`](Self::shard_vectors) call, so that
    /// their state is the state before that optimizer step. The call may be left out at any time,
    /// and the default does nothing.
    fn compute_ahead(&self, _tasks: &[ShardTask<'_>], _scratches: &mut [Scratch]) {}

    /// Updates the state with the sum of all shards' vectors.
    ///
    /// The state is at `at` before the call, and at `at.next()` after it. The objective keeps the
    /// loss and the accuracy of the phase in the state, where [`metrics`](Self::metrics) finds
    /// them.
    fn optimizer_step(&self, state: &mut State, at: Position, sum: &[f32]);

    /// The metrics of the step that `state` has just finished: always the same number of them, in
    /// the order of their names
    /// ([`ObjectiveKind::metric_names`](crate::spec::ObjectiveKind::metric_names)).
    fn metrics(&self, state: &State) -> Metrics;

    /// Tells whether the run ends with this state, although the schedule goes on: the training has
    /// reached what it can, for example. Asked about states at the end of a step, never about the
    /// initial one.
    ///
    /// The state is the same for all workers, so they all end at the same step, and a run that is
    /// resumed or computed again ends there too. Called often, so it should only look at a few
    /// numbers that [`optimizer_step`](Self::optimizer_step) keeps in the state.
    fn ends_run(&self, _state: &State) -> bool {
        false
    }

    /// The evaluation of states, if the objective has one; as
    /// [`ObjectiveKind::evaluation`](crate::spec::ObjectiveKind::evaluation) says.
    fn evaluation(&self) -> Option<&dyn Evaluation> {
        None
    }
}

/// The input of [`Objective::shard_vector`].
#[derive(Clone, Copy)]
pub struct ShardTask<'a> {
    /// The state that the vector is computed from.
    pub state: &'a State,
    /// The position of that state: phase `at.phase` of step `at.step + 1` is to be computed.
    pub at: Position,
    /// The shard whose vector is to be computed.
    pub shard: ShardId,
    /// The images of that shard.
    pub partition: &'a Partition,
}

/// Intermediate results that a shard's next phase can reuse, such as the generator's fakes.
///
/// The engine keeps one scratch for each shard, and drops it when the shard moves to another worker
/// or the state is replaced. An objective must therefore be able to do without its content.
#[derive(Default)]
pub struct Scratch(pub Option<Box<dyn Any>>);
