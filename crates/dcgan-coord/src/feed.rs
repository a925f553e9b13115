//! The samplers that follow the run: generators go to them, grids come back.

use std::collections::{BTreeMap, BTreeSet};

use dcgan_core::ids::Step;
use dcgan_rpc::{Checksummed, pb};

use crate::service::ToFollower;

/// A sampler's stream, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FollowerId(pub(crate) u64);

/// The samplers that follow.
pub(crate) struct SamplerFeed {
    /// The run's, which determines the latents of its grids.
    seed: u64,
    streams: BTreeMap<FollowerId, Follower>,
}

struct Follower {
    stream: ToFollower,
    /// The newest step whose grid it was asked for.
    asked: Step,
}

impl SamplerFeed {
    /// Nobody, of a run with this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, streams: BTreeMap::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Begins to serve a sampler, with the newest generator that there is.
    pub(crate) fn insert(
        &mut self,
        follower: FollowerId,
        stream: ToFollower,
        newest: Option<(Step, Vec<u8>)>,
    ) {
        if let Some((step, generator)) = newest {
            // The first message of an empty channel.
            let _ = stream.try_send(Ok(self.snapshot(step, generator, false)));
        }
        self.streams.insert(follower, Follower { stream, asked: 0 });
    }

    pub(crate) fn remove(&mut self, follower: FollowerId) {
        self.streams.remove(&follower);
    }

    /// Asks every sampler that has room for the next of the pending grids.
    pub(crate) fn ask(&mut self, pending: &BTreeSet<Step>, load: impl Fn(Step) -> Option<Vec<u8>>) {
        let ids: Vec<FollowerId> = self.streams.keys().copied().collect();
        for id in ids {
            let Some(Follower { stream, asked }) = self.streams.get(&id) else {
                continue;
            };
            let next = pending.range(asked + 1..).next().copied();
            let (Some(step), Ok(room)) = (next, stream.clone().try_reserve_owned()) else {
                continue;
            };
            if let Some(generator) = load(step) {
                room.send(Ok(self.snapshot(step, generator, true)));
            }
            if let Some(follower) = self.streams.get_mut(&id) {
                follower.asked = step;
            }
        }
    }

    fn snapshot(&self, step: Step, generator: Vec<u8>, grid_due: bool) -> pb::GeneratorSnapshot {
        pb::GeneratorSnapshot {
            step,
            seed: self.seed,
            state: generator.into(),
            grid_due,
            checksum: 0,
        }
        .with_checksum()
    }
}
