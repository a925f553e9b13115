//! The threads that compute the vectors of shards.
//!
//! Each thread computes whole shards, as many in one call as the objective wants. Splitting the
//! arithmetic of one shard over threads would be slower, and the order of its additions would
//! depend on the number of threads.
//!
//! A shard stays with its thread from phase to phase, so that the thread can reuse the shard's
//! scratch. While a thread waits for the sum of a phase, it computes parts of the next phase ahead.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use dcgan_core::ids::ShardId;
use dcgan_core::objective::{Objective, Scratch, ShardTask};
use dcgan_core::protocol::worker::{ShardResult, VectorKey};
use dcgan_core::state::State;
use dcgan_process::panics;

use crate::partitions::PartitionCache;

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
    /// The number of shards that the objective wants in one call.
    shards_at_once: NonZeroUsize,
}

/// The queues of all threads, by the number of the thread.
struct Queues {
    threads: Mutex<Vec<ThreadQueue>>,
    changed: Condvar,
}

/// The work of one thread.
#[derive(Default)]
struct ThreadQueue {
    /// The shards of the present phase that are its own. The scratch of others is dropped.
    shards: Vec<ShardId>,
    /// Shards whose vectors are to be computed.
    to_compute: VecDeque<ShardJob>,
    /// The vectors that it is computing.
    running: Option<(VectorKey, Vec<ShardId>)>,
    /// Shards whose vectors are computed, and whose next phase may be computed ahead.
    to_compute_ahead: VecDeque<ShardJob>,
}

/// Shards that are computed in one call of the objective.
#[derive(Clone)]
struct ShardJob {
    key: VectorKey,
    state: Arc<State>,
    shards: Vec<ShardId>,
}

/// The part of a job's work that is to be computed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum JobKind {
    /// The vectors of the present phase.
    Vectors,
    /// Parts of the next phase.
    Ahead,
}

impl ComputePool {
    /// Starts `threads` threads. They give their results to `deliver`, and wait while it waits.
    ///
    /// # Panics
    /// If the operating system cannot start a thread.
    pub(crate) fn start(
        threads: usize,
        objective: &Arc<dyn Objective>,
        partitions: &PartitionCache,
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
        Self { queues, shards_at_once: objective.shards_at_once() }
    }

    /// Computes the vectors of `shards`, in place of everything that was asked for before and has
    /// not begun.
    pub(crate) fn replace(&self, key: VectorKey, state: &Arc<State>, shards: &[ShardId]) {
        let mut threads = self.queues.lock();
        // A vector that a thread is computing already will be delivered: it is not queued again.
        let running: Vec<(VectorKey, ShardId)> = threads
            .iter()
            .filter_map(|thread| thread.running.as_ref())
            .flat_map(|(key, shards)| shards.iter().map(|&shard| (*key, shard)))
            .collect();
        for thread in threads.iter_mut() {
            thread.shards.clear();
            thread.to_compute.clear();
            thread.to_compute_ahead.clear();
        }

        // Deal the shards out to the threads, as many at a time as the objective wants at once.
        let count = threads.len();
        for (index, group) in shards.chunks(self.shards_at_once.get()).enumerate() {
            let thread = &mut threads[index % count];
            thread.shards.extend(group);
            let shards: Vec<ShardId> =
                group.iter().copied().filter(|&shard| !running.contains(&(key, shard))).collect();
            if !shards.is_empty() {
                thread.to_compute.push_back(ShardJob { key, state: Arc::clone(state), shards });
            }
        }
        self.queues.changed.notify_all();
    }
}

