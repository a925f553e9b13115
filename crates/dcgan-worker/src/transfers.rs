//! States on their way: copies to and from other members, snapshots to the coordinator. Files are made and read apart
//! from the network's thread.

use std::sync::Arc;

use anyhow::Context;
use dcgan_collective::{CopyError, Offer, copy_state};
use dcgan_core::ids::{Digest, Generation, Position, RunId, Step};
use dcgan_core::metrics::StepDone;
use dcgan_core::protocol::plan::{Plan, StateRef};
use dcgan_core::protocol::worker::{CopySource, StateCopy};
use dcgan_core::state::digest;
use dcgan_core::state::{Layout, State};
use dcgan_rpc::net::{self, Address};
use dcgan_rpc::pb::coordinator_client::CoordinatorClient;
use dcgan_rpc::{pb, transfer};
use dcgan_store::state_file;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

/// A state file's header, at most.
const HEADER_BYTES_MAX: usize = 1024 * 1024;

/// The start state of a plan, from a donor. Whether it is the right one is for the machine to check.
pub(crate) async fn fetch_start(
    coordinator: &Address,
    run: RunId,
    plan: &Plan,
    donor: CopySource,
    layout: &Arc<Layout>,
) -> anyhow::Result<StateCopy> {
    let bytes_max = 4 * layout.len() + HEADER_BYTES_MAX;
    let (bytes, reports) = match donor {
        CopySource::Member(rank) => {
            let member = plan.member(rank).context("there is no such member")?;
            copy_state(&member.address, run, plan.start, bytes_max).await?
        }
        CopySource::Coordinator => {
            let channel = net::connect(coordinator).await?;
            let request = pb::GetCheckpointRequest { step: plan.start.position.step };
            let answer = CoordinatorClient::new(channel).get_checkpoint(request).await?;
            (transfer::receive(answer.into_inner(), bytes_max).await?, Vec::new())
        }
    };
    let layout = Arc::clone(layout);
    let state = spawn_blocking(move || state_file::decode(&bytes, &layout)).await??;
    Ok(StateCopy { state, reports })
}

/// Whether a member of the run answers at this address: asked for a state that nobody has, it says so.
pub(crate) async fn reaches(address: &str, run: RunId) -> bool {
    let nothing =
        StateRef { generation: Generation(0), position: Position::default(), digest: Digest(0) };
    let asked =
        tokio::time::timeout(net::CONNECT_MAX, copy_state(address, run, nothing, HEADER_BYTES_MAX))
            .await;
    matches!(asked, Ok(Ok(_) | Err(CopyError::Refused(_))))
}

/// Gives a state to whoever asked for it.
pub(crate) async fn serve(
    state: Arc<State>,
    reports: Vec<StepDone>,
    asked: oneshot::Sender<Offer>,
) {
    if let Ok(state) = spawn_blocking(move || state_file::encode(&state)).await {
        // Who asked may be gone by now.
        let _ = asked.send(Offer { state: state.into(), reports });
    }
}

/// Sends the snapshot of a step to the coordinator.
pub(crate) async fn upload(
    coordinator: &Address,
    step: Step,
    state: Arc<State>,
) -> anyhow::Result<()> {
    let bytes = spawn_blocking(move || state_file::encode(&state)).await?;
    let digest = digest::of_bytes(&bytes);
    let requests = transfer::split(bytes.into(), digest)
        .map(move |chunk| pb::PutSnapshotRequest { step, chunk: Some(chunk) });
    let channel = net::connect(coordinator).await?;
    CoordinatorClient::new(channel).put_snapshot(tokio_stream::iter(requests)).await?;
    Ok(())
}
