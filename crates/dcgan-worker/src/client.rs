//! The worker as a client of the coordinator and of other workers.

use dcgan_core::ids::{RunId, WorkerId};
use dcgan_rpc::net::{Connector, CoordinatorAt, Peer};
use dcgan_rpc::pb::coordinator_client::CoordinatorClient;
use dcgan_rpc::{Caller, Who};
use dcgan_store::address_file::read_address_at;
use tokio::task::spawn_blocking;
use tonic::transport::Channel;

/// The parts of every request of this worker: a way to reach the other program, and who asks.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) connector: Connector,
    pub(crate) coordinator: CoordinatorAt,
    /// This worker. The run is known from the first welcome on.
    pub(crate) caller: Caller,
}

impl Client {
    /// Creates the client of a worker that belongs to no run yet.
    pub(crate) fn new(connector: Connector, coordinator: CoordinatorAt, id: WorkerId) -> Self {
        Self { connector, coordinator, caller: Caller { run: None, who: Who::Worker(id) } }
    }

    /// Returns the client of the same worker in a run.
    pub(crate) fn in_run(&self, run: RunId) -> Self {
        let mut client = self.clone();
        client.caller.run = Some(run);
        client
    }

    /// Connects to the coordinator, wherever it is now.
    ///
    /// # Errors
    /// If it is not found, or cannot be reached.
    pub(crate) async fn connect(&self) -> anyhow::Result<CoordinatorClient<Channel>> {
        let coordinator = self.coordinator.clone();
        // The file may lie on a disk that hangs, and heartbeats must not wait for it.
        let address = spawn_blocking(move || coordinator.find(read_address_at)).await??;
        let peer = Peer::Coordinator(self.caller.run);
        let channel = self.connector.connect(&address, &peer).await?;
        Ok(CoordinatorClient::new(channel))
    }
}
