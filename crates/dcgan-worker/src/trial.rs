//! A trial: the worker shows that it can do a member's work, before a plan counts on it.
//!
//! It copies the state of a member, and computes the vectors of a shard from it. So a network that
//! carries no state, or a machine that takes a minute for a shard, costs the members nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dcgan_core::ids::{Phase, Position, ShardId, WorkerId};
use dcgan_core::objective::{Objective, Scratch, ShardTask};
use dcgan_core::protocol::message::TrialTimes;
use dcgan_core::state::State;
use dcgan_process::panics;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::client::Client;
use crate::partitions::PartitionCache;
use crate::transfers;

/// A copy that takes longer has failed. A state of 6 MB takes a second on a slow network.
const COPY_MAX: Duration = Duration::from_secs(10);
/// A shard that took less time than this is computed once more, and the shorter time counts: the
/// first computation of a process prepares what all later ones use.
const REPEAT_BELOW: Duration = Duration::from_secs(1);

/// Everything that a trial needs.
pub(crate) struct Trial {
    pub(crate) client: Client,
    pub(crate) objective: Arc<dyn Objective>,
    /// The number of the objective's metrics.
    pub(crate) metrics: usize,
    pub(crate) partitions: PartitionCache,
    pub(crate) shard: ShardId,
    /// The number of shards that this worker computes at the same time.
    pub(crate) threads: u16,
}

impl Trial {
    /// Runs the trial, and returns the times that it took.
    ///
    /// # Errors
    /// If there is no copy, or no vector, in words.
    pub(crate) async fn run(self, donor: &WorkerId, address: &str) -> Result<TrialTimes, String> {
        let began = Instant::now();
        let layout = self.objective.layout();
        let copy = transfers::fetch_any(&self.client, donor, address, layout, self.metrics);
        let (position, state) = match timeout(COPY_MAX, copy).await {
            Ok(Ok(copied)) => copied,
            Ok(Err(error)) => return Err(format!("{error:#}")),
            Err(_) => return Err(format!("no whole copy in {} s", COPY_MAX.as_secs())),
        };
        let copy_ms = began.elapsed().as_secs_f64() * 1e3;
        let shard_ms = spawn_blocking(move || panics::catch(|| self.shard_ms(position, &state)))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|panic| format!("the computation panicked: {panic}"))?;
        Ok(TrialTimes { copy_ms, shard_ms })
    }

    /// Computes the vectors of the shard in all phases of a step, and returns the time that it
    /// takes if as many shards are computed at once as there are threads.
    fn shard_ms(&self, position: Position, state: &State) -> f64 {
        let partition = self.partitions.wait_for(self.shard);
        let mut shortest = Duration::MAX;
        for _ in 0..2 {
            let began = Instant::now();
            let mut scratch = Scratch::default();
            for phase in Phase::ALL {
                let at = Position { phase, ..position };
                let task = ShardTask { state, at, shard: self.shard, partition: &partition };
                drop(self.objective.shard_vector(&task, &mut scratch));
            }
            let took = began.elapsed();
            shortest = shortest.min(took);
            if took >= REPEAT_BELOW {
                break;
            }
        }
        shortest.as_secs_f64() * 1e3 / f64::from(self.threads)
    }
}
