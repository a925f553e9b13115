//! Log lines about long waits: a worker that does nothing for long says what it waits for.

use std::time::{Duration, Instant};

/// A wait is reported for the first time after this long: shorter ones are normal.
const FIRST_REPORT: Duration = Duration::from_secs(5);
/// The time between two reports of one wait.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// One wait. It begins when the value is created.
pub(crate) struct Waiting {
    since: Instant,
    next_report: Duration,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { since: Instant::now(), next_report: FIRST_REPORT }
    }
}

impl Waiting {
    /// A wait that is reported at once: it is the first thing that a person sees.
    pub(crate) fn reported_at_once() -> Self {
        Self { since: Instant::now(), next_report: Duration::ZERO }
    }

    /// Returns how long the wait has lasted.
    pub(crate) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Logs what is waited for, if a report is due.
    pub(crate) fn report(&mut self, what: impl FnOnce() -> String) {
        let elapsed = self.elapsed();
        if elapsed < self.next_report {
            return;
        }
        self.next_report = elapsed + REPORT_INTERVAL;
        let (what, seconds) = (what(), elapsed.as_secs());
        let so_far = match seconds {
            0 => String::new(),
            _ => format!(" (for {seconds} s so far)"),
        };
        tracing::info!(event = "waiting", "for" = what, seconds, "waiting for {what}{so_far}");
    }
}
