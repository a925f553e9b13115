//! A limit on log lines that somebody else can cause.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// After a line, others of its kind wait this long. They are counted, and the next line says how
/// many there were.
const PERIOD: Duration = Duration::from_secs(10);

/// Thins out log lines of one kind: the first is written at once, and then one a period, with the
/// number of those that were left out.
///
/// A stranger can connect a thousand times a second. Without it, the log would grow as fast, and
/// nothing else could be found in it.
#[derive(Debug)]
pub struct Throttle(Mutex<Count>);

#[derive(Debug)]
struct Count {
    /// The time of the last line that was written.
    last: Option<Instant>,
    left_out: u64,
}

impl Throttle {
    /// Makes a throttle that lets the first line pass.
    pub const fn new() -> Self {
        Self(Mutex::new(Count { last: None, left_out: 0 }))
    }

    /// Asks to write a line. Returns how many were left out since the last one, or `None` if this
    /// one is left out as well.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if count.last.is_some_and(|last| now.saturating_duration_since(last) < PERIOD) {
            count.left_out += 1;
            return None;
        }
        count.last = Some(now);
        Some(std::mem::take(&mut count.left_out))
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_written_at_once_and_then_one_a_period_with_the_number_of_the_others() {
        let (throttle, start) = (Throttle::new(), Instant::now());
        assert_eq!(throttle.pass_at(start), Some(0));
        for millisecond in 1..1000 {
            assert_eq!(throttle.pass_at(start + Duration::from_millis(millisecond)), None);
        }
        assert_eq!(throttle.pass_at(start + PERIOD), Some(999));
        assert_eq!(throttle.pass_at(start + PERIOD), None);
        assert_eq!(throttle.pass_at(start + 3 * PERIOD), Some(1));
    }
}
