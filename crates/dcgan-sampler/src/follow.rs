//! Following a run: its coordinator, or the checkpoints in its directory.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use dcgan_core::ids::Step;
use dcgan_model::Generator;
use dcgan_rpc::net::{self, Address};
use dcgan_rpc::pb::coordinator_client::CoordinatorClient;
use dcgan_rpc::{Checksummed, pb};
use pb::follow_request::Kind;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::newest::{Newest, Source};
use crate::run_dir;

/// Between attempts to reach the coordinator.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// A wait is said this often.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Between looks at a run directory.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Grids on their way back.
const GRIDS_MAX: usize = 4;

/// Follows a coordinator for ever: it may come back.
pub(crate) async fn coordinator(address: Address, page: String, newest: Newest) {
    let mut since = Instant::now();
    let mut said_at: Option<Instant> = None;
    loop {
        let mut followed = false;
        let why = match stay(&address, &page, &newest, &mut followed).await {
            Ok(()) => "it closed the stream".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        if followed {
            (since, said_at) = (Instant::now(), None);
        }
        if said_at.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            said_at = Some(Instant::now());
            tracing::info!(
                "waiting for {} s for the coordinator: {why}",
                since.elapsed().as_secs()
            );
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Follows until the stream ends.
async fn stay(
    address: &Address,
    page: &str,
    newest: &Newest,
    followed: &mut bool,
) -> anyhow::Result<()> {
    let channel = net::connect(address).await?;
    let (requests, outgoing) = mpsc::channel(GRIDS_MAX);
    let following = pb::Following { page: page.to_owned() };
    let request = |kind| pb::FollowRequest { kind: Some(kind), checksum: 0 }.with_checksum();
    requests.send(request(Kind::Following(following))).await?;
    let mut generators =
        CoordinatorClient::new(channel).follow(ReceiverStream::new(outgoing)).await?.into_inner();
    *followed = true;
    tracing::info!("following the coordinator at {address}");
    while let Some(message) = generators.message().await? {
        let pb::GeneratorSnapshot { step, seed, state, grid_due, .. } =
            message.verify_checksum()?;
        let load = move || Ok(Source { step, seed, generator: Generator::from_file(&state)? });
        let drawn = newest.replace(load).await?;
        if grid_due {
            requests.send(request(Kind::Grid(pb::Grid { step, png: drawn.grid }))).await?;
            tracing::info!("drew the grid of step {step}");
        }
    }
    Ok(())
}

/// Follows the checkpoints of a run directory for ever.
pub(crate) async fn run_directory(root: PathBuf, newest: Newest) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut shown: Option<Step> = None;
    let mut said: Option<String> = None;
    loop {
        look.tick().await;
        match look_at(&root, shown, &newest).await {
            Ok(step) => (shown, said) = (step, None),
            // A checkpoint may be removed while it is read. What lasts is said once.
            Err(error) => {
                let text = format!("{error:#}");
                if said.as_ref() != Some(&text) {
                    tracing::warn!("{text}");
                    said = Some(text);
                }
            }
        }
    }
}

async fn look_at(
    root: &std::path::Path,
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
    newest.replace(move || run_dir::source(&checkpoint)).await?;
    tracing::info!("showing the checkpoint of step {step}");
    Ok(Some(step))
}
