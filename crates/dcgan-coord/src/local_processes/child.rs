//! One child process: how it is started, waited for, ended and killed.
//!
//! A process id belongs to a process only until somebody has waited for its end. So the thread that
//! waits first waits without that (`WNOWAIT`), and takes the child from its place before it reaps
//! it. Whoever kills a child holds the lock of that place, and never hits another process.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use dcgan_process::without_settings;
use dcgan_store::file;
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// The place of a child process, running or not. Clones share it.
#[derive(Clone, Default)]
pub(super) struct ChildPlace(Arc<Mutex<Place>>);

#[derive(Default)]
struct Place {
    /// The child, until it is reaped.
    child: Option<Child>,
    /// True if a child is to end as soon as it starts.
    is_ending: bool,
}

impl ChildPlace {
    fn lock(&self) -> MutexGuard<'_, Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the child to end, by closing its standard input.
    pub(super) fn end(&self) {
        let mut place = self.lock();
        place.is_ending = true;
        if let Some(child) = &mut place.child {
            child.stdin = None;
        }
    }

    /// Kills the child, also one that is stopped. Returns whether there is one.
    pub(super) fn kill(&self) -> bool {
        match &mut self.lock().child {
            // If it has ended by itself meanwhile, that is as good.
            Some(child) => child.kill().is_ok(),
            None => false,
        }
    }

    /// Puts a child into its place, and waits for its end.
    pub(super) fn wait(&self, mut child: Child) -> std::io::Result<ExitStatus> {
        let process = Pid::from_child(&child);
        {
            let mut place = self.lock();
            if place.is_ending {
                child.stdin = None;
            }
            place.child = Some(child);
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(process), options), Err(Errno::INTR)) {}
        let ended = self.lock().child.take();
        ended.ok_or(std::io::ErrorKind::NotFound)?.wait()
    }
}

/// Starts a program whose settings are its arguments alone, and which writes to a log. The caller
/// holds the other end of its standard input.
pub(crate) fn spawn_logged(
    program: &Path,
    arguments: &[String],
    log: &Path,
) -> anyhow::Result<Child> {
    // A process that is restarted continues its log.
    let log = file::open_for_appending(log).with_context(|| log.display().to_string())?;
    let mut command = Command::new(program);
    command.args(arguments).stdout(log.try_clone()?).stderr(log);
    spawn(&mut command).with_context(|| format!("cannot start {}", program.display()))
}

/// Starts a program whose settings are its arguments alone. The caller holds the other end of its
/// standard input.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    // A group of its own: Ctrl-C in a terminal then reaches only the process that the person
    // started, which ends its children in order.
    without_settings(command).stdin(Stdio::piped()).process_group(0).spawn()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn start(script: &str) -> Child {
        Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn a_child_ends_when_it_is_told_to_and_a_stopped_one_when_it_is_killed() {
        for (script, kills) in [("cat", false), ("kill -STOP $$", true)] {
            let (place, child) = (ChildPlace::default(), start(script));
            let process = Pid::from_child(&child);
            let waiting = place.clone();
            let thread = thread::spawn(move || waiting.wait(child).unwrap());
            if kills {
                waitid(WaitId::Pid(process), WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT)
                    .unwrap();
                // The child may be stopped before the thread has put it into its place.
                while place.lock().child.is_none() {
                    thread::yield_now();
                }
                assert!(place.kill());
            }
            place.end();
            assert_eq!(thread.join().unwrap().success(), !kills);
            assert!(!place.kill(), "nobody is there any more");
        }
    }

    #[test]
    fn a_child_that_starts_after_the_end_ends_at_once() {
        let place = ChildPlace::default();
        place.end();
        assert!(place.wait(start("cat")).unwrap().success());
    }
}
