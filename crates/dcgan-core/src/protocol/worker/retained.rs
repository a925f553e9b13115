//! What a worker keeps for others until it is stored, and how fast it goes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::ids::Step;
use crate::metrics::StepDone;
use crate::state::State;

/// Snapshots kept for a coordinator that is away: 16 times 5 MB. The oldest goes first.
const SNAPSHOTS_MAX: usize = 16;

/// Reports and snapshots that are not stored yet.
#[derive(Debug, Default)]
pub(super) struct Retained {
    reports: BTreeMap<Step, StepDone>,
    /// Of the last finished step, and of those that are due.
    snapshots: BTreeMap<Step, (Arc<State>, bool)>,
    /// Steps whose snapshots are wanted beside those that are due.
    wanted: BTreeSet<Step>,
}

impl Retained {
    pub(super) fn reports(&self) -> Vec<StepDone> {
        self.reports.values().cloned().collect()
    }

    /// Keeps a report.
    pub(super) fn remember(&mut self, done: StepDone) {
        self.reports.insert(done.step, done);
    }

    /// Forgets the reports of later steps: the state is not theirs any more.
    pub(super) fn go_back_to(&mut self, step: Step) {
        self.reports.retain(|&reported, _| reported <= step);
    }

    /// Keeps the snapshot of a later step, or of the last one, as if it were due.
    pub(super) fn keep_too(&mut self, step: Step) {
        match self.snapshots.get_mut(&step) {
            Some((_, due)) => *due = true,
            None => drop(self.wanted.insert(step)),
        }
    }

    /// Keeps the state after `step`, and of earlier ones only those that are due.
    pub(super) fn keep(&mut self, step: Step, state: Arc<State>, due: bool) {
        let due = due || self.wanted.contains(&step);
        self.wanted.retain(|&wanted| wanted > step);
        self.snapshots.retain(|_, (_, due)| *due);
        self.snapshots.insert(step, (state, due));
        while self.snapshots.len() > SNAPSHOTS_MAX {
            self.snapshots.pop_first();
        }
    }

    pub(super) fn snapshot(&self, step: Step) -> Option<Arc<State>> {
        self.snapshots.get(&step).map(|(state, _)| Arc::clone(state))
    }

    /// Drops all snapshots: they share their bytes with a state that turned out to be damaged.
    pub(super) fn drop_snapshots(&mut self) {
        self.snapshots.clear();
    }

    /// Forgets everything up to `step`, but the last finished step: an early end may ask for it.
    pub(super) fn stored(&mut self, step: Step) {
        self.reports.retain(|&reported, _| reported > step);
        let last = self.snapshots.keys().next_back().copied();
        self.snapshots.retain(|&kept, _| kept > step || Some(kept) == last);
    }
}

/// Recent step times that the deadline follows.
const RECENT: usize = 8;
/// A contribution may take this many times as long as a recent step.
const DEADLINE_STEPS: u32 = 8;
/// And never less than this: a loaded machine may stop a process for seconds.
const DEADLINE_MIN: Duration = Duration::from_secs(20);
/// Before anything is known of this machine's speed.
const DEADLINE_FIRST: Duration = Duration::from_secs(120);

/// How long steps take.
#[derive(Debug)]
pub(super) struct StepTimer {
    step_since: Duration,
    reducing: Duration,
    recent: VecDeque<Duration>,
}

impl StepTimer {
    pub(super) fn new(now: Duration) -> Self {
        Self { step_since: now, reducing: Duration::ZERO, recent: VecDeque::new() }
    }

    /// A plan begins; a step that was begun under an older one is measured from its own beginning.
    pub(super) fn restart(&mut self, now: Duration) {
        if self.recent.is_empty() {
            self.step_since = now;
        }
    }

    /// A phase waited this long for others.
    pub(super) fn reduced(&mut self, waited: Duration) {
        self.reducing += waited;
    }

    /// A step is finished: its time and its all-reduces' time, in milliseconds.
    pub(super) fn step(&mut self, now: Duration) -> (f32, f32) {
        let time = now.saturating_sub(self.step_since);
        let reducing = std::mem::take(&mut self.reducing);
        self.step_since = now;
        self.recent.push_back(time);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        (time.as_secs_f32() * 1e3, reducing.as_secs_f32() * 1e3)
    }

    /// How long a peer may owe a contribution.
    pub(super) fn deadline(&self) -> Duration {
        self.recent
            .iter()
            .max()
            .map_or(DEADLINE_FIRST, |&slowest| (slowest * DEADLINE_STEPS).max(DEADLINE_MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Layout;

    #[test]
    fn what_is_due_and_the_last_step_are_kept() {
        let mut retained = Retained::default();
        let state = Arc::new(State::zeros(Arc::new(Layout::new([]))));
        for step in 1..=45 {
            retained.keep(step, Arc::clone(&state), step % 20 == 0);
        }
        let held = |retained: &Retained| {
            (1..=50).filter(|&step| retained.snapshot(step).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(held(&retained), [20, 40, 45]);
        retained.stored(20);
        assert_eq!(held(&retained), [40, 45]);
        retained.stored(45);
        assert_eq!(held(&retained), [45]);
    }

    #[test]
    fn a_deadline_follows_recent_steps() {
        let mut timer = StepTimer::new(Duration::ZERO);
        assert_eq!(timer.deadline(), DEADLINE_FIRST);
        timer.reduced(Duration::from_millis(7));
        assert_eq!(timer.step(Duration::from_millis(500)), (500.0, 7.0));
        assert_eq!(timer.deadline(), DEADLINE_MIN);
        timer.step(Duration::from_millis(5500));
        assert_eq!(timer.deadline(), Duration::from_secs(40));
    }
}
