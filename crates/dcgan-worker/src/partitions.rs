//! The partitions: the images of each shard, fetched from the coordinator.
//!
//! A worker fetches the partitions of the shards that it will probably own first, and says that it
//! is ready when it has those. It then fetches all others in the background, so that it can take
//! over any shard at once when another worker is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcgan_core::ids::ShardId;
use dcgan_core::spec::sharding::{Partition, Sharding};
use dcgan_core::spec::{RunSpec, shard_ids};
use dcgan_rpc::net::{self, Address};
use dcgan_rpc::pb::coordinator_client::CoordinatorClient;
use dcgan_rpc::{Checksummed, pb, transfer};
use tonic::transport::Channel;

use crate::waiting::Waiting;

/// The pause between two attempts to fetch a partition.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The partitions that have arrived. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct PartitionCache(Arc<Shared>);

#[derive(Default)]
struct Shared {
    partitions: Mutex<BTreeMap<ShardId, Arc<Partition>>>,
    arrived: Condvar,
}

impl PartitionCache {
    /// Returns a shard's partition. Blocks the calling thread until it has arrived.
    pub(crate) fn wait_for(&self, shard: ShardId) -> Arc<Partition> {
        let mut partitions = self.lock();
        loop {
            match partitions.get(&shard) {
                Some(partition) => return Arc::clone(partition),
                None => {
                    let woken = self.0.arrived.wait(partitions);
                    partitions = woken.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    pub(crate) fn insert(&self, shard: ShardId, partition: Partition) {
        self.lock().insert(shard, Arc::new(partition));
        self.0.arrived.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardId, Arc<Partition>>> {
        self.0.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches every shard's partition, those of the `likely` shards first, and calls `ready` when
    /// those have arrived. An attempt that fails is repeated until it succeeds.
    pub(crate) async fn fetch_all(
        self,
        coordinator: Address,
        spec: RunSpec,
        sharding: Sharding,
        likely: Vec<ShardId>,
        ready: impl FnOnce(),
    ) {
        let shards = sharding.shards();
        let mut fetcher = PartitionFetcher { coordinator, spec, sharding, channel: None };
        // A shard that does not exist would be asked for again and again.
        let likely: Vec<ShardId> = likely.into_iter().filter(|shard| shard.0 < shards).collect();
        for &shard in &likely {
            self.insert(shard, fetcher.fetch(shard).await);
        }
        ready();
        for shard in shard_ids(shards).filter(|shard| !likely.contains(shard)) {
            self.insert(shard, fetcher.fetch(shard).await);
        }
    }
}

/// Fetches partitions, one after the other.
struct PartitionFetcher {
    coordinator: Address,
    spec: RunSpec,
    sharding: Sharding,
    /// The connection to the coordinator; `None` before the first attempt and after a failed one.
    channel: Option<Channel>,
}

impl PartitionFetcher {
    /// Fetches a partition, and repeats the attempt until it succeeds.
    async fn fetch(&mut self, shard: ShardId) -> Partition {
        let mut waiting = Waiting::default();
        loop {
            match self.try_fetch(shard).await {
                Ok(partition) => return partition,
                Err(error) => {
                    self.channel = None;
                    waiting.report(|| format!("the images of shard {shard}: {error:#}"));
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    async fn try_fetch(&mut self, shard: ShardId) -> anyhow::Result<Partition> {
        let channel = match &self.channel {
            Some(channel) => channel.clone(),
            None => self.channel.insert(net::connect(&self.coordinator).await?).clone(),
        };
        let image_bytes = self.spec.data.image_bytes();
        let expected = self.sharding.partition_len(shard) * image_bytes;
        // The request has a checksum: with a flipped bit it would ask for another shard, whose
        // partition may have the same size.
        let request =
            pb::GetPartitionRequest { shard: shard.0.into(), checksum: 0 }.with_checksum();
        let response = CoordinatorClient::new(channel).get_partition(request).await?;
        let pixels = transfer::receive(response.into_inner(), expected).await?;
        let found = pixels.len();
        anyhow::ensure!(found == expected, "expected {expected} bytes, found {found}");
        Ok(Partition::new(image_bytes, pixels))
    }
}
