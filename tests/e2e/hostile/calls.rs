//! Every method of a server, with every kind of content, from a stranger.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::Target;
use super::rng::Rng;
use super::wire::{Method, Run, Wire};
use crate::services::connect;

/// Calls of a method with one message.
const CALLS: usize = 24;
/// Messages of a long stream.
const LONG: usize = 60;
/// Calls of a method that are never ended, and whose answers are never read.
const HELD: usize = 4;
/// A call that is not answered in this time is given up.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// More bytes than a message may have.
const HUGE: usize = 5 << 20;

/// Attacks every method of a server.
pub(super) async fn attack(target: Target, wire: Wire, run: Run, mut rng: Rng) {
    let mut held = Vec::new();
    let mut calls = JoinSet::new();
    for service in target.program.services() {
        let methods = wire.methods(service);
        assert!(!methods.is_empty(), "{service} has methods");
        for method in methods {
            let run = of_another_run_if_it_obeys(service, &run);
            let mut message = || Bytes::from(wire.message(&method.input, &run, &mut rng));
            let mut contents: Vec<Vec<Bytes>> = (0..CALLS).map(|_| vec![message()]).collect();
            contents.push((0..LONG).map(|_| message()).collect());
            contents.push(vec![message(); LONG]);
            contents.push(vec![Bytes::from(vec![0xFF; 1000]), Bytes::from(vec![0; HUGE])]);
            contents.push(Vec::new());
            held.extend(hold(&target.address, &method, (0..HELD).map(|_| message())).await);
            calls.spawn(call_all(target.address.clone(), method, contents));
        }
    }
    while calls.join_next().await.transpose().unwrap().is_some() {}
    drop(held);
}

/// A service for people does what it is asked for, whoever asks. A request for another run is
/// refused.
fn of_another_run_if_it_obeys(service: &str, run: &Run) -> Run {
    let id = if service == "dcgan.v1.Admin" { run.id ^ 1 } else { run.id };
    Run { id, ..run.clone() }
}

/// Calls a method with each of these contents, on one connection as long as it lasts.
async fn call_all(address: String, method: Method, contents: Vec<Vec<Bytes>>) {
    let mut channel = connect(&address).await;
    for content in contents {
        let answer = async {
            let mut answers = call(&channel, &method, tokio_stream::iter(content)).await?;
            while answers.message().await?.is_some() {}
            Ok::<(), Status>(())
        };
        // A closed connection is as good an answer as a refusal.
        if let Ok(Err(status)) = timeout(ANSWER_MAX, answer).await
            && status.code() == tonic::Code::Unavailable
        {
            channel = connect(&address).await;
        }
    }
}

/// Calls a method with each of these messages, and neither ends the call nor reads an answer.
async fn hold(
    address: &str,
    method: &Method,
    messages: impl Iterator<Item = Bytes>,
) -> Vec<(Channel, mpsc::Sender<Bytes>, Option<Streaming<Bytes>>)> {
    let mut held = Vec::new();
    for message in messages {
        let channel = connect(address).await;
        let (sender, queued) = mpsc::channel(1);
        let _ = sender.send(message).await;
        // The answer may come only after the end of the request.
        let call = call(&channel, method, ReceiverStream::new(queued));
        let answers = timeout(ANSWER_MAX / 20, call).await;
        held.push((channel, sender, answers.ok().and_then(Result::ok)));
    }
    held
}

/// Calls a method with messages that are bytes. On the wire, a call with one message is a stream
/// of one.
pub(super) async fn call(
    channel: &Channel,
    method: &Method,
    messages: impl tokio_stream::Stream<Item = Bytes> + Send + 'static,
) -> Result<Streaming<Bytes>, Status> {
    let mut client = Grpc::new(channel.clone()).max_encoding_message_size(2 * HUGE);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = method.path.parse().unwrap();
    Ok(client.streaming(Request::new(messages), path, Raw).await?.into_inner())
}

/// Sends and receives messages as they are.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
