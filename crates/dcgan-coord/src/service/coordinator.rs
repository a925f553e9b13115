//! The service for workers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dcgan_core::ids::{Digest, Step};
use dcgan_core::protocol::coordinator::{ConnId, Event};
use dcgan_core::words::worker;
use dcgan_rpc::net::OpenRequest;
use dcgan_rpc::pb::coordinator_server::Coordinator;
use dcgan_rpc::{Checksummed, Throttle, WorkerMessage, is_senders_fault, pb, transfer};
use dcgan_store::state_file;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Service, first_message};
use crate::input::{Dropped, Input, Link};
use crate::newest_checkpoint::Loaded;

/// Messages that wait for one worker to read them. The driver drops a worker whose stream is full.
const OUTGOING_MAX: usize = 64;
/// A control stream that has ended is cut if the worker has not read its last messages by then.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

#[tonic::async_trait]
impl Coordinator for Service {
    type ControlStream = ReceiverStream<Result<pb::CoordinatorMessage, Status>>;

    async fn control(
        &self,
        request: Request<Streaming<pb::WorkerMessage>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let metrics = self.0.served.metrics;
        let open = OpenRequest::of(&request);
        let mut stream = request.into_inner();
        let first = first_message(&mut stream).await?;
        let WorkerMessage::Hello(hello) = WorkerMessage::from_wire(first, metrics)? else {
            return Err(Status::invalid_argument("the first message of a worker is its hello"));
        };
        let conn = ConnId(self.stream_number());
        let (outgoing, queued) = mpsc::channel(OUTGOING_MAX);
        let reader = WorkerReader {
            service: self.clone(),
            conn,
            name: hello.id.to_string(),
            open,
            outgoing: outgoing.downgrade(),
        };
        let (sender, dropped) = Link::new(outgoing);
        self.0.served.workers.connect(conn, hello.id.clone());
        self.send(Input::WorkerConnected { conn, sender, hello }).await?;
        // The machine decides whether the worker stays.
        reader.open.keep();
        tokio::spawn(reader.run(stream, dropped));
        Ok(Response::new(ReceiverStream::new(queued)))
    }

    type GetPartitionStream = transfer::ChunkStream<pb::Chunk>;

    async fn get_partition(
        &self,
        request: Request<pb::GetPartitionRequest>,
    ) -> Result<Response<Self::GetPartitionStream>, Status> {
        let open = OpenRequest::of(&request);
        let pb::GetPartitionRequest { shard, caller, .. } =
            request.into_inner().verify_checksum()?;
        let who = self.receive(caller)?;
        let permit = self.0.served.workers.begin_transfer(&who).await?;
        tracing::debug!(event = "partition_sent", by = %who, shard, "{who} fetches shard {shard}");
        let (pixels, digest) = self
            .0
            .served
            .partitions
            .get(shard as usize)
            .cloned()
            .ok_or_else(|| Status::not_found(format!("no shard {shard}")))?;
        open.end_within(transfer::time_max(pixels.len()));
        Ok(answer(pixels, digest, permit))
    }

    type GetCheckpointStream = transfer::ChunkStream<pb::Chunk>;

    async fn get_checkpoint(
        &self,
        request: Request<pb::GetCheckpointRequest>,
    ) -> Result<Response<Self::GetCheckpointStream>, Status> {
        let open = OpenRequest::of(&request);
        let pb::GetCheckpointRequest { step, caller } = request.into_inner();
        let who = self.receive(caller)?;
        let permit = self.0.served.workers.begin_transfer(&who).await?;
        tracing::debug!(
            event = "checkpoint_sent",
            by = %who,
            step,
            "{who} fetches the checkpoint of step {step}"
        );
        // A worker that belongs to no run yet fetches what the run begins with.
        if step == 0
            && let Some((weights, digest)) = self.0.served.initial_weights.clone()
        {
            open.end_within(transfer::time_max(weights.len()));
            return Ok(answer(weights, digest, permit));
        }
        let Loaded { state, digest, .. } = match self.0.served.newest.get(step).await {
            Ok(loaded) => loaded,
            Err(error) => {
                self.send(Input::CheckpointUnreadable(step)).await?;
                return Err(Status::not_found(error.to_string()));
            }
        };
        open.end_within(transfer::time_max(state.len()));
        Ok(answer(state, digest, permit))
    }

