//! The DCGAN: networks, kernels, losses and the optimizer. The only crate that knows burn.
//!
//! A state is a list of named arrays ([`layout`]). Each shard makes its own tensors from it, since
//! burn's autodiff keeps all graphs that share a leaf under one mutex. Nothing here knows of
//! workers, generations or files.
//!
//! # Layout
//!
//! * [`step`]: the three phases of a training step, as the objective that the engine trains. Start
//!   here.
//! * [`generator`], [`discriminator`]: the networks; [`params`] makes their tensors from a state,
//!   [`layout`] and [`init`] say what a state holds and how it begins.
//! * [`loss`], [`adam`], [`ema`], [`phase_vector`]: the losses, the optimizer, the moving average
//!   of the generator, and the vector of gradients and statistics that is summed over the shards.
//! * [`augmentation`], [`spectral_norm`]: what else a recipe may have.
//! * [`evaluation`]: how good are samples? A classifier, and distances of its features.
//! * [`ops`]: the layers' kernels, forward and backward.
//! * [`device`], [`fingerprint`]: the choice of a device, and the fingerprint of its arithmetic.
//! * [`sample`], [`weights`]: drawing images with a trained generator, and the choice of its
//!   weights.
#![recursion_limit = "256"]

mod adam;
mod augmentation;
mod device;
mod discriminator;
mod ema;
pub mod evaluation;
mod fingerprint;
mod generator;
mod init;
mod layout;
mod loss;
mod ops;
mod params;
mod phase_vector;
mod sample;
mod spectral_norm;
mod step;
#[cfg(test)]
mod vectors_test;
mod weights;

pub use device::{DeviceChoice, DeviceError};
pub use fingerprint::fingerprint;
#[doc(hidden)]
pub use ops::cpu::bench_cases;
pub use sample::{Generator, PIXELS, interpolate, latents};
pub use step::Dcgan;
pub use weights::{GeneratorError, Weights};