impl ShardJob {
    /// Calls the objective with the job's tasks and their scratches.
    ///
    /// # Errors
    /// The message of the panic, if the call panicked.
    fn run<T>(
        &self,
        partitions: &PartitionCache,
        scratches: &mut BTreeMap<ShardId, Scratch>,
        call: impl FnOnce(&[ShardTask<'_>], &mut [Scratch]) -> T,
    ) -> Result<T, String> {
        let Self { key, state, shards } = self;
        let images: Vec<_> = shards.iter().map(|&shard| partitions.wait_for(shard)).collect();
        let tasks: Vec<ShardTask<'_>> = shards
            .iter()
            .zip(&images)
            .map(|(&shard, partition)| ShardTask { state, at: key.at, shard, partition })
            .collect();
        let mut taken: Vec<Scratch> =
            shards.iter().map(|shard| scratches.remove(shard).unwrap_or_default()).collect();
        let result = panics::catch(|| call(&tasks, &mut taken));
        scratches.extend(shards.iter().copied().zip(taken));
        result
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
            let key = job.key;
            // The scratch depends on the state. One that was replaced may have been damaged.
            if key.state_version != state_version {
                state_version = key.state_version;
                scratches.clear();
            }

            if kind == JobKind::Ahead {
                // A panic is ignored here. The phase itself will panic as well, and is reported.
                let _ = job.run(partitions, &mut scratches, |tasks, scratches| {
                    objective.compute_ahead(tasks, scratches);
                });
                continue;
            }
            let vectors = job.run(partitions, &mut scratches, |tasks, scratches| {
                let vectors = objective.shard_vectors(tasks, scratches);
                assert_eq!(vectors.len(), tasks.len(), "there is a vector for each shard");
                vectors
            });
            let shards = job.shards.clone();
            let results: Vec<ShardResult> = match vectors {
                Ok(vectors) => vectors.into_iter().map(|v| ShardResult::new(Ok(v))).collect(),
                // Which of the shards made the call panic is not known.
                Err(panic) => shards.iter().map(|_| ShardResult::new(Err(panic.clone()))).collect(),
            };
            self.finish(index, job);
            for (shard, result) in shards.into_iter().zip(results) {
                deliver(ComputedShard { key, shard, result });
            }
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
                scratches.retain(|shard, _| thread.shards.contains(shard));
                thread.running = Some((job.key, job.shards.clone()));
                return (JobKind::Vectors, job);
            }
            // Only a thread that would wait computes ahead.
            if let Some(job) = thread.to_compute_ahead.pop_front() {
                return (JobKind::Ahead, job);
            }
            threads = self.changed.wait(threads).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes that a thread has computed the vectors of a job. The lock is released before the
    /// results are delivered, because the driver may need it to make room for them.
    fn finish(&self, index: usize, job: ShardJob) {
        let mut threads = self.lock();
        threads[index].running = None;
        threads[index].to_compute_ahead.push_back(job);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use dcgan_core::ids::{Digest, Phase, Position};
    use dcgan_core::metrics::Metrics;
    use dcgan_core::spec::sharding::Partition;
    use dcgan_core::state::Layout;

    use super::*;

    const SHARDS: u16 = 7;

    /// An objective that wants three shards at once. The call that is given shard 5 panics; other
    /// shards' vectors are the shard and the number of shards in the call.
    struct ThreeAtOnce(Arc<Layout>);

    impl Objective for ThreeAtOnce {
        fn layout(&self) -> &Arc<Layout> {
            &self.0
        }

        fn initial_state(&self) -> State {
            State::zeros(Arc::clone(&self.0))
        }

        fn phase_vector_len(&self, _: Phase) -> usize {
            2
        }

        fn tensors_read(&self, _: Phase) -> &[usize] {
            &[]
        }

        fn shard_vector(&self, _: &ShardTask<'_>, _: &mut Scratch) -> Vec<f32> {
            unreachable!("shards are given three at once")
        }

        fn shards_at_once(&self) -> NonZeroUsize {
            NonZeroUsize::new(3).unwrap()
        }

        fn shard_vectors(&self, tasks: &[ShardTask<'_>], _: &mut [Scratch]) -> Vec<Vec<f32>> {
            assert!(tasks.iter().all(|task| task.shard.0 != 5), "shard 5");
            tasks.iter().map(|task| vec![task.shard.0.into(), tasks.len() as f32]).collect()
        }

        fn optimizer_step(&self, _: &mut State, _: Position, _: &[f32]) {}

        fn metrics(&self, _: &State) -> Metrics {
            Metrics::default()
        }
    }

    #[test]
    fn a_thread_gives_the_objective_as_many_shards_at_once_as_it_wants() {
        let objective: Arc<dyn Objective> = Arc::new(ThreeAtOnce(Arc::new(Layout::new([]))));
        let partitions = PartitionCache::default();
        let shards: Vec<ShardId> = (0..SHARDS).map(ShardId).collect();
        for &shard in &shards {
            partitions.insert(shard, Partition::new(1, vec![0]));
        }
        let (sender, results) = mpsc::channel();
        let deliver = move |computed| sender.send(computed).unwrap();
        let pool = ComputePool::start(2, &objective, &partitions, deliver);

        let at = Position { step: 0, phase: Phase::DiscriminatorReal };
        let key = VectorKey { at, digest: Digest(0), state_version: 0 };
        pool.replace(key, &Arc::new(objective.initial_state()), &shards);
        let mut computed: Vec<ComputedShard> = results.iter().take(shards.len()).collect();
        computed.sort_by_key(|computed| computed.shard);

        let found: Vec<String> = computed.iter().map(|c| format!("{:?}", c.result)).collect();
        let vector = |values: [f32; 2]| format!("{:?}", ShardResult::new(Ok(values.to_vec())));
        let panic = format!("{:?}", ShardResult::new(Err("shard 5".to_owned())));
        let mut expected: Vec<String> = (0..3u8).map(|n| vector([n.into(), 3.0])).collect();
        expected.extend([panic.clone(), panic.clone(), panic, vector([6.0, 1.0])]);
        assert_eq!(found, expected);
    }
}
