//! The threads that compute. Each takes whole shards: splitting the arithmetic of one over threads would be slower,
//! and its order would no longer be fixed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use dcgan_core::ids::ShardId;
use dcgan_core::objective::{Objective, Scratch, ShardTask};
use dcgan_core::protocol::worker::{GradientKey, ShardResult};
use dcgan_core::state::State;

use crate::partitions::Partitions;

/// A result for the driver.
pub(crate) type Computed = (GradientKey, ShardId, ShardResult);

/// The threads, and what they have to do.
pub(crate) struct ComputePool {
    jobs: Arc<JobQueue>,
}

struct JobQueue {
    threads: Mutex<Vec<Thread>>,
    changed: Condvar,
}

/// What one thread does and will do. A shard stays with its thread from phase to phase, whose scratch it reuses.
#[derive(Default)]
struct Thread {
    queue: VecDeque<Job>,
    /// What is done, and of which the next phase may be prepared.
    done: VecDeque<Job>,
    running: Option<(GradientKey, ShardId)>,
    /// Scratch of other shards is dropped.
    shards: Vec<ShardId>,
}

#[derive(Clone)]
struct Job {
    work: GradientKey,
    state: Arc<State>,
    shard: ShardId,
}

impl ComputePool {
    /// Starts `threads` threads, whose results go to `done`.
    pub(crate) fn start(
        threads: usize,
        objective: &Arc<dyn Objective>,
        partitions: &Partitions,
        done: impl Fn(Computed) + Clone + Send + 'static,
    ) -> Self {
        let idle = (0..threads).map(|_| Thread::default()).collect();
        let jobs = Arc::new(JobQueue { threads: Mutex::new(idle), changed: Condvar::new() });
        for thread in 0..threads {
            let (jobs, objective, partitions, done) =
                (Arc::clone(&jobs), Arc::clone(objective), partitions.clone(), done.clone());
            std::thread::Builder::new()
                .name(format!("compute-{thread}"))
                .spawn(move || jobs.work(thread, &*objective, &partitions, done))
                .expect("a thread can be started");
        }
        Self { jobs }
    }

    /// Computes these shards, and nothing that is not begun of what was asked for before.
    pub(crate) fn replace(&self, work: GradientKey, state: &Arc<State>, shards: &[ShardId]) {
        let mut threads = self.jobs.lock();
        let running: Vec<(GradientKey, ShardId)> =
            threads.iter().filter_map(|thread| thread.running).collect();
        let count = threads.len();
        for (index, thread) in threads.iter_mut().enumerate() {
            thread.shards = shards.iter().copied().skip(index).step_by(count).collect();
            let missing = thread.shards.iter().filter(|&&shard| !running.contains(&(work, shard)));
            thread.done.clear();
            thread.queue =
                missing.map(|&shard| Job { work, state: Arc::clone(state), shard }).collect();
        }
        self.jobs.changed.notify_all();
    }
}

impl JobQueue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Thread>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(
        &self,
        index: usize,
        objective: &dyn Objective,
        partitions: &Partitions,
        done: impl Fn(Computed),
    ) {
        let mut scratches: BTreeMap<ShardId, Scratch> = BTreeMap::new();
        let mut state_version = 0;
        loop {
            let (job, ahead) = self.next(index, &mut scratches);
            let Job { work, ref state, shard } = job;
            if std::mem::replace(&mut state_version, work.state_version) != work.state_version {
                scratches.clear();
            }
            let partition = partitions.wait_for(shard);
            let task = ShardTask { state, at: work.at, shard, partition: &partition };
            let scratch = scratches.entry(shard).or_default();
            if ahead {
                // If it panics, so will the phase, which says so.
                let _ = dcgan_process::panics::catch(|| objective.compute_ahead(&task, scratch));
                continue;
            }
            let vector = ShardResult::new(dcgan_process::panics::catch(|| {
                objective.shard_gradients(&task, scratch)
            }));
            let thread = &mut self.lock()[index];
            thread.running = None;
            thread.done.push_back(job);
            done((work, shard, vector));
        }
    }

    /// The next job, and whether it is only to be computed ahead.
    fn next(&self, index: usize, scratches: &mut BTreeMap<ShardId, Scratch>) -> (Job, bool) {
        let mut threads = self.lock();
        loop {
            let Thread { queue, done, running, shards } = &mut threads[index];
            if let Some(job) = queue.pop_front() {
                scratches.retain(|shard, _| shards.contains(shard));
                *running = Some((job.work, job.shard));
                return (job, false);
            }
            if let Some(job) = done.pop_front() {
                return (job, true);
            }
            threads = self.changed.wait(threads).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
