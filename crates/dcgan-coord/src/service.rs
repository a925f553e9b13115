//! What the coordinator answers. Streams become inputs of the driver; partitions and checkpoints are served from here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dcgan_core::ids::{Digest, Step};
use dcgan_core::protocol::coordinator::{ConnId, Event, Stop};
use dcgan_rpc::pb::coordinator_server::{Coordinator, CoordinatorServer};
use dcgan_rpc::{Checksummed, WorkerMessage, pb, transfer};
use dcgan_store::checkpoint::Checkpoints;
use dcgan_store::state_file;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::driver::Input;
use crate::feed::FollowerId;

/// Messages on their way to one worker. One that does not read them is as good as gone.
pub(crate) const OUTGOING_MAX: usize = 64;
/// Generators on their way to a sampler, 1.3 MB each.
pub(crate) const SNAPSHOTS_MAX: usize = 4;
/// A snapshot larger than this is not one of ours.
const SNAPSHOT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Who connects says hello in this time.
const HELLO_MAX: Duration = Duration::from_secs(5);

/// To one worker.
pub(crate) type ToConn = mpsc::Sender<Result<pb::CoordinatorMessage, Status>>;
/// To one sampler.
pub(crate) type ToFollower = mpsc::Sender<Result<pb::GeneratorSnapshot, Status>>;

/// What the service serves without the driver.
pub(crate) struct Served {
    /// The pixels of each shard, with their digest.
    pub(crate) partitions: Vec<(Bytes, Digest)>,
    pub(crate) checkpoints: Checkpoints,
}

/// The service; what arrives goes to `driver`.
pub(crate) fn service(
    served: Served,
    driver: mpsc::Sender<Input>,
) -> CoordinatorServer<impl Coordinator> {
    CoordinatorServer::new(Service { served: Arc::new(served), driver, numbers: AtomicU64::new(1) })
}

struct Service {
    served: Arc<Served>,
    driver: mpsc::Sender<Input>,
    /// Of streams, never used twice.
    numbers: AtomicU64,
}

impl Service {
    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

async fn tell(driver: &mpsc::Sender<Input>, input: Input) -> Result<(), Status> {
    driver.send(input).await.map_err(|_| Status::unavailable("the coordinator is ending"))
}

async fn first<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    let first = tokio::time::timeout(HELLO_MAX, stream.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("nothing came"))??;
    first.ok_or_else(|| Status::invalid_argument("an empty stream"))
}

#[tonic::async_trait]
impl Coordinator for Service {
    type ControlStream = ReceiverStream<Result<pb::CoordinatorMessage, Status>>;

