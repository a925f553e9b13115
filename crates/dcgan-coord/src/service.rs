//! The coordinator's gRPC service.
//!
//! Streams become inputs of the driver. Partitions and checkpoints are served from here, without
//! the driver: they are large, never change, and must not hold up the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dcgan_core::ids::{Digest, Step};
use dcgan_core::protocol::coordinator::{ConnId, Event, Stop};
use dcgan_core::spec::shard_ids;
use dcgan_core::spec::sharding::Sharding;
use dcgan_rpc::pb::coordinator_server::{Coordinator, CoordinatorServer};
use dcgan_rpc::{Checksummed, WorkerMessage, pb, transfer};
use dcgan_store::checkpoint::{Checkpoints, VerifiedCheckpoint};
use dcgan_store::dataset::Dataset;
use dcgan_store::state_file;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::input::{Input, SamplerId};

/// Messages that wait for one worker to read them. The driver drops a worker whose stream is full.
const OUTGOING_MAX: usize = 64;
/// Generators that wait for one sampler to read them, 1.3 MB each.
const SNAPSHOTS_MAX: usize = 4;
/// A snapshot that is larger than this is refused. The DCGAN's has 5 MB.
const SNAPSHOT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A client has this time to send the first message of its stream.
const HELLO_MAX: Duration = Duration::from_secs(5);

/// The data that the service answers from without the driver.
pub(crate) struct Served {
    /// The pixels of each shard's images, one byte a pixel, with their digest.
    pub(crate) partitions: Vec<(Bytes, Digest)>,
    pub(crate) checkpoints: Checkpoints,
}

/// Makes the service. Everything that it receives goes to `driver`.
pub(crate) fn service(
    served: Served,
    driver: mpsc::Sender<Input>,
) -> CoordinatorServer<impl Coordinator> {
    let next_stream = AtomicU64::new(1);
    CoordinatorServer::new(Service { served: Arc::new(served), driver, next_stream })
}

/// Splits a data set into the partitions of its shards.
pub(crate) fn partitions(dataset: &Dataset, sharding: &Sharding) -> Vec<(Bytes, Digest)> {
    let partitions = dataset.partitions(sharding);
    shard_ids(sharding.shards())
        .filter_map(|shard| partitions.pixels(shard))
        .map(|(pixels, digest)| (Bytes::from(pixels), digest))
        .collect()
}

struct Service {
    served: Arc<Served>,
    driver: mpsc::Sender<Input>,
    /// The number of the next stream. Numbers are never used twice.
    next_stream: AtomicU64,
}

impl Service {
    fn stream_number(&self) -> u64 {
        self.next_stream.fetch_add(1, Ordering::Relaxed)
    }
}

#[tonic::async_trait]
impl Coordinator for Service {
    type ControlStream = ReceiverStream<Result<pb::CoordinatorMessage, Status>>;

    async fn control(
        &self,
        request: Request<Streaming<pb::WorkerMessage>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let mut stream = request.into_inner();
        let WorkerMessage::Hello(hello) = first_message(&mut stream).await?.try_into()? else {
            return Err(Status::invalid_argument("the first message of a worker is its hello"));
        };
        let conn = ConnId(self.stream_number());
        let (sender, outgoing) = mpsc::channel(OUTGOING_MAX);
        send(&self.driver, Input::WorkerConnected { conn, sender, hello }).await?;
        tokio::spawn(forward_worker(conn, stream, self.driver.clone()));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    type GetPartitionStream = transfer::ChunkStream<pb::Chunk>;

    async fn get_partition(
        &self,
        request: Request<pb::GetPartitionRequest>,
    ) -> Result<Response<Self::GetPartitionStream>, Status> {
        let shard = request.into_inner().verify_checksum()?.shard;
        let (pixels, digest) = self
            .served
            .partitions
            .get(shard as usize)
            .cloned()
            .ok_or_else(|| Status::not_found(format!("no shard {shard}")))?;
        Ok(transfer::answer(transfer::split(pixels, digest)))
    }

    type GetCheckpointStream = transfer::ChunkStream<pb::Chunk>;

    async fn get_checkpoint(
        &self,
        request: Request<pb::GetCheckpointRequest>,
    ) -> Result<Response<Self::GetCheckpointStream>, Status> {
        let step: Step = request.into_inner().step;
        let served = Arc::clone(&self.served);
        // Reading and verifying a file would block the network's one thread.
        let loaded = spawn_blocking(move || served.checkpoints.load(step)).await;
        let checkpoint: VerifiedCheckpoint = match loaded.map_err(internal)? {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                send(&self.driver, Input::CheckpointUnreadable(step)).await?;
                return Err(Status::not_found(error.to_string()));
            }
        };
        let digest = checkpoint.manifest().file_digest;
        let state = Bytes::copy_from_slice(checkpoint.state());
        Ok(transfer::answer(transfer::split(state, digest)))
    }

    async fn put_snapshot(
        &self,
        request: Request<Streaming<pb::PutSnapshotRequest>>,
    ) -> Result<Response<pb::PutSnapshotResponse>, Status> {
        let (step, bytes) = receive_snapshot(request.into_inner()).await?;
        // The digest is computed from what has arrived, not taken from what the worker claims.
        let digested =
            spawn_blocking(move || state_file::digest_of(&bytes).map(|digest| (digest, bytes)))
                .await
                .map_err(internal)?;
        let (digest, bytes) =
            digested.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let event = Event::Snapshot { step, digest, bytes: Arc::new(bytes) };
        send(&self.driver, Input::Machine(event)).await?;
        Ok(Response::new(pb::PutSnapshotResponse {}))
    }

