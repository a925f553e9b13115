//! What goes wrong, and the dice.

/// Something that goes wrong, or that a person does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A worker is killed, and perhaps started again under its name.
    Kill,
    /// The coordinator is killed, between two of its commands, and started again some time later.
    KillCoordinator,
    /// A connection breaks: a control stream, or the streams of a pair of workers.
    Cut,
    /// A worker stops, and goes on some seconds later.
    Stop,
    /// A bit of a worker's state flips.
    Flip,
    /// Two workers do not reach each other for a while.
    Partition,
    /// A new worker comes.
    Join,
    /// A worker leaves.
    Leave,
    /// A person has a worker leave.
    Drain,
    /// A person asks for a checkpoint.
    Checkpoint,
    /// The newest checkpoint cannot be read any more.
    Damage,
}

/// All that processes and people do.
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

/// SplitMix64: every choice of a simulation comes from its seed.
#[derive(Clone, Debug)]
pub(crate) struct Pick(u64);

impl Pick {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    /// Up to `most` faults of any kind.
    pub(crate) fn faults(&mut self, most: usize) -> Vec<Fault> {
        (0..self.below(most + 1)).map(|_| FAULTS[self.below(FAULTS.len())]).collect()
    }
}