    async fn control(
        &self,
        request: Request<Streaming<pb::WorkerMessage>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let mut stream = request.into_inner();
        let WorkerMessage::Hello(hello) = first(&mut stream).await?.try_into()? else {
            return Err(Status::invalid_argument("the first message of a worker is its hello"));
        };
        let conn = ConnId(self.number());
        let (to_conn, outgoing) = mpsc::channel(OUTGOING_MAX);
        tell(&self.driver, Input::Connected(conn, to_conn, hello)).await?;
        let driver = self.driver.clone();
        tokio::spawn(async move {
            let why = hear(conn, stream, &driver).await.err();
            tracing::debug!(conn = conn.0, ?why, "a control stream ended");
            // Nobody hears it: the coordinator is ending.
            let _ = driver.send(Input::Machine(Event::Closed(conn))).await;
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    type GetPartitionStream = transfer::ChunkStream<pb::Chunk>;

    async fn get_partition(
        &self,
        request: Request<pb::GetPartitionRequest>,
    ) -> Result<Response<Self::GetPartitionStream>, Status> {
        let shard = request.into_inner().verify_checksum()?.shard;
        let partition = self.served.partitions.get(shard as usize);
        let (pixels, digest) =
            partition.cloned().ok_or_else(|| Status::not_found(format!("no shard {shard}")))?;
        Ok(transfer::answer(transfer::split(pixels, digest)))
    }

    type GetCheckpointStream = transfer::ChunkStream<pb::Chunk>;

    async fn get_checkpoint(
        &self,
        request: Request<pb::GetCheckpointRequest>,
    ) -> Result<Response<Self::GetCheckpointStream>, Status> {
        let step: Step = request.into_inner().step;
        let served = Arc::clone(&self.served);
        let loaded = spawn_blocking(move || served.checkpoints.load(step)).await;
        let loaded = loaded.map_err(|error| Status::internal(error.to_string()))?;
        let checkpoint = match loaded {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                tell(&self.driver, Input::Unreadable(step)).await?;
                return Err(Status::not_found(error.to_string()));
            }
        };
        let digest = checkpoint.manifest().file_digest;
        Ok(transfer::answer(transfer::split(Bytes::copy_from_slice(checkpoint.state()), digest)))
    }

    async fn put_snapshot(
        &self,
        request: Request<Streaming<pb::PutSnapshotRequest>>,
    ) -> Result<Response<pb::PutSnapshotResponse>, Status> {
        let mut stream = request.into_inner();
        let mut assembly = transfer::ChunkAssembler::new(SNAPSHOT_BYTES_MAX);
        let mut of_step: Option<Step> = None;
        while let Some(pb::PutSnapshotRequest { step, chunk }) = transfer::next(&mut stream).await?
        {
            if *of_step.get_or_insert(step) != step {
                return Err(Status::invalid_argument("pieces of different steps"));
            }
            assembly.push(&chunk.unwrap_or_default())?;
        }
        let step = of_step.ok_or_else(|| Status::invalid_argument("an empty stream"))?;
        let bytes = assembly.finish()?;
        let read =
            spawn_blocking(move || state_file::digest_of(&bytes).map(|digest| (digest, bytes)))
                .await;
        let read = read.map_err(|error| Status::internal(error.to_string()))?;
        let (digest, bytes) = read.map_err(|error| Status::invalid_argument(error.to_string()))?;
        tell(
            &self.driver,
            Input::Machine(Event::Snapshot { step, digest, bytes: Arc::new(bytes) }),
        )
        .await?;
        Ok(Response::new(pb::PutSnapshotResponse {}))
    }

    async fn get_status(
        &self,
        _: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::Status>, Status> {
        let (reply, status) = oneshot::channel();
        tell(&self.driver, Input::Status(reply)).await?;
        status
            .await
            .map(Response::new)
            .map_err(|_| Status::unavailable("the coordinator is ending"))
    }

    async fn act(
        &self,
        request: Request<pb::ActRequest>,
    ) -> Result<Response<pb::ActResponse>, Status> {
        let kind =
            request.into_inner().kind.ok_or_else(|| Status::invalid_argument("nothing to do"))?;
        let event = match kind {
            pb::act_request::Kind::Stop(pb::Stop {}) => Event::Stop(Stop::Finish),
            pb::act_request::Kind::Checkpoint(pb::TakeCheckpoint {}) => Event::Checkpoint,
            pb::act_request::Kind::Drain(pb::Drain { name }) => Event::Drain(name),
        };
        tell(&self.driver, Input::Machine(event)).await?;
        Ok(Response::new(pb::ActResponse {}))
    }

    type FollowStream = ReceiverStream<Result<pb::GeneratorSnapshot, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<pb::FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let mut stream = request.into_inner();
        let request = first(&mut stream).await?.verify_checksum()?;
        let Some(pb::follow_request::Kind::Following(pb::Following { page })) = request.kind else {
            return Err(Status::invalid_argument(
                "the first message of a sampler says where its page is",
            ));
        };
        let follower = FollowerId(self.number());
        let (to_follower, outgoing) = mpsc::channel(SNAPSHOTS_MAX);
        tell(&self.driver, Input::Follows(follower, page, to_follower)).await?;
        let driver = self.driver.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = stream.message().await {
                let kind = message.verify_checksum().ok().and_then(|message| message.kind);
                let Some(pb::follow_request::Kind::Grid(grid)) = kind else {
                    break;
                };
                if driver.send(Input::Drawn(grid.step, grid.png)).await.is_err() {
                    return;
                }
            }
            let _ = driver.send(Input::Unfollows(follower)).await;
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// Hears a worker until its stream ends.
async fn hear(
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
        tell(driver, Input::Machine(event)).await?;
    }
    Ok(())
}

/// The pixels of every shard; the data set is not needed any more then.
pub(crate) fn partitions(
    dataset: &dcgan_store::dataset::Dataset,
    sharding: &dcgan_core::spec::sharding::Sharding,
) -> Vec<(Bytes, Digest)> {
    let partitions = dataset.partitions(sharding);
    let shards = dcgan_core::spec::shard_ids(sharding.shards());
    let pixels = shards.filter_map(|shard| partitions.pixels(shard));
    pixels.map(|(pixels, digest)| (Bytes::from(pixels), digest)).collect()
}
