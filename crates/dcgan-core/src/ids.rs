//! The words of the protocol as types, so that a rank is never taken for a shard.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A step of training, counted from 1: after step n, n steps are done.
pub type Step = u64;

/// A logical shard of the global batch, `0..S`, whatever the number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub u16);

/// A member's place in a plan, `0..W`. Rank r owns chunk r of every reduced vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rank(pub u16);

/// The number of one immutable plan. Only grows, also across restarts of the coordinator.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The one after.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A phase of a training step. Each ends with one all-reduce and one optimizer step.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(into = "u8", try_from = "u8")]
pub enum Phase {
    /// The discriminator on real images.
    #[default]
    DiscriminatorReal,
    /// The discriminator on fakes.
    DiscriminatorFake,
    /// The generator, through the discriminator, on the same fakes.
    Generator,
}

impl Phase {
    /// The phases in their order.
    pub const ALL: [Self; 3] = [Self::DiscriminatorReal, Self::DiscriminatorFake, Self::Generator];

    /// The phase's place in the step, from 0.
    pub fn index(self) -> usize {
        self as usize
    }
}

impl From<Phase> for u8 {
    fn from(phase: Phase) -> Self {
        phase as Self
    }
}

impl TryFrom<u8> for Phase {
    type Error = UnknownPhase;

    fn try_from(index: u8) -> Result<Self, UnknownPhase> {
        Self::ALL.get(usize::from(index)).copied().ok_or(UnknownPhase(index))
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DiscriminatorReal => "discriminator-real",
            Self::DiscriminatorFake => "discriminator-fake",
            Self::Generator => "generator",
        })
    }
}

/// A number that names no phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a phase from 0 to 2, found {0}")]
pub struct UnknownPhase(u8);

/// How far a state has come: `step` steps are finished, and `phase` is the
/// next to be computed.
///
/// Ordered, so the furthest of several states is the greatest position.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// Finished steps.
    pub step: Step,
    /// The phase of step `step + 1` that comes next.
    pub phase: Phase,
}

impl Position {
    /// The position at which exactly `step` steps are finished.
    pub fn after(step: Step) -> Self {
        Self { step, phase: Phase::ALL[0] }
    }

    /// The position after one more update.
    pub fn next(self) -> Self {
        match Phase::ALL.get(self.phase.index() + 1) {
            Some(&phase) => Self { phase, ..self },
            None => Self::after(self.step + 1),
        }
    }

    /// Whether a step has just been finished (or none begun).
    pub fn is_step_boundary(self) -> bool {
        self.phase == Phase::ALL[0]
    }
}

/// XXH3-64 of a state or of data; prints as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub u64);

/// A run's identity, chosen once when its directory is made; prints as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// A worker process: a name and an incarnation. A newer incarnation of a name replaces the older.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId {
    /// What people call it; stable across restarts.
    pub name: String,
    /// When the process started, in microseconds of Unix time.
    pub incarnation: u64,
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            0 if self.is_step_boundary() => f.write_str("the initial state"),
            step if self.is_step_boundary() => write!(f, "the end of step {step}"),
            step => write!(f, "step {}, before phase {}", step + 1, self.phase),
        }
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl WorkerId {
    /// Whether a worker may have this name, which ends up on screens and in file names: 1 to 100 of ASCII letters,
    /// digits, `-`, `_` and `.`.
    pub fn is_name(name: &str) -> bool {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        (1..=100).contains(&name.len()) && name.chars().all(plain)
    }
}

/// Sixteen hexadecimal digits on screens and in files, where 64 bits as a JSON number would lose some.
macro_rules! hex {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl std::str::FromStr for $type {
            type Err = NotHex;

            fn from_str(s: &str) -> Result<Self, NotHex> {
                let valid = s.len() == 16 && s.bytes().all(|b| b.is_ascii_hexdigit());
                let value = u64::from_str_radix(s, 16).ok().filter(|_| valid);
                value.map(Self).ok_or_else(|| NotHex(s.to_owned()))
            }
        }

        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex!(Digest);
hex!(RunId);

/// A digest or run id that is not written as one.
#[derive(Debug, thiserror::Error)]
#[error("expected 16 hexadecimal digits, found {0:?}")]
pub struct NotHex(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_counts_phases_then_steps() {
        let mut at = Position::after(7);
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push((at.step, at.phase.index()));
            let next = at.next();
            assert!(next > at);
            at = next;
        }
        assert_eq!(seen, [(7, 0), (7, 1), (7, 2), (8, 0)]);
    }

    #[test]
    fn a_digest_is_sixteen_hexadecimal_digits() {
        let digest = Digest(0x9f1c);
        assert_eq!(digest.to_string(), "0000000000009f1c");
        assert_eq!("0000000000009f1c".parse::<Digest>().unwrap(), digest);
        for wrong in ["9f1c", "+000000000009f1c", "000000000000zf1c"] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }
}
