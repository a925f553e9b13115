//! The samplers that follow the run: the coordinator sends them generators, and they send grids
//! back.
//!
//! A sampler may be slower than the training. A queue for each of them would grow without end, and
//! waiting for one would stop the run. So a generator is only sent when the sampler's stream has
//! room; grids that are due wait on disk meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use dcgan_core::ids::Step;
use dcgan_rpc::{Checksummed, pb};

use crate::input::{SamplerId, SamplerSender};

/// The samplers that follow the run.
pub(crate) struct SamplerFeed {
    /// The seed of the run, which determines the latents of its grids.
    seed: u64,
    samplers: BTreeMap<SamplerId, Sampler>,
}

struct Sampler {
    sender: SamplerSender,
    /// The newest step whose grid this sampler was asked for; 0 before the first.
    last_asked: Step,
}

impl SamplerFeed {
    /// Makes the feed of a run with this seed, which no sampler follows yet.
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, samplers: BTreeMap::new() }
    }

    /// True if no sampler follows.
    pub(crate) fn is_empty(&self) -> bool {
        self.samplers.is_empty()
    }

    /// Adds a sampler, and sends it the newest generator if there is one.
    pub(crate) fn insert(
        &mut self,
        sampler: SamplerId,
        sender: SamplerSender,
        newest: Option<(Step, Vec<u8>)>,
    ) {
        if let Some((step, generator)) = newest {
            // The stream is new and has room. If the sampler is gone already, its end is on its
            // way.
            let _ = sender.try_send(Ok(snapshot(self.seed, step, generator, false)));
        }
        self.samplers.insert(sampler, Sampler { sender, last_asked: 0 });
    }

    /// Removes a sampler whose stream ended.
    pub(crate) fn remove(&mut self, sampler: SamplerId) {
        self.samplers.remove(&sampler);
    }

    /// Asks every sampler whose stream has room for the first pending grid that it was not asked
    /// for before. `load` reads the generator of a step, and returns none if that fails.
    pub(crate) fn ask(&mut self, pending: &BTreeSet<Step>, load: impl Fn(Step) -> Option<Vec<u8>>) {
        for sampler in self.samplers.values_mut() {
            let next = pending.range(sampler.last_asked + 1..).next().copied();
            let (Some(step), Ok(room)) = (next, sampler.sender.try_reserve()) else {
                continue;
            };
            if let Some(generator) = load(step) {
                room.send(Ok(snapshot(self.seed, step, generator, true)));
            }
            // A generator that cannot be read is not tried again for this sampler.
            sampler.last_asked = step;
        }
    }
}

/// The message that carries a generator, as a safetensors file.
fn snapshot(seed: u64, step: Step, generator: Vec<u8>, grid_due: bool) -> pb::GeneratorSnapshot {
    let state = generator.into();
    pb::GeneratorSnapshot { step, seed, state, grid_due, checksum: 0 }.with_checksum()
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn a_sampler_is_asked_for_each_pending_grid_once_and_only_while_its_stream_has_room() {
        let (sender, mut stream) = mpsc::channel(2);
        let mut feed = SamplerFeed::new(22);
        feed.insert(SamplerId(1), sender, Some((10, vec![1])));
        let pending = BTreeSet::from([20, 40]);

        feed.ask(&pending, |_| Some(vec![2]));
        // The stream is full now, so the grid of step 40 has to wait.
        feed.ask(&pending, |_| Some(vec![3]));
        let newest = stream.try_recv().unwrap().unwrap();
        assert_eq!((newest.step, newest.grid_due), (10, false));
        let due = stream.try_recv().unwrap().unwrap();
        assert_eq!((due.step, due.grid_due), (20, true));
        assert!(stream.try_recv().is_err());

        feed.ask(&pending, |_| Some(vec![3]));
        feed.ask(&pending, |_| Some(vec![4]));
        assert_eq!(stream.try_recv().unwrap().unwrap().step, 40);
        assert!(stream.try_recv().is_err());
    }
}
