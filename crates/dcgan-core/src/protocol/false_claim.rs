//! A claim that cannot be true.

use std::fmt;

/// A thing that a peer said and that cannot be true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FalseClaim {
    /// The claim, after "it claimed".
    claim: String,
    /// The truth, as far as it is known, as a sentence.
    possible: String,
}

impl FalseClaim {
    /// A false claim: what was claimed, and what is possible.
    pub(super) fn new(claim: String, possible: String) -> Self {
        Self { claim, possible }
    }
}

impl fmt::Display for FalseClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it claimed {}, but {}", self.claim, self.possible)
    }
}

/// Denies a claim unless it is possible. `words` gives the claim, and what is possible.
pub(super) fn deny_unless(
    is_possible: bool,
    words: impl FnOnce() -> (String, String),
) -> Result<(), FalseClaim> {
    if is_possible {
        return Ok(());
    }
    let (claim, possible) = words();
    Err(FalseClaim::new(claim, possible))
}
