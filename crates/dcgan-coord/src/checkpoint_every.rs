//! The setting `--checkpoint-every`: a number of steps, or a time.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use dcgan_process::settings::Time;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The distance between two checkpoints. In a configuration file it is a number, or a text such as
/// `"30s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckpointEvery {
    /// So many steps.
    Steps(NonZeroU64),
    /// So long. A checkpoint is due at the end of each epoch as well.
    Time(Duration),
}

impl CheckpointEvery {
    /// Checkpoints have 6 MB and cost no pause, so that a hard death may cost seconds only.
    pub(crate) const DEFAULT: Self = Self::Time(Duration::from_secs(30));
}

impl fmt::Display for CheckpointEvery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "{steps}"),
            Self::Time(time) => write!(f, "{}s", time.as_secs()),
        }
    }
}

impl FromStr for CheckpointEvery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let steps = text.parse().map(Self::Steps);
        let time = || text.parse().map(|Time(time)| Self::Time(time));
        let expected = "expected a number of steps, or a time such as 90s, 10m or 2h";
        steps.ok().or_else(|| time().ok()).ok_or_else(|| expected.to_owned())
    }
}

impl Serialize for CheckpointEvery {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Steps(steps) => steps.serialize(serializer),
            Self::Time(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for CheckpointEvery {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StepsOrTime;

        impl Visitor<'_> for StepsOrTime {
            type Value = CheckpointEvery;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of steps, or a time such as \"30s\"")
            }

            fn visit_u64<E: Error>(self, steps: u64) -> Result<CheckpointEvery, E> {
                let steps = NonZeroU64::new(steps).ok_or_else(|| E::custom("0 is too few"))?;
                Ok(CheckpointEvery::Steps(steps))
            }

            fn visit_i64<E: Error>(self, steps: i64) -> Result<CheckpointEvery, E> {
                let steps = u64::try_from(steps).map_err(|_| E::custom("0 is too few"))?;
                self.visit_u64(steps)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<CheckpointEvery, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(StepsOrTime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_steps_and_a_number_with_a_unit_is_a_time() {
        let parse = |text: &str| text.parse::<CheckpointEvery>();
        assert_eq!(parse("50"), Ok(CheckpointEvery::Steps(NonZeroU64::new(50).unwrap())));
        for (text, seconds) in [("30s", 30), ("10m", 600), ("2h", 7200)] {
            assert_eq!(parse(text), Ok(CheckpointEvery::Time(Duration::from_secs(seconds))));
        }
        for wrong in ["", "0", "0s", "-1", "1.5h", "5d", "s", "5 s", "18446744073709551615h"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_has_a_number_or_a_text() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct File {
            every: CheckpointEvery,
        }
        for text in ["every = 50\n", "every = \"30s\"\n"] {
            let file: File = toml::from_str(text).unwrap();
            assert_eq!(toml::to_string(&file).unwrap(), text);
        }
        for wrong in ["every = 0", "every = -1", "every = \"soon\"", "every = []"] {
            assert!(toml::from_str::<File>(wrong).is_err(), "{wrong}");
        }
    }
}