    async fn put_snapshot(
        &self,
        request: Request<Streaming<pb::PutSnapshotRequest>>,
    ) -> Result<Response<pb::PutSnapshotResponse>, Status> {
        let open = OpenRequest::of(&request);
        let mut stream = request.into_inner();

        // The first message says whose snapshot it is, and how large. Nothing is received before it
        // is known that somebody wants it.
        let first = transfer::next(&mut stream).await?;
        let first = first.ok_or_else(|| Status::invalid_argument("an empty stream"))?;
        let pb::PutSnapshotRequest { step, chunk, caller } = first;
        let (chunk, who) = (chunk.unwrap_or_default(), self.receive(caller)?);
        let workers = &self.0.served.workers;
        workers.accept_snapshot(&who, step)?;
        let _permit = workers.begin_transfer(&who).await?;
        tracing::debug!(
            event = "snapshot_received",
            by = %who,
            step,
            "{who} sends the snapshot of step {step}"
        );

        // Receive it.
        let bytes_max = workers.snapshot_bytes_max();
        let room = self.room(bytes_max.min(chunk.total_bytes as usize)).await?;
        open.end_within(2 * transfer::time_max(bytes_max));
        let bytes =
            transfer::in_time(bytes_max, receive_snapshot(&mut stream, step, &chunk, bytes_max))
                .await?;

        // The digest is computed from what has arrived, not taken from what the worker claims.
        let digested =
            spawn_blocking(move || state_file::digest_of(&bytes).map(|digest| (digest, bytes)))
                .await
                .map_err(internal)?;
        let (digest, bytes) =
            digested.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let bytes = Arc::new(bytes);
        self.send(Input::SnapshotArrived { step, digest, bytes, room }).await?;
        Ok(Response::new(pb::PutSnapshotResponse {}))
    }
}

/// Receives the rest of the snapshot that begins with the chunk `first`.
async fn receive_snapshot(
    stream: &mut Streaming<pb::PutSnapshotRequest>,
    step: Step,
    first: &pb::Chunk,
    bytes_max: usize,
) -> Result<Vec<u8>, Status> {
    let mut assembler = transfer::ChunkAssembler::new(bytes_max);
    assembler.push(first)?;
    while let Some(request) = transfer::next(stream).await? {
        if request.step != step {
            return Err(Status::invalid_argument("chunks of different steps"));
        }
        assembler.push(&request.chunk.unwrap_or_default())?;
    }
    Ok(assembler.finish()?)
}

/// Makes a response that streams a file. The permit is free when the answer is sent or given up.
fn answer(
    file: Bytes,
    digest: Digest,
    permit: OwnedSemaphorePermit,
) -> Response<transfer::ChunkStream<pb::Chunk>> {
    transfer::answer(transfer::split(file, digest).inspect(move |_| {
        let _held = &permit;
    }))
}

fn internal(error: tokio::task::JoinError) -> Status {
    Status::internal(error.to_string())
}

/// Reads the control stream of one worker.
struct WorkerReader {
    service: Service,
    conn: ConnId,
    /// The worker, for people.
    name: String,
    open: OpenRequest,
    /// Leads to the worker, as long as the driver wants the stream.
    outgoing: mpsc::WeakSender<Result<pb::CoordinatorMessage, Status>>,
}

impl WorkerReader {
    /// Forwards the messages of the worker to the driver, until the stream ends or the driver drops
    /// it, and then the end.
    async fn run(self, mut stream: Streaming<pb::WorkerMessage>, dropped: Dropped) {
        let ended = tokio::select! {
            ended = self.forward(&mut stream) => ended,
            // A worker that was refused or removed is not read any more, whatever it sends.
            _ = dropped => Ok(()),
        };
        if let Err(status) = ended {
            self.log(&status);
            // The worker hears why, if the driver still wants it.
            if let Some(outgoing) = self.outgoing.upgrade() {
                let _ = outgoing.try_send(Err(status));
            }
        }
        self.service.0.served.workers.disconnect(self.conn);
        // The driver is gone if the coordinator is ending.
        let _ = self.service.send(Input::Machine(Event::Closed(self.conn))).await;
        // A client that does not read would keep the messages that wait for it.
        self.open.end_within(FAREWELL_MAX);
    }

    /// Forwards the messages of the worker until its stream ends.
    async fn forward(&self, stream: &mut Streaming<pb::WorkerMessage>) -> Result<(), Status> {
        let conn = self.conn;
        while let Some(message) = stream.message().await? {
            let event = match WorkerMessage::from_wire(message, self.service.0.served.metrics)? {
                WorkerMessage::Hello(_) => return Err(Status::invalid_argument("a second hello")),
                WorkerMessage::Heartbeat => Event::Heartbeat(conn),
                WorkerMessage::Message(message) => Event::Message(conn, message),
            };
            self.service.send(Input::Machine(event)).await?;
        }
        Ok(())
    }

    fn log(&self, status: &Status) {
        static THROTTLE: Throttle = Throttle::new();
        let (peer, why) = (self.open.peer(), status.message());
        let (name, called) = (&self.name, worker(&self.name));
        if !is_senders_fault(status) {
            tracing::debug!(
                event = "stream_ended",
                conn = self.conn.0,
                why,
                "the control stream of {called} ended: {why}"
            );
        } else if let Some(more) = THROTTLE.pass() {
            tracing::warn!(
                event = "stream_closed",
                worker = name,
                %peer,
                why,
                more,
                "closing the control stream of {called} at {peer}: {why} ({more} more were closed)"
            );
        }
    }
}
