//! The times in which the coordinator itself did not run. On an overloaded machine there are many,
//! and a line for each would be most of the log.

use std::time::Duration;

use super::Notice;

/// They are said at most this often.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// The times that are not said yet.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    said_at: Option<Duration>,
    left_out: usize,
    left_out_time: Duration,
}

impl Lateness {
    /// Notes a time, which has just ended. Returns the notice if one is due.
    pub(super) fn on_late(&mut self, now: Duration, pause: Duration) -> Option<Notice> {
        if self.said_at.is_some_and(|at| now < at + SAID_EVERY) {
            self.left_out += 1;
            self.left_out_time += pause;
            return None;
        }
        let Self { left_out: more, left_out_time: more_time, .. } = std::mem::take(self);
        self.said_at = Some(now);
        Some(Notice::ClockLate { pause, more, more_time })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_once_a_minute_with_those_that_were_left_out() {
        let second = Duration::from_secs;
        let mut lateness = Lateness::default();
        let said: Vec<String> = [5, 20, 64, 65, 70, 130]
            .into_iter()
            .filter_map(|now| lateness.on_late(second(now), second(2)))
            .map(|notice| notice.to_string())
            .collect();
        let late = "this process got no CPU for 2.0 s (machine overloaded or suspended?)";
        let two = format!("{late}; before that 2 more times, for 4.0 s in all");
        let one = format!("{late}; before that 1 more time, for 2.0 s in all");
        assert_eq!(said, [late.to_owned(), two, one]);
    }
}
