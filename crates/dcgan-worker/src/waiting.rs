//! Log lines about long waits: a worker that does nothing for long says what it waits for.

use std::time::{Duration, Instant};

use dcgan_process::settings::Time;

/// A wait is reported for the first time after this long: shorter ones are normal.
const FIRST_REPORT: Duration = Duration::from_secs(5);
/// The time between two reports of one wait.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// One wait. It begins when the value is created.
pub(crate) struct Waiting {
    since: Instant,
    next_report: Duration,
    /// The worker gives up after this time, if it ever does.
    max: Option<Time>,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { since: Instant::now(), next_report: FIRST_REPORT, max: None }
    }
}

impl Waiting {
    /// A wait that is reported at once: it is the first thing that a person sees.
    pub(crate) fn reported_at_once() -> Self {
        Self { next_report: Duration::ZERO, ..Self::default() }
    }

    /// The same wait, which the worker gives up after this time.
    pub(crate) fn giving_up_after(self, max: Duration) -> Self {
        Self { max: Some(Time(max)), ..self }
    }

    /// Returns whether it is time to give up.
    pub(crate) fn is_over(&self) -> bool {
        self.max.is_some_and(|Time(max)| self.elapsed() >= max)
    }

    /// Returns how long the wait has lasted.
    pub(crate) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Logs what is waited for, if a report is due.
    pub(crate) fn report(&mut self, what: impl FnOnce() -> String) {
        if let Some(Report { what, seconds, so_far }) = self.due(what) {
            tracing::info!(event = "waiting", "for" = what, seconds, "waiting for {what}{so_far}");
        }
    }

    /// Logs like [`report`](Self::report) what is waited for and hardly comes by itself.
    pub(crate) fn warn(&mut self, what: impl FnOnce() -> String) {
        if let Some(Report { what, seconds, so_far }) = self.due(what) {
            tracing::warn!(event = "waiting", "for" = what, seconds, "waiting for {what}{so_far}");
        }
    }

    fn due(&mut self, what: impl FnOnce() -> String) -> Option<Report> {
        let elapsed = self.elapsed();
        if elapsed < self.next_report {
            return None;
        }
        self.next_report = elapsed + REPORT_INTERVAL;
        let seconds = elapsed.as_secs();
        let so_far = (seconds > 0).then(|| format!("for {seconds} s so far"));
        let max = self.max.map(|max| format!("gives up after {max}"));
        let times: Vec<String> = so_far.into_iter().chain(max).collect();
        let so_far =
            if times.is_empty() { String::new() } else { format!(" ({})", times.join("; ")) };
        Some(Report { what: what(), seconds, so_far })
    }
}

/// The parts of a log line about a wait.
struct Report {
    what: String,
    seconds: u64,
    /// The times, in parentheses.
    so_far: String,
}
