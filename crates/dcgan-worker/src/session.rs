//! The connection to the coordinator, which is made again whenever it breaks.
//!
//! A coordinator takes a worker without heartbeats for dead. The driver and the network's thread
//! can be busy for longer than that, with an optimizer step or a burst of gradients, so the
//! connection and its heartbeats have a thread and a runtime of their own.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use dcgan_core::protocol::message::{FromWorker, Hello, ToWorker};
use dcgan_core::spec::InitialWeights;
use dcgan_core::state::State;
use dcgan_rpc::net::{in_words, is_of_another_program};
use dcgan_rpc::{CoordinatorMessage, Welcome, WorkerMessage, pb};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::client::Client;
use crate::input::{HelloState, Input, Report, SessionEvent};
use crate::transfers;
use crate::waiting::Waiting;

/// The time between two heartbeats to the coordinator.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);
/// A coordinator that sends nothing for this long, not even a heartbeat, is lost.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// The pause after the first failed attempt to connect. Each further pause is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest pause between two attempts to connect.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Messages that wait for the network. A coordinator that does not read that many is lost.
const OUTGOING_MAX: usize = 64;

/// Keeps this worker connected to the coordinator.
pub(crate) struct CoordinatorSession {
    pub(crate) client: Client,
    /// The hello of this worker. Run, plan and promise are filled in anew for each connection.
    pub(crate) hello: Hello,
    /// How long the coordinator may be unreachable before the worker gives up.
    pub(crate) give_up_after: Duration,
    pub(crate) driver: mpsc::Sender<Input>,
}

/// Why a connection ended.
enum Ended {
    /// The connection broke, for this reason. Another one may be made.
    Broken(String),
    /// Another program answers at the coordinator's address, in these words.
    Elsewhere(String),
    /// The coordinator refused the worker, for this reason.
    Refused(String),
    /// No other one is wanted: the driver has ended.
    ForGood,
}

impl Ended {
    fn silent() -> Self {
        Self::Broken(format!("nothing heard for {} s", SILENCE_MAX.as_secs()))
    }

    fn closed() -> Self {
        Self::Broken("the connection closed".to_owned())
    }
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        let words = in_words(&status);
        if is_of_another_program(&status) { Self::Elsewhere(words) } else { Self::Broken(words) }
    }
}

/// The refusals that a worker has heard since it was welcomed last.
///
/// A refusal is for good, and a single one may be the answer to a hello that was damaged on its
/// way: a hello of another version has no checksum that this one could check. So a refusal counts
/// when another connection brings the same.
#[derive(Default)]
struct Refusals {
    last: Option<String>,
}

impl Refusals {
    /// Notes a refusal. Returns whether the one before was the same.
    fn is_repeated(&mut self, why: &str) -> bool {
        self.last.replace(why.to_owned()).as_deref() == Some(why)
    }
}

/// The turning points that were heard over one connection.
#[derive(Clone, Copy, Default)]
struct Heard {
    /// The coordinator has welcomed the worker.
    welcome: bool,
    /// The coordinator has said that the worker is to end.
    finish: bool,
}

/// An open connection.
struct Connection {
    outgoing: mpsc::Sender<pb::WorkerMessage>,
    incoming: Streaming<pb::CoordinatorMessage>,
    /// True if the worker has been welcomed to the run over an earlier connection.
    belongs_to_run: bool,
}

