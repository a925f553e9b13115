//! The threads that compute the vectors of shards, and the parts of evaluations.
//!
//! Each thread computes whole shards, as many in one call as the objective wants. Splitting the
//! arithmetic of one shard over threads would be slower, and the order of its additions would
//! depend on the number of threads.
//!
//! A shard stays with its thread from phase to phase, so that the thread can reuse the shard's
//! scratch. While a thread waits for the sum of a phase, it computes parts of the next phase ahead.
//! Scratches are large, so only those of the first [`scratches_max`] shards are kept. Of the others
//! a part is computed twice.
//!
//! Evaluations are less urgent than both: a thread takes a part when it would wait otherwise.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use dcgan_core::evaluation::{EvaluationTask, PartId};
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

/// A result of a compute thread.
#[derive(Debug)]
pub(crate) enum Computed {
    /// A shard's vector, or why it cannot be used.
    Shard(VectorKey, ShardId, ShardResult),
    /// A part of an evaluation, or why there is none.
    Part(PartId, Result<Vec<f64>, String>),
}

/// The threads that compute. They run until the process ends. Clones share them.
#[derive(Clone)]
pub(crate) struct ComputePool {
    queues: Arc<Queues>,
    /// The number of shards that the objective wants in one call.
    shards_at_once: NonZeroUsize,
    /// The number of shards, of all threads, whose scratches are kept.
    scratches_max: usize,
}

/// The work that is to be done.
struct Queues {
    work: Mutex<Work>,
    changed: Condvar,
}

struct Work {
    /// The vectors that were asked for last.
    key: Option<VectorKey>,
    /// The queues of the threads, by the number of the thread.
    threads: Vec<ThreadQueue>,
    /// Parts of evaluations, for whichever thread has time.
    evaluations: VecDeque<EvaluationJob>,
}

/// The work of one thread.
#[derive(Default)]
struct ThreadQueue {
    /// The shards of the present phase whose scratches it keeps, since they were last given to it.
    /// It drops the others.
    new_kept: Option<BTreeSet<ShardId>>,
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
    /// True if the shards' scratches are kept for the next phase.
    keeps_scratches: bool,
}

/// A part of an evaluation, with the state that it is computed from.
struct EvaluationJob {
    task: EvaluationTask,
    state: Arc<State>,
}

/// The next thing for a thread to do.
enum Job {
    /// The vectors of the present phase.
    Vectors(ShardJob),
    /// Parts of the next phase.
    Ahead(ShardJob),
    /// A part of an evaluation.
    Evaluation(EvaluationJob),
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
        deliver: impl Fn(Computed) + Clone + Send + 'static,
    ) -> Self {
        let idle = (0..threads).map(|_| ThreadQueue::default()).collect();
        let work = Work { key: None, threads: idle, evaluations: VecDeque::new() };
        let queues = Arc::new(Queues { work: Mutex::new(work), changed: Condvar::new() });
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
        let shards_at_once = objective.shards_at_once();
        Self { queues, shards_at_once, scratches_max: scratches_max(shard_batch) }
    }

    /// Computes the vectors of `shards`, in place of everything that was asked for before and has
    /// not begun.
    pub(crate) fn replace(&self, key: VectorKey, state: &Arc<State>, shards: &[ShardId]) {
        let mut work = self.queues.lock();
        work.key = Some(key);
        let threads = &mut work.threads;
        // A vector that a thread is computing already will be delivered: it is not queued again.
        let running: BTreeSet<ShardId> = threads
            .iter()
            .filter_map(|thread| thread.running.as_ref())
            .filter(|(running, _)| *running == key)
            .flat_map(|(_, shards)| shards.iter().copied())
            .collect();
        for thread in threads.iter_mut() {
            thread.new_kept = Some(BTreeSet::new());
            thread.to_compute.clear();
            thread.to_compute_ahead.clear();
        }

        // Deal the shards out to the threads, as many at a time as the objective wants at once.
        let count = threads.len();
        let mut scratches_left = self.scratches_max;
        for (index, group) in shards.chunks(self.shards_at_once.get()).enumerate() {
            let thread = &mut threads[index % count];
            let keeps_scratches = group.len() <= scratches_left;
            if keeps_scratches {
                scratches_left -= group.len();
                thread.new_kept.get_or_insert_default().extend(group);
            }
            let shards: Vec<ShardId> =
                group.iter().copied().filter(|shard| !running.contains(shard)).collect();
            if !shards.is_empty() {
                let state = Arc::clone(state);
                thread.to_compute.push_back(ShardJob { key, state, shards, keeps_scratches });
            }
        }
        self.queues.changed.notify_all();
    }

    /// Computes a part of an evaluation when a thread has nothing else to do.
    pub(crate) fn evaluate(&self, task: EvaluationTask, state: Arc<State>) {
        self.queues.lock().evaluations.push_back(EvaluationJob { task, state });
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
        let Self { key, state, shards, keeps_scratches } = self;
        let images: Vec<_> = shards.iter().map(|&shard| partitions.wait_for(shard)).collect();
        let tasks: Vec<ShardTask<'_>> = shards
            .iter()
            .zip(&images)
            .map(|(&shard, partition)| ShardTask { state, at: key.at, shard, partition })
            .collect();
        let mut taken: Vec<Scratch> =
            shards.iter().map(|shard| scratches.remove(shard).unwrap_or_default()).collect();
        let result = panics::catch(|| call(&tasks, &mut taken));
        if *keeps_scratches {
            scratches.extend(shards.iter().copied().zip(taken));
        }
        result
    }
}

