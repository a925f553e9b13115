//! The threads that compute the vectors of shards.
//!
//! Each thread computes whole shards. Splitting the arithmetic of one shard over threads would be
//! slower, and the order of its additions would depend on the number of threads.
//!
//! A shard stays with its thread from phase to phase, so that the thread can reuse the shard's
//! scratch. While a thread waits for the sum of a phase, it computes parts of the next phase ahead.
//! Scratches are large, so only those of the first [`scratches_max`] shards are kept. Of the others
//! a part is computed twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use dcgan_core::ids::ShardId;
use dcgan_core::objective::{Objective, Scratch, ShardTask};
use dcgan_core::protocol::worker::{ShardResult, VectorKey};
use dcgan_core::state::State;
use dcgan_process::panics;

use crate::partitions::PartitionCache;

/// The largest number of images of all scratches that a worker keeps. Those of a DCGAN's fakes take
/// half a megabyte each.
const SCRATCH_IMAGES_MAX: usize = 1024;
/// The largest number of scratches that a worker keeps. With few images in each, the generator's
/// weights take most of a scratch, more than a megabyte.
const SCRATCHES_MAX: usize = 128;

/// A shard's vector, or why it cannot be used.
#[derive(Debug)]
pub(crate) struct ComputedShard {
    pub(crate) key: VectorKey,
    pub(crate) shard: ShardId,
    pub(crate) result: ShardResult,
}

/// The threads that compute. They run until the process ends.
pub(crate) struct ComputePool {
    queues: Arc<Queues>,
    /// The number of shards, of all threads, whose scratches are kept.
    scratches_max: usize,
}

/// The queues of all threads, by the number of the thread.
struct Queues {
    threads: Mutex<Vec<ThreadQueue>>,
    changed: Condvar,
}

/// The work of one thread.
#[derive(Default)]
struct ThreadQueue {
    /// The shards of the present phase whose scratches it keeps, since they were last given to it.
    /// It drops the others.
    new_kept: Option<BTreeSet<ShardId>>,
    /// Shards whose vectors are to be computed.
    to_compute: VecDeque<ShardJob>,
    /// The vector that it is computing.
    running: Option<(VectorKey, ShardId)>,
    /// Shards whose vectors are computed, and whose next phase may be computed ahead.
    to_compute_ahead: VecDeque<ShardJob>,
}

#[derive(Clone)]
struct ShardJob {
    key: VectorKey,
    state: Arc<State>,
    shard: ShardId,
    /// True if the shard's scratch is kept for the next phase.
    keeps_scratch: bool,
}

/// The part of a shard's work that is to be computed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum JobKind {
    /// The vector of the present phase.
    Vector,
    /// Parts of the next phase.
    Ahead,
}

/// The number of shards, of `shard_batch` images each, whose scratches a worker keeps.
fn scratches_max(shard_batch: usize) -> usize {
    SCRATCHES_MAX.min(SCRATCH_IMAGES_MAX / shard_batch.max(1))
}

impl ComputePool {
    /// Starts `threads` threads, for shards of `shard_batch` images. They give their results to
    /// `deliver`, and wait while it waits.
    ///
    /// # Panics
    /// If the operating system cannot start a thread.
    pub(crate) fn start(
        threads: usize,
        objective: &Arc<dyn Objective>,
        partitions: &PartitionCache,
        shard_batch: usize,
        deliver: impl Fn(ComputedShard) + Clone + Send + 'static,
    ) -> Self {
        let idle = (0..threads).map(|_| ThreadQueue::default()).collect();
        let queues = Arc::new(Queues { threads: Mutex::new(idle), changed: Condvar::new() });
        for thread in 0..threads {
            let queues = Arc::clone(&queues);
            let objective = Arc::clone(objective);
            let partitions = partitions.clone();
            let deliver = deliver.clone();
            std::thread::Builder::new()
                .name(format!("compute-{thread}"))
                .spawn(move || queues.run_thread(thread, &*objective, &partitions, deliver))
                .expect("a thread can be started");
        }
        Self { queues, scratches_max: scratches_max(shard_batch) }
    }

