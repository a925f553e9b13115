//! The driver's side of the disk: jobs for the writer, reads on other threads, and what follows
//! when they are done.

use std::collections::{BTreeSet, VecDeque};
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use bytes::Bytes;
use dcgan_core::ids::Step;
use dcgan_core::protocol::coordinator::{Event, SavedCheckpoint, Write};
use dcgan_process::fault;
use dcgan_store::png;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::Driver;
use super::disk_watch::DiskWatch;
use crate::input::{Input, SamplerId};
use crate::newest_checkpoint::NewestCheckpoint;
use crate::recorder::RunFiles;
use crate::writer::{Job, JobNews};

/// Grids that could not be written are tried again after this pause.
const GRID_PAUSE: Duration = Duration::from_secs(5);
/// The number of such grids. With another one, the oldest is left out: a snapshot of the DCGAN
/// takes 6 MB of memory.
const POSTPONED_GRIDS_MAX: usize = 4;

/// The run directory, as the driver sees it.
pub(crate) struct Disk {
    pub(super) files: RunFiles,
    newest: NewestCheckpoint,
    /// The jobs of the writer go here.
    jobs: std_mpsc::Sender<Job>,
    pub(super) watch: DiskWatch,
    /// For threads that read a file: what they have read comes back as an input.
    inputs: mpsc::Sender<Input>,
    /// Steps whose generators are on disk until their grids are drawn.
    pub(super) pending_grids: BTreeSet<Step>,
    /// The step whose generator is being read, for its grid.
    reading_grid: Option<Step>,
    /// Grids that could not be written, and when they are tried again.
    postponed_grids: VecDeque<Job>,
    grids_again_at: Duration,
    is_grid_failure_said: bool,
}

impl Disk {
    /// Makes the driver's side of a run directory that holds these pending grids. `jobs` leads to
    /// the writer, and `inputs` back to the driver.
    pub(crate) fn new(
        files: RunFiles,
        newest: NewestCheckpoint,
        pending_grids: BTreeSet<Step>,
        jobs: std_mpsc::Sender<Job>,
        inputs: mpsc::Sender<Input>,
    ) -> Self {
        let watch = DiskWatch::default();
        Self {
            files,
            newest,
            jobs,
            watch,
            inputs,
            pending_grids,
            reading_grid: None,
            postponed_grids: VecDeque::new(),
            grids_again_at: Duration::ZERO,
            is_grid_failure_said: false,
        }
    }
}

impl Driver {
    /// Hands a job to the writer.
    pub(super) fn submit(&mut self, job: Job) {
        self.disk.watch.on_submit(self.start.elapsed(), &job);
        // The writer outlives the driver.
        let _ = self.disk.jobs.send(job);
    }

    pub(super) fn on_writer_news(&mut self, news: JobNews) {
        let now = self.start.elapsed();
        match news {
            JobNews::CheckpointLost => self.handle(Event::Checkpoint),
            JobNews::Failed(job, error) => match job.grid_step() {
                Some(step) => {
                    self.disk.watch.on_end(now, job.kind(), false);
                    self.say_grids_wait(step, &error);
                    self.postpone_grid(now, job);
                }
                None => {
                    self.disk.watch.on_failure(now, job.kind(), error);
                    match job {
                        Job::Machine(_) => self.handle(Event::WritePostponed),
                        job => self.submit(job),
                    }
                }
            },
            JobNews::Done(job) => {
                self.disk.watch.on_end(now, job.kind(), true);
                self.on_done(job);
            }
            JobNews::GivenUp(job, error) => {
                self.disk.watch.on_end(now, job.kind(), false);
                match job {
                    Job::Machine(_) => self.handle(Event::WriteFailed(error)),
                    job => {
                        job.grid_step().into_iter().for_each(|step| warn_of_grid(step, &error));
                    }
                }
            }
        }
    }

