//! The connection to the coordinator, on a thread and a runtime of its own: neither a burst of gradients nor a long
//! product delays a heartbeat into a false death. It is made again whenever it breaks.

use std::time::Duration;

use dcgan_core::ids::{Generation, RunId};
use dcgan_core::protocol::message::{FromWorker, Hello, ToWorker};
use dcgan_rpc::net::{self, Address};
use dcgan_rpc::pb::coordinator_client::CoordinatorClient;
use dcgan_rpc::{CoordinatorMessage, Welcome, WorkerMessage, pb};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;

use crate::driver::Input;
use crate::waiting::Waiting;

const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);
/// A coordinator that says nothing for this long is not there: it has a heartbeat, too.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Between attempts to connect, growing to the second.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(250)];
/// Messages on their way to the network. A coordinator that does not read them is as good as gone.
const OUTGOING_MAX: usize = 64;

/// What a hello says of the worker, as it is at that moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HelloState {
    pub(crate) run: Option<RunId>,
    pub(crate) plan: Generation,
    pub(crate) promised: Generation,
}

/// What the control connection tells the driver.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    /// A hello is about to be said.
    AskHelloState(oneshot::Sender<HelloState>),
    /// The hello is answered. Reports go here until the connection breaks; a worker has few of them, so the queue is
    /// not bounded.
    Welcomed(Box<Welcome>, mpsc::UnboundedSender<FromWorker>),
    /// A message.
    Message(ToWorker),
    /// The coordinator turned this worker away.
    Refused(String),
    /// The coordinator could not be reached for too long.
    GaveUp(String),
}

/// What a worker says of itself, always the same.
pub(crate) struct CoordinatorSession {
    pub(crate) coordinator: Address,
    /// Its run, plan and promise are filled in at each hello.
    pub(crate) hello: Hello,
    pub(crate) give_up_after: Duration,
    pub(crate) driver: mpsc::Sender<Input>,
}

/// Why a connection ended.
enum End {
    /// It may be made again.
    Broken(String),
    /// Nobody wants it any more.
    Over,
}

impl CoordinatorSession {
    /// Keeps up a connection until the driver is gone, or the coordinator for too long.
    pub(crate) async fn run(self) {
        let mut waiting = Waiting::default();
        let mut pause = PAUSES[0];
        loop {
            let mut welcomed = false;
            let Err(why) = self.connection(&mut welcomed).await else {
                return;
            };
            if welcomed {
                tracing::warn!("lost the coordinator: {why}");
                (waiting, pause) = (Waiting::default(), PAUSES[0]);
            }
            if waiting.elapsed() >= self.give_up_after {
                let seconds = waiting.elapsed().as_secs();
                let _ = self
                    .tell(SessionEvent::GaveUp(format!("no coordinator for {seconds} s: {why}")))
                    .await;
                return;
            }
            waiting.say(|| format!("the coordinator: {why}"));
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(PAUSES[1]);
        }
    }

    async fn tell(&self, event: SessionEvent) -> Result<(), End> {
        self.driver.send(Input::Session(event)).await.map_err(|_| End::Over)
    }

    /// One connection, to its end; ok if nobody wants another.
    async fn connection(&self, welcomed: &mut bool) -> Result<(), String> {
        match self.converse(welcomed).await {
            Ok(()) | Err(End::Over) => Ok(()),
            Err(End::Broken(why)) => Err(why),
        }
    }

    async fn converse(&self, welcomed: &mut bool) -> Result<(), End> {
        let channel = net::connect(&self.coordinator)
            .await
            .map_err(|error| End::Broken(error.to_string()))?;
        let (ask, hello_state) = oneshot::channel();
        self.tell(SessionEvent::AskHelloState(ask)).await?;
        let HelloState { run, plan, promised } = hello_state.await.map_err(|_| End::Over)?;
        let hello = Hello { run, plan, promised, ..self.hello.clone() };

        let (outgoing, messages) = mpsc::channel::<pb::WorkerMessage>(OUTGOING_MAX);
        let send = |message: WorkerMessage| {
            outgoing
                .try_send(message.into())
                .map_err(|_| End::Broken("it does not read".to_owned()))
        };
        send(WorkerMessage::Hello(hello))?;
        let broken = |status: tonic::Status| End::Broken(status.message().to_owned());
        let silent = || End::Broken(format!("nothing heard for {} s", SILENCE_MAX.as_secs()));
        let mut client = CoordinatorClient::new(channel);
        let answer = timeout(SILENCE_MAX, client.control(ReceiverStream::new(messages)))
            .await
            .map_err(|_| silent())?;
        let mut incoming = answer.map_err(broken)?.into_inner();

        let (reports_in, mut reports) = mpsc::unbounded_channel();
        let mut heartbeat = interval(HEARTBEAT_INTERVAL);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silence = Box::pin(tokio::time::sleep(SILENCE_MAX));
        loop {
            tokio::select! {
                _ = heartbeat.tick() => send(WorkerMessage::Heartbeat)?,
                Some(report) = reports.recv() => {
                    let message = WorkerMessage::Message(report).into();
                    timeout(SILENCE_MAX, outgoing.send(message)).await.map_err(|_| silent())?
                        .map_err(|_| End::Broken("the connection closed".to_owned()))?;
                }
                () = &mut silence => return Err(silent()),
                message = incoming.message() => {
                    silence.as_mut().set(tokio::time::sleep(SILENCE_MAX));
                    let message = message.map_err(broken)?;
                    let message = message.ok_or_else(|| End::Broken("the connection closed".to_owned()))?;
                    match CoordinatorMessage::try_from(message).map_err(|error| End::Broken(error.to_string()))? {
                        CoordinatorMessage::Heartbeat => {}
                        CoordinatorMessage::Welcome(welcome) => {
                            *welcomed = true;
                            self.tell(SessionEvent::Welcomed(Box::new(welcome), reports_in.clone())).await?;
                        }
                        CoordinatorMessage::Refused(why) => {
                            self.tell(SessionEvent::Refused(why)).await?;
                            return Ok(());
                        }
                        CoordinatorMessage::Message(message) => self.tell(SessionEvent::Message(message)).await?,
                    }
                }
            }
        }
    }
}
