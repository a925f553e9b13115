//! The samplers that follow the run: the coordinator sends them generators, and they send grids
//! back.
//!
//! A sampler may be slower than the training. A queue for each of them would grow without end, and
//! waiting for one would stop the run. So a generator is only sent when the sampler's stream has
//! room; grids that are due wait on disk meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use dcgan_core::ids::Step;
use dcgan_rpc::{Checksummed, pb};

use crate::input::{SamplerId, SamplerSender};

/// A sampler that has read nothing for this long while generators wait for it loses its place.
pub(crate) const STALLED_MAX: Duration = Duration::from_secs(60);

/// The samplers that follow the run.
pub(crate) struct SamplerFeed {
    /// The seed of the run, which determines the latents of its grids.
    seed: u64,
    samplers: BTreeMap<SamplerId, Sampler>,
}

struct Sampler {
    link: SamplerSender,
    /// Since when its stream has had no room; `None` while it has.
    full_since: Option<Duration>,
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
        self.samplers.insert(sampler, Sampler { link, full_since: None, last_asked: 0 });
    }

    /// Sends the generator of the newest checkpoint to a sampler that has just come, unless it got
    /// a later one in the meantime.
    pub(crate) fn send_newest(&mut self, sampler: SamplerId, step: Step, generator: Bytes) {
        let seed = self.seed;
        if let Some(sampler) = self.samplers.get(&sampler)
            && sampler.last_asked <= step
        {
            // A stream without room has later generators in it. If the sampler is gone already,
            // its end is on its way.
            let _ = sampler.link.sender.try_send(Ok(snapshot(seed, step, generator, false)));
        }
    }

    /// Drops samplers that have not read for [`STALLED_MAX`] while generators waited for them.
    /// Returns how many.
    pub(crate) fn drop_stalled(&mut self, now: Duration) -> usize {
        let before = self.samplers.len();
        self.samplers.retain(|_, sampler| {
            if sampler.link.sender.capacity() > 0 {
                sampler.full_since = None;
                return true;
            }
            now < *sampler.full_since.get_or_insert(now) + STALLED_MAX
        });
        before - self.samplers.len()
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
    pub(crate) fn ask(&mut self, pending: &BTreeSet<Step>, step: Step, generator: Option<Bytes>) {
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
fn snapshot(seed: u64, step: Step, generator: Bytes, grid_due: bool) -> pb::GeneratorSnapshot {
    pb::GeneratorSnapshot { step, seed, state: generator, grid_due, checksum: 0 }.with_checksum()
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
        feed.send_newest(SamplerId(1), 10, Bytes::from_static(&[1]));
        let pending = BTreeSet::from([20, 40]);

        assert_eq!(feed.wanted(&pending), Some(20));
        feed.ask(&pending, 20, Some(Bytes::from_static(&[2])));
        // The stream is full now, so the grid of step 40 has to wait.
        assert_eq!(feed.wanted(&pending), None);
        feed.ask(&pending, 40, Some(Bytes::from_static(&[3])));
        let newest = stream.try_recv().unwrap().unwrap();
        assert_eq!((newest.step, newest.grid_due), (10, false));
        let due = stream.try_recv().unwrap().unwrap();
        assert_eq!((due.step, due.grid_due), (20, true));
        assert!(stream.try_recv().is_err());

        assert_eq!(feed.wanted(&pending), Some(40));
        feed.ask(&pending, 40, Some(Bytes::from_static(&[3])));
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
        feed.ask(&BTreeSet::from([20]), 20, Some(Bytes::from_static(&[2])));
        feed.send_newest(SamplerId(1), 10, Bytes::from_static(&[1]));
        assert_eq!(stream.try_recv().unwrap().unwrap().step, 20);
        assert!(stream.try_recv().is_err());
    }

    #[test]
    fn a_sampler_that_never_reads_loses_its_place() {
        let (sender, mut stream) = mpsc::channel(1);
        let (link, mut dropped) = Link::new(sender);
        let mut feed = SamplerFeed::new(22);
        feed.insert(SamplerId(1), link);
        let second = Duration::from_secs;
        assert_eq!(feed.drop_stalled(second(0)), 0);
        feed.send_newest(SamplerId(1), 10, Bytes::new());
        assert_eq!(feed.drop_stalled(second(1)), 0);
        stream.try_recv().unwrap().unwrap();
        assert_eq!(feed.drop_stalled(second(70)), 0, "it has read");
        feed.send_newest(SamplerId(1), 20, Bytes::new());
        assert_eq!(feed.drop_stalled(second(71)), 0);
        assert_eq!(feed.drop_stalled(second(130)), 0);
        assert!(dropped.try_recv().is_err());
        assert_eq!(feed.drop_stalled(second(131)), 1);
        assert!(feed.is_empty());
    }
}
