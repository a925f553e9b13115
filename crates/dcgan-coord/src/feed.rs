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
    link: SamplerSender,
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

    /// Adds a sampler.
    pub(crate) fn insert(&mut self, sampler: SamplerId, link: SamplerSender) {
        self.samplers.insert(sampler, Sampler { link, last_asked: 0 });
    }

    /// Sends the generator of the newest checkpoint to a sampler that has just come, unless it got
    /// a later one in the meantime.
    pub(crate) fn send_newest(&mut self, sampler: SamplerId, step: Step, generator: Vec<u8>) {
        let seed = self.seed;
        if let Some(sampler) = self.samplers.get(&sampler)
            && sampler.last_asked <= step
        {
            // A stream without room has later generators in it. If the sampler is gone already,
            // its end is on its way.
            let _ = sampler.link.sender.try_send(Ok(snapshot(seed, step, generator, false)));
        }
    }

    /// Removes a sampler whose stream ended.
    pub(crate) fn remove(&mut self, sampler: SamplerId) {
        self.samplers.remove(&sampler);
    }

    /// The first pending grid that a sampler whose stream has room was not asked for before.
    pub(crate) fn wanted(&self, pending: &BTreeSet<Step>) -> Option<Step> {
        let with_room = self.samplers.values().filter(|sampler| {
            !sampler.link.sender.is_closed() && sampler.link.sender.capacity() > 0
        });
        with_room.filter_map(|sampler| sampler.next(pending)).min()
    }

    /// Asks for the grid of a step: every sampler whose next one it is, and whose stream has room.
    /// A generator that could not be read is not tried again for them.
    pub(crate) fn ask(&mut self, pending: &BTreeSet<Step>, step: Step, generator: Option<Vec<u8>>) {
        let seed = self.seed;
        for sampler in self.samplers.values_mut() {
            if sampler.next(pending) != Some(step) {
                continue;
            }
            let Ok(room) = sampler.link.sender.try_reserve() else {
                continue;
            };
            if let Some(generator) = &generator {
                room.send(Ok(snapshot(seed, step, generator.clone(), true)));
            }
            sampler.last_asked = step;
        }
    }
}

impl Sampler {
    /// The next pending grid that it was not asked for before.
    fn next(&self, pending: &BTreeSet<Step>) -> Option<Step> {
        pending.range(self.last_asked + 1..).next().copied()
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
    use crate::input::Link;

    #[test]
    fn a_sampler_is_asked_for_each_pending_grid_once_and_only_while_its_stream_has_room() {
        let (sender, mut stream) = mpsc::channel(2);
        let mut feed = SamplerFeed::new(22);
        feed.insert(SamplerId(1), Link::new(sender).0);
        feed.send_newest(SamplerId(1), 10, vec![1]);
        let pending = BTreeSet::from([20, 40]);

        assert_eq!(feed.wanted(&pending), Some(20));
        feed.ask(&pending, 20, Some(vec![2]));
        // The stream is full now, so the grid of step 40 has to wait.
        assert_eq!(feed.wanted(&pending), None);
        feed.ask(&pending, 40, Some(vec![3]));
        let newest = stream.try_recv().unwrap().unwrap();
        assert_eq!((newest.step, newest.grid_due), (10, false));
        let due = stream.try_recv().unwrap().unwrap();
        assert_eq!((due.step, due.grid_due), (20, true));
        assert!(stream.try_recv().is_err());

        assert_eq!(feed.wanted(&pending), Some(40));
        feed.ask(&pending, 40, Some(vec![3]));
        assert_eq!(feed.wanted(&pending), None);
        assert_eq!(stream.try_recv().unwrap().unwrap().step, 40);
        assert!(stream.try_recv().is_err());
    }

    #[test]
    fn a_sampler_never_goes_back_to_an_older_generator() {
        let (sender, mut stream) = mpsc::channel(2);
        let mut feed = SamplerFeed::new(22);
        feed.insert(SamplerId(1), Link::new(sender).0);
        // The newest checkpoint was read slowly.
        feed.ask(&BTreeSet::from([20]), 20, Some(vec![2]));
        feed.send_newest(SamplerId(1), 10, vec![1]);
        assert_eq!(stream.try_recv().unwrap().unwrap().step, 20);
        assert!(stream.try_recv().is_err());
    }
}
