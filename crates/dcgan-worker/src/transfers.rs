//! States on their way: copies from and to other members, and snapshots to the coordinator.
//!
//! Encoding and decoding a state takes milliseconds. Both run on threads of their own, because the
//! network has a single thread, which carries the all-reduces as well.

use std::sync::Arc;

use anyhow::Context;
use dcgan_collective::{CopyError, CopyLimits, Offer, copy_state};
use dcgan_core::ids::{Digest, Generation, Position, Step, WorkerId};
use dcgan_core::metrics::StepDone;
use dcgan_core::protocol::plan::{Plan, StateRef};
use dcgan_core::protocol::worker::{CopySource, StateCopy};
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
    let (bytes, reports) = match source {
        CopySource::Member(rank) => {
            let member = plan.member(rank).context("there is no such member")?;
            let limits = CopyLimits { bytes_max, metrics };
            let Client { connector, caller, .. } = client;
            let (id, address) = (&member.id, &member.address);
            copy_state(connector, caller.clone(), id, address, plan.start, limits).await?
        }
        CopySource::Coordinator => {
            let request = pb::GetCheckpointRequest {
                step: plan.start.position.step,
                caller: Some(client.caller.clone().into()),
            };
            let response = client.connect().await?.get_checkpoint(request).await?;
            // All steps of a checkpoint are written: there is nothing to report.
            (transfer::receive(response.into_inner(), bytes_max).await?, Vec::new())
        }
    };
    let layout = Arc::clone(layout);
    let state = spawn_blocking(move || state_file::decode(&bytes, &layout)).await??;
    Ok(StateCopy { state, reports })
}

/// Finds out whether a member of the run answers at this address.
///
/// The question is a request for a copy of a state that nobody holds. A member answers it with a
/// refusal, which shows more than an open port: the member belongs to this run, and its driver
/// works.
pub(crate) async fn can_reach(client: &Client, peer: &WorkerId, address: &str) -> bool {
    let nobodys_state =
        StateRef { generation: Generation(0), position: Position::default(), digest: Digest(0) };
    let limits = CopyLimits { bytes_max: HEADER_BYTES_MAX, metrics: 0 };
    let Client { connector, caller, .. } = client;
    let request = copy_state(connector, caller.clone(), peer, address, nobodys_state, limits);
    let answer = tokio::time::timeout(net::CONNECT_MAX, request).await;
    matches!(answer, Ok(Ok(_) | Err(CopyError::Refused(_))))
}

/// Answers a request for a copy of a state.
pub(crate) async fn serve(
    state: Arc<State>,
    reports: Vec<StepDone>,
    request: oneshot::Sender<Offer>,
) {
    if let Ok(file) = spawn_blocking(move || state_file::encode(&state)).await {
        // The worker that asked may be gone by now.
        let _ = request.send(Offer { state: file.into(), reports });
    }
}

/// Sends the snapshot of a step to the coordinator.
///
/// # Errors
/// If the coordinator cannot be reached or does not accept the snapshot.
pub(crate) async fn upload(client: &Client, step: Step, state: Arc<State>) -> anyhow::Result<()> {
    let bytes = spawn_blocking(move || state_file::encode(&state)).await?;
    let digest = digest::of_bytes(&bytes);
    // The first message says who sends the snapshot.
    let mut caller = Some(client.caller.clone().into());
    let requests = transfer::split(bytes.into(), digest).map(move |chunk| pb::PutSnapshotRequest {
        step,
        chunk: Some(chunk),
        caller: caller.take(),
    });
    client.connect().await?.put_snapshot(tokio_stream::iter(requests)).await?;
    Ok(())
}
