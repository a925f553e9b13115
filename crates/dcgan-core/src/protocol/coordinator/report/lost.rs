//! Finished steps that an ending could not save.

use std::fmt;

use crate::ids::Step;

/// Finished steps that could not be saved: no worker that holds them was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostSteps {
    /// The first of them.
    pub first: Step,
    /// The last of them.
    pub last: Step,
}

impl fmt::Display for LostSteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last { write!(f, "step {first}") } else { write!(f, "steps {first} to {last}") }
    }
}
