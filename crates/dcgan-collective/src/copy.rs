//! Asks a member for a copy of its state.

use dcgan_core::ids::WorkerId;
use dcgan_core::metrics::StepDone;
use dcgan_core::protocol::plan::StateRef;
use dcgan_rpc::net::{Address, ConnectError, Connector, InvalidAddress, Peer};
use dcgan_rpc::pb::collective_client::CollectiveClient;
use dcgan_rpc::transfer::{ChunkAssembler, TransferError};
use dcgan_rpc::{Caller, Checksummed, Malformed, pb, step_done, transfer};
use tonic::Status;

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The member's address in the plan is not an address.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// The member cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The member answered that it does not hold the state, or the transfer broke.
    #[error("{}", .0.message())]
    Refused(#[from] Status),
    /// The member sent a message that no program of this version sends.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The chunks that arrived are not the file that was sent.
    #[error(transparent)]
    Transfer(#[from] TransferError),
}

/// The limits of a copy. One that is beyond them is refused.
#[derive(Clone, Copy, Debug)]
pub struct CopyLimits {
    /// The size of the file, in bytes.
    pub bytes_max: usize,
    /// The number of the objective's metrics, which every report has.
    pub metrics: usize,
}

/// A state, as another worker has sent it. Whether the file holds the state that it says is for the
/// receiver to check.
#[derive(Clone, Debug, PartialEq)]
pub struct Copied {
    /// The state that the file should hold.
    pub state: StateRef,
    /// A safetensors file.
    pub file: Vec<u8>,
    /// The reports of the steps that led to the state and that the coordinator has not yet written.
    pub reports: Vec<StepDone>,
}

/// The number of reports that come with a copy. A copy with more is refused. They are those of the
/// steps that are not on disk, and a message has room for about as many.
const REPORTS_MAX: usize = 100_000;

/// Copies `state`, or whatever state it has, from the worker `id` at the address `address`.
///
/// # Errors
/// If the member cannot be reached or does not hold the state, if no chunk arrives for
/// [`transfer::STALLED_MAX`], or if what arrives is not what was sent.
pub async fn copy_state(
    connector: &Connector,
    caller: Caller,
    id: &WorkerId,
    address: &str,
    state: Option<StateRef>,
    limits: CopyLimits,
) -> Result<Copied, CopyError> {
    let address: Address = address.parse()?;
    let channel = connector.connect(&address, &Peer::Worker(id.name.clone())).await?;
    let request = pb::CopyStateRequest {
        state: state.map(Into::into),
        caller: Some(caller.into()),
        to: Some(id.clone().into()),
    };

    transfer::in_time(limits.bytes_max, async {
        let mut stream = CollectiveClient::new(channel).copy_state(request).await?.into_inner();
        let mut assembler = ChunkAssembler::new(limits.bytes_max);
        let mut first: Option<(StateRef, Vec<StepDone>)> = None;
        while let Some(message) = transfer::next(&mut stream).await? {
            let message = message.verify_checksum()?;
            // A message without a chunk becomes an empty one, which belongs to no file and is
            // refused.
            assembler.push(&message.chunk.unwrap_or_default())?;
            // The reports and the state's identity come once.
            if first.is_some() && !message.reports.is_empty() {
                return Err(Status::data_loss("a copy with reports after its first message").into());
            }
            if message.reports.len() > REPORTS_MAX {
                return Err(Status::data_loss("a copy with too many reports").into());
            }
            if first.is_none() {
                let unnamed = || Status::data_loss("a copy that does not say of which state");
                let state = message.state.ok_or_else(unnamed)?;
                let reports = message.reports.into_iter();
                let reports = reports.map(|report| step_done(report, limits.metrics));
                first = Some((StateRef::try_from(state)?, reports.collect::<Result<_, _>>()?));
            }
        }
        let file = assembler.finish()?;
        let empty = || Status::data_loss("a copy without a message");
        let (state, reports) = first.ok_or_else(empty)?;
        Ok(Copied { state, file, reports })
    })
    .await
}
