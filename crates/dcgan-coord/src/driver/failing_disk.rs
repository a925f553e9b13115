//! A disk on which writes fail: when the next attempt is due, and when the log mentions it.

use std::time::Duration;

/// Pause between two attempts to write.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(500);
/// The log mentions a disk that keeps failing this often.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A disk on which the last write failed. All times are on the machine's clock.
pub(super) struct FailingDisk {
    since: Duration,
    next_line: Duration,
    next_attempt: Duration,
}

impl FailingDisk {
    /// Makes the record of a disk that begins to fail now.
    pub(super) fn new(now: Duration) -> Self {
        Self { since: now, next_line: now, next_attempt: now }
    }

    /// True if the write that failed should be repeated now.
    pub(super) fn is_attempt_due(&self, now: Duration) -> bool {
        now >= self.next_attempt
    }

    /// Schedules the next attempt, and logs the error if a line is due.
    pub(super) fn failed(&mut self, now: Duration, error: &anyhow::Error) {
        self.next_attempt = now + ATTEMPT_PAUSE;
        if now >= self.next_line {
            self.next_line = now + LOG_INTERVAL;
            let seconds = (now - self.since).as_secs();
            tracing::error!(
                event = "disk_waiting",
                seconds,
                "waiting for {seconds} s for the disk, workers train on: {error:#}"
            );
        }
    }

    /// Logs that the disk works again.
    pub(super) fn recovered(self, now: Duration) {
        let seconds = (now - self.since).as_secs();
        tracing::info!(event = "disk_recovered", seconds, "the disk works again after {seconds} s");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_disk_is_tried_twice_a_second_and_mentioned_every_ten_seconds() {
        let mut disk = FailingDisk::new(Duration::from_secs(5));
        assert!(disk.is_attempt_due(Duration::from_secs(5)));
        disk.failed(Duration::from_secs(5), &anyhow::anyhow!("no space"));
        assert!(!disk.is_attempt_due(Duration::from_millis(5_400)));
        assert!(disk.is_attempt_due(Duration::from_millis(5_500)));
        assert_eq!(disk.next_line, Duration::from_secs(15));
        disk.failed(Duration::from_millis(5_500), &anyhow::anyhow!("no space"));
        assert_eq!(disk.next_line, Duration::from_secs(15));
    }
}
