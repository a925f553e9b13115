//! The origin of the weights that a run begins with.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::Digest;
use crate::spec::networks::{DISCRIMINATOR, GENERATOR};
use crate::state::Layout;

/// The origin of the weights and the running statistics that both networks begin with. Its text
/// form is `seed`, or a digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitialWeights {
    /// They are drawn by the seed.
    #[default]
    Seed,
    /// They come from a file. This is the digest of a state that has just them
    /// ([`InitialWeights::layout`]).
    File(Digest),
}

/// The text form of weights that are drawn.
const SEED: &str = "seed";

impl InitialWeights {
    /// The names and shapes of the tensors of both networks, without Adam's moments and averages:
    /// what a run can begin with.
    pub fn layout() -> Layout {
        let tensors = [GENERATOR, DISCRIMINATOR].into_iter().flat_map(|network| network.tensors());
        Layout::new(tensors.map(|tensor| (tensor.name, tensor.shape)))
    }
}

impl fmt::Display for InitialWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seed => f.write_str(SEED),
            Self::File(digest) => digest.fmt(f),
        }
    }
}

impl FromStr for InitialWeights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            SEED => Ok(Self::Seed),
            digits => digits
                .parse()
                .map(Self::File)
                .map_err(|_| "expected seed, or a digest of 16 hexadecimal digits".to_owned()),
        }
    }
}

impl Serialize for InitialWeights {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for InitialWeights {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_is_read_again() {
        for (origin, text) in [
            (InitialWeights::Seed, "seed"),
            (InitialWeights::File(Digest(0x9f1c)), "0000000000009f1c"),
        ] {
            assert_eq!((origin.to_string(), text.parse()), (text.to_owned(), Ok(origin)));
        }
        let error = "9f1c".parse::<InitialWeights>().unwrap_err();
        assert_eq!(error, "expected seed, or a digest of 16 hexadecimal digits");
    }

    #[test]
    fn what_a_run_can_begin_with_are_the_parameters_of_both_networks() {
        let layout = InitialWeights::layout();
        assert_eq!(layout.len(), 419_810);
        assert!(layout.find("generator.bn1.running_var").is_some());
    }
}
