//! Faults at points of a program, for tests: `--fault POINT=ACTION@N` does ACTION when POINT is passed the Nth time.

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

/// How long a slow point takes.
const SLOW_TIME: Duration = Duration::from_millis(500);

/// One fault, at one point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    point: String,
    action: Action,
    nth: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Kill,
    Stop,
    Slow,
    Repeat,
}

static FAULT: OnceLock<(Fault, AtomicU32)> = OnceLock::new();

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts =
            text.split_once('=').and_then(|(point, rest)| Some((point, rest.split_once('@')?)));
        let (point, (action, nth)) = parts.ok_or("expected POINT=ACTION@N")?;
        let action = match action {
            "kill" => Action::Kill,
            "stop" => Action::Stop,
            "slow" => Action::Slow,
            "repeat" => Action::Repeat,
            _ => return Err("expected kill, stop, slow or repeat".to_owned()),
        };
        let nth = nth.parse().map_err(|_| "expected a number after @".to_owned())?;
        Ok(Self { point: point.to_owned(), action, nth })
    }
}

impl Fault {
    /// Lets the fault happen, when its point is passed.
    pub fn arm(self) {
        let _ = FAULT.set((self, AtomicU32::new(0)));
    }
}

/// The program passes a point; says whether it is to do there what it does twice.
pub fn pass(point: &str) -> bool {
    let Some((fault, passed)) = FAULT.get().filter(|(fault, _)| fault.point == point) else {
        return false;
    };
    if passed.fetch_add(1, Ordering::Relaxed) + 1 != fault.nth {
        return false;
    }
    match fault.action {
        // Nothing is left to do if a process cannot send itself a signal.
        Action::Kill => drop(kill_process(getpid(), Signal::KILL)),
        Action::Stop => {
            tracing::info!("stops at {point}");
            let _ = kill_process(getpid(), Signal::STOP);
        }
        #[expect(clippy::disallowed_methods, reason = "being slow is its purpose")]
        Action::Slow => std::thread::sleep(SLOW_TIME),
        Action::Repeat => return true,
    }
    false
}
