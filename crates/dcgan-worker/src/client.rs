//! The worker as a client of the coordinator and of other workers.

use dcgan_core::ids::{RunId, WorkerId};
use dcgan_rpc::net::{Address, ConnectError, Connector, Peer};
use dcgan_rpc::pb::coordinator_client::CoordinatorClient;
use dcgan_rpc::{Caller, Who};
use tonic::transport::Channel;

/// The parts of every request of this worker: a way to reach the other program, and who asks.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) connector: Connector,
    pub(crate) coordinator: Address,
    /// This worker. The run is known from the first welcome on.
    pub(crate) caller: Caller,
}

impl Client {
    /// Creates the client of a worker that belongs to no run yet.
    pub(crate) fn new(connector: Connector, coordinator: Address, id: WorkerId) -> Self {
        Self { connector, coordinator, caller: Caller { run: None, who: Who::Worker(id) } }
    }

    /// Returns the client of the same worker in a run.
    pub(crate) fn in_run(&self, run: RunId) -> Self {
        let mut client = self.clone();
        client.caller.run = Some(run);
        client
    }

    /// Connects to the coordinator.
    pub(crate) async fn connect(&self) -> Result<CoordinatorClient<Channel>, ConnectError> {
        let peer = Peer::Coordinator(self.caller.run);
        let channel = self.connector.connect(&self.coordinator, &peer).await?;
        Ok(CoordinatorClient::new(channel))
    }
}
