//! The partitions: the images of each shard, fetched from the coordinator.
//!
//! A worker fetches the partitions of the shards that it will probably own first, and says that it
//! is ready when it has those. Under a plan it keeps those of its own shards, and those that it
//! would inherit if one other member were lost, so that it could go on at once: of the latter as
//! many as fit into [`INHERITED_BYTES_MAX`]. Any other partition is fetched when a compute thread
//! needs it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcgan_core::ids::{Rank, ShardId};
use dcgan_core::protocol::plan::Plan;
use dcgan_core::spec::RunSpec;
use dcgan_core::spec::sharding::{Partition, Sharding};
use dcgan_rpc::pb::coordinator_client::CoordinatorClient;
use dcgan_rpc::{Checksummed, pb, transfer};
use tokio::sync::Notify;
use tonic::transport::Channel;

use crate::client::Client;
use crate::waiting::Waiting;

/// The pause between two attempts to fetch a partition.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// The bytes of partitions that a worker keeps for shards of others, which it may inherit. MNIST
/// has 47 million in all.
const INHERITED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The partitions that have arrived. Clones share them.
#[derive(Clone)]
pub(crate) struct PartitionCache(Arc<Shared>);

struct Shared {
    sharding: Sharding,
    image_bytes: usize,
    content: Mutex<Content>,
    /// Signals to compute threads that a partition is here.
    arrived: Condvar,
    /// Signals to the fetching task that a partition is wanted.
    wanted: Notify,
}

#[derive(Default)]
struct Content {
    partitions: BTreeMap<ShardId, Arc<Partition>>,
    /// Partitions that compute threads wait for.
    needed: BTreeSet<ShardId>,
    /// Partitions that will or may be needed, in the order in which they are fetched.
    ahead: VecDeque<ShardId>,
}

impl Content {
    /// The partition to fetch next.
    fn next_wanted(&mut self) -> Option<ShardId> {
        if let Some(&shard) = self.needed.first() {
            return Some(shard);
        }
        let is_here = |shard: &ShardId| self.partitions.contains_key(shard);
        while self.ahead.pop_front_if(|shard| is_here(shard)).is_some() {}
        self.ahead.pop_front()
    }

    /// Keeps the partitions of `own` shards, and of `others` as far as they fit into `bytes_max`;
    /// `bytes_of` gives the size of each. Drops all others.
    fn keep(
        &mut self,
        own: &[ShardId],
        others: Vec<ShardId>,
        bytes_of: impl Fn(ShardId) -> usize,
        bytes_max: usize,
    ) {
        let mut bytes = 0;
        let others = others.into_iter().take_while(|&shard| {
            bytes += bytes_of(shard);
            bytes <= bytes_max
        });
        self.ahead = own.iter().copied().chain(others).collect();
        let kept: BTreeSet<ShardId> = self.ahead.iter().copied().collect();
        self.partitions.retain(|shard, _| kept.contains(shard));
    }
}

impl PartitionCache {
    /// An empty cache for the partitions of a run.
    pub(crate) fn new(spec: &RunSpec) -> Self {
        Self(Arc::new(Shared {
            sharding: *spec.sharding(),
            image_bytes: spec.data().image_bytes(),
            content: Mutex::default(),
            arrived: Condvar::new(),
            wanted: Notify::new(),
        }))
    }

