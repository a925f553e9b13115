//! A worker that says hello as it should, and then lies.

use std::time::Duration;

use dcgan_core::ids::{Generation, RunId, WorkerId};
use dcgan_core::protocol::message::{FromWorker, Hello, PROTOCOL};
use dcgan_core::spec::ObjectiveKind;
use dcgan_rpc::pb::coordinator_client::CoordinatorClient;
use dcgan_rpc::{WorkerMessage, pb};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::rng::Rng;
use super::wire::{Run, Wire};
use crate::services::connect;

/// The name under which it joins.
pub(super) const NAME: &str = "liar";
/// The number of times that it joins.
const JOINS: u64 = 6;
/// Messages that it says each time, if it is heard so long.
const MESSAGES: usize = 40;
/// The pause between two of them, so that an answer can come.
const PAUSE: Duration = Duration::from_millis(10);

/// Joins again and again, each time as a new process, and lies until it is sent away.
pub(super) async fn attack(address: String, wire: Wire, run: Run, mut rng: Rng) {
    for incarnation in 1..=JOINS {
        let drawn = std::iter::repeat_with(|| lie_for(&wire, &run, &mut rng));
        let mut messages: Vec<pb::WorkerMessage> = drawn.flatten().take(MESSAGES).collect();
        // However the others were drawn, this one cannot be true.
        let generation = Generation(u64::MAX);
        let impossible = FromWorker::FenceAck { generation, state: None };
        messages.push(WorkerMessage::Message(impossible).into());
        let _ = tell(&address, &run, incarnation, messages).await;
    }
}

/// Draws a message that the coordinator's machine hears: one that is valid on the wire. `None` if
/// what was drawn is not.
fn lie_for(wire: &Wire, run: &Run, rng: &mut Rng) -> Option<pb::WorkerMessage> {
    let bytes = wire.message(".dcgan.v1.WorkerMessage", run, rng);
    let message = pb::WorkerMessage::decode(&*bytes).unwrap();
    let metrics = ObjectiveKind::Toy.metric_names().len();
    match WorkerMessage::from_wire(message.clone(), metrics) {
        // A second hello, and the wish to leave, end the stream.
        Err(_) | Ok(WorkerMessage::Hello(_) | WorkerMessage::Message(FromWorker::Leave)) => None,
        Ok(_) => Some(message),
    }
}

/// Says hello, and then these messages, until the coordinator closes the stream.
async fn tell(
    address: &str,
    run: &Run,
    incarnation: u64,
    messages: Vec<pb::WorkerMessage>,
) -> Result<(), Status> {
    let hello = Hello {
        run: Some(RunId(run.id)),
        id: WorkerId { name: NAME.to_owned(), incarnation },
        protocol: PROTOCOL,
        fingerprint: run.fingerprint.clone(),
        // Nobody listens there.
        address: "127.0.0.1:1".to_owned(),
        plan: Generation(0),
        promised: Generation(0),
    };
    let (sender, queued) = mpsc::channel(1);
    let _ = sender.send(WorkerMessage::Hello(hello).into()).await;
    let mut client = CoordinatorClient::new(connect(address).await);
    let mut answers = client.control(ReceiverStream::new(queued)).await?.into_inner();
    let _welcome = answers.message().await?;
    for message in messages {
        if sender.send(message).await.is_err() || is_over(&mut answers).await {
            break;
        }
    }
    Ok(())
}

/// Reads what the coordinator says for a moment. True if it has closed the stream.
async fn is_over(answers: &mut Streaming<pb::CoordinatorMessage>) -> bool {
    let read = async { while let Ok(Some(_)) = answers.message().await {} };
    timeout(PAUSE, read).await.is_ok()
}
