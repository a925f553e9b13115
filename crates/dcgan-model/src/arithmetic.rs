//! The arithmetic fingerprint: what results depend on besides the recipe and the data.
//!
//! Matrix libraries choose their blocking from the cache sizes and their kernel from the processor, and the platform's
//! libm takes part in tanh. Instead of listing what might matter, a few products of this model's lengths, with a few
//! sums and functions, are computed and hashed: machines with the same hash round alike.

use burn::tensor::{Device, Tensor, TensorData};
use dcgan_core::digest;
use dcgan_core::random::{Purpose, Stream};

use crate::device::{DeviceChoice, DeviceError};

/// Counted up whenever this crate's own arithmetic changes its results.
const REVISION: u32 = 1;

/// Images x pixels of the layers: the lengths of the sums in weight gradients, for shards of 32 images.
const LENGTHS: [usize; 5] = [288, 1568, 6272, 6720, 25_088];

/// What results on a device depend on besides the recipe and the data, as in `cpu flex-0.22.1 r1 0123456789abcdef`:
/// workers that differ in it do not mix.
///
/// # Errors
/// If this build does not support the device.
pub fn fingerprint(choice: DeviceChoice) -> Result<String, DeviceError> {
    let kind = match choice {
        DeviceChoice::Cpu => "cpu flex-0.22.1",
        DeviceChoice::Cuda(_) => "cuda cubecl-0.11.3",
    };
    Ok(format!("{kind} r{REVISION} {}", digest::of_values(&probe(&choice.open()?))))
}

fn probe(device: &Device) -> Vec<f32> {
    let matrix = |rows: usize, columns: usize, item: u32| {
        let values: Vec<f32> = Stream::new(1, Purpose::Data, item, 0).normals(rows * columns).collect();
        Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), device)
    };
    let mut results = Vec::new();
    for length in LENGTHS {
        let (a, b) = (matrix(64, length, 1), matrix(32, length, 2));
        crate::parameters::append(&mut results, a.clone().matmul(b.transpose()));
        crate::parameters::append(&mut results, a.mean_dim(1));
    }
    crate::parameters::append(&mut results, matrix(16, 64, 3).tanh());
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_repeats_itself() {
        let text = fingerprint(DeviceChoice::Cpu).unwrap();
        assert!(text.starts_with("cpu flex-0.22.1 r1 "), "{text}");
        assert_eq!(Ok(text), fingerprint(DeviceChoice::Cpu));
    }
}
