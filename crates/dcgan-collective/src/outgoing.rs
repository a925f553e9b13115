//! The streams from this member to the other members of its plan.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dcgan_core::ids::{Rank, RunId};
use dcgan_core::protocol::plan::Plan;
use dcgan_core::protocol::worker::ReduceFrame;
use dcgan_rpc::net::{Address, Connector, InvalidAddress, Peer};
use dcgan_rpc::pb::collective_client::CollectiveClient;
use dcgan_rpc::{ExchangeMessage, Opening, pb};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_stream::{Stream, StreamExt};

use crate::{Event, Events};

/// How long a superseded stream has to deliver its last message before it is cut.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// One stream to each other member of a plan.
///
/// Dropping the streams tells the other members that this one follows a newer plan.
pub struct Streams {
    runtime: Handle,
    links: BTreeMap<Rank, Link>,
}

/// The stream to one member.
struct Link {
    /// Messages that are not sent yet. The channel has no bound, but the protocol has: a member is
    /// at most one phase ahead of the others, so at most the buckets of two phases wait here.
    queue: mpsc::UnboundedSender<ExchangeMessage>,
    task: JoinHandle<()>,
}

impl Streams {
    /// Opens a stream to every member of `plan` except `me`, on the runtime's threads.
    ///
    /// Returns at once. A stream that cannot be opened, or breaks later, becomes the event
    /// [`Event::StreamBroken`].
    pub fn open(
        runtime: &Handle,
        connector: &Connector,
        run: RunId,
        plan: &Arc<Plan>,
        me: Rank,
        events: &Events,
    ) -> Self {
        let mut links = BTreeMap::new();
        for peer in plan.ranks().filter(|&rank| rank != me) {
            let (queue, queued) = mpsc::unbounded_channel();
            let Some(to) = plan.member(peer).map(|member| member.id.clone()) else {
                continue;
            };
            let opening = Opening { run, plan: Arc::clone(plan), from: me, to };
            let messages = tokio_stream::once(ExchangeMessage::Opening(opening))
                .chain(UnboundedReceiverStream::new(queued));
            let link =
                run_link(connector.clone(), Arc::clone(plan), peer, messages, events.clone());
            let task = runtime.spawn(link);
            links.insert(peer, Link { queue, task });
        }
        Self { runtime: runtime.clone(), links }
    }

    /// Queues a frame for the member with the rank `to`. A frame for a broken stream is dropped:
    /// the event that tells of the break has been sent.
    pub fn send(&self, to: Rank, frame: ReduceFrame) {
        if let Some(link) = self.links.get(&to) {
            let _ = link.queue.send(ExchangeMessage::ReduceFrame(frame));
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        for Link { queue, mut task } in std::mem::take(&mut self.links).into_values() {
            let _ = queue.send(ExchangeMessage::Superseded);
            // A member that does not read would keep its stream, and the buckets in it, for ever.
            self.runtime.spawn(async move {
                if tokio::time::timeout(FAREWELL_MAX, &mut task).await.is_err() {
                    task.abort();
                }
            });
        }
    }
}

/// Runs the stream to one member, and reports if it breaks.
async fn run_link(
    connector: Connector,
    plan: Arc<Plan>,
    peer: Rank,
    messages: impl Stream<Item = ExchangeMessage> + Send + 'static,
    events: Events,
) {
    if let Err(why) = exchange(&connector, &plan, peer, messages).await {
        let generation = plan.generation;
        tracing::debug!(
            event = "stream_broken",
            generation = generation.0,
            rank = peer.0,
            why,
            "the stream to rank {peer} of generation {generation} broke: {why}"
        );
        // If there is no receiver, the worker is ending and needs no event.
        let _ = events.send(Event::StreamBroken(generation, peer)).await;
    }
}

/// Sends the messages to one member, until it has confirmed the last one.
async fn exchange(
    connector: &Connector,
    plan: &Plan,
    peer: Rank,
    messages: impl Stream<Item = ExchangeMessage> + Send + 'static,
) -> Result<(), String> {
    let member = plan.member(peer).ok_or("there is no such member")?;
    let address: Address =
        member.address.parse().map_err(|error: InvalidAddress| error.to_string())?;
    let peer = Peer::Worker(member.id.name.clone());
    let channel = connector.connect(&address, &peer).await.map_err(|error| error.to_string())?;
    // Each message is encoded and hashed when it is sent, on a thread of the network: the driver,
    // which queues it, has no time for that.
    let encoded = messages.map(|message| pb::ExchangeMessage::from(&message));
    match CollectiveClient::new(channel).exchange(encoded).await {
        Ok(_) => Ok(()),
        Err(status) => Err(format!("{peer} at {address}: {}", status.message())),
    }
}