    /// Computes the vectors of `shards`, in place of everything that was asked for before and has
    /// not begun.
    pub(crate) fn replace(&self, key: VectorKey, state: &Arc<State>, shards: &[ShardId]) {
        let mut threads = self.queues.lock();
        // A vector that a thread is computing already will be delivered: it is not queued again.
        let running: Vec<(VectorKey, ShardId)> =
            threads.iter().filter_map(|thread| thread.running).collect();

        // Deal the shards out to the threads, one at a time.
        let count = threads.len();
        for (index, thread) in threads.iter_mut().enumerate() {
            let mut kept = BTreeSet::new();
            thread.to_compute.clear();
            thread.to_compute_ahead.clear();
            for place in (index..shards.len()).step_by(count) {
                let shard = shards[place];
                let keeps_scratch = place < self.scratches_max;
                if keeps_scratch {
                    kept.insert(shard);
                }
                if !running.contains(&(key, shard)) {
                    let state = Arc::clone(state);
                    thread.to_compute.push_back(ShardJob { key, state, shard, keeps_scratch });
                }
            }
            thread.new_kept = Some(kept);
        }
        self.queues.changed.notify_all();
    }
}

impl Queues {
    fn lock(&self) -> MutexGuard<'_, Vec<ThreadQueue>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what the queue of one thread holds, for ever.
    fn run_thread(
        &self,
        index: usize,
        objective: &dyn Objective,
        partitions: &PartitionCache,
        deliver: impl Fn(ComputedShard),
    ) {
        let mut scratches: BTreeMap<ShardId, Scratch> = BTreeMap::new();
        let mut state_version = 0;
        loop {
            let (kind, job) = self.next_job(index, &mut scratches);
            let ShardJob { key, ref state, shard, keeps_scratch } = job;
            // The scratch depends on the state. One that was replaced may have been damaged.
            if key.state_version != state_version {
                state_version = key.state_version;
                scratches.clear();
            }
            let partition = partitions.wait_for(shard);
            let task = ShardTask { state, at: key.at, shard, partition: &partition };
            let mut dropped = Scratch::default();
            let scratch =
                if keeps_scratch { scratches.entry(shard).or_default() } else { &mut dropped };

            if kind == JobKind::Ahead {
                // A panic is ignored here. The phase itself will panic as well, and is reported.
                let _ = panics::catch(|| objective.compute_ahead(&task, scratch));
                continue;
            }
            let vector = panics::catch(|| objective.shard_vector(&task, scratch));
            let result = ShardResult::new(vector);
            self.finish(index, job);
            deliver(ComputedShard { key, shard, result });
        }
    }

    /// Waits for the next job of a thread, and drops the scratch that it does not need any more.
    fn next_job(
        &self,
        index: usize,
        scratches: &mut BTreeMap<ShardId, Scratch>,
    ) -> (JobKind, ShardJob) {
        let mut threads = self.lock();
        loop {
            let thread = &mut threads[index];
            if let Some(job) = thread.to_compute.pop_front() {
                if let Some(kept) = thread.new_kept.take() {
                    scratches.retain(|shard, _| kept.contains(shard));
                }
                thread.running = Some((job.key, job.shard));
                return (JobKind::Vector, job);
            }
            // Only a thread that would wait computes ahead.
            if let Some(job) = thread.to_compute_ahead.pop_front() {
                return (JobKind::Ahead, job);
            }
            threads = self.changed.wait(threads).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes that a thread has computed the vector of a job. The lock is released before the result
    /// is delivered, because the driver may need it to make room for the result.
    fn finish(&self, index: usize, job: ShardJob) {
        let mut threads = self.lock();
        threads[index].running = None;
        if job.keeps_scratch {
            threads[index].to_compute_ahead.push_back(job);
        }
    }
}
