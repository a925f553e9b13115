//! The newest checkpoint while a run goes on: whether others have removed or damaged it.

use dcgan_core::ids::Step;

use super::{Checkpoints, MANIFEST, STATE_FILE};
use crate::file::Stamp;

/// A checkpoint, as it was when it was known to be intact.
#[derive(Debug)]
pub struct WatchedCheckpoint {
    step: Step,
    stamps: [Option<Stamp>; 2],
}

impl WatchedCheckpoint {
    /// Returns the step of the checkpoint.
    pub fn step(&self) -> Step {
        self.step
    }
}

impl Checkpoints {
    /// Watches a checkpoint that is intact.
    pub fn watch(&self, step: Step) -> WatchedCheckpoint {
        WatchedCheckpoint { step, stamps: self.stamps(step) }
    }

    /// Returns what has become of a checkpoint if it is not intact any more. Nothing is read as
    /// long as its files are the same.
    pub fn damage_of(&self, watched: &mut WatchedCheckpoint) -> Option<String> {
        let stamps = self.stamps(watched.step);
        if stamps == watched.stamps {
            return None;
        }
        watched.stamps = stamps;
        self.load(watched.step).err().map(|error| error.to_string())
    }

    fn stamps(&self, step: Step) -> [Option<Stamp>; 2] {
        [STATE_FILE, MANIFEST].map(|name| Stamp::of(&self.path(step).join(name)))
    }
}
