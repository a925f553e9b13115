//! Moves bytes between workers: the streams of the all-reduces, and copies of a state.
//!
//! Every member of a plan opens one stream to every other member. A ring would need fewer streams,
//! but 2 (W - 1) hops for every bucket, and its additions would depend on the number of members.
//! With direct streams, reduce-scatter and all-gather take one hop each, and the owner of a slice
//! sees every member's contribution, so that it can add them in an order that never changes.
//!
//! The streams belong to a plan. A newer plan supersedes them, and the sender says so with a last
//! message. A stream that ends without that message is broken: it is not resumed, and the worker
//! asks for a new generation. The streams are not on the connection to the coordinator, so that a
//! burst of gradients does not delay a heartbeat.
//!
//! This crate does not know what the values mean, adds nothing up and decides nothing: whatever
//! arrives becomes an [`Event`] in a bounded channel, which the worker's driver empties.

mod copy;
mod outgoing;
mod probe;
mod service;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use dcgan_core::ids::{Generation, Rank, RunId};
use dcgan_core::metrics::StepDone;
use dcgan_core::protocol::plan::{Plan, StateRef};
use dcgan_core::protocol::worker::ReduceFrame;
use tokio::sync::{mpsc, oneshot, watch};

pub use copy::{Copied, CopyError, CopyLimits, copy_state};
pub use outgoing::Streams;
pub use probe::{ProbeError, probe};
pub use service::service;

/// The events that other members cause.
#[derive(Debug)]
pub enum Event {
    /// A member opened a stream to this one, by this plan.
    PeerPlan(Arc<Plan>),
    /// A frame came from the member with this rank in the plan of the frame's generation.
    ReduceFrame(Rank, ReduceFrame),
    /// A stream to or from the member with this rank, in the plan of this generation, broke.
    StreamBroken(Generation, Rank),
    /// Another worker asks for a copy of this state, or of whatever state this worker has. Dropping
    /// the sender answers that this worker does not hold it.
    CopyAsked(Option<StateRef>, oneshot::Sender<Offer>),
}

/// A state that another worker may copy.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The identity of the state.
    pub at: StateRef,
    /// The state, as a safetensors file.
    pub state: Bytes,
    /// The finished steps that led to the state and that the coordinator may not have written.
    pub reports: Vec<StepDone>,
}

/// The run and the plan of a worker, as its service knows them. The driver sets them.
#[derive(Debug, Default)]
pub struct Membership {
    /// The run that this process belongs to. It is set when the coordinator's first welcome
    /// arrives; before that every member is refused, and after it the members of other runs.
    pub run: OnceLock<RunId>,
    /// The plan that this worker follows, if it follows one. It is set before the streams of the
    /// plan are opened.
    pub plan: watch::Sender<Option<Arc<Plan>>>,
}

/// The number of events that wait for the driver at most; then the sending members wait. A bucket
/// has at most 256 KiB, so all of them have at most 64 MiB.
pub const EVENTS_MAX: usize = 256;

/// The sending end of the channel of events.
pub type Events = mpsc::Sender<Event>;
