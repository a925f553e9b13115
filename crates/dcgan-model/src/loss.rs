//! The losses of both networks, as functions of the discriminator's output, with their gradients.
//!
//! A shard has as many outputs as images, a few dozen. On the processor a loop over them is faster
//! than ten tensor operations; and with an exponential and a logarithm of our own, it is the same
//! on every platform. Other devices compute the loss themselves: the outputs would have to be
//! copied to the host, and their gradient back, for every shard.

use burn::tensor::{Tensor, TensorData, activation};
use dcgan_core::ids::Phase;
use dcgan_core::portable::{exp_negative, ln_1p};
use dcgan_core::spec::{Loss, RunSpec};

use crate::device::ExecutionDevice;
use crate::ops::FeatureMaps;

/// The loss of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LossFunction {
    loss: Loss,
    /// The distance of the label of real images from 1 when D is trained.
    label_smoothing: f64,
}

/// A batch's loss.
#[derive(Debug)]
pub(crate) struct BatchLoss {
    /// The mean over the images.
    pub(crate) value: f32,
    /// The share of images on the label's side of the threshold between real and fake.
    pub(crate) accuracy: f32,
    /// The derivative of the mean with respect to each output.
    pub(crate) gradient: Vec<f32>,
}

/// A batch's loss, on the device of the outputs.
pub(crate) struct LossTensors {
    /// The mean over the images, `[1]`.
    pub(crate) value: Tensor<1>,
    /// The share of images on the label's side of the threshold, `[1]`.
    pub(crate) accuracy: Tensor<1>,
    /// The derivative of the mean with respect to each output, in the shape of the outputs.
    pub(crate) gradient: FeatureMaps,
}

impl LossFunction {
    /// The loss of a run.
    pub(crate) fn new(spec: &RunSpec) -> Self {
        Self { loss: spec.loss(), label_smoothing: spec.label_smoothing() }
    }

    /// Computes the loss of a phase from D's outputs `[N, 1, 1, 1]`.
    pub(crate) fn of_tensor(
        self,
        device: &ExecutionDevice,
        outputs: FeatureMaps,
        phase: Phase,
    ) -> LossTensors {
        if device.isa.is_none() {
            return self.plain(outputs, phase);
        }
        let shape = outputs.dims();
        let outputs = outputs.into_data();
        let loss = self.of_batch(outputs.as_slice().expect("all tensors are of f32"), phase);
        let scalar = |value: f32| Tensor::from_data([value], &device.device);
        LossTensors {
            value: scalar(loss.value),
            accuracy: scalar(loss.accuracy),
            gradient: Tensor::from_data(TensorData::new(loss.gradient, shape), &device.device),
        }
    }

    /// Computes the loss of a phase from D's outputs `[N]`.
    pub(crate) fn of_batch(self, outputs: &[f32], phase: Phase) -> BatchLoss {
        let n = outputs.len() as f64;
        let (mut value, mut right, mut gradient) = (0.0, 0usize, Vec::with_capacity(outputs.len()));
        for &output in outputs {
            let (loss, derivative) = self.of_output(output.into(), phase);
            value += loss;
            gradient.push((derivative / n) as f32);
            let looks_real = output > self.threshold();
            right += usize::from(looks_real == is_real(phase));
        }
        BatchLoss { value: (value / n) as f32, accuracy: (right as f64 / n) as f32, gradient }
    }

