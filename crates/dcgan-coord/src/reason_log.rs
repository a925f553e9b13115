//! Log lines for the reason why the run is in its state, such as "waiting for 1 of 4 workers".
//!
//! The driver looks at the reason 20 times a second, and most reasons last for milliseconds. A line
//! for every change would flood the log, and a line for only the first would leave a person alone
//! with a run that waits for hours. A reason is logged when it has lasted for a moment, and again
//! every 10 s while it lasts.

use std::time::{Duration, Instant};

use dcgan_core::protocol::coordinator::Reason;

/// A reason that ends sooner than this gets no line.
const SHORT: Duration = Duration::from_secs(1);
/// A reason that lasts is logged again after this time.
const REPEAT_INTERVAL: Duration = Duration::from_secs(10);

/// Follows the reason, and logs it when it is time to.
#[derive(Default)]
pub(crate) struct ReasonLog {
    current: Option<Current>,
}

/// The reason that was seen last.
struct Current {
    key: Key,
    since: Instant,
    /// The next line is due when the reason has lasted for this long. None if it gets no line.
    next_line: Option<Duration>,
}

/// The part of a reason whose change makes it another reason. Values that change by themselves
/// while the run waits, such as the seconds since a worker was last heard, are left out.
#[derive(PartialEq, Eq)]
struct Key {
    code: &'static str,
    counts: (u64, u64),
}

impl ReasonLog {
    /// Compares the reason with the one before, and logs it if a line is due.
    pub(crate) fn observe(&mut self, reason: &Reason) {
        let key = Key { code: reason.code(), counts: counts(reason) };
        let current = match &mut self.current {
            Some(current) if current.key == key => current,
            current => {
                let next_line = first_line(reason);
                current.insert(Current { key, since: Instant::now(), next_line })
            }
        };
        let lasted = current.since.elapsed();
        if current.next_line.is_some_and(|due| lasted >= due) {
            current.next_line = Some(lasted + REPEAT_INTERVAL);
            tracing::info!(event = "waiting", reason = reason.code(), "{reason}");
        }
    }
}

/// How long a reason lasts before its first line. None if it gets no line.
fn first_line(reason: &Reason) -> Option<Duration> {
    match reason {
        Reason::Training { .. } => None,
        // It usually lasts until a person starts a worker.
        Reason::BelowMinimum { .. } => Some(Duration::ZERO),
        // Workers that come within a moment are said to be ready.
        Reason::Gathering { .. }
        | Reason::Adopting { .. }
        | Reason::Fencing { .. }
        | Reason::Storing { .. }
        | Reason::OnTrial { .. }
        | Reason::Outside { .. }
        | Reason::Evaluating(_)
        | Reason::Stopping
        | Reason::Releasing(_)
        | Reason::Finishing => Some(SHORT),
        // The machine has waited for an answer already.
        Reason::Returning { .. } => Some(Duration::ZERO),
    }
}

/// The counts of a reason that are worth a new line when they change.
fn counts(reason: &Reason) -> (u64, u64) {
    match reason {
        Reason::Gathering { ready, workers } => missing(*ready, *workers),
        Reason::Adopting { here, members } => missing(*here, *members),
        Reason::BelowMinimum { ready, minimum, .. } => missing(*ready, *minimum),
        Reason::Fencing { generation, .. } | Reason::Storing { generation } => (generation.0, 0),
        Reason::OnTrial { names } => (names.len() as u64, 0),
        Reason::Outside { fit, minimum, .. } => missing(*fit, *minimum),
        Reason::Returning { members, .. } => (members.len() as u64, 0),
        Reason::Releasing(names) => (names.len() as u64, 0),
        Reason::Evaluating(step) => (*step, 0),
        Reason::Training { .. } | Reason::Stopping | Reason::Finishing => (0, 0),
    }
}

/// How many workers are missing, and how many are needed.
fn missing(present: usize, needed: usize) -> (u64, u64) {
    (needed.saturating_sub(present) as u64, needed as u64)
}

#[cfg(test)]
mod tests {
    use dcgan_core::ids::Generation;
    use dcgan_core::protocol::coordinator::LastSeen;

    use super::*;

    fn below_minimum(ready: usize, seconds_ago: u64) -> Reason {
        let missing =
            LastSeen { name: "a".to_owned(), step: 1, ago: Duration::from_secs(seconds_ago) };
        Reason::BelowMinimum { ready, minimum: 2, missing: vec![missing] }
    }

    #[test]
    fn seconds_that_pass_do_not_make_another_reason() {
        assert_eq!(counts(&below_minimum(1, 5)), counts(&below_minimum(1, 6)));
        assert_ne!(counts(&below_minimum(1, 5)), counts(&below_minimum(0, 5)));
    }

    #[test]
    fn a_new_generation_makes_another_reason_and_an_answer_to_its_fence_does_not() {
        let fencing = |generation, name: &str| Reason::Fencing {
            generation: Generation(generation),
            waiting_for: vec![name.to_owned()],
        };
        assert_eq!(counts(&fencing(2, "a")), counts(&fencing(2, "b")));
        assert_ne!(counts(&fencing(2, "a")), counts(&fencing(3, "a")));
    }

    #[test]
    fn training_gets_no_line() {
        let mut log = ReasonLog::default();
        log.observe(&Reason::Training { generation: Generation(1), members: 2 });
        assert!(log.current.unwrap().next_line.is_none());
        assert_eq!(first_line(&Reason::Stopping), Some(SHORT));
    }
}
