//! Adam (Kingma and Ba, ICLR 2015, algorithm 1), with the order of operations and the epsilon of
//! PyTorch: outside the root, after the bias correction.

use dcgan_core::ids::Position;
use dcgan_core::portable::power;
use dcgan_core::spec::RunSpec;
use dcgan_core::state::State;

use crate::device::ExecutionDevice;
use crate::layout::NetworkTensors;

const EPSILON: f32 = 1e-7;

/// The constants of one update.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adam {
    beta1: f32,
    beta2: f32,
    /// The learning rate over the bias correction of the first moment.
    step_size: f32,
    /// The root of the bias correction of the second moment.
    root_correction: f32,
}

impl Adam {
    /// The constants of a network's update with number `time`, counted from 1, in a phase of the
    /// step after `at.step`.
    pub(crate) fn new(spec: &RunSpec, at: Position, time: u64) -> Self {
        let rate = spec.learning_rate_in(at.phase, at.step + 1);
        Self::with(rate, [spec.beta1(), spec.beta2()], time)
    }

    /// The constants of the update with number `time`, counted from 1.
    pub(crate) fn with(learning_rate: f64, [beta1, beta2]: [f64; 2], time: u64) -> Self {
        let correction = |beta: f64| 1.0 - power(beta, time);
        let beta2 = beta2 as f32;
        Self {
            beta1: beta1 as f32,
            beta2,
            step_size: (learning_rate / correction(beta1)) as f32,
            root_correction: correction(f64::from(beta2)).sqrt() as f32,
        }
    }

    /// Updates all trained tensors of a network. Each gradient is a sum of `count` shards'.
    pub(crate) fn update_network(
        self,
        device: &ExecutionDevice,
        state: &mut State,
        network: &NetworkTensors,
        gradients: &[impl AsRef<[f32]>],
        count: f32,
    ) {
        for (tensor, gradient) in network.trained.iter().zip(gradients) {
            let ([m, v], gradient) = (tensor.moments, gradient.as_ref());
            // A block at a time, so that its old and new values are hashed while in the cache.
            state.replace([tensor.weight, m, v], |block, old, new| {
                for (new, old) in new.iter_mut().zip(old) {
                    new.extend_from_slice(old);
                }
                let appended = new.each_mut().map(|new| &mut new[block.clone()]);
                device.run(|| self.update(appended, &gradient[block], count));
            });
        }
    }

    /// Updates a block of weights and of both moments by a gradient that is the sum of `count`
    /// shards' gradients. All have the same length.
    #[inline(always)]
    pub(crate) fn update(self, [weights, m, v]: [&mut [f32]; 3], sum: &[f32], count: f32) {
        let Self { beta1, beta2, step_size, root_correction } = self;
        for (((w, m), v), sum) in weights.iter_mut().zip(m).zip(v).zip(sum) {
            let g = sum / count;
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * (g * g);
            *w -= step_size * *m / (v.sqrt() / root_correction + EPSILON);
        }
    }
}

/// The number by which sums of `count` shards' gradients are to be divided, so that the norm of all
/// of a network's gradients together is at most `norm_max`; 0 for any norm (Pascanu et al., ICML
/// 2013, algorithm 1).
pub(crate) fn clipping_count(sums: &[impl AsRef<[f32]>], count: f32, norm_max: f64) -> f32 {
    if norm_max == 0.0 {
        return count;
    }
    let squares = sums.iter().flat_map(|sum| sum.as_ref()).map(|&g| f64::from(g) * f64::from(g));
    let norm = squares.sum::<f64>().sqrt() / f64::from(count);
    if norm > norm_max { (f64::from(count) * norm / norm_max) as f32 } else { count }
}

#[cfg(test)]
mod tests {
    use dcgan_core::ids::{Digest, Phase};
    use dcgan_core::spec::DatasetInfo;

    use super::*;

    /// `torch.optim.Adam([w], lr=2e-4, betas=(0.5, 0.999), eps=1e-7)` in float64, for gradients
    /// 0.3, -0.1, 0.0, 1e-6.
    #[test]
    fn updates_are_those_of_pytorch() {
        let data = DatasetInfo { images: 256, rows: 28, columns: 28, digest: Digest(0) };
        let spec = RunSpec::builder().learning_rate(2e-4).beta1(0.5).build(data).unwrap();
        let (mut w, mut m, mut v) = ([0.5], [0.0], [0.0]);
        let expected = [0.499_8, 0.499_770_2, 0.499_754_5, 0.499_746_08];
        for (time, (gradient, expected)) in
            (1..).zip([0.3, -0.1, 0.0, 1e-6].into_iter().zip(expected))
        {
            let at = Position { step: time - 1, phase: Phase::Generator };
            Adam::new(&spec, at, time).update([&mut w, &mut m, &mut v], &[2.0 * gradient], 2.0);
            assert!(
                (w[0] - expected).abs() < 1e-7,
                "update {time}: {} instead of {expected}",
                w[0]
            );
        }
    }

    #[test]
    fn long_gradients_are_scaled_to_the_norm_as_by_pytorch() {
        // torch.nn.utils.clip_grad_norm_ of [3, 0] and [4] to 2.5 halves them.
        let sums = [&[6.0, 0.0][..], &[8.0]];
        assert_eq!(clipping_count(&sums, 2.0, 2.5), 4.0);
        assert_eq!(clipping_count(&sums, 2.0, 5.0), 2.0);
        assert_eq!(clipping_count(&sums, 2.0, 0.0), 2.0);
    }
}
