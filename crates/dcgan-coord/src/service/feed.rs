//! The service for samplers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dcgan_rpc::net::{Address, OpenRequest};
use dcgan_rpc::pb::feed_server::Feed;
use dcgan_rpc::{Checksummed, Throttle, pb};
use dcgan_store::png::PNG_BYTES_MAX;
use pb::follow_request::Kind;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Service, first_message};
use crate::input::{Input, Link, SamplerId};

/// Samplers that may follow the run. Another one is refused.
pub(super) const FOLLOWERS_MAX: usize = 8;
/// Generators that wait for one sampler to read them, 2.6 MB each. All that wait share their bytes.
const SNAPSHOTS_MAX: usize = 4;
/// The most characters of a sampler's reason that get into the log. The rest is cut off.
const WHY_CHARS_MAX: usize = 256;
/// A sampler whose page has a longer address is refused, in bytes. Names of hosts have 253.
const PAGE_BYTES_MAX: usize = 300;
/// A sampler that was dropped is cut if it has not read its last generators by then.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

#[tonic::async_trait]
impl Feed for Service {
    type FollowStream = ReceiverStream<Result<pb::GeneratorSnapshot, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<pb::FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let open = OpenRequest::of(&request);
        let mut stream = request.into_inner();
        let request = first_message(&mut stream).await?.verify_checksum()?;
        let Some(Kind::Following(pb::Following { page, caller })) = request.kind else {
            return Err(Status::invalid_argument(
                "the first message of a sampler says where its page is",
            ));
        };
        let who = self.receive(caller)?;
        let page = page_address(&page)?;
        let place = Arc::clone(&self.0.followers).try_acquire_owned().map_err(|_| {
            let text = format!("{FOLLOWERS_MAX} samplers follow this run already");
            Status::resource_exhausted(text)
        })?;
        tracing::debug!(event = "sampler_connected", by = %who, "{who} follows the run");
        let sampler = SamplerId(self.stream_number());
        let (outgoing, queued) = mpsc::channel(SNAPSHOTS_MAX);
        let (sender, dropped) = Link::new(outgoing);
        self.send(Input::SamplerConnected { sampler, page, sender }).await?;
        open.keep();
        let service = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = forward_grids(&service, who.to_string(), open.peer(), stream) => {}
                // A sampler that does not read has lost its place.
                _ = dropped => {}
            }
            // The driver is gone if the coordinator is ending.
            let _ = service.send(Input::SamplerClosed(sampler)).await;
            open.end_within(FAREWELL_MAX);
            drop(place);
        });
        Ok(Response::new(ReceiverStream::new(queued)))
    }
}

/// Reads the address of a sampler's page, which people see on their terminal.
fn page_address(page: &str) -> Result<String, Status> {
    match page.parse::<Address>() {
        Ok(address) if page.len() <= PAGE_BYTES_MAX => Ok(address.to_string()),
        _ => Err(Status::invalid_argument("the page of a sampler is at http://HOST:PORT")),
    }
}

/// Forwards the grids of a sampler to the driver, until its stream ends.
async fn forward_grids(
    service: &Service,
    who: String,
    peer: SocketAddr,
    mut stream: Streaming<pb::FollowRequest>,
) {
    while let Ok(Some(message)) = stream.message().await {
        let kind = message.verify_checksum().ok().and_then(|message| message.kind);
        let input = match kind {
            Some(Kind::Grid(pb::Grid { step, png })) if png.len() <= PNG_BYTES_MAX => {
                let Ok(room) = service.room(png.len()).await else {
                    return;
                };
                Input::GridDrawn { step, png, room }
            }
            Some(Kind::CannotDraw(pb::CannotDraw { step, why })) => {
                let why = why.chars().take(WHY_CHARS_MAX).collect();
                Input::GridNotDrawn { step, why }
            }
            // Anything but an intact answer ends the stream. The sampler connects again.
            _ => {
                warn_of_sampler(&who, peer);
                return;
            }
        };
        if service.send(input).await.is_err() {
            return;
        }
    }
}

fn warn_of_sampler(who: &str, peer: SocketAddr) {
    static THROTTLE: Throttle = Throttle::new();
    if let Some(more) = THROTTLE.pass() {
        tracing::warn!(
            event = "sampler_dropped",
            by = who,
            %peer,
            more,
            "closing the stream of {who} at {peer}: it sent something else than a grid ({more} \
             more were closed)"
        );
    }
}
