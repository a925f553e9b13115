//! The finished steps that are not saved: what a second signal costs.

use std::sync::{Arc, Mutex, PoisonError};

use dcgan_core::protocol::coordinator::LostSteps;

use super::Driver;

/// The finished steps that are not saved, for the thread that ends the program at once. Clones
/// share them.
#[derive(Clone, Default)]
pub(crate) struct Unsaved(Arc<Mutex<Option<LostSteps>>>);

impl Unsaved {
    pub(super) fn set(&self, steps: Option<LostSteps>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = steps;
    }

    /// Says that these steps are lost. Returns whether there are any.
    pub(crate) fn say_lost(&self) -> bool {
        // A program that is to end at once waits for nobody.
        let steps = self.0.try_lock().ok().and_then(|steps| *steps);
        if let Some(lost) = steps {
            let LostSteps { first: from, last: to } = lost;
            tracing::error!(
                event = "steps_lost",
                from,
                to,
                "ended before everything was saved, and lost {lost}"
            );
        }
        steps.is_some()
    }
}

impl Driver {
    /// The hint for a person who does not want to wait for the end, with what that costs.
    pub(super) fn hint_of_second_signal(&self) -> String {
        if !self.machine.is_ending() {
            return String::new();
        }
        let cost = match (self.machine.unsaved_steps(), self.is_local) {
            (None, _) => String::new(),
            (Some(lost), true) => format!(", and {lost} would be lost"),
            (Some(lost), false) => {
                format!(", and {lost} would be left to the workers, for the next coordinator")
            }
        };
        format!("; a second signal ends the coordinator at once{cost}")
    }

    /// The present activity, or the thing that is waited for: for people.
    pub(super) fn reason_in_words(&self) -> String {
        let reason = self.machine.reason().to_string();
        match self.disk.watch.waiting(self.start.elapsed()) {
            Some((_, waiting)) => format!("{reason}; {waiting}{}", self.hint_of_second_signal()),
            None => reason,
        }
    }
}
