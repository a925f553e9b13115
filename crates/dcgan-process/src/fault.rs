//! Faults that a test injects at a named point of a program. `--fault POINT=ACTION@N` performs
//! ACTION when the program passes POINT the Nth time; with `@N+` from then on each time.
//!
//! Some mistakes only show when a process dies between two particular lines. A kill from outside
//! would hit that place by chance, once in many runs; from inside it hits it every time.

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use crate::output;

/// A slow point takes this long.
const SLOW_TIME: Duration = Duration::from_millis(500);
/// A paced point takes this long.
const PACE_TIME: Duration = Duration::from_millis(5);

/// One fault, at one point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    point: String,
    action: Action,
    /// Counted from 1.
    nth: u32,
    /// True if the fault happens each time from then on.
    is_lasting: bool,
}

/// The action at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// The process kills itself.
    Kill,
    /// The process stops until it receives SIGCONT.
    Stop,
    /// The point takes [`SLOW_TIME`].
    Slow,
    /// The point takes [`PACE_TIME`]: a training that is not to end soon takes no whole processor.
    Pace,
    /// The point takes for ever.
    Hang,
    /// The program does twice what it does at the point.
    Repeat,
}

/// The fault of this process, and how often its point was passed.
static FAULT: OnceLock<(Fault, AtomicU32)> = OnceLock::new();

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected POINT=ACTION@N";
        let (point, action_and_number) = text.split_once('=').ok_or(EXPECTED)?;
        let (action, nth) = action_and_number.split_once('@').ok_or(EXPECTED)?;
        let action = match action {
            "kill" => Action::Kill,
            "stop" => Action::Stop,
            "slow" => Action::Slow,
            "pace" => Action::Pace,
            "hang" => Action::Hang,
            "repeat" => Action::Repeat,
            _ => return Err("expected kill, stop, slow, pace, hang or repeat".to_owned()),
        };
        let (nth, is_lasting) = nth.strip_suffix('+').map_or((nth, false), |nth| (nth, true));
        let nth = nth.parse().map_err(|_| "expected a number after @".to_owned())?;
        Ok(Self { point: point.to_owned(), action, nth, is_lasting })
    }
}

impl Fault {
    /// Arms the fault: it happens when its point is passed. Only the first fault of a process
    /// counts.
    pub fn arm(self) {
        let _ = FAULT.set((self, AtomicU32::new(0)));
    }
}

/// Marks a point that the program passes, and performs the fault if it is due here. Returns whether
/// the program should do twice what it does at this point.
pub fn pass(point: &str) -> bool {
    let Some((fault, passed)) = FAULT.get().filter(|(fault, _)| fault.point == point) else {
        return false;
    };
    let count = passed.fetch_add(1, Ordering::Relaxed) + 1;
    if count != fault.nth && !(fault.is_lasting && count > fault.nth) {
        return false;
    }
    match fault.action {
        Action::Kill => send_to_self(Signal::KILL),
        Action::Stop => {
            tracing::info!(
                event = "fault_stopped",
                point,
                "this process stops at {point}, as --fault asked"
            );
            send_to_self(Signal::STOP);
        }
        #[expect(clippy::disallowed_methods, reason = "a slow point needs time to pass")]
        Action::Slow => std::thread::sleep(SLOW_TIME),
        #[expect(clippy::disallowed_methods, reason = "a pace needs time to pass")]
        Action::Pace => std::thread::sleep(PACE_TIME),
        Action::Hang => loop {
            std::thread::park();
        },
        Action::Repeat => return true,
    }
    false
}

/// Sends a signal to this process.
fn send_to_self(signal: Signal) {
    // What was printed before is not part of the fault.
    output::flush();
    // Every process may do this. If the system refused, the test would miss its fault and fail.
    let _ = kill_process(getpid(), signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_parsed_from_its_flag() {
        let (point, action, nth) = ("send-plan".to_owned(), Action::Kill, 2);
        let once = Fault { point, action, nth, is_lasting: false };
        assert_eq!("send-plan=kill@2".parse(), Ok(once.clone()));
        assert_eq!("send-plan=kill@2+".parse(), Ok(Fault { is_lasting: true, ..once }));
    }

    #[test]
    fn a_flag_that_is_no_fault_is_refused_with_what_was_expected() {
        for (text, expected) in [
            ("send-plan", "expected POINT=ACTION@N"),
            ("send-plan=kill", "expected POINT=ACTION@N"),
            ("send-plan=burn@1", "expected kill, stop, slow, pace, hang or repeat"),
            ("send-plan=kill@one", "expected a number after @"),
        ] {
            assert_eq!(text.parse::<Fault>().unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn a_fault_happens_at_its_point_the_nth_time_only() {
        "here=repeat@2".parse::<Fault>().unwrap().arm();
        let passed = ["here", "elsewhere", "here", "here"].map(pass);
        assert_eq!(passed, [false, false, true, false]);
    }
}
