//! What goes wrong, and the dice.

/// Faults that are still to come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Workers killed, and started again some time later.
    pub(crate) kills: usize,
    /// The coordinator killed, between two of its commands, and started again.
    pub(crate) coordinator_kills: usize,
    /// A connection cut: a control stream, or the streams of a pair of workers.
    pub(crate) cuts: usize,
    /// New workers.
    pub(crate) joins: usize,
}

impl Faults {
    pub(crate) fn left(&self) -> usize {
        self.kills + self.coordinator_kills + self.cuts + self.joins
    }
}

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
}
