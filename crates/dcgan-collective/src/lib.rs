//! What moves bytes between workers: the streams of an all-reduce, and copies of a state.
//!
//! Every member of a plan opens one stream to every other: reduce-scatter and all-gather take two hops, whatever the
//! number of members, and every sum's owner sees each contribution, which a fixed order of additions needs. Streams
//! belong to a plan. A newer plan supersedes them, which is said; a stream that ends without that is broken, is not
//! resumed, and asks for a new generation. Data has connections of its own, so that a burst of gradients does not delay
//! a heartbeat.
//!
//! This crate does not know what the numbers mean, adds none up and decides nothing: what arrives becomes an [`Event`],
//! through a bounded channel that the worker's driver always drains.

mod copy;
mod outgoing;
mod service;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use dcgan_core::ids::{Generation, Rank, RunId};
use dcgan_core::metrics::StepDone;
use dcgan_core::protocol::plan::{Plan, StateRef};
use dcgan_core::protocol::worker::ReduceFrame;
use tokio::sync::{mpsc, oneshot};

pub use copy::{CopyError, copy_state};
pub use outgoing::Streams;
pub use service::service;

/// What comes from other members.
#[derive(Debug)]
pub enum Event {
    /// A stream verify_checksum, with its sender's plan.
    PeerPlan(Arc<Plan>),
    /// A part of a vector, from a member of the plan of its generation.
    ReduceFrame(Rank, ReduceFrame),
    /// A stream to or from a member of this generation broke.
    StreamBroken(Generation, Rank),
    /// Somebody asks for a copy of this state; dropping the sender says that it is not here.
    CopyAsked(StateRef, oneshot::Sender<Offer>),
}

/// A state to copy.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The state, as a file.
    pub state: Bytes,
    /// The steps that its holder has reported and that are not stored.
    pub reports: Vec<StepDone>,
}

/// The run that this process belongs to, once it does. Members of other runs are refused.
pub type RunCell = Arc<OnceLock<RunId>>;

/// Events wait here for the driver: 256 parts are 64 MiB at most. Then senders wait.
pub const EVENTS_MAX: usize = 256;

/// Where events go.
pub type Events = mpsc::Sender<Event>;
