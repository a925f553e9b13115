//! The state before the first step: Glorot-uniform weights, zero biases, and batch norms with scale
//! 1, shift 0, running mean 0 and running variance 1; or whatever a file has. Moving averages begin
//! with these.

use dcgan_core::random::{Purpose, RandomStream};
use dcgan_core::state::State;

use crate::layout::{NetworkTensors, StateTensors, find};

/// Fills a state of zeros with the beginning of a run.
pub(crate) fn fill(state: &mut State, tensors: &StateTensors, seed: u64) {
    fill_networks(state, &[&tensors.generator, &tensors.discriminator], seed);
    tensors.averaged.iter().for_each(|tensor| tensor.begin(state));
}

/// Fills a state of zeros with the beginning of a run that begins with given weights: those of both
/// networks.
pub(crate) fn fill_with(state: &mut State, tensors: &StateTensors, weights: &State) {
    for (index, info) in weights.layout().tensors().iter().enumerate() {
        let own = find(state.layout(), &info.name);
        state.tensor_mut(own).copy_from_slice(weights.tensor(index));
    }
    tensors.averaged.iter().for_each(|tensor| tensor.begin(state));
}

/// Fills the zeros of networks. Each weight tensor is a function of the seed and of its position
/// among the trained tensors of all of them.
pub(crate) fn fill_networks(state: &mut State, networks: &[&NetworkTensors], seed: u64) {
    let trained = networks.iter().flat_map(|network| &network.trained);
    for (tensor, item) in trained.zip(0..) {
        let values = state.tensor_mut(tensor.weight);
        match *tensor.spec.shape.as_slice() {
            [outputs, inputs] => glorot_uniform(values, inputs, outputs, seed, item),
            [outputs, inputs, rows, columns] => {
                let taps = rows * columns;
                glorot_uniform(values, inputs * taps, outputs * taps, seed, item);
            }
            _ if is_scale(&tensor.spec.name) => values.fill(1.0),
            _ => {}
        }
    }
    for mean_and_variance in networks.iter().flat_map(|network| network.running.chunks_exact(2)) {
        state.tensor_mut(mean_and_variance[1]).fill(1.0);
    }
}

/// Draws weights uniformly within ±sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, AISTATS 2010,
/// equation 16).
fn glorot_uniform(values: &mut [f32], fan_in: usize, fan_out: usize, seed: u64, item: u32) {
    let bound = (6.0 / (fan_in + fan_out) as f64).sqrt() as f32;
    let uniforms = RandomStream::new(seed, Purpose::Weights, item, 0).uniforms(values.len());
    for (value, uniform) in values.iter_mut().zip(uniforms) {
        *value = (2.0 * uniform - 1.0) * bound;
    }
}

/// Returns whether a vector is a batch norm's scale, and not a bias.
fn is_scale(name: &str) -> bool {
    name.ends_with(".weight")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dcgan_core::ids::Digest;
    use dcgan_core::spec::{DatasetInfo, InitialWeights, RunSpec};

    use super::*;
    use crate::layout::layout;

    #[test]
    fn a_run_begins_with_given_weights_and_else_with_zeros() {
        let data = DatasetInfo { images: 256, rows: 28, columns: 28, digest: Digest(0) };
        let layout = Arc::new(layout(&RunSpec::builder().build(data).unwrap()));
        let mut weights = State::zeros(Arc::new(InitialWeights::layout()));
        let mut numbers = (1..).map(|number| number as f32);
        for index in weights.all() {
            weights.tensor_mut(index).fill_with(|| numbers.next().unwrap());
        }
        let mut state = State::zeros(Arc::clone(&layout));
        fill_with(&mut state, &StateTensors::new(&layout), &weights);
        for (index, info) in layout.tensors().iter().enumerate() {
            let given = weights.layout().find(info.name.trim_start_matches("ema."));
            let expected = given.map(|given| weights.tensor(given));
            match expected {
                Some(expected) => assert_eq!(state.tensor(index), expected, "{}", info.name),
                None => assert!(state.tensor(index).iter().all(|&it| it == 0.0), "{}", info.name),
            }
        }
    }

    #[test]
    fn weights_have_their_bounds_and_spread() {
        let data = DatasetInfo { images: 256, rows: 28, columns: 28, digest: Digest(0) };
        let layout = Arc::new(layout(&RunSpec::builder().build(data).unwrap()));
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
        for name in ["generator.conv3.weight", "generator.bn1.running_var"] {
            assert_eq!(tensor(&format!("ema.{name}")), tensor(name), "{name}");
        }
    }
}
