//! The state before the first step: Glorot-uniform weights, biases zero, batch norms that change nothing.

use dcgan_core::random::{Purpose, RandomStream};
use dcgan_core::state::State;

use crate::layout::{NetworkTensors, StateTensors};

/// Fills a state of zeros. Each weight tensor is a function of the seed and of its device among both networks' tensors.
pub(crate) fn fill(state: &mut State, tensors: &StateTensors, seed: u64) {
    let trained = tensors.generator.trained.iter().chain(&tensors.discriminator.trained);
    for (tensor, item) in trained.zip(0..) {
        let values = state.tensor_mut(tensor.weight);
        match *tensor.spec.shape.as_slice() {
            [outputs, inputs] => glorot_uniform(values, inputs, outputs, seed, item),
            [outputs, inputs, rows, columns] => {
                glorot_uniform(
                    values,
                    inputs * rows * columns,
                    outputs * rows * columns,
                    seed,
                    item,
                );
            }
            _ if is_scale(&tensor.spec.name) => values.fill(1.0),
            _ => {}
        }
    }
    let variances = |network: &NetworkTensors| {
        network.running.iter().skip(1).step_by(2).copied().collect::<Vec<_>>()
    };
    for index in [variances(&tensors.generator), variances(&tensors.discriminator)].concat() {
        state.tensor_mut(index).fill(1.0);
    }
}

/// Uniform within ±sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, AISTATS 2010, equation 16).
fn glorot_uniform(values: &mut [f32], fan_in: usize, fan_out: usize, seed: u64, item: u32) {
    let bound = (6.0 / (fan_in + fan_out) as f64).sqrt() as f32;
    let uniforms = RandomStream::new(seed, Purpose::Weights, item, 0).uniforms(values.len());
    for (value, uniform) in values.iter_mut().zip(uniforms) {
        *value = (2.0 * uniform - 1.0) * bound;
    }
}

/// Whether a vector is a batch norm's scale, as against a bias.
fn is_scale(name: &str) -> bool {
    name.ends_with(".weight")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::layout::layout;

    #[test]
    fn weights_have_their_bounds_and_spread() {
        let layout = Arc::new(layout());
        let mut state = State::zeros(Arc::clone(&layout));
        fill(&mut state, &StateTensors::new(&layout), 22);
        let tensor = |name: &str| state.tensor(layout.find(name).unwrap());
        let bound = (6.0f32 / (9.0 * (128.0 + 64.0))).sqrt();
        let weights = tensor("generator.conv3.weight");
        let largest = weights.iter().fold(0f32, |max, w| max.max(w.abs()));
        assert!(largest <= bound && largest > 0.999 * bound);
        let variance = weights.iter().map(|w| w * w).sum::<f32>() / weights.len() as f32;
        assert!((variance / (bound * bound / 3.0) - 1.0).abs() < 0.02);
        assert!(tensor("generator.bn2.weight").iter().all(|&w| w == 1.0));
        assert!(tensor("discriminator.bn1.running_var").iter().all(|&v| v == 1.0));
        for zeros in
            ["generator.conv3.bias", "discriminator.bn1.bias", "generator.bn1.running_mean"]
        {
            assert!(tensor(zeros).iter().all(|&w| w == 0.0), "{zeros}");
        }
    }
}
