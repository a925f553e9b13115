//! The devices that tensors live on.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

use crate::ops::{Isa, WithIsa};

/// A device as people name it: `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor, with a given instruction set or the widest that it has. Results do not depend
    /// on it.
    Cpu(Option<Isa>),
    /// An NVIDIA GPU, by its number.
    Cuda(usize),
}

/// An error in the choice of a device.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeviceError {
    /// No device has this name.
    #[error("expected cpu, cuda or cuda:N, found {0:?}")]
    Name(String),
    /// The processor does not have this instruction set.
    #[error("this processor has no {0:?} instructions: use cpu, which takes the best that it has")]
    NoIsa(String),
    /// The program was built without support for CUDA.
    #[error("this program was built without CUDA: build it with --features cuda")]
    NoCuda,
}

impl Default for DeviceChoice {
    fn default() -> Self {
        Self::Cpu(None)
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        let number = |digits: &str| {
            digits.parse().map(Self::Cuda).map_err(|_| DeviceError::Name(name.to_owned()))
        };
        match name {
            "cpu" => Ok(Self::default()),
            "cuda" => Ok(Self::Cuda(0)),
            _ => match name.split_once(':') {
                Some(("cpu", isa)) => Isa::available()
                    .into_iter()
                    .find(|available| available.name() == isa)
                    .map(|isa| Self::Cpu(Some(isa)))
                    .ok_or_else(|| DeviceError::NoIsa(isa.to_owned())),
                Some(("cuda", digits)) => number(digits),
                _ => Err(DeviceError::Name(name.to_owned())),
            },
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(None) => f.write_str("cpu"),
            Self::Cpu(Some(isa)) => write!(f, "cpu:{}", isa.name()),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl DeviceChoice {
    /// Returns whether this is a processor without the vector instructions that this program knows:
    /// it takes many times as long as others.
    pub fn lacks_vectors(self) -> bool {
        matches!(self, Self::Cpu(None)) && matches!(Isa::widest(), Isa::Scalar)
    }

    /// Opens the device.
    ///
    /// # Errors
    /// If this build does not support it.
    pub(crate) fn open(self) -> Result<ExecutionDevice, DeviceError> {
        match self {
            Self::Cpu(isa) => Ok(ExecutionDevice {
                device: Device::flex(),
                isa: Some(isa.unwrap_or_else(Isa::widest)),
            }),
            #[cfg(feature = "cuda")]
            Self::Cuda(number) => Ok(ExecutionDevice { device: Device::cuda(number), isa: None }),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => Err(DeviceError::NoCuda),
        }
    }
}

/// A device, and the instruction set of the operations on it.
#[derive(Clone)]
pub(crate) struct ExecutionDevice {
    pub(crate) device: Device,
    /// The instruction set of the operations that were written for the processor. None on other
    /// devices, which run plain burn operations.
    pub(crate) isa: Option<Isa>,
}

impl ExecutionDevice {
    /// Runs a closure over plain loops on the processor, vectorised as the operations are.
    pub(crate) fn run<R>(&self, loops: impl FnOnce() -> R) -> R {
        match self.isa {
            Some(isa) => isa.run(WithIsa(loops)),
            None => loops(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_parse_and_wrong_ones_are_refused() {
        for (name, device) in [
            ("cpu", DeviceChoice::Cpu(None)),
            ("cpu:scalar", DeviceChoice::Cpu(Some(Isa::Scalar))),
            ("cuda", DeviceChoice::Cuda(0)),
            ("cuda:3", DeviceChoice::Cuda(3)),
        ] {
            assert_eq!(name.parse(), Ok(device));
        }
        for wrong in ["gpu", "cuda:", "cuda:x", "CPU", "gpu:0", ""] {
            let error = wrong.parse::<DeviceChoice>().unwrap_err();
            assert_eq!(error.to_string(), format!("expected cpu, cuda or cuda:N, found {wrong:?}"));
        }
    }
}