impl CoordinatorSession {
    /// Connects again and again, until the driver ends, the coordinator turns the worker away, or
    /// it was unreachable for too long.
    pub(crate) async fn run(self) {
        let mut waiting = Waiting::reported_at_once().giving_up_after(self.give_up_after);
        let mut pause = PAUSE_MIN;
        let mut refusals = Refusals::default();
        loop {
            let mut heard = Heard::default();
            let Err(ended) = self.converse(&mut heard).await;
            let Heard { welcome: welcomed, finish } = heard;
            if welcomed {
                refusals = Refusals::default();
            }
            let mut is_elsewhere = false;
            let why = match ended {
                // The driver is about to end: nothing is lost with the connection.
                Ended::Broken(_) | Ended::Elsewhere(_) if finish => return,
                Ended::Broken(why) => why,
                Ended::Elsewhere(why) => {
                    is_elsewhere = true;
                    why
                }
                Ended::Refused(why) if refusals.is_repeated(&why) => {
                    let _ = self.send_event(SessionEvent::Refused(why)).await;
                    return;
                }
                Ended::Refused(why) => format!("it refused this worker ({why}); asking again"),
                Ended::ForGood => return,
            };
            if welcomed {
                tracing::warn!(
                    event = "coordinator_lost",
                    "lost the coordinator: {why}; reconnecting"
                );
                waiting = Waiting::default().giving_up_after(self.give_up_after);
                pause = PAUSE_MIN;
            }
            if waiting.is_over() {
                let seconds = waiting.elapsed().as_secs();
                let report = format!("no coordinator for {seconds} s: {why}");
                let _ = self.send_event(SessionEvent::GaveUp(report)).await;
                return;
            }
            let what = || format!("the coordinator: {why}");
            if is_elsewhere {
                waiting.warn(what);
            } else {
                waiting.report(what);
            }
            sleep(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }

    /// Talks to the coordinator over one connection, and returns why it ended. Notes what it hears.
    async fn converse(&self, heard: &mut Heard) -> Result<Infallible, Ended> {
        let Connection { outgoing, mut incoming, belongs_to_run } = self.connect().await?;

        // The driver gets the sending end with the welcome. Reports that it sent to an earlier
        // connection are lost with that connection's channel.
        let (reports_in, mut reports) = mpsc::unbounded_channel::<Report>();

        // Send heartbeats and reports, and receive messages, until something fails.
        let mut heartbeat = interval(HEARTBEAT_INTERVAL);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silence = Box::pin(sleep(SILENCE_MAX));
        loop {
            tokio::select! {
                _ = heartbeat.tick() => queue(&outgoing, WorkerMessage::Heartbeat)?,
                Some(report) = reports.recv() => {
                    send_report(&outgoing, report.map_err(Ended::Broken)?).await?;
                }
                () = &mut silence => return Err(Ended::silent()),
                received = incoming.message() => {
                    // Whatever came is a sign of life.
                    silence.as_mut().set(sleep(SILENCE_MAX));
                    match decode(received)? {
                        CoordinatorMessage::Heartbeat => {}
                        CoordinatorMessage::Welcome(welcome) => {
                            heard.welcome = true;
                            let initial_weights = if belongs_to_run {
                                None
                            } else {
                                self.fetch_initial_weights(&welcome, &outgoing).await?
                            };
                            let reports = reports_in.clone();
                            let event =
                                SessionEvent::Welcomed { welcome, initial_weights, reports };
                            self.send_event(event).await?;
                        }
                        CoordinatorMessage::Message(message) => {
                            heard.finish |= matches!(message, ToWorker::Finish(_));
                            self.send_event(SessionEvent::Message(message)).await?;
                        }
                        CoordinatorMessage::Refused(why) => return Err(Ended::Refused(why)),
                    }
                }
            }
        }
    }

    /// Opens a connection and sends the hello.
    async fn connect(&self) -> Result<Connection, Ended> {
        let mut client = match self.client.connect().await {
            Ok(client) => client,
            Err(error) => return Err(Ended::Broken(error.to_string())),
        };

        // Ask the driver for its state only now: while the coordinator was away it may have
        // changed.
        let (reply, state) = oneshot::channel();
        self.send_event(SessionEvent::HelloNeeded(reply)).await?;
        let HelloState { run, plan, promised } = state.await.map_err(|_| Ended::ForGood)?;
        let belongs_to_run = run.is_some();
        let hello = Hello { run, plan, promised, ..self.hello.clone() };

        // The hello must be queued before the call: the server answers the call after it has come.
        let (outgoing, queued) = mpsc::channel(OUTGOING_MAX);
        queue(&outgoing, WorkerMessage::Hello(hello))?;
        match timeout(SILENCE_MAX, client.control(ReceiverStream::new(queued))).await {
            Ok(answer) => {
                Ok(Connection { outgoing, incoming: answer?.into_inner(), belongs_to_run })
            }
            Err(_) => Err(Ended::silent()),
        }
    }

    /// Fetches the weights that a run begins with, if they come from a file. What the coordinator
    /// says meanwhile waits, because it is for a worker that has them; heartbeats go on.
    async fn fetch_initial_weights(
        &self,
        welcome: &Welcome,
        outgoing: &mpsc::Sender<pb::WorkerMessage>,
    ) -> Result<Option<State>, Ended> {
        let InitialWeights::File(digest) = welcome.spec.initial_weights() else {
            return Ok(None);
        };
        let client = self.client.in_run(welcome.run);
        let mut fetched = pin!(transfers::fetch_initial_weights(&client, digest));
        let mut heartbeat = interval(HEARTBEAT_INTERVAL);
        loop {
            tokio::select! {
                _ = heartbeat.tick() => queue(outgoing, WorkerMessage::Heartbeat)?,
                fetched = &mut fetched => {
                    let why = |error| Ended::Broken(format!("the initial weights: {error:#}"));
                    return fetched.map(Some).map_err(why);
                }
            }
        }
    }

    async fn send_event(&self, event: SessionEvent) -> Result<(), Ended> {
        self.driver.send(Input::Session(event)).await.map_err(|_| Ended::ForGood)
    }
}

/// Queues a message, without waiting for room.
fn queue(outgoing: &mpsc::Sender<pb::WorkerMessage>, message: WorkerMessage) -> Result<(), Ended> {
    let queued = outgoing.try_send(message.into());
    queued.map_err(|_| Ended::Broken("it does not read from the connection".to_owned()))
}

/// Queues a report, and waits for room if there is none: after a welcome a worker may report many
/// steps at once.
async fn send_report(
    outgoing: &mpsc::Sender<pb::WorkerMessage>,
    report: FromWorker,
) -> Result<(), Ended> {
    let message = WorkerMessage::Message(report).into();
    match timeout(SILENCE_MAX, outgoing.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Ended::closed()),
        Err(_) => Err(Ended::silent()),
    }
}

fn decode(
    received: Result<Option<pb::CoordinatorMessage>, Status>,
) -> Result<CoordinatorMessage, Ended> {
    match received? {
        Some(message) => CoordinatorMessage::try_from(message)
            .map_err(|malformed| Ended::Broken(malformed.to_string())),
        None => Err(Ended::closed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_counts_when_it_is_repeated() {
        let mut refusals = Refusals::default();
        // Two damaged hellos are damaged differently.
        assert!(!refusals.is_repeated("this worker speaks protocol version 9"));
        assert!(!refusals.is_repeated("this worker speaks protocol version 1"));
        assert!(refusals.is_repeated("this worker speaks protocol version 1"));
    }
}
