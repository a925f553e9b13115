//! What interrupted the training, and how long until it went on: for people.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ids::Generation;

/// Interruptions that are remembered.
const REMEMBERED: usize = 100;

/// An interruption, and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The generation that it ended with.
    pub generation: Generation,
    /// What had happened.
    pub cause: String,
    /// When it was noticed, on the coordinator's clock.
    pub at: Duration,
    /// From then to the next finished step, if there was one.
    pub took: Option<Duration>,
}

/// The interruptions since the coordinator was started.
#[derive(Debug, Default)]
pub(in crate::protocol::coordinator) struct Recoveries {
    /// The last loss that no fence has followed yet.
    loss: Option<String>,
    recoveries: VecDeque<Recovery>,
}

impl Recoveries {
    /// A worker is lost; a fence follows if it was a member.
    pub(in crate::protocol::coordinator) fn lost(&mut self, cause: String) {
        self.loss = Some(cause);
    }

    /// A fence: an interruption, or one more attempt to end one.
    pub(in crate::protocol::coordinator) fn fence(
        &mut self,
        now: Duration,
        generation: Generation,
        why: &str,
    ) {
        let cause = self.loss.take().unwrap_or_else(|| why.to_owned());
        match self.recoveries.back_mut().filter(|open| open.took.is_none()) {
            Some(open) => open.generation = generation,
            None => self.recoveries.push_back(Recovery { generation, cause, at: now, took: None }),
        }
        if self.recoveries.len() > REMEMBERED {
            self.recoveries.pop_front();
        }
    }

    /// A step was finished in a generation.
    pub(in crate::protocol::coordinator) fn step(&mut self, now: Duration, generation: Generation) {
        let open = self
            .recoveries
            .back_mut()
            .filter(|open| open.took.is_none() && generation >= open.generation);
        if let Some(open) = open {
            open.took = Some(now.saturating_sub(open.at));
        }
    }

    /// The interruptions, the latest last.
    pub(in crate::protocol::coordinator) fn recoveries(&self) -> impl Iterator<Item = &Recovery> {
        self.recoveries.iter()
    }
}
