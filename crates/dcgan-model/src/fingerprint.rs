//! The fingerprint of a device's arithmetic: what the last bits of results depend on besides the
//! specification and the data.
//!
//! Workers of different fingerprints would train on together with states that differ in their last
//! bits, and be taken for broken. So only workers of one fingerprint share a run.

use burn::tensor::{Tensor, TensorData};
use dcgan_core::random::{Purpose, RandomStream};
use dcgan_core::state::digest;

use crate::device::{DeviceChoice, DeviceError, ExecutionDevice};
use crate::params::append;

/// The revision of this crate's own arithmetic. It is raised whenever the result of a specification
/// changes. A setting that is added does not raise it: older runs go on with the value that leaves
/// them as they were.
const REVISION: u32 = 2;

/// The lengths of the sums in weight gradients for shards of 32 images: images x pixels of the
/// layers.
const LENGTHS: [usize; 5] = [288, 1568, 6272, 6720, 25_088];

/// Computes the fingerprint of a device's arithmetic.
///
/// On the processor all arithmetic is this crate's own, and the same everywhere: `cpu r2 fma`.
/// Other devices run burn's operations, whose rounding depends on libraries and hardware. Instead
/// of listing everything that might matter, a few matrix products of this model's lengths, with a
/// few sums and functions, are computed and hashed.
///
/// # Errors
/// If this build does not support the device.
pub fn fingerprint(choice: DeviceChoice) -> Result<String, DeviceError> {
    let device = choice.open()?;
    Ok(match choice {
        DeviceChoice::Cpu(_) => format!("cpu r{REVISION} fma"),
        DeviceChoice::Cuda(_) => {
            format!("cuda cubecl-0.11.3 r{REVISION} {}", digest::of_values(&probe(&device)))
        }
    })
}

/// Computes products, sums and functions whose last bits show how a device rounds.
fn probe(device: &ExecutionDevice) -> Vec<f32> {
    let matrix = |rows: usize, columns: usize, item: u32| {
        let values: Vec<f32> =
            RandomStream::new(1, Purpose::Data, item, 0).normals(rows * columns).collect();
        Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), &device.device)
    };
    let mut results = Vec::new();
    for length in LENGTHS {
        let (a, b) = (matrix(64, length, 1), matrix(32, length, 2));
        append(&mut results, a.clone().matmul(b.transpose()));
        append(&mut results, a.mean_dim(1));
    }
    append(&mut results, matrix(16, 64, 3).tanh());
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_fingerprint_is_the_same_everywhere() {
        assert_eq!(fingerprint(DeviceChoice::default()), Ok("cpu r2 fma".to_owned()));
    }

    #[test]
    fn a_probe_repeats_itself() {
        let device = DeviceChoice::default().open().unwrap();
        assert_eq!(probe(&device), probe(&device));
    }
}
