//! What computes: the DCGAN. The only crate that knows burn.
//!
//! A state is a list of named arrays ([`layout`]); each shard makes its own tensors from it, since burn's
//! autodiff keeps all graphs that share a leaf under one mutex. Nothing here knows of workers, generations or files.
#![recursion_limit = "256"]

mod adam;
mod device;
mod discriminator;
mod fingerprint;
mod generator;
mod init;
mod layout;
mod loss;
mod ops;
mod params;
mod phase_vector;
mod sample;
mod step;
#[cfg(test)]
mod vectors_test;

pub use device::{DeviceChoice, DeviceError};
pub use fingerprint::fingerprint;
#[doc(hidden)]
pub use ops::cpu::bench_cases;
pub use sample::{Generator, PIXELS};
pub use step::{Dcgan, DcganError};
