//! Whoever waits says for whom and for how long.

use std::time::{Duration, Instant};

/// Waits that are shorter are not worth a line.
const FIRST: Duration = Duration::from_secs(5);
/// Then a line this often.
const AGAIN: Duration = Duration::from_secs(10);

/// One wait, from its beginning.
pub(crate) struct Waiting {
    since: Instant,
    says_at: Duration,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { since: Instant::now(), says_at: FIRST }
    }
}

impl Waiting {
    /// For how long.
    pub(crate) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Says for what, if it is time to.
    pub(crate) fn say(&mut self, what: impl FnOnce() -> String) {
        let elapsed = self.elapsed();
        if elapsed >= self.says_at {
            self.says_at = elapsed + AGAIN;
            tracing::info!("waiting for {} s for {}", elapsed.as_secs(), what());
        }
    }
}