    /// Logs that the disk is waited for, if a line is due.
    pub(super) fn watch_disk(&mut self, now: Duration) {
        let hint = self.hint_of_second_signal();
        self.disk.watch.on_tick(now, &hint);
    }

    fn on_done(&mut self, job: Job) {
        match job {
            Job::Machine(write) => {
                fault::pass("written");
                self.announce(&write);
                self.handle(Event::Written);
            }
            Job::PendingGrid { step, .. } => self.on_pending_grid(step),
            Job::Grid { .. } => self.disk.is_grid_failure_said = false,
            Job::End(_) => {}
        }
    }

    /// Logs the first failure of a grid, until one is written.
    fn say_grids_wait(&mut self, step: Step, error: &str) {
        if !std::mem::replace(&mut self.disk.is_grid_failure_said, true) {
            tracing::warn!(
                event = "grid_waiting",
                step,
                "the grid of step {step} cannot be written, and is tried again: {error}"
            );
        }
    }

    /// Puts a grid off that could not be written: a picture must not hold up a checkpoint. It is
    /// tried again later.
    fn postpone_grid(&mut self, now: Duration, job: Job) {
        let job = match job {
            Job::Machine(Write::PendingGrid { step, bytes }) => {
                // The machine goes on without it.
                self.handle(Event::Written);
                Job::PendingGrid { step, bytes }
            }
            job => job,
        };
        let postponed = &mut self.disk.postponed_grids;
        if postponed.is_empty() {
            self.disk.grids_again_at = now + GRID_PAUSE;
        }
        postponed.push_back(job);
        if postponed.len() > POSTPONED_GRIDS_MAX
            && let Some(step) = postponed.pop_front().and_then(|job| job.grid_step())
        {
            warn_of_grid(step, "the disk takes no grid");
        }
    }

    /// Tries the grids again that could not be written, if it is time to.
    pub(super) fn retry_grids(&mut self, now: Duration) {
        if now >= self.disk.grids_again_at {
            for job in std::mem::take(&mut self.disk.postponed_grids) {
                self.submit(job);
            }
        }
    }

    /// Tries the grids that could not be written for the last time.
    pub(super) fn retry_grids_at_the_end(&mut self) {
        self.disk.grids_again_at = Duration::ZERO;
        self.retry_grids(Duration::ZERO);
    }

    /// Leaves out the grids that could not be written.
    pub(super) fn leave_out_postponed_grids(&mut self) {
        for step in self.disk.postponed_grids.drain(..).filter_map(|job| job.grid_step()) {
            warn_of_grid(step, "the disk takes no grid");
        }
    }

    fn on_pending_grid(&mut self, step: Step) {
        self.disk.pending_grids.insert(step);
        self.ask_for_grids();
    }

    /// Tells people and samplers of something that is on disk now.
    fn announce(&mut self, write: &Write) {
        match write {
            Write::Plan { .. } => {}
            Write::Rows(rows) => {
                for row in rows {
                    self.sinks.row(row);
                }
                self.newest_row = rows.last().cloned().or(self.newest_row.take());
            }
            Write::Evaluation(row) => {
                let values: Vec<String> =
                    row.values.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
                let (step, values) = (row.step, values.join("  "));
                tracing::info!(
                    event = "evaluated",
                    step,
                    values,
                    "evaluation of step {step}: {values}"
                );
            }
            Write::Checkpoint { saved: SavedCheckpoint { step, digest, .. }, bytes } => {
                self.served_workers.set_snapshot_bytes(bytes.len());
                tracing::info!(
                    event = "checkpoint_saved",
                    step,
                    %digest,
                    "checkpoint of step {step} saved, digest {digest}"
                );
            }
            Write::PendingGrid { step, .. } => self.on_pending_grid(*step),
        }
    }

