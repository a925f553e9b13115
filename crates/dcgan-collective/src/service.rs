//! The service that a worker offers to the other members of its plan.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dcgan_core::ids::{Generation, Rank, RunId, WorkerId};
use dcgan_core::protocol::worker::ReduceFrame;
use dcgan_core::state::digest;
use dcgan_core::words::worker;
use dcgan_rpc::net::OpenRequest;
use dcgan_rpc::pb::collective_server::{Collective, CollectiveServer};
use dcgan_rpc::{
    Caller, Checksummed, ExchangeMessage, Opening, Throttle, is_senders_fault, pb, transfer,
};
use tokio::sync::{Semaphore, oneshot};
use tonic::{Request, Response, Status, Streaming};

use crate::{Event, Events, Membership, Offer};

/// How long the driver has to answer a request for a copy. It answers between two events, within
/// milliseconds; a driver that takes longer is stuck.
const OFFER_MAX: Duration = Duration::from_secs(5);
/// Copies that a worker gives at a time. Others wait. Each takes the memory of a state, 6 MB.
const COPIES_MAX: usize = 4;

/// Creates the service of the worker `id`. Whatever arrives goes to `events`.
pub fn service(
    id: WorkerId,
    membership: Arc<Membership>,
    events: Events,
) -> CollectiveServer<impl Collective> {
    let copies = Arc::new(Semaphore::new(COPIES_MAX));
    CollectiveServer::new(Service { id, membership, events, copies })
}

struct Service {
    id: WorkerId,
    membership: Arc<Membership>,
    events: Events,
    /// Held by each copy that is being given.
    copies: Arc<Semaphore>,
}

#[tonic::async_trait]
impl Collective for Service {
    async fn exchange(
        &self,
        request: Request<Streaming<pb::ExchangeMessage>>,
    ) -> Result<Response<pb::ExchangeResponse>, Status> {
        let open = OpenRequest::of(&request);
        let mut stream = request.into_inner();
        let run = self.run()?;
        let Opening { plan, from, to, .. } = receive_opening(&mut stream, run).await?;
        self.check_meant(&to)?;
        let generation = plan.generation;
        let name = plan.member(from).map_or_else(String::new, |member| member.id.to_string());
        self.send_event(Event::PeerPlan(Arc::clone(&plan))).await?;
        // Anybody can invent a plan. The stream may stay, and its end matters, only while this
        // worker follows the plan as well.
        let mut followed = self.membership.plan.subscribe();
        followed.mark_changed();
        let mut is_followed = false;
        loop {
            let frame = tokio::select! {
                frame = receive_frame(&mut stream, generation) => frame,
                Ok(()) = followed.changed() => {
                    let newest = followed.borrow_and_update().clone();
                    if newest.as_ref().is_some_and(|newest| newest.generation > generation) {
                        return Ok(Response::new(pb::ExchangeResponse {}));
                    }
                    is_followed = newest.as_ref() == Some(&plan);
                    if is_followed {
                        open.keep();
                    }
                    continue;
                }
            };
            match frame {
                Ok(Some(frame)) => self.send_event(Event::ReduceFrame(from, frame)).await?,
                Ok(None) => return Ok(Response::new(pb::ExchangeResponse {})),
                Err(status) => {
                    log_broken(generation, from, &name, open.peer(), &status);
                    if is_followed {
                        self.send_event(Event::StreamBroken(generation, from)).await?;
                    }
                    return Err(status);
                }
            }
        }
    }

    async fn probe(
        &self,
        request: Request<pb::ProbeRequest>,
    ) -> Result<Response<pb::ProbeResponse>, Status> {
        let run = self.run()?;
        Caller::receive(request.into_inner().caller, run)?;
        Ok(Response::new(pb::ProbeResponse { run: run.0, id: Some(self.id.clone().into()) }))
    }

    type CopyStateStream = transfer::ChunkStream<pb::CopyStateResponse>;