    async fn get_status(
        &self,
        _: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::Status>, Status> {
        let (reply, status) = oneshot::channel();
        send(&self.driver, Input::StatusRequested(reply)).await?;
        let status = status.await.map_err(|_| ending())?;
        Ok(Response::new(status))
    }

    async fn act(
        &self,
        request: Request<pb::ActRequest>,
    ) -> Result<Response<pb::ActResponse>, Status> {
        let Some(kind) = request.into_inner().kind else {
            return Err(Status::invalid_argument("nothing to do"));
        };
        let event = match kind {
            pb::act_request::Kind::Stop(pb::Stop {}) => Event::Stop(Stop::Finish),
            pb::act_request::Kind::Checkpoint(pb::TakeCheckpoint {}) => Event::Checkpoint,
            pb::act_request::Kind::Drain(pb::Drain { name }) => Event::Drain(name),
        };
        send(&self.driver, Input::Machine(event)).await?;
        Ok(Response::new(pb::ActResponse {}))
    }

    type FollowStream = ReceiverStream<Result<pb::GeneratorSnapshot, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<pb::FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let mut stream = request.into_inner();
        let request = first_message(&mut stream).await?.verify_checksum()?;
        let Some(pb::follow_request::Kind::Following(pb::Following { page })) = request.kind else {
            return Err(Status::invalid_argument(
                "the first message of a sampler says where its page is",
            ));
        };
        let sampler = SamplerId(self.stream_number());
        let (sender, outgoing) = mpsc::channel(SNAPSHOTS_MAX);
        send(&self.driver, Input::SamplerConnected { sampler, page, sender }).await?;
        tokio::spawn(forward_sampler(sampler, stream, self.driver.clone()));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// Sends an input to the driver. Waits while its channel is full.
async fn send(driver: &mpsc::Sender<Input>, input: Input) -> Result<(), Status> {
    driver.send(input).await.map_err(|_| ending())
}

fn ending() -> Status {
    Status::unavailable("the coordinator is ending")
}

fn internal(error: tokio::task::JoinError) -> Status {
    Status::internal(error.to_string())
}

/// Receives the first message of a stream.
async fn first_message<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    let message = tokio::time::timeout(HELLO_MAX, stream.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the first message did not come in time"))??;
    message.ok_or_else(|| Status::invalid_argument("an empty stream"))
}

/// Receives a snapshot: its step, and its state as a safetensors file.
async fn receive_snapshot(
    mut stream: Streaming<pb::PutSnapshotRequest>,
) -> Result<(Step, Vec<u8>), Status> {
    let mut assembler = transfer::ChunkAssembler::new(SNAPSHOT_BYTES_MAX);
    let mut snapshot_step: Option<Step> = None;
    while let Some(pb::PutSnapshotRequest { step, chunk }) = transfer::next(&mut stream).await? {
        if *snapshot_step.get_or_insert(step) != step {
            return Err(Status::invalid_argument("chunks of different steps"));
        }
        assembler.push(&chunk.unwrap_or_default())?;
    }
    let step = snapshot_step.ok_or_else(|| Status::invalid_argument("an empty stream"))?;
    Ok((step, assembler.finish()?))
}

/// Forwards the messages of a worker to the driver, and then the end of its stream.
async fn forward_worker(
    conn: ConnId,
    stream: Streaming<pb::WorkerMessage>,
    driver: mpsc::Sender<Input>,
) {
    let error = forward_messages(conn, stream, &driver).await.err();
    tracing::debug!(
        event = "stream_ended",
        conn = conn.0,
        ?error,
        "a control stream ended: {error:?}"
    );
    // The driver is gone if the coordinator is ending.
    let _ = driver.send(Input::Machine(Event::Closed(conn))).await;
}

/// Forwards the messages of a worker until its stream ends.
async fn forward_messages(
    conn: ConnId,
    mut stream: Streaming<pb::WorkerMessage>,
    driver: &mpsc::Sender<Input>,
) -> Result<(), Status> {
    while let Some(message) = stream.message().await? {
        let event = match WorkerMessage::try_from(message)? {
            WorkerMessage::Hello(_) => return Err(Status::invalid_argument("a second hello")),
            WorkerMessage::Heartbeat => Event::Heartbeat(conn),
            WorkerMessage::Message(message) => Event::Message(conn, message),
        };
        send(driver, Input::Machine(event)).await?;
    }
    Ok(())
}

/// Forwards the grids of a sampler to the driver, and then the end of its stream.
async fn forward_sampler(
    sampler: SamplerId,
    mut stream: Streaming<pb::FollowRequest>,
    driver: mpsc::Sender<Input>,
) {
    while let Ok(Some(message)) = stream.message().await {
        let kind = message.verify_checksum().ok().and_then(|message| message.kind);
        // Anything but an intact grid ends the stream. The sampler connects again.
        let Some(pb::follow_request::Kind::Grid(pb::Grid { step, png })) = kind else {
            break;
        };
        if driver.send(Input::GridDrawn { step, png }).await.is_err() {
            return;
        }
    }
    // The driver is gone if the coordinator is ending.
    let _ = driver.send(Input::SamplerClosed(sampler)).await;
}
