//! Binary cross-entropy of logits, with its gradient.
//!
//! A shard has as many logits as images, a few dozen. On the processor a loop over them is faster
//! than ten tensor operations; and with an exponential and a logarithm of our own, it is the same
//! on every platform. Other devices compute the loss themselves: the logits would have to be copied
//! to the host, and their gradient back, for every shard.

use burn::tensor::{Tensor, TensorData, activation};
use dcgan_core::portable::{exp_negative, ln_1p};

use crate::device::ExecutionDevice;
use crate::ops::FeatureMaps;

/// The class that the images of a batch should be taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Real,
    Fake,
}

/// A batch's loss.
#[derive(Debug)]
pub(crate) struct Loss {
    /// The mean over the images.
    pub(crate) value: f32,
    /// The share of images on the target's side of the threshold, probability 0.5.
    pub(crate) accuracy: f32,
    /// The derivative of the mean with respect to each logit.
    pub(crate) gradient: Vec<f32>,
}

/// A batch's loss, on the device of its logits.
pub(crate) struct LossTensors {
    /// The mean over the images, `[1]`.
    pub(crate) value: Tensor<1>,
    /// The share of images on the target's side of the threshold, `[1]`.
    pub(crate) accuracy: Tensor<1>,
    /// The derivative of the mean with respect to each logit, in the shape of the logits.
    pub(crate) gradient: FeatureMaps,
}

impl LossTensors {
    /// Computes the loss of logits `[N, 1, 1, 1]` of images that all have the same target.
    pub(crate) fn new(device: &ExecutionDevice, logits: FeatureMaps, target: Target) -> Self {
        if device.isa.is_none() {
            return Self::plain(logits, target);
        }
        let shape = logits.dims();
        let logits = logits.into_data();
        let loss = cross_entropy(logits.as_slice().expect("all tensors are of f32"), target);
        let scalar = |value: f32| Tensor::from_data([value], &device.device);
        Self {
            value: scalar(loss.value),
            accuracy: scalar(loss.accuracy),
            gradient: Tensor::from_data(TensorData::new(loss.gradient, shape), &device.device),
        }
    }

    /// Computes the same as [`cross_entropy`], with plain burn operations.
    fn plain(logits: FeatureMaps, target: Target) -> Self {
        let n = logits.dims()[0] as f32;
        let looks_real = logits.clone().greater_elem(0.0);
        let (sign, right) = match target {
            Target::Real => (-1.0, looks_real),
            Target::Fake => (1.0, looks_real.bool_not()),
        };
        let x = logits * sign;
        let losses = activation::relu(x.clone()) + x.clone().abs().neg().exp().log1p();
        Self {
            value: losses.mean(),
            accuracy: right.float().mean(),
            gradient: activation::sigmoid(x) * (sign / n),
        }
    }
}

/// Computes the loss of logits `[N]` of images that all have the same target.
pub(crate) fn cross_entropy(logits: &[f32], target: Target) -> Loss {
    let n = logits.len() as f64;
    // Against a real target the loss is softplus(-x), against a fake one softplus(x).
    let sign = if target == Target::Real { -1.0 } else { 1.0 };
    let (mut value, mut right, mut gradient) = (0.0, 0usize, Vec::with_capacity(logits.len()));
    for &logit in logits {
        let x = sign * f64::from(logit);
        let e = exp_negative(-x.abs());
        value += x.max(0.0) + ln_1p(e);
        let sigmoid = if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) };
        gradient.push((sign * sigmoid / n) as f32);
        let looks_real = logit > 0.0;
        right += usize::from(looks_real == (target == Target::Real));
    }
    Loss { value: (value / n) as f32, accuracy: (right as f64 / n) as f32, gradient }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn losses_are_those_of_pytorch() {
        // Values of torch.nn.functional.binary_cross_entropy_with_logits in float64, against ones
        // and zeros.
        let logits = [0.5, -2.0, 40.0];
        let real = cross_entropy(&logits, Target::Real);
        let fake = cross_entropy(&logits, Target::Fake);
        assert!((real.value - 0.867_001_6).abs() < 1e-6 && (fake.value - 13.700_335).abs() < 1e-6);
        assert!(
            (real.accuracy - 2.0 / 3.0).abs() < 1e-6 && (fake.accuracy - 1.0 / 3.0).abs() < 1e-6
        );
        for (found, expected) in real.gradient.iter().zip([-0.125_846_9, -0.293_599, 0.0]) {
            assert!((found - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn plain_operations_give_the_losses_of_the_loop() {
        let logits = [0.5, -2.0, 0.0, 40.0, -100.0];
        let maps = || Tensor::<1>::from_data(logits, &Device::flex()).reshape([5, 1, 1, 1]);
        for target in [Target::Real, Target::Fake] {
            let expected = cross_entropy(&logits, target);
            let LossTensors { value, accuracy, gradient } = LossTensors::plain(maps(), target);
            assert!((value.into_scalar::<f32>() - expected.value).abs() < 2e-6);
            assert_eq!(accuracy.into_scalar::<f32>(), expected.accuracy);
            let gradient: Vec<f32> = gradient.into_data().try_into_vec().unwrap();
            for (found, expected) in gradient.iter().zip(expected.gradient) {
                assert!((found - expected).abs() < 1e-7, "{found} instead of {expected}");
            }
        }
        let value = |logit: f32| {
            let logit = Tensor::<1>::from_data([logit], &Device::flex()).reshape([1, 1, 1, 1]);
            LossTensors::plain(logit, Target::Fake).value.into_scalar::<f32>()
        };
        assert!(value(1e30).is_finite() && value(f32::NAN).is_nan());
    }

    #[test]
    fn huge_logits_give_finite_losses_and_nan_stays_nan() {
        let loss = cross_entropy(&[1e30, -1e30], Target::Fake);
        assert!(loss.value.is_finite() && loss.gradient.iter().all(|g| g.is_finite()));
        assert!(cross_entropy(&[f32::NAN], Target::Real).value.is_nan());
    }
}
