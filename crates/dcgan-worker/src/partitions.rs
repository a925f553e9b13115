//! The shards' images: fetched from the coordinator, those of the likely shards first and the others in the background,
//! so that taking a shard over waits for nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use dcgan_core::ids::ShardId;
use dcgan_core::spec::sharding::{Partition, Sharding};
use dcgan_core::spec::{RunSpec, shard_ids};
use dcgan_rpc::net::{self, Address};
use dcgan_rpc::pb::coordinator_client::CoordinatorClient;
use dcgan_rpc::{Checksummed, pb, transfer};
use tonic::transport::Channel;

use crate::waiting::Waiting;

/// Between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The partitions that are held.
#[derive(Clone, Default)]
pub(crate) struct Partitions(Arc<Held>);

#[derive(Default)]
struct Held {
    partitions: Mutex<BTreeMap<ShardId, Arc<Partition>>>,
    arrived: Condvar,
}

impl Partitions {
    /// A shard's partition; blocks the calling thread while it is on its way.
    pub(crate) fn wait_for(&self, shard: ShardId) -> Arc<Partition> {
        let mut held = self.0.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match held.get(&shard) {
                Some(partition) => return Arc::clone(partition),
                None => held = self.0.arrived.wait(held).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn insert(&self, shard: ShardId, partition: Partition) {
        self.0
            .partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(shard, Arc::new(partition));
        self.0.arrived.notify_all();
    }

    /// Fetches every shard's partition, `likely` ones first; calls `ready` when those are held. Goes on trying.
    pub(crate) async fn fetch(
        self,
        coordinator: Address,
        spec: RunSpec,
        sharding: Sharding,
        likely: Vec<ShardId>,
        ready: impl FnOnce(),
    ) {
        let mut source = Source { coordinator, spec, sharding, channel: None };
        let likely: Vec<ShardId> =
            likely.into_iter().filter(|shard| shard.0 < source.sharding.shards()).collect();
        for &shard in &likely {
            self.insert(shard, source.fetch(shard).await);
        }
        ready();
        for shard in shard_ids(source.sharding.shards()).filter(|shard| !likely.contains(shard)) {
            self.insert(shard, source.fetch(shard).await);
        }
    }
}

struct Source {
    coordinator: Address,
    spec: RunSpec,
    sharding: Sharding,
    channel: Option<Channel>,
}

impl Source {
    async fn fetch(&mut self, shard: ShardId) -> Partition {
        let mut waiting = Waiting::default();
        loop {
            match self.attempt(shard).await {
                Ok(partition) => return partition,
                Err(error) => {
                    self.channel = None;
                    waiting.say(|| format!("the images of shard {shard}: {error:#}"));
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    async fn attempt(&mut self, shard: ShardId) -> anyhow::Result<Partition> {
        let channel = match &self.channel {
            Some(channel) => channel.clone(),
            None => self.channel.insert(net::connect(&self.coordinator).await?).clone(),
        };
        let request =
            pb::GetPartitionRequest { shard: shard.0.into(), checksum: 0 }.with_checksum();
        let image_bytes = self.spec.data.image_bytes();
        let expected = self.sharding.partition_len(shard) * image_bytes;
        let answer = CoordinatorClient::new(channel).get_partition(request).await?;
        let pixels = transfer::receive(answer.into_inner(), expected).await?;
        anyhow::ensure!(
            pixels.len() == expected,
            "expected {expected} bytes, found {}",
            pixels.len()
        );
        Ok(Partition::new(image_bytes, pixels))
    }
}