impl Queues {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what the queue of one thread holds, for ever.
    fn run_thread(
        &self,
        index: usize,
        objective: &dyn Objective,
        partitions: &PartitionCache,
        deliver: impl Fn(Computed),
    ) {
        let mut scratches: BTreeMap<ShardId, Scratch> = BTreeMap::new();
        let mut state_version = 0;
        loop {
            let job = self.next_job(index, &mut scratches);
            // The scratch depends on the state. One that was replaced may have been damaged.
            if let Job::Vectors(ShardJob { key, .. }) | Job::Ahead(ShardJob { key, .. }) = &job
                && key.state_version != state_version
            {
                state_version = key.state_version;
                scratches.clear();
            }

            match job {
                Job::Vectors(job) => {
                    let (key, shards) = (job.key, job.shards.clone());
                    let results = compute_vectors(objective, &job, partitions, &mut scratches);
                    self.finish(index, job);
                    for (shard, result) in shards.into_iter().zip(results) {
                        deliver(Computed::Shard(key, shard, result));
                    }
                }
                Job::Ahead(job) => {
                    // A panic is ignored here. The phase itself will panic as well, and is
                    // reported.
                    let _ = job.run(partitions, &mut scratches, |tasks, scratches| {
                        objective.compute_ahead(tasks, scratches);
                    });
                }
                Job::Evaluation(EvaluationJob { task, state }) => {
                    let result = match objective.evaluation() {
                        Some(evaluation) => panics::catch(|| task.compute(evaluation, &state))
                            .map_err(|panic| format!("the computation panicked: {panic}")),
                        None => Err("its objective has no evaluation".to_owned()),
                    };
                    deliver(Computed::Part(task.id, result));
                }
            }
        }
    }

    /// Waits for the next job of a thread, and drops the scratch that it does not need any more.
    fn next_job(&self, index: usize, scratches: &mut BTreeMap<ShardId, Scratch>) -> Job {
        let mut work = self.lock();
        loop {
            let thread = &mut work.threads[index];
            if let Some(job) = thread.to_compute.pop_front() {
                if let Some(kept) = thread.new_kept.take() {
                    scratches.retain(|shard, _| kept.contains(shard));
                }
                thread.running = Some((job.key, job.shards.clone()));
                return Job::Vectors(job);
            }
            // Only a thread that would wait computes ahead.
            if let Some(job) = thread.to_compute_ahead.pop_front() {
                return Job::Ahead(job);
            }
            if let Some(job) = work.evaluations.pop_front() {
                return Job::Evaluation(job);
            }
            work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes that a thread has computed the vectors of a job. The lock is released before the
    /// results are delivered, because the driver may need it to make room for them.
    fn finish(&self, index: usize, job: ShardJob) {
        let mut work = self.lock();
        // Ahead of a phase that was left there is nothing to compute.
        let is_present = work.key == Some(job.key);
        let thread = &mut work.threads[index];
        thread.running = None;
        if job.keeps_scratches && is_present {
            thread.to_compute_ahead.push_back(job);
        }
    }
}

/// Computes the vectors of a job: a result for each of its shards.
fn compute_vectors(
    objective: &dyn Objective,
    job: &ShardJob,
    partitions: &PartitionCache,
    scratches: &mut BTreeMap<ShardId, Scratch>,
) -> Vec<ShardResult> {
    let vectors = job.run(partitions, scratches, |tasks, scratches| {
        let vectors = objective.shard_vectors(tasks, scratches);
        assert_eq!(vectors.len(), tasks.len(), "there is a vector for each shard");
        vectors
    });
    match vectors {
        Ok(vectors) => vectors.into_iter().map(|vector| ShardResult::new(Ok(vector))).collect(),
        // Which of the shards made the call panic is not known.
        Err(panic) => job.shards.iter().map(|_| ShardResult::new(Err(panic.clone()))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use dcgan_core::ids::{Digest, Phase, Position};
    use dcgan_core::metrics::Metrics;
    use dcgan_core::spec::sharding::Partition;
    use dcgan_core::spec::{DatasetInfo, ObjectiveKind, RunSpec};
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
        let data = DatasetInfo { images: 14, rows: 1, columns: 1, digest: Digest(0) };
        let builder = RunSpec::builder().objective(ObjectiveKind::Toy).shards(SHARDS);
        let spec = builder.batch_size(14).build(data).unwrap();
        let partitions = PartitionCache::new(&spec);
        let shards: Vec<ShardId> = (0..SHARDS).map(ShardId).collect();
        for &shard in &shards {
            partitions.insert(shard, Partition::new(1, vec![0]));
        }
        let (sender, results) = mpsc::channel();
        let deliver = move |computed| sender.send(computed).unwrap();
        let pool = ComputePool::start(2, &objective, &partitions, 1, deliver);

        let at = Position { step: 0, phase: Phase::DiscriminatorReal };
        let key = VectorKey { at, digest: Digest(0), state_version: 0 };
        pool.replace(key, &Arc::new(objective.initial_state()), &shards);
        let shard = |computed| match computed {
            Computed::Shard(_, shard, result) => (shard, format!("{result:?}")),
            Computed::Part(id, _) => panic!("{id:?} was not asked for"),
        };
        let mut computed: Vec<(ShardId, String)> =
            results.iter().take(shards.len()).map(shard).collect();
        computed.sort();

        let found: Vec<String> = computed.into_iter().map(|(_, result)| result).collect();
        let vector = |values: [f32; 2]| format!("{:?}", ShardResult::new(Ok(values.to_vec())));
        let panic = format!("{:?}", ShardResult::new(Err("shard 5".to_owned())));
        let mut expected: Vec<String> = (0..3u8).map(|n| vector([n.into(), 3.0])).collect();
        expected.extend([panic.clone(), panic.clone(), panic, vector([6.0, 1.0])]);
        assert_eq!(found, expected);
    }
}
