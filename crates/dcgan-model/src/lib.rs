//! What computes: the DCGAN. The only crate that knows burn.
//!
//! A state is a list of named arrays ([`layout`]); each shard makes its own tensors from it, since burn's
//! autodiff keeps all graphs that share a leaf under one mutex. Nothing here knows of workers, generations or files.
#![recursion_limit = "256"]

mod adam;
mod arithmetic;
mod device;
mod discriminator;
mod generator;
mod init;
mod layout;
mod loss;
mod ops;
mod parameters;
mod sample;
mod step;
#[cfg(test)]
mod vectors_test;

pub use arithmetic::fingerprint;
pub use device::{DeviceChoice, DeviceError};
#[doc(hidden)]
pub use ops::cpu::measure;
pub use sample::{Generator, PIXELS};
pub use step::{Dcgan, DcganError};