    /// Computes the loss of one image, whose output is `x`, and its derivative. NaN gives NaN.
    fn of_output(self, x: f64, phase: Phase) -> (f64, f64) {
        match self.loss {
            Loss::Bce => {
                // Against the label 1 the loss is softplus(-x), against 0 it is softplus(x), and
                // smoothing adds the smoothing times x.
                let (sign, smoothing) = (-direction(phase), self.smoothing(phase));
                let signed = sign * x;
                let e = exp_negative(-signed.abs());
                let sigmoid = if signed >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) };
                let (loss, derivative) = (signed.max(0.0) + ln_1p(e), sign * sigmoid);
                if smoothing == 0.0 {
                    return (loss, derivative);
                }
                (loss + smoothing * x, derivative + smoothing)
            }
            Loss::Hinge if phase == Phase::Generator => (-x, -1.0),
            Loss::Hinge => {
                let direction = direction(phase);
                let gap = 1.0 - direction * x;
                if gap <= 0.0 { (0.0, 0.0) } else { (gap, -direction) }
            }
            Loss::LeastSquares => {
                let gap = x - self.label(phase);
                (gap * gap / 2.0, gap)
            }
        }
    }

    /// Computes the same as [`Self::of_batch`], with plain burn operations.
    fn plain(self, x: FeatureMaps, phase: Phase) -> LossTensors {
        let n = x.dims()[0] as f32;
        let looks_real = x.clone().greater_elem(self.threshold());
        let right = if is_real(phase) { looks_real } else { looks_real.bool_not() };
        let direction = direction(phase) as f32;
        let (losses, derivatives) = match self.loss {
            Loss::Bce => {
                let signed = x.clone() * -direction;
                let smoothing = self.smoothing(phase) as f32;
                let softplus =
                    activation::relu(signed.clone()) + signed.clone().abs().neg().exp().log1p();
                let derivatives = activation::sigmoid(signed) * -direction;
                (softplus + x * smoothing, derivatives + smoothing)
            }
            Loss::Hinge if phase == Phase::Generator => {
                let derivatives = Tensor::full(x.dims(), -1.0, &x.device());
                (x.neg(), derivatives)
            }
            Loss::Hinge => {
                let gap = x * -direction + 1.0;
                let derivatives = gap.clone().greater_elem(0.0).float() * -direction;
                (activation::relu(gap), derivatives)
            }
            Loss::LeastSquares => {
                let gap = x - self.label(phase) as f32;
                (gap.clone() * gap.clone() * 0.5, gap)
            }
        };
        LossTensors {
            value: losses.mean(),
            accuracy: right.float().mean(),
            gradient: derivatives * (1.0 / n),
        }
    }

    /// The value that the output for an image is drawn to, if the loss has one.
    fn label(self, phase: Phase) -> f64 {
        if is_real(phase) { 1.0 - self.smoothing(phase) } else { 0.0 }
    }

    /// The distance of the label in a phase from 1. It is one-sided: only real images have it.
    fn smoothing(self, phase: Phase) -> f64 {
        if phase == Phase::DiscriminatorReal { self.label_smoothing } else { 0.0 }
    }

    /// The output above which an image looks real.
    fn threshold(self) -> f32 {
        match self.loss {
            // Probability 0.5, and the middle of the hinges.
            Loss::Bce | Loss::Hinge => 0.0,
            Loss::LeastSquares => 0.5,
        }
    }
}

/// Returns whether a phase wants its images to be taken for real ones.
fn is_real(phase: Phase) -> bool {
    phase != Phase::DiscriminatorFake
}

