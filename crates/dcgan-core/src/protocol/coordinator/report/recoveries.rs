//! The interruptions of the training, and how long each of them took: for people.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ids::Generation;

/// The number of interruptions that are remembered.
const REMEMBERED_MAX: usize = 100;

/// An interruption of the training, and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The generation with which training went on.
    pub generation: Generation,
    /// The event that interrupted the training.
    pub cause: String,
    /// The time at which it was noticed, on the coordinator's clock.
    pub at: Duration,
    /// The time from then to the next finished step; `None` while there was none.
    pub took: Option<Duration>,
}

/// The interruptions since the coordinator was started.
#[derive(Debug, Default)]
pub(in crate::protocol::coordinator) struct Recoveries {
    /// The last loss of a member that no fence has followed yet, or else the first complaint.
    cause: Option<String>,
    recoveries: VecDeque<Recovery>,
}

impl Recoveries {
    /// Notes that a member is lost: that is the cause of the fence that follows.
    pub(in crate::protocol::coordinator) fn on_loss(&mut self, cause: String) {
        self.cause = Some(cause);
    }

    /// Notes the complaint of a member: the cause of the fence that follows, unless a member is
    /// lost.
    pub(in crate::protocol::coordinator) fn on_complaint(&mut self, complaint: &str) {
        self.cause.get_or_insert_with(|| complaint.to_owned());
    }

    /// Notes a fence that interrupts nothing: nobody has trained since the coordinator was started.
    pub(in crate::protocol::coordinator) fn on_first_fence(&mut self) {
        self.cause = None;
    }

    /// Notes a fence: it is an interruption, or one more attempt to end one.
    pub(in crate::protocol::coordinator) fn on_fence(
        &mut self,
        now: Duration,
        generation: Generation,
        why: &str,
    ) {
        let cause = self.cause.take().unwrap_or_else(|| why.to_owned());
        match self.open() {
            Some(open) => open.generation = generation,
            None => self.recoveries.push_back(Recovery { generation, cause, at: now, took: None }),
        }
        if self.recoveries.len() > REMEMBERED_MAX {
            self.recoveries.pop_front();
        }
    }

    /// Notes that a step was finished in a generation: the interruption before it is over.
    pub(in crate::protocol::coordinator) fn on_step_done(
        &mut self,
        now: Duration,
        generation: Generation,
    ) {
        if let Some(open) = self.open()
            && generation >= open.generation
        {
            open.took = Some(now.saturating_sub(open.at));
        }
    }

    /// The interruption that is not over yet.
    fn open(&mut self) -> Option<&mut Recovery> {
        self.recoveries.back_mut().filter(|last| last.took.is_none())
    }

    /// The interruptions, the latest last.
    pub(in crate::protocol::coordinator) fn recoveries(&self) -> impl Iterator<Item = &Recovery> {
        self.recoveries.iter()
    }
}
