//! The faults of a simulation, and the actions of people.

use crate::rng::Rng;

/// Something that goes wrong, or that a person does. `world/faults.rs` carries it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A worker is killed. Half of the time it is started again under its name.
    Kill,
    /// The coordinator is killed between two of its commands, and started again some time later.
    KillCoordinator,
    /// A connection breaks: the control stream of a worker, or a stream between two workers.
    Cut,
    /// A worker stops, and goes on some seconds later.
    Stop,
    /// A bit of a worker's state flips.
    Flip,
    /// Two workers cannot reach each other for a while.
    Partition,
    /// A new worker joins.
    Join,
    /// A worker is told to stop, and leaves.
    Leave,
    /// A person drains a worker.
    Drain,
    /// A person asks for a checkpoint.
    Checkpoint,
    /// The newest checkpoint becomes unreadable.
    Damage,
}

/// All faults except damage to a checkpoint, which may cost steps that are already done.
pub(crate) const FAULTS: [Fault; 10] = [
    Fault::Kill,
    Fault::KillCoordinator,
    Fault::Cut,
    Fault::Stop,
    Fault::Flip,
    Fault::Partition,
    Fault::Join,
    Fault::Leave,
    Fault::Drain,
    Fault::Checkpoint,
];

/// Draws up to `most` faults of any kind.
pub(crate) fn random(rng: &mut Rng, most: usize) -> Vec<Fault> {
    (0..rng.below(most + 1)).map(|_| FAULTS[rng.below(FAULTS.len())]).collect()
}
