//! A program that a chaos run kills and starts again.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use crate::local_processes::{spawn, spawn_logged};

/// The arguments with which each write of a coordinator takes half a second.
const SLOW_DISK: [&str; 2] = ["--fault", "write=slow@1+"];

/// The surroundings of a program for one start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Surroundings {
    Well,
    /// Its disk is slow.
    SlowDisk,
    /// Its standard output and standard error are lost.
    Lost(LostStreams),
}

/// The state of standard streams that take nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LostStreams {
    /// They are closed.
    Closed,
    /// They are files on a full disk.
    Full,
    /// They are pipes that nobody reads.
    Blocked,
}

impl LostStreams {
    /// A command that starts a program with streams like these.
    fn lose(self, program: &Path) -> io::Result<Command> {
        let mut command = Command::new(program);
        match self {
            Self::Closed => {
                command = Command::new("sh");
                command.args(["-c", "exec \"$0\" \"$@\" >&- 2>&-"]).arg(program);
            }
            Self::Full => {
                let full = File::options().write(true).open("/dev/full")?;
                command.stdout(full.try_clone()?).stderr(full);
            }
            Self::Blocked => {
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
            }
        }
        Ok(command)
    }
}

/// A program, running or about to be started again.
pub(super) struct Program {
    path: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    surroundings: Surroundings,
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
        let mut program = Self {
            path,
            arguments,
            log,
            surroundings: Surroundings::Well,
            running: None,
            restart_at: None,
        };
        program.spawn()?;
        Ok(program)
    }

    fn spawn(&mut self) -> anyhow::Result<()> {
        self.running = Some(match self.surroundings {
            Surroundings::Well => spawn_logged(&self.path, &self.arguments, &self.log)?,
            Surroundings::SlowDisk => {
                let slow = SLOW_DISK.map(str::to_owned);
                spawn_logged(&self.path, &[&self.arguments[..], &slow].concat(), &self.log)?
            }
            Surroundings::Lost(streams) => spawn(streams.lose(&self.path)?.args(&self.arguments))?,
        });
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
        self.surroundings = Surroundings::Well;
    }

    /// Kills the program. It is started again in these surroundings, which last until it is killed
    /// again.
    pub(super) fn kill_into(&mut self, surroundings: Surroundings, restart_after: Duration) {
        self.kill(restart_after);
        self.surroundings = surroundings;
    }

    /// Lets no file of the program grow, as on a full disk, or lets them grow again.
    pub(super) fn fill_disk(&self, is_full: bool) {
        let own = getrlimit(Resource::Fsize);
        let limit = if is_full { Rlimit { current: Some(0), ..own } } else { own };
        if let Some(child) = &self.running {
            // A program that has ended by itself writes no files.
            let _ = prlimit(Some(Pid::from_child(child)), Resource::Fsize, limit);
        }
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
