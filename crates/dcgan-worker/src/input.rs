//! The inputs of the driver. The other threads and tasks of the worker send them; they have a file
//! of their own so that the senders need not know the driver.

use dcgan_core::ids::{Generation, RunId, WorkerId};
use dcgan_core::protocol::message::{FromWorker, ToWorker, TrialTimes};
use dcgan_core::protocol::worker::StateCopy;
use dcgan_core::state::State;
use dcgan_rpc::Welcome;
use tokio::sync::{mpsc, oneshot};

use crate::compute::Computed;

/// Inputs that wait for the driver; when there are as many, their senders wait.
pub(crate) const INPUTS_MAX: usize = 256;

/// Something that happened in this worker. What comes from other members has a channel of its own.
#[derive(Debug)]
pub(crate) enum Input {
    /// Something happened on the connection to the coordinator.
    Session(SessionEvent),
    /// The partitions of the likely shards have arrived.
    DataReady,
    /// A shard was computed.
    Computed(Computed),
    /// The start state of this generation's plan was copied; `None` if that failed.
    Copied(Generation, Option<StateCopy>),
    /// A probe has shown whether this peer can be reached, or why not.
    ProbeResult(WorkerId, Result<(), String>),
    /// A trial with this donor is over: the times that it took, or what failed.
    TrialResult(WorkerId, Result<TrialTimes, String>),
}

/// A message for the coordinator, or the reason why the connection to it is to be closed.
pub(crate) type Report = Result<FromWorker, String>;

/// Something that happened on the connection to the coordinator.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    /// A connection was made, and its hello needs the worker's present state.
    HelloNeeded(oneshot::Sender<HelloState>),
    /// The coordinator answered the hello.
    Welcomed {
        welcome: Box<Welcome>,
        /// The weights that the run begins with, if they come from a file and the worker does not
        /// belong to the run yet.
        initial_weights: Option<State>,
        /// Takes reports until the connection breaks.
        ///
        /// Its queue has no bound: a worker sends few reports, and the driver must not wait for a
        /// coordinator that is slow.
        reports: mpsc::UnboundedSender<Report>,
    },
    /// A message for the state machine came.
    Message(ToWorker),
    /// The coordinator turned this worker away, for this reason.
    Refused(String),
    /// The coordinator could not be reached for too long; says for how long and why.
    GaveUp(String),
}

/// The part of a hello that changes while the worker runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HelloState {
    /// The run that the worker belongs to; `None` before the first welcome.
    pub(crate) run: Option<RunId>,
    /// The generation of its plan; 0 without a plan.
    pub(crate) plan: Generation,
    /// The newest fence that it has answered.
    pub(crate) promised: Generation,
}
