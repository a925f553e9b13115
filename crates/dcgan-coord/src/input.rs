//! The inputs of the driver. Every task that learns of something sends it here: the gRPC service,
//! the writer, and the threads that wait for child processes. One bounded channel puts all inputs
//! into one order. Only a signal does not wait in it: it must be heard however full it is.
//!
//! The types are in a file of their own, so that their producers do not depend on the driver.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use dcgan_core::ids::{Digest, Step};
use dcgan_core::protocol::coordinator::{ConnId, Event};
use dcgan_core::protocol::message::Hello;
use dcgan_rpc::pb;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::local_processes::ChildEnd;
use crate::writer::JobNews;

/// The capacity of the channel. Senders wait while it is full.
pub(crate) const INPUTS_MAX: usize = 1024;
/// The bytes of snapshots and pictures that are on their way to the driver. Whoever sends another
/// one waits.
pub(crate) const INPUT_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Room for a large input. It becomes free when the driver has handled the input.
pub(crate) type Room = OwnedSemaphorePermit;

/// The sending end of one worker's control stream.
pub(crate) type WorkerSender = Link<pb::CoordinatorMessage>;
/// The sending end of one sampler's stream of generators.
pub(crate) type SamplerSender = Link<pb::GeneratorSnapshot>;

/// The driver's end of a stream. Dropping it ends the stream: messages that wait are still sent,
/// but nothing more is read.
pub(crate) struct Link<T> {
    pub(crate) sender: mpsc::Sender<Result<T, tonic::Status>>,
    /// Tells the task that reads the stream that this end was dropped.
    _open: oneshot::Sender<Infallible>,
}

/// Completes when the driver has dropped its end of a stream.
pub(crate) type Dropped = oneshot::Receiver<Infallible>;

impl<T> Link<T> {
    /// Makes the driver's end of a stream whose messages go to `sender`.
    pub(crate) fn new(sender: mpsc::Sender<Result<T, tonic::Status>>) -> (Self, Dropped) {
        let (open, dropped) = oneshot::channel();
        (Self { sender, _open: open }, dropped)
    }
}

/// The sending end of the answer to a person who has asked for the end of the run.
pub(crate) type StopWatcher = mpsc::Sender<Result<pb::StopProgress, tonic::Status>>;

/// The number of one sampler's stream. It is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SamplerId(pub(crate) u64);

/// One thing that happened outside the driver.
pub(crate) enum Input {
    /// A worker opened a control stream and introduced itself.
    WorkerConnected { conn: ConnId, sender: WorkerSender, hello: Hello },
    /// An event that goes to the coordinator's machine unchanged.
    Machine(Event),
    /// A client asks for the status of the run.
    StatusRequested(oneshot::Sender<pb::Status>),
    /// A person, USER@HOST, asks a worker to leave. The reply says why it may not, if so.
    DrainRequested { by: String, name: String, reply: oneshot::Sender<Result<(), String>> },
    /// A person, USER@HOST, asks for the end of the run, and wants to know how it goes.
    StopRequested { by: String, watcher: StopWatcher },
    /// A sampler wants to receive generators. Its page is at the URL `page`.
    SamplerConnected { sampler: SamplerId, page: String, sender: SamplerSender },
    /// The stream of a sampler ended.
    SamplerClosed(SamplerId),
    /// A sampler drew the grid of a step, as a PNG file.
    GridDrawn { step: Step, png: Bytes, room: Room },
    /// A sampler cannot draw the grid of a step, for this reason.
    GridNotDrawn { step: Step, why: String },
    /// A worker sent the snapshot of a step, which it was asked for.
    SnapshotArrived { step: Step, digest: Digest, bytes: Arc<Vec<u8>>, room: Room },
    /// The writer of the run directory has news.
    Writer(JobNews),
    /// The generator of a pending grid was read; none if it could not be.
    PendingGridRead { step: Step, generator: Option<Bytes> },
    /// The generator of the newest checkpoint was read, for a sampler that has just come.
    NewestGeneratorRead { sampler: SamplerId, step: Step, generator: Bytes },
    /// A worker asked for the checkpoint of a step, and it could not be read.
    CheckpointUnreadable(Step),
    /// A child process ended. The number is its index in the list of local processes.
    ChildEnded(usize, ChildEnd),
}
