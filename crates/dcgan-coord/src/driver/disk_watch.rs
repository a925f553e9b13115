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
    /// The error of the last attempt, if it failed.
    error: Option<String>,
    /// True if the log has said that the disk is waited for.
    is_mentioned: bool,
}

impl DiskWatch {
    /// Notes that a job was handed to the writer.
    pub(super) fn on_submit(&mut self, now: Duration, job: &Job) {
        // What has failed is handed over again: the wait goes on.
        if self.jobs.is_empty() && self.error.is_none() {
            self.begin(now);
        }
        self.jobs.push_back(job.what());
    }

    fn begin(&mut self, now: Duration) {
        self.since = now;
        self.next_line = now + LONG;
        self.error = None;
    }

    /// Notes that the first job has failed. The first failure is logged at once.
    pub(super) fn on_failure(&mut self, now: Duration, error: String) {
        if self.error.replace(error).is_none() {
            self.next_line = now;
        }
        self.on_tick(now);
        self.jobs.pop_front();
    }

    /// Notes that the first job has come to its end: it is done, or given up.
    pub(super) fn on_end(&mut self, now: Duration, is_done: bool) {
        self.jobs.pop_front();
        if std::mem::take(&mut self.is_mentioned) && is_done {
            let seconds = (now - self.since).as_secs();
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

    /// Logs that the disk is waited for, if a line is due.
    pub(super) fn on_tick(&mut self, now: Duration) {
        let Some(job) = self.jobs.front() else {
            return;
        };
        if now < self.next_line {
            return;
        }
        self.next_line = now + LOG_INTERVAL;
        self.is_mentioned = true;
        let seconds = (now - self.since).as_secs();
        let what = match &self.error {
            Some(error) => error.clone(),
            None => format!("it has not written {job} yet"),
        };
        tracing::error!(
            event = "disk_waiting",
            seconds,
            "waiting for {seconds} s for the disk: {what}"
        );
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
        watch.on_tick(second(5));
        assert!(!watch.is_mentioned);
        watch.on_tick(second(6));
        assert!(watch.is_mentioned);
        assert_eq!(watch.next_line, second(16));
        // An error is said at once, and no more often than silence.
        for now in [7, 8] {
            watch.on_failure(second(now), "no space".to_owned());
            watch.on_submit(second(now), &grid(60));
            assert_eq!((watch.next_line, watch.since), (second(17), second(1)));
        }
        watch.on_end(second(9), true);
        assert!(!watch.is_mentioned && watch.is_busy());
        watch.on_end(second(10), true);
        assert!(!watch.is_busy());
    }
}
