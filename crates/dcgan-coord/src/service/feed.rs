//! The service for samplers.

use dcgan_rpc::pb::feed_server::Feed;
use dcgan_rpc::{Checksummed, pb};
use pb::follow_request::Kind;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Service, first_message};
use crate::input::{Input, SamplerId};

/// Generators that wait for one sampler to read them, 1.3 MB each.
const SNAPSHOTS_MAX: usize = 4;
/// The most characters of a sampler's reason that get into the log. The rest is cut off.
const WHY_CHARS_MAX: usize = 256;

#[tonic::async_trait]
impl Feed for Service {
    type FollowStream = ReceiverStream<Result<pb::GeneratorSnapshot, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<pb::FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let mut stream = request.into_inner();
        let request = first_message(&mut stream).await?.verify_checksum()?;
        let Some(Kind::Following(pb::Following { page, caller })) = request.kind else {
            return Err(Status::invalid_argument(
                "the first message of a sampler says where its page is",
            ));
        };
        let who = self.receive(caller)?;
        tracing::debug!(event = "sampler_connected", by = %who, "{who} follows the run");
        let sampler = SamplerId(self.stream_number());
        let (sender, outgoing) = mpsc::channel(SNAPSHOTS_MAX);
        self.send(Input::SamplerConnected { sampler, page, sender }).await?;
        tokio::spawn(forward_sampler(self.clone(), sampler, stream));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// Forwards the grids of a sampler to the driver, and then the end of its stream.
async fn forward_sampler(
    service: Service,
    sampler: SamplerId,
    mut stream: Streaming<pb::FollowRequest>,
) {
    while let Ok(Some(message)) = stream.message().await {
        let kind = message.verify_checksum().ok().and_then(|message| message.kind);
        let input = match kind {
            Some(Kind::Grid(pb::Grid { step, png })) => Input::GridDrawn { step, png },
            Some(Kind::CannotDraw(pb::CannotDraw { step, why })) => {
                let why = why.chars().take(WHY_CHARS_MAX).collect();
                Input::GridNotDrawn { step, why }
            }
            // Anything but an intact answer ends the stream. The sampler connects again.
            _ => break,
        };
        if service.send(input).await.is_err() {
            return;
        }
    }
    // The driver is gone if the coordinator is ending.
    let _ = service.send(Input::SamplerClosed(sampler)).await;
}
