//! Injects the scheduled faults into a running training, and waits for its end.

use std::iter::Peekable;
use std::process::ExitStatus;
use std::slice;
use std::time::{Duration, Instant};

use anyhow::ensure;
use dcgan_core::ids::Step;
use dcgan_process::exit::status as exit;
use tokio::runtime::Handle;

use super::fault::{Fault, ScheduledFault};
use super::print;
use super::processes::Processes;
use super::program::Surroundings;
use super::samples::Samples;

/// Pause between two looks at the processes and the step.
const POLL_PAUSE: Duration = Duration::from_millis(4);
/// A coordinator that ended before all workers knew is started again after this time.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// A training that finishes no step for this long is stuck, and so is an ending that takes longer.
const STUCK_MAX: Duration = Duration::from_secs(120);

/// The faults that were injected, for the report.
#[derive(Default)]
pub(super) struct InjectedFaults {
    /// When a worker was killed.
    pub(super) kills: Vec<Instant>,
    /// When the coordinator was killed.
    pub(super) coordinator_kills: Vec<Instant>,
    /// When the coordinator was started again.
    pub(super) coordinator_starts: Vec<Instant>,
}

/// A training into which faults are injected.
pub(super) struct Injection<'a> {
    network: &'a Handle,
    processes: Processes,
    samples: Samples,
    injected: InjectedFaults,
    progress: Progress,
    /// Set while all processes end because they were told to.
    ending: Option<Ending>,
}

/// All processes were told to end.
#[derive(Clone, Copy)]
struct Ending {
    /// How long after its end the coordinator is started again.
    restart_after: Duration,
    /// True if a worker was killed since. It may have held the only copy of the newest step.
    has_killed: bool,
}

/// The last step that was seen, and when it was seen first.
struct Progress {
    step: Step,
    since: Instant,
}

impl<'a> Injection<'a> {
    pub(super) fn new(network: &'a Handle, processes: Processes, samples: Samples) -> Self {
        let progress = Progress { step: 0, since: Instant::now() };
        let injected = InjectedFaults::default();
        Self { network, processes, samples, injected, progress, ending: None }
    }

    /// Injects each fault after its step, and waits until all processes have ended.
    ///
    /// # Errors
    /// If the training is stuck, fails, or ends before all faults are injected.
    pub(super) fn run(mut self, schedule: &[ScheduledFault]) -> anyhow::Result<InjectedFaults> {
        let mut remaining = schedule.iter().peekable();
        while !self.is_over(&mut remaining)? {
            self.pause();
        }
        self.wait_for_workers()?;
        Ok(self.injected)
    }

    /// Looks at the processes once, and injects what is due. Returns whether the run is over.
    fn is_over(
        &mut self,
        remaining: &mut Peekable<slice::Iter<'_, ScheduledFault>>,
    ) -> anyhow::Result<bool> {
        if self.processes.supervise()? {
            self.injected.coordinator_starts.push(Instant::now());
        }
        let step = self.update_progress()?;
        if let Some(scheduled) = remaining.next_if(|scheduled| scheduled.after <= step) {
            self.inject(scheduled.fault, step)?;
        }
        if let Some(status) = self.processes.coordinator_ended()
            && !self.is_end_in_order(status)?
        {
            ensure!(status.success(), "the coordinator ended with {status}");
            ensure!(
                remaining.peek().is_none(),
                "the run was over before all faults were injected; give more --steps"
            );
            return Ok(true);
        }
        let ended = self.processes.restart_ended();
        // Towards the end workers leave in order, which is not worth a line.
        if remaining.peek().is_some() {
            for worker in ended {
                print(&format!("{step:>8}  worker {worker} had ended, and is started again"));
            }
        }
        Ok(false)
    }

