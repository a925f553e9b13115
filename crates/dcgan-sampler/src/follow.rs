//! Follows a run: its coordinator, which sends generators, or the checkpoints in its directory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dcgan_core::ids::Step;
use dcgan_model::Generator;
use dcgan_rpc::net::{self, Address, Connector, Peer};
use dcgan_rpc::pb::feed_client::FeedClient;
use dcgan_rpc::{Caller, Checksummed, Who, pb};
use pb::follow_request::Kind;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::newest::{Newest, RunGenerator};
use crate::run_dir;

/// The pause between two attempts to reach the coordinator.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// The time between two log lines about one wait for the coordinator.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// The time between two looks into a run directory.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Grids that wait for the network.
const GRIDS_MAX: usize = 4;

/// Follows a coordinator for ever. A coordinator that is gone may come back, and its run goes on.
///
/// `page` is the address of the sampler's web page: the coordinator shows it to people.
pub(crate) async fn coordinator(
    connector: Connector,
    address: Address,
    page: String,
    newest: Newest,
) {
    let mut wait = Wait { since: Instant::now(), reported: None };
    loop {
        match Connection::open(&connector, &address, &page).await {
            Ok(connection) => {
                let why = connection.follow(&newest).await;
                tracing::warn!(
                    event = "coordinator_lost",
                    "lost the coordinator: {why}; reconnecting"
                );
                // This line is the first report of the wait that begins.
                wait = Wait { since: Instant::now(), reported: Some(Instant::now()) };
            }
            Err(error) => wait.report(&error),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// A wait for the coordinator.
struct Wait {
    since: Instant,
    /// When the wait was last reported.
    reported: Option<Instant>,
}

impl Wait {
    /// Logs how long the wait has lasted and why, if a report is due.
    fn report(&mut self, why: &anyhow::Error) {
        if self.reported.is_some_and(|at| at.elapsed() < REPORT_INTERVAL) {
            return;
        }
        self.reported = Some(Instant::now());
        let seconds = self.since.elapsed().as_secs();
        tracing::info!(
            event = "waiting",
            seconds,
            "waiting for the coordinator (for {seconds} s so far): {why:#}"
        );
    }
}

/// An open stream of generators from a coordinator, and of grids back to it.
struct Connection {
    requests: mpsc::Sender<pb::FollowRequest>,
    generators: Streaming<pb::GeneratorSnapshot>,
}

impl Connection {
    async fn open(connector: &Connector, address: &Address, page: &str) -> anyhow::Result<Self> {
        let channel = connector.connect(address, &Peer::Coordinator(None)).await?;
        let (requests, queued) = mpsc::channel(GRIDS_MAX);
        // A sampler shows whichever run its coordinator has.
        let who = Who::Sampler(dcgan_process::names::host_and_process());
        let caller = Some(Caller { run: None, who }.into());
        let following = pb::Following { page: page.to_owned(), caller };
        requests.send(request(Kind::Following(following))).await?;
        let response = FeedClient::new(channel).follow(ReceiverStream::new(queued)).await;
        let generators = response.map_err(in_words)?.into_inner();
        tracing::info!(
            event = "following",
            coordinator = %address,
            "following the coordinator at {address}"
        );
        Ok(Self { requests, generators })
    }

    /// Takes over generators and draws grids until the stream ends. Returns why it ended.
    async fn follow(mut self, newest: &Newest) -> String {
        loop {
            match self.next(newest).await {
                Ok(true) => {}
                Ok(false) => return "it closed the stream".to_owned(),
                Err(error) => return format!("{error:#}"),
            }
        }
    }

    /// Takes over the next generator, and sends its grid back if it is due. Returns false at the
    /// end of the stream.
    async fn next(&mut self, newest: &Newest) -> anyhow::Result<bool> {
        let Some(message) = self.generators.message().await.map_err(in_words)? else {
            return Ok(false);
        };
        let snapshot = message.verify_checksum()?;
        let pb::GeneratorSnapshot { step, seed, state, grid_due, checksum: _ } = snapshot;
        let drawn = newest
            .replace(move || {
                Ok(RunGenerator { step, seed, generator: Generator::from_file(&state)? })
            })
            .await?;
        if grid_due {
            let grid = pb::Grid { step, png: drawn.grid };
            self.requests.send(request(Kind::Grid(grid))).await?;
            tracing::info!(event = "grid_drawn", step, "drew the grid of step {step}");
        }
        Ok(true)
    }
}

fn request(kind: Kind) -> pb::FollowRequest {
    pb::FollowRequest { kind: Some(kind), checksum: 0 }.with_checksum()
}

/// Makes an error of a failed request.
fn in_words(status: Status) -> anyhow::Error {
    anyhow::anyhow!(net::in_words(&status))
}

/// Follows the checkpoints of a run directory for ever.
pub(crate) async fn run_directory(root: PathBuf, newest: Newest) {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    let mut shown: Option<Step> = None;
    let mut reported: Option<String> = None;
    loop {
        looks.tick().await;
        match look_once(&root, shown, &newest).await {
            Ok(step) => (shown, reported) = (step, None),
            // A checkpoint may be removed while it is read, and then the next look succeeds. An
            // error that stays is reported once.
            Err(error) => {
                let text = format!("{error:#}");
                if reported.as_ref() != Some(&text) {
                    tracing::warn!(
                        event = "look_failed",
                        "could not load a checkpoint, trying again: {text}"
                    );
                    reported = Some(text);
                }
            }
        }
    }
}

/// Shows the newest checkpoint of a run directory, if it is not shown already. Returns the step
/// that is shown; `None` if there is no checkpoint yet.
async fn look_once(
    root: &Path,
    shown: Option<Step>,
    newest: &Newest,
) -> anyhow::Result<Option<Step>> {
    let checkpoints = run_dir::checkpoints(root)?;
    if checkpoints.steps()?.last().copied() == shown {
        return Ok(shown);
    }
    let Some(checkpoint) = run_dir::newest(&checkpoints, root)? else {
        return Ok(None);
    };
    let step = checkpoint.manifest().step;
    newest.replace(move || run_dir::generator(&checkpoint)).await?;
    tracing::info!(event = "showing", step, "showing the checkpoint of step {step}");
    Ok(Some(step))
}