    /// Returns a shard's partition. Blocks the calling thread until it has arrived.
    pub(crate) fn wait_for(&self, shard: ShardId) -> Arc<Partition> {
        let mut content = self.lock();
        loop {
            if let Some(partition) = content.partitions.get(&shard) {
                return Arc::clone(partition);
            }
            if content.needed.insert(shard) {
                self.0.wanted.notify_one();
            }
            let woken = self.0.arrived.wait(content);
            content = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Fetches what a member of this rank needs under a plan, or may need after it, and drops what
    /// it does not.
    pub(crate) fn follow(&self, plan: &Plan, me: Rank) {
        let bytes_of = |shard| self.0.sharding.partition_len(shard) * self.0.image_bytes;
        let inherited = plan.inherited_by(me);
        self.lock().keep(plan.shards_of(me), inherited, bytes_of, INHERITED_BYTES_MAX);
        self.0.wanted.notify_one();
    }

    pub(crate) fn insert(&self, shard: ShardId, partition: Partition) {
        let mut content = self.lock();
        content.needed.remove(&shard);
        content.partitions.insert(shard, Arc::new(partition));
        self.0.arrived.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches the partitions of the `likely` shards, calls `ready` when they have arrived, and
    /// then fetches what is wanted, for ever. An attempt that fails is repeated until it succeeds.
    pub(crate) async fn fetch(
        self,
        client: Client,
        spec: RunSpec,
        likely: Vec<ShardId>,
        ready: impl FnOnce(),
    ) {
        let sharding = self.0.sharding;
        let mut fetcher = PartitionFetcher { client, spec, connection: None };
        // A shard that does not exist would be asked for again and again.
        for shard in likely.into_iter().filter(|shard| shard.0 < sharding.shards()) {
            self.insert(shard, fetcher.fetch(shard).await);
        }
        ready();
        loop {
            let shard = self.next_wanted().await;
            self.insert(shard, fetcher.fetch(shard).await);
        }
    }

    async fn next_wanted(&self) -> ShardId {
        loop {
            if let Some(shard) = self.lock().next_wanted() {
                return shard;
            }
            self.0.wanted.notified().await;
        }
    }
}

/// Fetches partitions, one after the other.
struct PartitionFetcher {
    client: Client,
    spec: RunSpec,
    /// The connection to the coordinator; `None` before the first attempt and after a failed one.
    connection: Option<CoordinatorClient<Channel>>,
}

impl PartitionFetcher {
    /// Fetches a partition, and repeats the attempt until it succeeds.
    async fn fetch(&mut self, shard: ShardId) -> Partition {
        let mut waiting = Waiting::default();
        loop {
            match self.try_fetch(shard).await {
                Ok(partition) => return partition,
                Err(error) => {
                    self.connection = None;
                    waiting.report(|| format!("the images of shard {shard}: {error:#}"));
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    async fn try_fetch(&mut self, shard: ShardId) -> anyhow::Result<Partition> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(self.client.connect().await?),
        };
        let image_bytes = self.spec.data().image_bytes();
        let expected = self.spec.sharding().partition_len(shard) * image_bytes;
        // The request has a checksum: with a flipped bit it would ask for another shard, whose
        // partition may have the same size.
        let caller = Some(self.client.caller.clone().into());
        let request =
            pb::GetPartitionRequest { shard: shard.0.into(), caller, checksum: 0 }.with_checksum();
        let response = connection.get_partition(request).await?;
        let pixels = transfer::receive(response.into_inner(), expected).await?;
        let found = pixels.len();
        anyhow::ensure!(found == expected, "expected {expected} bytes, found {found}");
        Ok(Partition::new(image_bytes, pixels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_partitions_come_before_those_that_may_be_inherited_and_others_are_dropped() {
        let shards = |numbers: &[u16]| numbers.iter().copied().map(ShardId).collect::<Vec<_>>();
        let mut content = Content::default();
        for shard in shards(&[1, 2, 7]) {
            content.partitions.insert(shard, Arc::new(Partition::new(1, vec![0])));
        }
        // Two partitions of 10 bytes each fit.
        content.keep(&shards(&[0, 1]), shards(&[3, 2, 4]), |_| 10, 29);
        assert_eq!(content.partitions.keys().copied().collect::<Vec<_>>(), shards(&[1, 2]));
        // A thread waits for a shard that a later plan has taken away.
        content.needed.insert(ShardId(9));
        assert_eq!(content.next_wanted(), Some(ShardId(9)));
        content.needed.clear();
        let wanted: Vec<ShardId> = std::iter::from_fn(|| content.next_wanted()).collect();
        assert_eq!(wanted, shards(&[0, 3]));
    }
}