    /// Starts the coordinator again if it has ended because it was told to.
    ///
    /// # Errors
    /// If it has lost steps that a worker still had.
    fn is_end_in_order(&mut self, status: ExitStatus) -> anyhow::Result<bool> {
        // The run may have reached its last step in this moment.
        let Some(ending) = self.ending.take().filter(|_| !status.success()) else {
            return Ok(false);
        };
        // A step that only a killed worker had is lost, and the status says so.
        let is_loss_said = ending.has_killed && status.code() == Some(exit::FAILED.into());
        ensure!(
            is_loss_said || status.code() == Some(exit::TERMINATED.into()),
            "the coordinator was told to stop, and ended with {status}"
        );
        self.processes.kill_coordinator(Surroundings::Well, ending.restart_after);
        Ok(true)
    }

    /// Notes the newest step.
    ///
    /// # Errors
    /// If it has been the newest for too long.
    fn update_progress(&mut self) -> anyhow::Result<Step> {
        let step = self.samples.last().map_or(0, |sample| sample.step);
        if step != self.progress.step {
            self.progress = Progress { step, since: Instant::now() };
        }
        ensure!(
            self.progress.since.elapsed() < STUCK_MAX,
            "no step was finished for {} s",
            STUCK_MAX.as_secs()
        );
        Ok(step)
    }

    fn inject(&mut self, fault: Fault, step: Step) -> anyhow::Result<()> {
        print(&format!("{step:>8}  {fault}"));
        match fault {
            Fault::Kill(worker, restart_after) => {
                self.kill(worker, Surroundings::Well, restart_after);
            }
            Fault::LoseStreams(streams, worker, restart_after) => {
                self.kill(worker, Surroundings::Lost(streams), restart_after);
            }
            Fault::End(restart_after) => {
                if self.processes.terminate_all() {
                    self.ending = Some(Ending { restart_after, has_killed: false });
                }
            }
            Fault::KillCoordinator(restart_after) => {
                self.kill_coordinator(Surroundings::Well, restart_after);
            }
            Fault::SlowDisk(restart_after) => {
                self.kill_coordinator(Surroundings::SlowDisk, restart_after);
            }
            Fault::FullDisk(time) => self.processes.fill_disk(time),
            Fault::Stop(worker, time) => self.processes.stop(worker, time),
            Fault::Slow(worker, time) => self.processes.slow(worker, time),
            Fault::CutData(worker, time) => self.processes.cut(worker, time),
            Fault::CutControl(worker, time) => self.processes.cut_off(worker, time),
            Fault::Join => self.processes.join()?,
            Fault::Stray(time) => self.processes.join_badly(None, time)?,
            Fault::Impostor(worker, time) => self.processes.join_badly(Some(worker), time)?,
            Fault::Attack(time) => self.processes.attack(time),
        }
        Ok(())
    }

    fn kill(&mut self, worker: usize, surroundings: Surroundings, restart_after: Duration) {
        if self.processes.kill(worker, surroundings, restart_after) {
            self.injected.kills.push(Instant::now());
            if let Some(ending) = &mut self.ending {
                ending.has_killed = true;
            }
        }
    }

    fn kill_coordinator(&mut self, surroundings: Surroundings, restart_after: Duration) {
        self.ending = None;
        if self.processes.kill_coordinator(surroundings, restart_after) {
            self.injected.coordinator_kills.push(Instant::now());
        }
    }

    /// Waits until every worker has ended. A worker that was away when the run ended learns it from
    /// a coordinator that is started again.
    fn wait_for_workers(&mut self) -> anyhow::Result<()> {
        let since = Instant::now();
        while !self.processes.all_workers_ended() {
            ensure!(since.elapsed() < STUCK_MAX, "a worker did not learn that the run was over");
            self.processes.supervise()?;
            if self.processes.coordinator_ended().is_some() {
                self.processes.kill_coordinator(Surroundings::Well, RESTART_PAUSE);
            }
            self.pause();
        }
        Ok(())
    }

    fn pause(&self) {
        self.network.block_on(async { tokio::time::sleep(POLL_PAUSE).await });
    }
}
