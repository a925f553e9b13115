//! The state before the first step: random weights, zero biases, and batch norms with scale 1,
//! shift 0, running mean 0 and running variance 1; or whatever a file has. Moving averages begin
//! with these.

use dcgan_core::random::{Purpose, RandomStream};
use dcgan_core::spec::{Initializer, RunSpec};
use dcgan_core::state::State;

use crate::layout::{NetworkTensors, StateTensors, find};

/// Fills a state of zeros with the beginning of a run.
pub(crate) fn fill(state: &mut State, tensors: &StateTensors, spec: &RunSpec) {
    let networks = [&tensors.generator, &tensors.discriminator];
    fill_networks(state, &networks, spec.init(), spec.seed());
    tensors.averaged.iter().for_each(|tensor| tensor.begin(state));
    tensors.normalized.iter().for_each(|weight| weight.begin(state, spec.seed()));
}

/// Fills a state of zeros with the beginning of a run that begins with given weights: those of both
/// networks.
pub(crate) fn fill_with(state: &mut State, tensors: &StateTensors, weights: &State, seed: u64) {
    for (index, info) in weights.layout().tensors().iter().enumerate() {
        let own = find(state.layout(), &info.name);
        state.tensor_mut(own).copy_from_slice(weights.tensor(index));
    }
    tensors.averaged.iter().for_each(|tensor| tensor.begin(state));
    tensors.normalized.iter().for_each(|weight| weight.begin(state, seed));
}

/// The deviation of normal weights (Radford et al., "Unsupervised Representation Learning with
/// DCGANs", ICLR 2016, section 4).
const DEVIATION: f32 = 0.02;

/// Fills the zeros of networks. Each weight tensor is a function of the seed and of its position
/// among the trained tensors of all of them.
pub(crate) fn fill_networks(
    state: &mut State,
    networks: &[&NetworkTensors],
    initializer: Initializer,
    seed: u64,
) {
    let trained = networks.iter().flat_map(|network| &network.trained);
    for (tensor, item) in trained.zip(0..) {
        let values = state.tensor_mut(tensor.weight);
        let stream = RandomStream::new(seed, Purpose::Weights, item, 0);
        match *tensor.spec.shape.as_slice() {
            [outputs, inputs, ref taps @ ..] => match initializer {
                Initializer::Glorot => {
                    glorot_uniform(values, taps.iter().product(), inputs, outputs, stream);
                }
                Initializer::Normal => normal(values, stream),
            },
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
fn glorot_uniform(
    values: &mut [f32],
    taps: usize,
    inputs: usize,
    outputs: usize,
    stream: RandomStream,
) {
    let (fan_in, fan_out) = (inputs * taps, outputs * taps);
    let bound = (6.0 / (fan_in + fan_out) as f64).sqrt() as f32;
    let uniforms = stream.uniforms(values.len());
    for (value, uniform) in values.iter_mut().zip(uniforms) {
        *value = (2.0 * uniform - 1.0) * bound;
    }
}

/// Draws weights from a normal distribution with mean 0.
fn normal(values: &mut [f32], stream: RandomStream) {
    let normals = stream.normals(values.len());
    for (value, normal) in values.iter_mut().zip(normals) {
        *value = DEVIATION * normal;
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
    use dcgan_core::spec::networks::DISCRIMINATOR;
    use dcgan_core::spec::{DatasetInfo, InitialWeights};

    use super::*;
    use crate::layout::{layout, layout_of};

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
        fill_with(&mut state, &StateTensors::new(&layout), &weights, 22);
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
        let spec = RunSpec::builder().build(data).unwrap();
        let layout = Arc::new(layout(&spec));
        let mut state = State::zeros(Arc::clone(&layout));
        fill(&mut state, &StateTensors::new(&layout), &spec);
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

    #[test]
    fn normal_weights_have_the_deviation_of_the_paper() {
        let layout = Arc::new(layout_of(DISCRIMINATOR));
        let tensors = NetworkTensors::new(DISCRIMINATOR, &layout);
        let mut state = State::zeros(Arc::clone(&layout));
        fill_networks(&mut state, &[&tensors], Initializer::Normal, 22);
        let weights = state.tensor(layout.find("discriminator.conv3.weight").unwrap());
        let variance = weights.iter().map(|w| w * w).sum::<f32>() / weights.len() as f32;
        assert!((variance.sqrt() / DEVIATION - 1.0).abs() < 0.01);
    }
}
