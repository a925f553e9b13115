//! The coordinator's gRPC services: one for workers, one for samplers, one for people.
//!
//! Streams become inputs of the driver. Partitions and checkpoints are served from here, without
//! the driver: they are large, never change, and must not hold up the run.
//!
//! Every request says who sends it and which run it is meant for; a stream says it once, in its
//! first message. A request for another run is refused here, before it reaches anything.

mod admin;
mod coordinator;
mod feed;
mod workers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dcgan_core::ids::{Digest, RunId};
use dcgan_core::spec::shard_ids;
use dcgan_core::spec::sharding::Sharding;
use dcgan_core::state::digest;
use dcgan_rpc::pb::admin_server::AdminServer;
use dcgan_rpc::pb::coordinator_server::CoordinatorServer;
use dcgan_rpc::pb::feed_server::FeedServer;
use dcgan_rpc::{Caller, Throttle, Who, pb};
use dcgan_store::dataset::Dataset;
use tokio::sync::{Semaphore, mpsc};
use tonic::service::Routes;
use tonic::{Status, Streaming};

use crate::input::{INPUT_BYTES_MAX, Input, Room};
use crate::newest_checkpoint::NewestCheckpoint;
pub(crate) use workers::Workers;

/// A client has this time to send the first message of its stream.
const HELLO_MAX: Duration = Duration::from_secs(5);

/// The data that the services answer from without the driver.
pub(crate) struct Served {
    pub(crate) run: RunId,
    /// The number of the objective's metrics.
    pub(crate) metrics: usize,
    /// The pixels of each shard's images, one byte a pixel, with their digest.
    pub(crate) partitions: Vec<(Bytes, Digest)>,
    /// The weights that the run begins with, as a safetensors file with its digest; `None` if its
    /// seed draws them.
    pub(crate) initial_weights: Option<(Bytes, Digest)>,
    pub(crate) newest: NewestCheckpoint,
    pub(crate) workers: Arc<Workers>,
}

/// Makes the services. Everything that they receive goes to `driver`.
pub(crate) fn routes(served: Served, driver: mpsc::Sender<Input>) -> Routes {
    let followers = Arc::new(Semaphore::new(feed::FOLLOWERS_MAX));
    let input_bytes = Arc::new(Semaphore::new(INPUT_BYTES_MAX));
    let service = Service(Arc::new(Shared {
        served,
        driver,
        next_stream: AtomicU64::new(1),
        followers,
        input_bytes,
    }));
    Routes::new(CoordinatorServer::new(service.clone()))
        .add_service(FeedServer::new(service.clone()))
        .add_service(AdminServer::new(service))
}

/// Splits a data set into the partitions of its shards.
pub(crate) fn partitions(dataset: Dataset, sharding: &Sharding) -> Vec<(Bytes, Digest)> {
    let image_bytes = dataset.info().image_bytes();
    let mut rest = Bytes::from(dataset.into_partitions(sharding));
    let partition = |shard| {
        // All partitions share one memory.
        let pixels = rest.split_to(sharding.partition_len(shard) * image_bytes);
        let digest = digest::of_bytes(&pixels);
        (pixels, digest)
    };
    shard_ids(sharding.shards()).map(partition).collect()
}

/// The implementation of all three services. Clones share everything.
#[derive(Clone)]
struct Service(Arc<Shared>);

struct Shared {
    served: Served,
    driver: mpsc::Sender<Input>,
    /// The number of the next stream. Numbers are never used twice.
    next_stream: AtomicU64,
    /// The places of samplers.
    followers: Arc<Semaphore>,
    /// Room for snapshots and pictures on their way to the driver, in bytes.
    input_bytes: Arc<Semaphore>,
}

impl Service {
    fn stream_number(&self) -> u64 {
        self.0.next_stream.fetch_add(1, Ordering::Relaxed)
    }

    /// Receives who asks, and refuses a request that is meant for another run.
    fn receive(&self, caller: Option<pb::Caller>) -> Result<Who, Status> {
        match Caller::receive(caller, self.0.served.run) {
            Ok(caller) => Ok(caller.who),
            Err(status) => {
                static THROTTLE: Throttle = Throttle::new();
                let why = status.message();
                if let Some(more) = THROTTLE.pass() {
                    tracing::warn!(
                        event = "request_refused",
                        why,
                        more,
                        "a request was refused: {why} ({more} more were refused)"
                    );
                }
                Err(status)
            }
        }
    }

    /// Waits until there is room for an input of so many bytes.
    async fn room(&self, bytes: usize) -> Result<Room, Status> {
        // One that is larger than all room takes all.
        let bytes = bytes.min(INPUT_BYTES_MAX) as u32;
        let room = Arc::clone(&self.0.input_bytes).acquire_many_owned(bytes).await;
        room.map_err(|_| ending())
    }

    /// Sends an input to the driver. Waits while its channel is full.
    async fn send(&self, input: Input) -> Result<(), Status> {
        self.0.driver.send(input).await.map_err(|_| ending())
    }
}

fn ending() -> Status {
    Status::unavailable("the coordinator is ending")
}

/// Receives the first message of a stream.
async fn first_message<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    let message = tokio::time::timeout(HELLO_MAX, stream.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the first message did not come in time"))??;
    message.ok_or_else(|| Status::invalid_argument("an empty stream"))
}
