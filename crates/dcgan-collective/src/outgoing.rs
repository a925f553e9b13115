//! The streams of one plan to its other members.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dcgan_core::ids::{Rank, RunId};
use dcgan_core::protocol::plan::Plan;
use dcgan_core::protocol::worker::ReduceFrame;
use dcgan_rpc::net::{self, Address};
use dcgan_rpc::pb::collective_client::CollectiveClient;
use dcgan_rpc::{ExchangeMessage, Opening, pb};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_stream::{Stream, StreamExt};

use crate::{Event, Events};

/// A superseded stream that has not sent its last word by then is cut.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// One stream to each other member of a plan. Dropping it says that a newer plan is followed.
pub struct Streams {
    runtime: Handle,
    links: BTreeMap<Rank, Link>,
}

struct Link {
    /// Not bounded by a channel but by the protocol: a member is at most one phase ahead, so at most the parts of two
    /// phases wait here.
    queue: mpsc::UnboundedSender<ExchangeMessage>,
    task: JoinHandle<()>,
}

impl Streams {
    /// Opens a stream to every member of `plan` but `me`. What breaks is told to `events`.
    pub fn open(runtime: &Handle, run: RunId, plan: &Arc<Plan>, me: Rank, events: &Events) -> Self {
        let others = plan.ranks().filter(|&rank| rank != me);
        let link = |peer| {
            let (queue, waiting) = mpsc::unbounded_channel();
            let opening =
                ExchangeMessage::Opening(Opening { run, plan: Arc::clone(plan), from: me });
            let messages = tokio_stream::once(opening).chain(UnboundedReceiverStream::new(waiting));
            let (plan, events) = (Arc::clone(plan), events.clone());
            let task = runtime.spawn(async move {
                if let Err(why) = exchange(&plan, peer, messages).await {
                    tracing::debug!(
                        generation = plan.generation.0,
                        rank = peer.0,
                        why,
                        "a stream to a member broke"
                    );
                    // Nobody hears it: the worker is ending.
                    let _ = events.send(Event::StreamBroken(plan.generation, peer)).await;
                }
            });
            (peer, Link { queue, task })
        };
        Self { runtime: runtime.clone(), links: others.map(link).collect() }
    }

    /// Sends a frame to a member. If its stream is broken, that was told as an event.
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
            self.runtime.spawn(async move {
                if tokio::time::timeout(FAREWELL_MAX, &mut task).await.is_err() {
                    task.abort();
                }
            });
        }
    }
}

/// Sends messages until the peer has heard the last one.
async fn exchange(
    plan: &Plan,
    peer: Rank,
    messages: impl Stream<Item = ExchangeMessage> + Send + 'static,
) -> Result<(), String> {
    let member = plan.member(peer).ok_or("there is no such member")?;
    let address: Address =
        member.address.parse().map_err(|error: net::InvalidAddress| error.to_string())?;
    let channel = net::connect(&address).await.map_err(|error| error.to_string())?;
    // Encoded as they go, on a thread of the network.
    let messages = messages.map(|message| pb::ExchangeMessage::from(&message));
    let answer = CollectiveClient::new(channel).exchange(messages).await;
    answer.map(|_| ()).map_err(|status| format!("{address}: {}", status.message()))
}
