//! Workers that keep others from going on: by mistake, by a fault of their machine, or because they
//! lie.

/// The way in which a worker is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// Nobody reaches it: its address is wrong, or another worker's.
    Unreachable,
    /// The worker reaches nobody, and says so.
    ReachesNobody,
    /// The worker reaches nobody, and says that it does.
    ClaimsToReach,
    /// The states that it gives away are not what it says.
    GarbageCopies,
    /// The frames that it sends fit no plan, or no state.
    GarbageFrames,
    /// Its trial never ends.
    TriedForEver,
    /// The worker passes its trial, and then copies the start state of a plan for ever.
    CopiesForEver,
    /// The worker takes a hundred times as long as the others for a shard.
    Slow,
    /// The worker says that it has a state that it does not have.
    LiesAboutItsPosition,
    /// The worker says of others that they are late, and does nothing else.
    Accuses,
    /// The worker trains, and does not report the steps that it finishes.
    WithholdsReports,
}

pub(crate) const BAD: [Bad; 11] = [
    Bad::Unreachable,
    Bad::ReachesNobody,
    Bad::ClaimsToReach,
    Bad::GarbageCopies,
    Bad::GarbageFrames,
    Bad::TriedForEver,
    Bad::CopiesForEver,
    Bad::Slow,
    Bad::LiesAboutItsPosition,
    Bad::Accuses,
    Bad::WithholdsReports,
];
