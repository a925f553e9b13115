//! The service for workers.

use std::sync::Arc;

use bytes::Bytes;
use dcgan_core::ids::Step;
use dcgan_core::protocol::coordinator::{ConnId, Event};
use dcgan_rpc::pb::coordinator_server::Coordinator;
use dcgan_rpc::{Checksummed, WorkerMessage, pb, transfer};
use dcgan_store::checkpoint::VerifiedCheckpoint;
use dcgan_store::state_file;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Service, first_message};
use crate::input::Input;

/// Messages that wait for one worker to read them. The driver drops a worker whose stream is full.
const OUTGOING_MAX: usize = 64;
/// A snapshot that is larger than this is refused. The DCGAN's has 5 MB.
const SNAPSHOT_BYTES_MAX: usize = 64 * 1024 * 1024;

#[tonic::async_trait]
impl Coordinator for Service {
    type ControlStream = ReceiverStream<Result<pb::CoordinatorMessage, Status>>;

    async fn control(
        &self,
        request: Request<Streaming<pb::WorkerMessage>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let metrics = self.0.served.metrics;
        let mut stream = request.into_inner();
        let first = first_message(&mut stream).await?;
        let WorkerMessage::Hello(hello) = WorkerMessage::from_wire(first, metrics)? else {
            return Err(Status::invalid_argument("the first message of a worker is its hello"));
        };
        let conn = ConnId(self.stream_number());
        let (sender, outgoing) = mpsc::channel(OUTGOING_MAX);
        self.send(Input::WorkerConnected { conn, sender, hello }).await?;
        tokio::spawn(forward_worker(self.clone(), conn, stream));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    type GetPartitionStream = transfer::ChunkStream<pb::Chunk>;

    async fn get_partition(
        &self,
        request: Request<pb::GetPartitionRequest>,
    ) -> Result<Response<Self::GetPartitionStream>, Status> {
        let pb::GetPartitionRequest { shard, caller, .. } =
            request.into_inner().verify_checksum()?;
        let who = self.receive(caller)?;
        tracing::debug!(event = "partition_sent", by = %who, shard, "{who} fetches shard {shard}");
        let (pixels, digest) = self
            .0
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
        let pb::GetCheckpointRequest { step, caller } = request.into_inner();
        let who = self.receive(caller)?;
        tracing::debug!(
            event = "checkpoint_sent",
            by = %who,
            step,
            "{who} fetches the checkpoint of step {step}"
        );
        let shared = Arc::clone(&self.0);
        // Reading and verifying a file would block the network's one thread.
        let loaded = spawn_blocking(move || shared.served.checkpoints.load(step)).await;
        let checkpoint: VerifiedCheckpoint = match loaded.map_err(internal)? {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                self.send(Input::CheckpointUnreadable(step)).await?;
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
        let (step, bytes) = self.receive_snapshot(request.into_inner()).await?;
        // The digest is computed from what has arrived, not taken from what the worker claims.
        let digested =
            spawn_blocking(move || state_file::digest_of(&bytes).map(|digest| (digest, bytes)))
                .await
                .map_err(internal)?;
        let (digest, bytes) =
            digested.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let event = Event::Snapshot { step, digest, bytes: Arc::new(bytes) };
        self.send(Input::Machine(event)).await?;
        Ok(Response::new(pb::PutSnapshotResponse {}))
    }
}

impl Service {
    /// Receives a snapshot: its step, and its state as a safetensors file.
    async fn receive_snapshot(
        &self,
        mut stream: Streaming<pb::PutSnapshotRequest>,
    ) -> Result<(Step, Vec<u8>), Status> {
        let mut assembler = transfer::ChunkAssembler::new(SNAPSHOT_BYTES_MAX);
        let mut snapshot_step: Option<Step> = None;
        while let Some(request) = transfer::next(&mut stream).await? {
            let pb::PutSnapshotRequest { step, chunk, caller } = request;
            if snapshot_step.is_none() {
                let who = self.receive(caller)?;
                tracing::debug!(
                    event = "snapshot_received",
                    by = %who,
                    step,
                    "{who} sends the snapshot of step {step}"
                );
            }
            if *snapshot_step.get_or_insert(step) != step {
                return Err(Status::invalid_argument("chunks of different steps"));
            }
            assembler.push(&chunk.unwrap_or_default())?;
        }
        let step = snapshot_step.ok_or_else(|| Status::invalid_argument("an empty stream"))?;
        Ok((step, assembler.finish()?))
    }
}

fn internal(error: tokio::task::JoinError) -> Status {
    Status::internal(error.to_string())
}

/// Forwards the messages of a worker to the driver, and then the end of its stream.
async fn forward_worker(service: Service, conn: ConnId, stream: Streaming<pb::WorkerMessage>) {
    let error = forward_messages(&service, conn, stream).await.err();
    tracing::debug!(
        event = "stream_ended",
        conn = conn.0,
        ?error,
        "a control stream ended: {error:?}"
    );
    // The driver is gone if the coordinator is ending.
    let _ = service.send(Input::Machine(Event::Closed(conn))).await;
}

/// Forwards the messages of a worker until its stream ends.
async fn forward_messages(
    service: &Service,
    conn: ConnId,
    mut stream: Streaming<pb::WorkerMessage>,
) -> Result<(), Status> {
    while let Some(message) = stream.message().await? {
        let event = match WorkerMessage::from_wire(message, service.0.served.metrics)? {
            WorkerMessage::Hello(_) => return Err(Status::invalid_argument("a second hello")),
            WorkerMessage::Heartbeat => Event::Heartbeat(conn),
            WorkerMessage::Message(message) => Event::Message(conn, message),
        };
        service.send(Input::Machine(event)).await?;
    }
    Ok(())
}
