//! The events that a worker's machine takes, the commands that it returns, and the values in them.

use std::sync::Arc;

use crate::evaluation::{EvaluationTask, PartId};
use crate::ids::{Digest, Generation, Position, Rank, ShardId, Step, WorkerId};
use crate::metrics::StepDone;
use crate::protocol::FalseClaim;
use crate::protocol::message::{Finish, FromWorker, ToWorker, TrialTimes};
use crate::protocol::plan::{Plan, StateRef};
use crate::reduction::BucketSum;
use crate::spec::schedule::Schedule;
use crate::state::State;
use crate::state::values::SharedValues;

/// Something that has happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The coordinator has accepted the hello, and sends the run's schedule.
    Welcome(Schedule),
    /// The partitions of the shards that this worker is likely to compute are here.
    DataReady,
    /// A message from the coordinator has arrived.
    Message(ToWorker),
    /// Another member has opened a stream, which begins with its plan.
    PeerPlan(Arc<Plan>),
    /// A frame from the member with this rank has arrived.
    ReduceFrame(Rank, ReduceFrame),
    /// A stream to or from this member of this generation has broken.
    StreamBroken(Generation, Rank),
    /// A compute thread is done with a shard.
    Computed(VectorKey, ShardId, ShardResult),
    /// Another worker asks for a copy of this state, or of whatever state this worker has. The
    /// token belongs to the request and returns in [`Command::Serve`].
    CopyAsked(Option<StateRef>, u64),
    /// The copy that was asked for in this generation has arrived; `None` if the donor did not
    /// provide it.
    Copied(Generation, Option<StateCopy>),
    /// The probe of this peer is over: the peer answered, or why it did not.
    ProbeResult(WorkerId, Result<(), String>),
    /// The trial with this donor is over: the times that it took, or what failed.
    TrialResult(WorkerId, Result<TrialTimes, String>),
    /// A compute thread is done with a part of an evaluation, or could not compute it.
    Evaluated(PartId, Result<Vec<f64>, String>),
    /// The worker process was told to stop. It goes on until the coordinator releases it with
    /// [`Finish`].
    Leave,
    /// Some time has passed. Comes every [`TICK`](super::TICK).
    Tick,
}

/// Something that the driver has to do. Commands are executed in their order.
#[derive(Clone, Debug)]
pub enum Command {
    /// Send this message to the coordinator. Drop it if there is no connection: after each hello
    /// the machine repeats everything that still matters.
    Report(FromWorker),
    /// Open streams to the other members of this plan, in which this worker has this rank, and
    /// close the streams of older plans.
    Connect(Arc<Plan>, Rank),
    /// Send a frame to this member of the newest plan.
    Send(Rank, ReduceFrame),
    /// Compute the vectors of these shards from this state. Drop all earlier requests that no
    /// thread has begun.
    Compute(VectorKey, Arc<State>, Vec<ShardId>),
    /// Compute this part of an evaluation from this state, when no gradient is due. It replaces
    /// nothing, and nothing replaces it.
    Evaluate(EvaluationTask, Arc<State>),
    /// Ask this source for a copy of the plan's start state.
    Copy(Arc<Plan>, CopySource),
    /// Answer the request for a copy that has this token; with `None` if the state is not here.
    Serve(u64, Option<(StateRef, Arc<State>)>, Vec<StepDone>),
    /// Send the snapshot of this step to the coordinator.
    Upload(Step, Arc<State>),
    /// Find out whether this peer answers at this address, as host:port.
    Probe(WorkerId, String),
    /// Copy whatever state this worker at this address has, and compute the vectors of a shard from
    /// it: so the coordinator learns that this worker can.
    Trial(WorkerId, String),
    /// Close the control stream, because the coordinator said something that cannot be true, and
    /// open it again.
    CloseSession(FalseClaim),
    /// The run is over; end the process.
    Exit(Finish),
}

/// A bucket sum, together with everything that tells the receiver whether it may be used.
///
/// A sum is correct only if all its terms were computed from the same state. So each frame names
/// the state that it was computed from, and the receiver compares.
#[derive(Clone, Debug, PartialEq)]
pub struct ReduceFrame {
    /// The generation of the plan that assigned the shards and buckets.
    pub generation: Generation,
    /// The position of the state that the vectors were computed from.
    pub position: Position,
    /// The digest of that state.
    pub digest: Digest,
    /// The sum.
    pub bucket_sum: BucketSum,
}

/// The name of a computation: vectors with equal keys were computed from the same state, and may be
/// summed.
///
/// The key goes to the compute threads with each request and returns with each result. A result
/// whose key is no longer the current one comes from a state that has been left, and is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorKey {
    /// The position of the state that the vectors are computed from.
    pub at: Position,
    /// The digest of that state.
    pub digest: Digest,
    /// The number of times that the worker's state was replaced by a copy or by the initial state.
    ///
    /// Position and digest do not suffice: when memory was damaged and the state is replaced by an
    /// intact copy, both may be the same as before, but results of the damaged bytes must not be
    /// used.
    pub state_version: u64,
}

/// The result of computing a shard: a vector of finite values, or the reason why there is none.
#[derive(Clone, Debug)]
pub struct ShardResult(pub(super) Result<SharedValues, String>);

impl ShardResult {
    /// Takes the vector that was computed, or the message with which the computation panicked.
    ///
    /// This reads every value, so it is best called on the thread that has computed the vector,
    /// while the vector is in that core's cache.
    pub fn new(computed: Result<Vec<f32>, String>) -> Self {
        let vector = match computed {
            Ok(vector) => SharedValues::from(vector),
            Err(panic) => return Self(Err(format!("the computation panicked: {panic}"))),
        };
        if vector.are_finite() {
            Self(Ok(vector))
        } else {
            Self(Err("it has values that are not finite".to_owned()))
        }
    }
}

/// A source to ask for a copy of a plan's start state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopySource {
    /// The member of the plan with this rank, which holds the state.
    Member(Rank),
    /// The coordinator, which reads it from its newest checkpoint. Used if no member holds the
    /// state.
    Coordinator,
}

/// A copy of a state, with the step reports that its donor still keeps.
///
/// The reports are copied as well, so that they are not lost if the donor dies before the
/// coordinator has persisted them.
#[derive(Clone, Debug)]
pub struct StateCopy {
    /// The state.
    pub state: State,
    /// The reports of steps that led to this state and that may not be on disk yet.
    pub reports: Vec<StepDone>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_that_cannot_be_summed_is_a_failure_with_a_reason() {
        let ShardResult(finite) = ShardResult::new(Ok(vec![1.0, -2.0]));
        assert_eq!(finite.unwrap(), vec![1.0, -2.0].into());
        let ShardResult(infinite) = ShardResult::new(Ok(vec![1.0, f32::INFINITY]));
        assert_eq!(infinite.unwrap_err(), "it has values that are not finite");
        let ShardResult(panicked) = ShardResult::new(Err("index out of bounds".to_owned()));
        assert_eq!(panicked.unwrap_err(), "the computation panicked: index out of bounds");
    }
}
