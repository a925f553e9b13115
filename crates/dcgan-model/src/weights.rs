//! The two sets of weights that a state may have of a generator.

use dcgan_core::spec::networks::GENERATOR;
use dcgan_store::state_file::{self, StateFileError};

use crate::ema::average_of;

/// The weights that a generator draws with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// The exponential moving average of the weights.
    Ema,
    /// The weights as they were trained.
    Raw,
}

/// The error for a file without the generator that is wanted.
#[derive(Debug, thiserror::Error)]
pub enum GeneratorError {
    /// The file is damaged, or lacks a tensor of the generator.
    #[error(transparent)]
    File(#[from] StateFileError),
    /// The run keeps no moving average of the weights.
    #[error("there is no moving average (EMA) of the generator's weights; only raw ones are there")]
    NoEma,
}

impl Weights {
    /// Chooses those that are wanted of those that a state file has. By default they are the moving
    /// average, if there is one.
    pub(crate) fn of_file(bytes: &[u8], wanted: Option<Self>) -> Result<Self, GeneratorError> {
        let average = average_of(&GENERATOR.tensors()[0].name);
        match (wanted, state_file::has_tensor(bytes, &average)?) {
            (Some(Self::Ema), false) => Err(GeneratorError::NoEma),
            (Some(wanted), _) => Ok(wanted),
            (None, true) => Ok(Self::Ema),
            (None, false) => Ok(Self::Raw),
        }
    }

    /// The name that one of the generator's tensors has in a state file.
    pub(crate) fn name_of(self, tensor: &str) -> String {
        match self {
            Self::Ema => average_of(tensor),
            Self::Raw => tensor.to_owned(),
        }
    }
}