    async fn copy_state(
        &self,
        request: Request<pb::CopyStateRequest>,
    ) -> Result<Response<Self::CopyStateStream>, Status> {
        // Ask the driver for the state.
        let pb::CopyStateRequest { state, caller, to } = request.into_inner();
        let Caller { who, .. } = Caller::receive(caller, self.run()?)?;
        let to: WorkerId = to
            .ok_or_else(|| Status::invalid_argument("a request that does not say who is meant"))?
            .try_into()?;
        self.check_meant(&to)?;
        let copy = Arc::clone(&self.copies).acquire_owned().await;
        let copy = copy.map_err(|_| Status::unavailable("this worker is ending"))?;
        let wanted = state.map(TryInto::try_into).transpose()?;
        let (reply, offered) = oneshot::channel();
        self.send_event(Event::CopyAsked(wanted, reply)).await?;
        let Offer { at, state, reports } = tokio::time::timeout(OFFER_MAX, offered)
            .await
            .map_err(|_| Status::deadline_exceeded("the worker is too busy to give a copy"))?
            .map_err(|_| Status::not_found("the worker does not hold this state"))?;

        tracing::debug!(event = "copy_sent", by = %who, "{who} copies this worker's state");

        // Send it in chunks. The reports and the state's identity go with the first.
        let digest = digest::of_bytes(&state);
        let mut at = Some(at.into());
        let mut reports: Vec<pb::StepDone> = reports.into_iter().map(Into::into).collect();
        Ok(transfer::answer(transfer::split(state, digest).map(move |chunk| {
            // It is held until the answer is sent or given up.
            let _copy = &copy;
            let (reports, state) = (std::mem::take(&mut reports), at.take());
            pb::CopyStateResponse { reports, chunk: Some(chunk), checksum: 0, state }
                .with_checksum()
        })))
    }
}

impl Service {
    /// The run of this worker. Before the first welcome it belongs to none, and refuses everybody.
    fn run(&self) -> Result<RunId, Status> {
        let not_yet = || Status::unavailable("this worker has not heard from the coordinator yet");
        self.membership.run.get().copied().ok_or_else(not_yet)
    }

    /// Checks that a peer means this worker, and has not been given the address of another one.
    fn check_meant(&self, to: &WorkerId) -> Result<(), Status> {
        if *to == self.id {
            return Ok(());
        }
        let to = worker(&to.name);
        Err(Status::failed_precondition(format!("{to} is meant, and this is {}", self.id)))
    }

    /// Waits until the channel has room for the event: the member that sent it waits as well.
    async fn send_event(&self, event: Event) -> Result<(), Status> {
        self.events.send(event).await.map_err(|_| Status::unavailable("this worker is ending"))
    }
}

/// Receives the first message of a stream to a worker of `run`.
async fn receive_opening(
    stream: &mut Streaming<pb::ExchangeMessage>,
    run: RunId,
) -> Result<Opening, Status> {
    let first = transfer::next(stream).await?;
    let message = first.ok_or_else(|| Status::invalid_argument("an empty stream"))?;
    Opening::receive(message, run)
}

/// Receives the next frame of a stream; `None` if the sender follows a newer plan.
///
/// There is no deadline: a member may compute for long between two frames. A member that is gone is
/// noticed by the pings of the connection and by the coordinator.
async fn receive_frame(
    stream: &mut Streaming<pb::ExchangeMessage>,
    generation: Generation,
) -> Result<Option<ReduceFrame>, Status> {
    let Some(message) = stream.message().await? else {
        // A stream that is reset, as by a crash, can look like one that has ended. Only the message
        // `Superseded` ends a stream in order.
        return Err(Status::cancelled("the stream ended without a last message"));
    };
    match ExchangeMessage::from_wire(message, generation)? {
        ExchangeMessage::ReduceFrame(frame) => Ok(Some(frame)),
        ExchangeMessage::Superseded => Ok(None),
        ExchangeMessage::Opening(_) => Err(Status::invalid_argument("a second opening")),
    }
}

fn log_broken(generation: Generation, from: Rank, name: &str, peer: SocketAddr, status: &Status) {
    static THROTTLE: Throttle = Throttle::new();
    let why = status.message();
    if !is_senders_fault(status) {
        tracing::debug!(
            event = "stream_broken",
            generation = generation.0,
            rank = from.0,
            %status,
            "the stream from rank {from} of generation {generation} broke: {why}"
        );
    } else if let Some(more) = THROTTLE.pass() {
        tracing::warn!(
            event = "stream_closed",
            worker = name,
            %peer,
            why,
            more,
            "closing the stream of {} at {peer}: {why} ({more} more were closed)",
            worker(name)
        );
    }
}
