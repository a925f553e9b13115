//! What a member answers to others.

use std::time::Duration;

use dcgan_core::ids::Generation;
use dcgan_core::state::digest;
use dcgan_rpc::pb::collective_server::{Collective, CollectiveServer};
use dcgan_rpc::{Checksummed, ExchangeMessage, Opening, pb, transfer};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

use crate::{Event, Events, Offer, RunCell};

/// A driver that takes longer than this to find a state has other troubles.
const OFFER_MAX: Duration = Duration::from_secs(5);

/// The service; what arrives goes to `events`.
pub fn service(run: RunCell, events: Events) -> CollectiveServer<impl Collective> {
    CollectiveServer::new(Service { run, events })
}

struct Service {
    run: RunCell,
    events: Events,
}

#[tonic::async_trait]
impl Collective for Service {
    async fn exchange(
        &self,
        request: Request<Streaming<pb::ExchangeMessage>>,
    ) -> Result<Response<pb::ExchangeResponse>, Status> {
        let mut stream = request.into_inner();
        let first = transfer::next(&mut stream)
            .await?
            .ok_or_else(|| Status::invalid_argument("an empty stream"))?;
        let ExchangeMessage::Opening(opening) = ExchangeMessage::from_wire(first, Generation(0))?
        else {
            return Err(Status::invalid_argument("the first message of a stream is its opening"));
        };
        self.check_run(opening.run.0)?;
        let Opening { plan, from, .. } = opening;
        let generation = plan.generation;
        self.tell(Event::PeerPlan(plan)).await?;
        loop {
            // No deadline: a member may compute for long. One that is gone is noticed by pings and by its heartbeats.
            let message = match stream.message().await {
                Ok(Some(message)) => {
                    ExchangeMessage::from_wire(message, generation).map_err(Status::from)
                }
                // A reset of the stream looks like its end. Only who says so has ended it.
                Ok(None) => Err(Status::cancelled("the stream ended without a word")),
                Err(status) => Err(status),
            };
            match message {
                Ok(ExchangeMessage::ReduceFrame(frame)) => {
                    self.tell(Event::ReduceFrame(from, frame)).await?
                }
                Ok(ExchangeMessage::Superseded) => {
                    return Ok(Response::new(pb::ExchangeResponse {}));
                }
                Ok(ExchangeMessage::Opening(_)) => {
                    return Err(Status::invalid_argument("a second opening"));
                }
                Err(status) => {
                    tracing::debug!(generation = generation.0, rank = from.0, %status, "a member's stream broke");
                    self.tell(Event::StreamBroken(generation, from)).await?;
                    return Err(status);
                }
            }
        }
    }

    type CopyStateStream = transfer::ChunkStream<pb::CopyStateResponse>;

    async fn copy_state(
        &self,
        request: Request<pb::CopyStateRequest>,
    ) -> Result<Response<Self::CopyStateStream>, Status> {
        let pb::CopyStateRequest { run, state } = request.into_inner();
        self.check_run(run)?;
        let state = state
            .ok_or_else(|| Status::invalid_argument("a request without a state"))?
            .try_into()?;
        let (reply, offer) = oneshot::channel();
        self.tell(Event::CopyAsked(state, reply)).await?;
        let offer = tokio::time::timeout(OFFER_MAX, offer).await;
        let Offer { state, reports } = offer
            .map_err(|_| Status::deadline_exceeded("the worker is too busy to give a copy"))?
            .map_err(|_| Status::not_found("the worker does not hold this state"))?;
        let digest = digest::of_bytes(&state);
        let mut reports: Vec<pb::StepDone> = reports.into_iter().map(Into::into).collect();
        Ok(transfer::answer(transfer::split(state, digest).map(move |chunk| {
            let reports = std::mem::take(&mut reports);
            pb::CopyStateResponse { reports, chunk: Some(chunk), checksum: 0 }.with_checksum()
        })))
    }
}

impl Service {
    fn check_run(&self, theirs: u64) -> Result<(), Status> {
        match self.run.get() {
            None => Err(Status::unavailable("this worker has not heard from the coordinator yet")),
            Some(ours) if ours.0 != theirs => {
                Err(Status::failed_precondition("this worker belongs to another run"))
            }
            Some(_) => Ok(()),
        }
    }

    async fn tell(&self, event: Event) -> Result<(), Status> {
        self.events.send(event).await.map_err(|_| Status::unavailable("this worker is ending"))
    }
}