/// The direction in which a phase moves the outputs.
fn direction(phase: Phase) -> f64 {
    if is_real(phase) { 1.0 } else { -1.0 }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use dcgan_core::spec::words::Word;

    use super::*;

    const BCE: LossFunction = LossFunction { loss: Loss::Bce, label_smoothing: 0.0 };

    /// All losses, with and without smoothing.
    fn all() -> impl Iterator<Item = LossFunction> {
        let with = |label_smoothing| {
            Loss::ALL.iter().map(move |&loss| LossFunction { loss, label_smoothing })
        };
        with(0.0).chain(with(0.1))
    }

    #[test]
    fn losses_are_those_of_pytorch() {
        // Values of torch.nn.functional.binary_cross_entropy_with_logits in float64, against ones
        // and zeros.
        let outputs = [0.5, -2.0, 40.0];
        let real = BCE.of_batch(&outputs, Phase::Generator);
        let fake = BCE.of_batch(&outputs, Phase::DiscriminatorFake);
        assert!((real.value - 0.867_001_6).abs() < 1e-6 && (fake.value - 13.700_335).abs() < 1e-6);
        assert!(
            (real.accuracy - 2.0 / 3.0).abs() < 1e-6 && (fake.accuracy - 1.0 / 3.0).abs() < 1e-6
        );
        for (found, expected) in real.gradient.iter().zip([-0.125_846_9, -0.293_599, 0.0]) {
            assert!((found - expected).abs() < 1e-6);
        }
        // The same against 0.9.
        let smooth = LossFunction { label_smoothing: 0.1, ..BCE };
        let value = smooth.of_batch(&outputs, Phase::DiscriminatorReal).value;
        assert!((value - 2.150_334_9).abs() < 1e-6, "{value}");
        // Half of torch.nn.functional.mse_loss against ones.
        let squares = LossFunction { loss: Loss::LeastSquares, label_smoothing: 0.0 };
        let loss = squares.of_batch(&outputs, Phase::Generator);
        assert!((loss.value - 255.041_67).abs() < 1e-4 && loss.accuracy == 1.0 / 3.0, "{loss:?}");
    }

    #[test]
    fn hinges_are_those_of_the_paper() {
        let hinge = LossFunction { loss: Loss::Hinge, label_smoothing: 0.0 };
        for (phase, losses, accuracy) in [
            (Phase::DiscriminatorReal, [0.5, 3.0, 0.0], 2.0 / 3.0),
            (Phase::DiscriminatorFake, [1.5, 0.0, 41.0], 1.0 / 3.0),
            (Phase::Generator, [-0.5, 2.0, -40.0], 2.0 / 3.0),
        ] {
            let loss = hinge.of_batch(&[0.5, -2.0, 40.0], phase);
            assert!((loss.value - losses.iter().sum::<f32>() / 3.0).abs() < 1e-6, "{phase:?}");
            assert!((loss.accuracy - accuracy).abs() < 1e-6, "{phase:?}");
        }
    }

    #[test]
    fn gradients_are_the_differences_of_the_losses() {
        for loss in all() {
            for phase in Phase::ALL {
                for x in [-3.0, -0.4, 0.3, 2.0] {
                    let at = |x| loss.of_output(x, phase);
                    let difference = (at(x + 1e-5).0 - at(x - 1e-5).0) / 2e-5;
                    assert!((at(x).1 - difference).abs() < 1e-8, "{loss:?} {phase:?} at {x}");
                }
            }
        }
    }

    #[test]
    fn plain_operations_give_the_losses_of_the_loop() {
        let outputs = [0.5, -2.0, 0.0, 40.0, -100.0];
        let maps = || Tensor::<1>::from_data(outputs, &Device::flex()).reshape([5, 1, 1, 1]);
        for loss in all() {
            for phase in Phase::ALL {
                let expected = loss.of_batch(&outputs, phase);
                let LossTensors { value, accuracy, gradient } = loss.plain(maps(), phase);
                let value = value.into_scalar::<f32>();
                assert!((value / expected.value - 1.0).abs() < 2e-6, "{loss:?} {phase:?}: {value}");
                assert_eq!(accuracy.into_scalar::<f32>(), expected.accuracy);
                let gradient: Vec<f32> = gradient.into_data().try_into_vec().unwrap();
                for (found, expected) in gradient.iter().zip(expected.gradient) {
                    let error = (found - expected).abs();
                    assert!(error <= 1e-7 * expected.abs().max(1.0), "{loss:?} {phase:?}");
                }
            }
        }
        let value = |output: f32| {
            let output = Tensor::<1>::from_data([output], &Device::flex()).reshape([1, 1, 1, 1]);
            BCE.plain(output, Phase::DiscriminatorFake).value.into_scalar::<f32>()
        };
        assert!(value(1e30).is_finite() && value(f32::NAN).is_nan());
    }

    #[test]
    fn huge_outputs_give_finite_losses_and_nan_stays_nan() {
        let loss = BCE.of_batch(&[1e30, -1e30], Phase::DiscriminatorFake);
        assert!(loss.value.is_finite() && loss.gradient.iter().all(|g| g.is_finite()));
        for loss in all() {
            for phase in Phase::ALL {
                assert!(loss.of_batch(&[f32::NAN], phase).value.is_nan(), "{loss:?} {phase:?}");
            }
        }
    }
}
