//! States on their way: copies from and to other members, and snapshots to the coordinator.
//!
//! Encoding and decoding a state takes milliseconds. Both run on threads of their own, because the
//! network has a single thread, which carries the all-reduces as well.

use std::sync::Arc;

use anyhow::Context;
use dcgan_collective::{Copied, CopyLimits, Offer, copy_state};
use dcgan_core::ids::{Digest, Position, Step, WorkerId};
use dcgan_core::metrics::StepDone;
use dcgan_core::protocol::plan::{Plan, StateRef};
use dcgan_core::protocol::worker::{CopySource, StateCopy};
use dcgan_core::spec::InitialWeights;
use dcgan_core::state::digest;
use dcgan_core::state::{Layout, State};
use dcgan_rpc::net;
use dcgan_rpc::{pb, transfer};
use dcgan_store::state_file;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use crate::client::Client;

/// The longest header of a state file, in bytes: room for ten thousand tensors.
const HEADER_BYTES_MAX: usize = 1024 * 1024;

/// Fetches the start state of a plan, of an objective with this number of `metrics`. Whether it is
/// the right one is for the state machine to check.
///
/// # Errors
/// If the source cannot be reached, does not hold the state, or sends something else.
pub(crate) async fn fetch_start(
    client: &Client,
    plan: &Plan,
    source: CopySource,
    layout: &Arc<Layout>,
    metrics: usize,
) -> anyhow::Result<StateCopy> {
    let bytes_max = 4 * layout.len() + HEADER_BYTES_MAX;
    let (file, reports) = match source {
        CopySource::Member(rank) => {
            let member = plan.member(rank).context("there is no such member")?;
            let limits = CopyLimits { bytes_max, metrics };
            let Client { connector, caller, .. } = client;
            let (id, address) = (&member.id, &member.address);
            let caller = caller.clone();
            let wanted = Some(plan.start);
            let Copied { file, reports, .. } =
                copy_state(connector, caller, id, address, wanted, limits).await?;
            (file, reports)
        }
        CopySource::Coordinator => {
            // All steps of a checkpoint are written: there is nothing to report.
            (fetch_checkpoint(client, plan.start.position.step, bytes_max).await?, Vec::new())
        }
    };
    let layout = Arc::clone(layout);
    let state = spawn_blocking(move || state_file::decode(&file, &layout)).await??;
    Ok(StateCopy { state, reports })
}

/// Fetches the weights that a run begins with, and checks that they are those with this digest.
///
/// # Errors
/// If the coordinator cannot be reached, or sends something else.
pub(crate) async fn fetch_initial_weights(
    client: &Client,
    digest: Digest,
) -> anyhow::Result<State> {
    let layout = Arc::new(InitialWeights::layout());
    let file = fetch_checkpoint(client, 0, 4 * layout.len() + HEADER_BYTES_MAX).await?;
    spawn_blocking(move || {
        let mut weights = state_file::decode(&file, &layout)?;
        let found = weights.digest();
        anyhow::ensure!(found == digest, "expected digest {digest}, found {found}");
        Ok(weights)
    })
    .await?
}

/// Fetches the checkpoint of a step from the coordinator.
async fn fetch_checkpoint(
    client: &Client,
    step: Step,
    bytes_max: usize,
) -> anyhow::Result<Vec<u8>> {
    let request = pb::GetCheckpointRequest { step, caller: Some(client.caller.clone().into()) };
    let mut coordinator = client.connect().await?;
    let received = transfer::in_time(bytes_max, async {
        let response = coordinator.get_checkpoint(request).await?;
        transfer::receive(response.into_inner(), bytes_max).await
    });
    Ok(received.await?)
}

/// Fetches whatever state a worker has, and checks that it is the state that the worker says.
///
/// # Errors
/// If the worker cannot be reached or sends something else.
pub(crate) async fn fetch_any(
    client: &Client,
    donor: &WorkerId,
    address: &str,
    layout: &Arc<Layout>,
    metrics: usize,
) -> anyhow::Result<(Position, State)> {
    let limits = CopyLimits { bytes_max: 4 * layout.len() + HEADER_BYTES_MAX, metrics };
    let Client { connector, caller, .. } = client;
    let Copied { state: said, file, .. } =
        copy_state(connector, caller.clone(), donor, address, None, limits).await?;
    let layout = Arc::clone(layout);
    spawn_blocking(move || {
        let mut state = state_file::decode(&file, &layout)?;
        let found = state.digest();
        anyhow::ensure!(found == said.digest, "its state has digest {found}, not {}", said.digest);
        Ok((said.position, state))
    })
    .await?
}

/// Finds out whether this very process answers at this address.
///
/// # Errors
/// If not, in words.
pub(crate) async fn probe(client: &Client, peer: &WorkerId, address: &str) -> Result<(), String> {
    let Client { connector, caller, .. } = client;
    let answer = dcgan_collective::probe(connector, caller.clone(), peer, address);
    match tokio::time::timeout(net::CONNECT_MAX, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer for {} s", net::CONNECT_MAX.as_secs())),
    }
}

/// Answers a request for a copy of a state.
pub(crate) async fn serve(
    at: StateRef,
    state: Arc<State>,
    reports: Vec<StepDone>,
    request: oneshot::Sender<Offer>,
) {
    if let Ok(file) = spawn_blocking(move || state_file::encode(&state)).await {
        // The worker that asked may be gone by now.
        let _ = request.send(Offer { at, state: file.into(), reports });
    }
}

/// Sends the snapshot of a step to the coordinator.
///
/// # Errors
/// If the coordinator cannot be reached or does not accept the snapshot.
pub(crate) async fn upload(client: &Client, step: Step, state: Arc<State>) -> anyhow::Result<()> {
    let bytes = spawn_blocking(move || state_file::encode(&state)).await?;
    let (digest, size) = (digest::of_bytes(&bytes), bytes.len());
    // The first message says who sends the snapshot.
    let mut caller = Some(client.caller.clone().into());
    let requests = transfer::split(bytes.into(), digest).map(move |chunk| pb::PutSnapshotRequest {
        step,
        chunk: Some(chunk),
        caller: caller.take(),
    });
    let mut coordinator = client.connect().await?;
    let sent = coordinator.put_snapshot(tokio_stream::iter(requests));
    transfer::in_time(size, sent).await?;
    Ok(())
}
