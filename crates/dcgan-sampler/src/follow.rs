//! Follows a run: its coordinator, which sends generators, or the checkpoints in its directory.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use dcgan_rpc::net::{self, Connector, CoordinatorAt, Peer};
use dcgan_rpc::pb::feed_client::FeedClient;
use dcgan_rpc::{Caller, Checksummed, Who, pb};
use dcgan_store::address_file::read_address_at;
use pb::follow_request::Kind;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::followed_folder::FollowedFolder;
use crate::newest::{Newest, RunGenerator};

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
    at: CoordinatorAt,
    page: String,
    newest: Newest,
) {
    let mut wait = Wait { since: Instant::now(), reported: None };
    loop {
        match Connection::open(&connector, &at, &page).await {
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
    async fn open(connector: &Connector, at: &CoordinatorAt, page: &str) -> anyhow::Result<Self> {
        let at = at.clone();
        let address = spawn_blocking(move || at.find(read_address_at)).await??;
        let channel = connector.connect(&address, &Peer::Coordinator(None)).await?;
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

    /// Takes over the next generator, and sends its grid back if it is due. One that cannot be
    /// drawn is not worth the connection: the next one may be better. Returns false at the end of
    /// the stream.
    async fn next(&mut self, newest: &Newest) -> anyhow::Result<bool> {
        let Some(message) = self.generators.message().await.map_err(in_words)? else {
            return Ok(false);
        };
        let snapshot = message.verify_checksum()?;
        let pb::GeneratorSnapshot { step, seed, state, grid_due, checksum: _ } = snapshot;
        let drawn =
            newest.replace(move |weights| RunGenerator::read(&state, weights, step, seed)).await;
        let answer = match drawn {
            Ok(drawn) => Kind::Grid(pb::Grid { step, png: drawn.grid }),
            Err(error) => {
                let why = format!("{error:#}");
                tracing::warn!(
                    event = "draw_failed",
                    step,
                    "cannot draw with the generator of step {step}: {why}"
                );
                Kind::CannotDraw(pb::CannotDraw { step, why })
            }
        };
        if grid_due {
            let is_drawn = matches!(answer, Kind::Grid(_));
            self.requests.send(request(answer)).await?;
            if is_drawn {
                tracing::info!(event = "grid_drawn", step, "drew the grid of step {step}");
            }
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
    // A disk that hangs delays the next look, and not the end of the program.
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut folder = FollowedFolder::new(root);
    loop {
        looks.tick().await;
        if let Err(error) = folder.look(&newest).await {
            folder.report(&error);
        }
    }
}
