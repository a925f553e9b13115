//! Finds out who answers at a worker's address.

use dcgan_core::ids::{RunId, WorkerId};
use dcgan_core::words::worker;
use dcgan_rpc::net::{Address, ConnectError, Connector, InvalidAddress, Peer, in_words};
use dcgan_rpc::pb::collective_client::CollectiveClient;
use dcgan_rpc::{Caller, Malformed, pb};
use tonic::Status;

/// Why a worker was not reached.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The address that the worker gave is not one.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// Nobody answers at the address.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A program that answers at the address is no worker of this run.
    #[error("what answers there is no worker of this run: {}", in_words(.0))]
    Refused(#[from] Status),
    /// The answer is not one that a worker of this version gives.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Another worker answers at the address.
    #[error("{} answers there", worker(&.0.name))]
    AnotherWorker(WorkerId),
    /// An earlier or later process of the worker answers at the address.
    #[error("another process of that name answers there")]
    AnotherProcess,
    /// A worker of another run answers at the address.
    #[error("a worker of run {0} answers there")]
    AnotherRun(RunId),
}

/// Asks who answers at `address`. Succeeds only if it is the process `id` in the caller's run.
///
/// # Errors
/// If nobody answers, or somebody else does.
pub async fn probe(
    connector: &Connector,
    caller: Caller,
    id: &WorkerId,
    address: &str,
) -> Result<(), ProbeError> {
    let address: Address = address.parse()?;
    let channel = connector.connect(&address, &Peer::Worker(id.name.clone())).await?;
    let expected_run = caller.run;
    let request = pb::ProbeRequest { caller: Some(caller.into()) };
    let answer = CollectiveClient::new(channel).probe(request).await?.into_inner();
    let pb::ProbeResponse { run, id: answering } = answer;
    let answering = answering.ok_or_else(|| Status::data_loss("an answer without a worker"))?;
    let answering = WorkerId::try_from(answering)?;
    match RunId(run) {
        run if expected_run.is_some_and(|expected| expected != run) => {
            Err(ProbeError::AnotherRun(run))
        }
        _ if answering == *id => Ok(()),
        _ if answering.name == id.name => Err(ProbeError::AnotherProcess),
        _ => Err(ProbeError::AnotherWorker(answering)),
    }
}
