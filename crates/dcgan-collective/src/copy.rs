//! Asking a member for a copy of its state.

use dcgan_core::ids::RunId;
use dcgan_core::metrics::StepDone;
use dcgan_core::protocol::plan::StateRef;
use dcgan_rpc::net::{self, Address, ConnectError, InvalidAddress};
use dcgan_rpc::pb::collective_client::CollectiveClient;
use dcgan_rpc::{Checksummed, Malformed, pb, transfer};
use tonic::Status;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The plan's address is not one.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// The member cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It does not hold the state, or the transfer broke.
    #[error("{}", .0.message())]
    Refused(#[from] Status),
    /// It sent something else.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// What it sent does not add up.
    #[error(transparent)]
    Transfer(#[from] transfer::TransferError),
}

/// A state of at most `bytes_max` bytes, as a file, and the reports that go with it. The bytes are those that the
/// member sent; whether they are the state that was asked for is for the caller to check.
///
/// # Errors
/// If the member cannot be reached, does not hold the state, or what it sends does not add up.
pub async fn copy_state(
    member: &str,
    run: RunId,
    state: StateRef,
    bytes_max: usize,
) -> Result<(Vec<u8>, Vec<StepDone>), CopyError> {
    let address: Address = member.parse()?;
    let channel = net::connect(&address).await?;
    let request = pb::CopyStateRequest { run: run.0, state: Some(state.into()) };
    let mut stream = CollectiveClient::new(channel).copy_state(request).await?.into_inner();
    let mut assembly = transfer::ChunkAssembler::new(bytes_max);
    let mut reports: Vec<StepDone> = Vec::new();
    while let Some(message) = transfer::next(&mut stream).await? {
        let pb::CopyStateResponse { reports: more, chunk, .. } = message.verify_checksum()?;
        for report in more {
            reports.push(report.try_into()?);
        }
        assembly.push(&chunk.unwrap_or_default())?;
    }
    Ok((assembly.finish()?, reports))
}