    /// Saves a grid that is due. If several samplers answer, the first answer counts.
    pub(super) fn save_grid(&mut self, step: Step, png: Bytes) {
        if !self.disk.pending_grids.contains(&step) {
            return;
        }
        // Whoever follows the run may have sent it.
        match png::check(&png) {
            Ok(()) => {
                self.disk.pending_grids.remove(&step);
                self.submit(Job::Grid { step, png });
            }
            Err(what) => {
                self.leave_out_grid(step, &format!("a sampler sent what is no grid: {what}"))
            }
        }
    }

    /// Leaves out a grid that is due: no sampler is asked for it again before the next start.
    pub(super) fn leave_out_grid(&mut self, step: Step, why: &str) {
        if self.disk.pending_grids.remove(&step) {
            warn_of_grid(step, why);
        }
    }

    /// Asks samplers for the next pending grid: reads its generator first.
    pub(super) fn ask_for_grids(&mut self) {
        if self.disk.reading_grid.is_some() {
            return;
        }
        let Some(step) = self.feed.wanted(&self.disk.pending_grids) else {
            return;
        };
        self.disk.reading_grid = Some(step);
        let files = self.disk.files.clone();
        self.read(move || {
            let generator = or_warn(step, files.pending_generator(step)).map(Bytes::from);
            Some(Input::PendingGridRead { step, generator })
        });
    }

    pub(super) fn on_grid_read(&mut self, step: Step, generator: Option<Bytes>) {
        self.disk.reading_grid = None;
        let is_unreadable = generator.is_none();
        self.feed.ask(&self.disk.pending_grids, step, generator);
        if is_unreadable {
            // Nobody waits for a grid that cannot be drawn.
            self.disk.pending_grids.remove(&step);
        }
        self.ask_for_grids();
    }

    /// Reads the generator of the newest checkpoint, if there is one, for a sampler that has just
    /// come.
    pub(super) fn read_newest_generator(&mut self, sampler: SamplerId) {
        let Some(step) = self.machine.checkpoint().map(|saved| saved.step) else {
            return;
        };
        let (newest, inputs) = (self.disk.newest.clone(), self.disk.inputs.clone());
        // However many samplers come, one reads, and the others wait for it.
        tokio::spawn(async move {
            if let Some(generator) = or_warn(step, newest.generator(step).await) {
                let _ = inputs.send(Input::NewestGeneratorRead { sampler, step, generator }).await;
            }
        });
    }

    /// Finds out which checkpoint can be read, after a worker could not get that of `step`.
    pub(super) fn on_checkpoint_unreadable(&mut self, step: Step) {
        // Only the newest checkpoint can start a plan. A request for another one is out of date.
        if self.machine.checkpoint().is_none_or(|saved| saved.step != step) {
            return;
        }
        let files = self.disk.files.clone();
        // With early stopping a later one may be there that the run has to come by again.
        let is_last = self.config.schedule.early_stopping.is_none();
        let through = if is_last { Step::MAX } else { step };
        self.read(move || match files.newest_checkpoint(through) {
            Ok(newest) => Some(Input::Machine(Event::Unreadable { step, newest })),
            // The worker that needs the checkpoint asks again.
            Err(error) => {
                tracing::warn!(
                    event = "checkpoints_unreadable",
                    step,
                    "the checkpoint of step {step} cannot be read: {error:#}"
                );
                None
            }
        });
    }

    /// Reads something on a thread of its own. What it gives becomes an input.
    fn read(&self, read: impl FnOnce() -> Option<Input> + Send + 'static) {
        let inputs = self.disk.inputs.clone();
        spawn_blocking(move || {
            if let Some(input) = read() {
                // The driver is gone if the coordinator is ending.
                let _ = inputs.blocking_send(input);
            }
        });
    }
}

/// Logs a grid that failed, and goes on without it: a missing picture does not end a training.
fn or_warn<T>(step: Step, result: anyhow::Result<T>) -> Option<T> {
    result.inspect_err(|error| warn_of_grid(step, &format!("{error:#}"))).ok()
}

fn warn_of_grid(step: Step, error: &str) {
    tracing::warn!(event = "grid_failed", step, "the picture of step {step} is left out: {error}");
}
