//! A program that a chaos run kills and starts again.

use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::local_processes::spawn_logged;

/// A program, running or about to be started again.
pub(super) struct Program {
    path: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    running: Option<Child>,
    /// When it is started again, if it was killed.
    restart_at: Option<Instant>,
}

impl Program {
    /// Starts a program that writes to `log`.
    pub(super) fn start(
        path: PathBuf,
        arguments: Vec<String>,
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let mut program = Self { path, arguments, log, running: None, restart_at: None };
        program.spawn()?;
        Ok(program)
    }

    fn spawn(&mut self) -> anyhow::Result<()> {
        self.running = Some(spawn_logged(&self.path, &self.arguments, &self.log)?);
        self.restart_at = None;
        Ok(())
    }

    /// Kills the program if it is running. It is started again after `restart_after`.
    pub(super) fn kill(&mut self, restart_after: Duration) {
        if let Some(mut child) = self.running.take() {
            // The program may have ended by itself already.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.restart_at = Some(Instant::now() + restart_after);
    }

    /// Sends a signal, if the program is running.
    pub(super) fn signal(&mut self, signal: Signal) {
        // The number of a process that was waited for may be another one's already.
        if let Some(child) = &mut self.running
            && matches!(child.try_wait(), Ok(None))
        {
            // The program may end by itself meanwhile. Its number is kept until the next wait.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// Starts the program again if it is time to. Returns whether it did.
    pub(super) fn supervise(&mut self) -> anyhow::Result<bool> {
        let is_due = self.restart_at.is_some_and(|at| Instant::now() >= at);
        if is_due {
            self.spawn()?;
        }
        Ok(is_due)
    }

    /// True if the program was started and not killed since. It may have ended by itself.
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// True if the program was killed and will be started again.
    pub(super) fn is_restarting(&self) -> bool {
        self.restart_at.is_some()
    }

    /// How the program ended, if it ended by itself.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.running.as_mut()?.try_wait().ok()?
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill(Duration::ZERO);
    }
}
