//! The jobs that are with the writer: what the log says while they take long or fail.

use std::collections::VecDeque;
use std::time::Duration;

use crate::writer::Job;

/// A job that takes longer than this gets a line in the log.
const LONG: Duration = Duration::from_secs(5);
/// While it goes on, another line follows this often.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The jobs of the writer that are not done. All times are on the machine's clock.
#[derive(Default)]
pub(super) struct DiskWatch {
    /// The names of the jobs, for people. The first one is being done.
    jobs: VecDeque<String>,
    /// The time at which the first job was begun.
    since: Duration,
    next_line: Duration,
    /// The first kind of job that has failed and has not succeeded since, and its last error.
    failure: Option<(&'static str, String)>,
    /// True if the log has said that the disk is waited for.
    is_mentioned: bool,
}

impl DiskWatch {
    /// Notes that a job was handed to the writer.
    pub(super) fn on_submit(&mut self, now: Duration, job: &Job) {
        // What has failed is handed over again: the wait goes on.
        if self.jobs.is_empty() && self.failure.is_none() {
            self.begin(now);
        }
        self.jobs.push_back(job.what());
    }

    fn begin(&mut self, now: Duration) {
        self.since = now;
        self.next_line = now + LONG;
        self.failure = None;
    }

    /// Notes that the first job, which is of this kind, has failed. The first failure is logged
    /// with the next tick.
    pub(super) fn on_failure(&mut self, now: Duration, kind: &'static str, error: String) {
        self.jobs.pop_front();
        match &mut self.failure {
            None => {
                self.next_line = now;
                self.failure = Some((kind, error));
            }
            Some((failed, last)) if *failed == kind => *last = error,
            Some(_) => {}
        }
    }

    /// Notes that the first job, which is of this kind, has come to its end: it is done, or given
    /// up.
    pub(super) fn on_end(&mut self, now: Duration, kind: &'static str, is_done: bool) {
        self.jobs.pop_front();
        // A disk may take small files, and what has failed still waits for it.
        if self.failure.as_ref().is_some_and(|(failed, _)| *failed != kind) {
            return;
        }
        if std::mem::take(&mut self.is_mentioned) && is_done {
            let seconds = self.seconds(now);
            tracing::info!(
                event = "disk_recovered",
                seconds,
                "the disk works again after {seconds} s"
            );
        }
        self.begin(now);
    }

    /// Returns whether a job is not done.
    pub(super) fn is_busy(&self) -> bool {
        !self.jobs.is_empty()
    }

    fn seconds(&self, now: Duration) -> u64 {
        now.saturating_sub(self.since).as_secs()
    }

    /// For how long the disk is waited for, in seconds and in words with the cause, once the log
    /// has said so.
    pub(super) fn waiting(&self, now: Duration) -> Option<(u64, String)> {
        let job = self.jobs.front().filter(|_| self.is_mentioned)?;
        let what = match &self.failure {
            Some((_, error)) => error.clone(),
            None => format!("it has not written {job} yet"),
        };
        let seconds = self.seconds(now);
        Some((seconds, format!("waiting for {seconds} s for the disk: {what}")))
    }

    /// Logs that the disk is waited for, if a line is due. `hint` tells people what they can do.
    pub(super) fn on_tick(&mut self, now: Duration, hint: &str) {
        if self.jobs.is_empty() || now < self.next_line {
            return;
        }
        self.next_line = now + LOG_INTERVAL;
        self.is_mentioned = true;
        if let Some((seconds, waiting)) = self.waiting(now) {
            tracing::error!(event = "disk_waiting", seconds, "{waiting}{hint}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fails_or_hangs_is_mentioned_every_ten_seconds() {
        let second = Duration::from_secs;
        let grid = |step| Job::Grid { step, png: bytes::Bytes::new() };
        let mut watch = DiskWatch::default();
        watch.on_submit(second(1), &grid(20));
        watch.on_submit(second(2), &grid(40));
        watch.on_tick(second(5), "");
        assert!(!watch.is_mentioned && watch.waiting(second(5)).is_none());
        watch.on_tick(second(6), "");
        assert!(watch.is_mentioned);
        assert_eq!(watch.next_line, second(16));
        // An error is said at once, and no more often than silence.
        for now in [7, 8] {
            watch.on_failure(second(now), "save-grid", "no space".to_owned());
            watch.on_submit(second(now), &grid(60));
            watch.on_tick(second(now), "");
            assert_eq!((watch.next_line, watch.since), (second(17), second(1)));
        }
        watch.on_end(second(9), "save-grid", true);
        assert!(!watch.is_mentioned && watch.is_busy());
        watch.on_end(second(10), "save-grid", true);
        assert!(!watch.is_busy());
    }

    #[test]
    fn a_wait_goes_on_while_other_files_are_written() {
        let second = Duration::from_secs;
        let grid = Job::Grid { step: 20, png: bytes::Bytes::new() };
        let mut watch = DiskWatch::default();
        watch.on_submit(second(1), &grid);
        watch.on_failure(second(2), "save-checkpoint", "no space".to_owned());
        for now in 3..13 {
            watch.on_submit(second(now), &grid);
            watch.on_tick(second(now), "");
            watch.on_end(second(now), "save-grid", now % 2 == 0);
        }
        watch.on_submit(second(13), &grid);
        let waiting = (12, "waiting for 12 s for the disk: no space".to_owned());
        assert_eq!(watch.waiting(second(13)), Some(waiting));
        watch.on_end(second(14), "save-checkpoint", true);
        assert!(!watch.is_mentioned);
    }
}
