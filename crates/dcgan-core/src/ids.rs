//! Small types for the numbers and names of the protocol.
//!
//! Ranks, shards, generations and digests are all integers. Each has a type of its own, so that the
//! compiler refuses a rank where a shard is expected. All of them are ordered, because decisions
//! iterate over ordered maps only.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of a training step, counted from 1. After step n, n steps are finished; 0 stands for
/// the initial state.
pub type Step = u64;

/// The number of a shard: one of the S fixed parts, `0..S`, of every batch.
///
/// S belongs to the specification and does not depend on the number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub u16);

/// A member's place in a plan, `0..W`. Rank r owns slice r of every summed vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rank(pub u16);

/// The number of a plan. It only grows, also across restarts of the coordinator.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A phase of a training step. Each phase ends with one all-reduce and one optimizer step.
///
/// Files and messages carry a phase as its index.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(into = "u8", try_from = "u8")]
pub enum Phase {
    /// Trains the discriminator on real images.
    #[default]
    DiscriminatorReal,
    /// Trains the discriminator on the generator's fakes.
    DiscriminatorFake,
    /// Trains the generator on the same fakes, through the updated discriminator.
    Generator,
}

impl Phase {
    /// All phases, in the order in which a step runs them.
    pub const ALL: [Self; 3] = [Self::DiscriminatorReal, Self::DiscriminatorFake, Self::Generator];

    /// The phase's place in the step, counted from 0.
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

/// The error for a number that is not the index of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a phase from 0 to 2, found {0}")]
pub struct UnknownPhase(u8);

/// The progress of a state: how many steps are finished, and which phase comes next.
///
/// Positions are ordered by progress: the state that has come furthest has the greatest position.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// The number of finished steps.
    pub step: Step,
    /// The phase of step `step + 1` that is to be computed next.
    pub phase: Phase,
}

impl Position {
    /// The position right after step `step`; `after(0)` is that of the initial state.
    pub fn after(step: Step) -> Self {
        Self { step, phase: Phase::ALL[0] }
    }

    /// The position after one more optimizer step.
    pub fn next(self) -> Self {
        match Phase::ALL.get(self.phase.index() + 1) {
            Some(&phase) => Self { phase, ..self },
            None => Self::after(self.step + 1),
        }
    }

    /// Tells whether no step is half done: one has just been finished, or none has begun.
    pub fn is_step_boundary(self) -> bool {
        self.phase == Phase::ALL[0]
    }
}

/// The XXH3-64 hash of a state or of data. Its text form has 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub u64);

/// The identity of a run, chosen once when the run directory is created. Its text form has 16
/// hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// The identity of a worker process: a name and an incarnation.
///
/// When a process is restarted under its name, the newer incarnation replaces the older one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId {
    /// The name that people use. It stays the same when the process is restarted.
    pub name: String,
    /// The time at which the process started, in microseconds since the Unix epoch.
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
    /// Tells whether `name` is a valid worker name: 1 to 100 characters, each an ASCII letter, a
    /// digit, `-`, `_` or `.`.
    ///
    /// Names are printed on terminals and become part of file names, so nothing else is allowed.
    pub fn is_name(name: &str) -> bool {
        (1..=100).contains(&name.len()) && name.chars().all(is_name_character)
    }
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// Reads exactly 16 hexadecimal digits.
fn parse_hex(text: &str) -> Result<u64, InvalidHex> {
    // `from_str_radix` alone would also accept a leading `+` and fewer digits.
    let is_valid = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_valid {
        return Err(InvalidHex(text.to_owned()));
    }
    u64::from_str_radix(text, 16).map_err(|_| InvalidHex(text.to_owned()))
}

/// Gives a 64-bit type its text form, in messages to people as well as in JSON: 16 hexadecimal
/// digits.
///
/// A JSON number would not do: many programs read it as a 64-bit float, which has only 53 bits of
/// precision. This is a macro because Rust cannot share the implementation of another crate's
/// traits between two types in any other way.
macro_rules! impl_hex_text {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl std::str::FromStr for $type {
            type Err = InvalidHex;

            fn from_str(text: &str) -> Result<Self, InvalidHex> {
                parse_hex(text).map(Self)
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

impl_hex_text!(Digest);
impl_hex_text!(RunId);

/// The error for a text that is not the hexadecimal form of a digest or run id.
#[derive(Debug, thiserror::Error)]
#[error("expected 16 hexadecimal digits, found {0:?}")]
pub struct InvalidHex(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_phases_and_then_steps() {
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
    fn the_text_form_of_a_digest_is_sixteen_hexadecimal_digits() {
        let digest = Digest(0x9f1c);
        assert_eq!(digest.to_string(), "0000000000009f1c");
        assert_eq!("0000000000009f1c".parse::<Digest>().unwrap(), digest);
        for wrong in ["9f1c", "+000000000009f1c", "000000000000zf1c"] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong}");
        }
    }
}
