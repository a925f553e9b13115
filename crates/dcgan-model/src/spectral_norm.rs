//! Spectral normalisation of the discriminator (Miyato et al., "Spectral Normalization for
//! Generative Adversarial Networks", ICLR 2018): it computes with weights that are divided by an
//! estimate of their greatest singular value.
//!
//! The weight of a layer is read as a matrix W, `[outputs, inputs x taps]`. The estimate is
//! `sigma = u' W v`, with vectors that one power iteration after each update brings closer to the
//! singular ones (algorithm 1). The state has `W / sigma`, `u` and `v` beside W, so that they are
//! copied, checked and saved as everything else, and the networks read `W / sigma` as any weight.

use std::borrow::Cow;

use dcgan_core::random::{Purpose, RandomStream};
use dcgan_core::spec::networks::TensorSpec;
use dcgan_core::state::{Layout, State};

use crate::layout::NetworkTensors;

/// The number of power iterations before the first step, with which PyTorch begins, too.
const FIRST_ITERATIONS: usize = 15;
/// Added to a norm before it divides, as in PyTorch.
const EPSILON: f64 = 1e-12;

/// A weight that is normalised, with the indices of its tensors in the layout.
#[derive(Clone, Debug)]
pub(crate) struct NormalizedWeight {
    /// Its place among the trained tensors of the network.
    position: usize,
    weight: usize,
    normalized: usize,
    u: usize,
    v: usize,
}

/// The names and shapes of the tensors that the state has in addition for a network's weights.
pub(crate) fn tensors(network: &[TensorSpec]) -> Vec<(String, Vec<usize>)> {
    let weights = network.iter().filter(|tensor| is_matrix(tensor));
    let added = weights.flat_map(|TensorSpec { name, shape, .. }| {
        let (outputs, inputs) = (shape[0], shape[1..].iter().product());
        [
            (normalized(name), shape.clone()),
            (vector('u', name), vec![outputs]),
            (vector('v', name), vec![inputs]),
        ]
    });
    added.collect()
}

/// Returns whether a tensor is the weight of a layer that multiplies by it.
fn is_matrix(tensor: &TensorSpec) -> bool {
    tensor.trained && tensor.shape.len() > 1
}

fn normalized(name: &str) -> String {
    format!("spectral_norm.{name}")
}

fn vector(which: char, name: &str) -> String {
    format!("spectral_norm.{which}.{name}")
}

impl NormalizedWeight {
    /// Finds the weights of a network that the layout has normalised: all or none.
    pub(crate) fn all_of(network: &NetworkTensors, layout: &Layout) -> Vec<Self> {
        let weights = network.trained.iter().enumerate().filter_map(|(position, tensor)| {
            let name = &tensor.spec.name;
            Some(Self {
                position,
                weight: tensor.weight,
                normalized: layout.find(&normalized(name))?,
                u: layout.find(&vector('u', name))?,
                v: layout.find(&vector('v', name))?,
            })
        });
        weights.collect()
    }

    /// Makes the first estimate for the initial weight.
    pub(crate) fn begin(&self, state: &mut State, seed: u64) {
        let stream = RandomStream::new(seed, Purpose::SpectralNorm, self.position as u32, 0);
        let u = state.tensor_mut(self.u);
        let values = stream.normals(u.len());
        u.iter_mut().zip(values).for_each(|(u, value)| *u = value);
        self.iterate(state, FIRST_ITERATIONS);
    }

    /// Follows an update of the weight.
    pub(crate) fn update(&self, state: &mut State) {
        self.iterate(state, 1);
    }

    /// Improves the estimate, and divides the weight by it.
    fn iterate(&self, state: &mut State, iterations: usize) {
        let weight = state.tensor(self.weight).to_vec();
        let (mut u, mut v) = (state.tensor(self.u).to_vec(), Vec::new());
        for _ in 0..iterations {
            v = unit(times_transposed(&weight, &u));
            u = unit(times(&weight, &v));
        }
        let sigma = sigma(&weight, &u, &v);
        let normalized = state.tensor_mut(self.normalized);
        for (normalized, weight) in normalized.iter_mut().zip(&weight) {
            *normalized = (f64::from(*weight) / sigma) as f32;
        }
        state.tensor_mut(self.u).copy_from_slice(&u);
        state.tensor_mut(self.v).copy_from_slice(&v);
    }

    /// Turns a gradient with respect to `W / sigma` into one with respect to W. Both vectors count
    /// as constants (equation 12 of the paper).
    fn gradient(&self, state: &State, gradient: &[f32]) -> Vec<f32> {
        let [weight, normalized, u, v] =
            [self.weight, self.normalized, self.u, self.v].map(|index| state.tensor(index));
        let sigma = sigma(weight, u, v);
        let along = dot(gradient, normalized);
        let rows = gradient.chunks_exact(v.len()).zip(u);
        let row = |(row, &u): (&[f32], &f32)| {
            let values = row.iter().zip(v).map(|(&g, &v)| {
                ((f64::from(g) - along * f64::from(u) * f64::from(v)) / sigma) as f32
            });
            values.collect::<Vec<_>>()
        };
        rows.flat_map(row).collect()
    }
}

/// Turns the gradients of a network, which are with respect to what it computed with, into those
/// with respect to the weights that are trained.
pub(crate) fn gradients<'a>(
    weights: &[NormalizedWeight],
    state: &State,
    gradients: Vec<&'a [f32]>,
) -> Vec<Cow<'a, [f32]>> {
    let mut gradients: Vec<Cow<'a, [f32]>> = gradients.into_iter().map(Cow::Borrowed).collect();
    for weight in weights {
        let gradient = &mut gradients[weight.position];
        *gradient = Cow::Owned(weight.gradient(state, gradient));
    }
    gradients
}

/// Replaces the weights of a network by the normalised ones.
pub(crate) fn read_normalized(network: &mut NetworkTensors, weights: &[NormalizedWeight]) {
    for weight in weights {
        network.trained[weight.position].weight = weight.normalized;
    }
}

/// Computes W v. Sums are in double precision and in order, so that they are the same everywhere.
fn times(weight: &[f32], v: &[f32]) -> Vec<f64> {
    weight.chunks_exact(v.len()).map(|row| dot(row, v)).collect()
}

/// Computes W' u.
fn times_transposed(weight: &[f32], u: &[f32]) -> Vec<f64> {
    let mut result = vec![0.0; weight.len() / u.len()];
    for (row, &u) in weight.chunks_exact(result.len()).zip(u) {
        for (sum, &w) in result.iter_mut().zip(row) {
            *sum += f64::from(w) * f64::from(u);
        }
    }
    result
}

/// Computes u' W v.
fn sigma(weight: &[f32], u: &[f32], v: &[f32]) -> f64 {
    let products = times(weight, v);
    let sum: f64 = products.iter().zip(u).map(|(product, &u)| product * f64::from(u)).sum();
    // A weight of zeros stays as it is.
    if sum == 0.0 { 1.0 } else { sum }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// Divides a vector by its length.
fn unit(vector: Vec<f64>) -> Vec<f32> {
    let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt().max(EPSILON);
    vector.into_iter().map(|x| (x / norm) as f32).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dcgan_core::ids::Digest;
    use dcgan_core::spec::{DatasetInfo, RunSpec};

    use super::*;
    use crate::init;
    use crate::layout::{StateTensors, layout};

    /// The tensors and the initial state of a run that normalises D.
    fn begun() -> (StateTensors, State) {
        let data = DatasetInfo { images: 256, rows: 28, columns: 28, digest: Digest(0) };
        let spec = RunSpec::builder().spectral_norm(true).build(data).unwrap();
        let layout = Arc::new(layout(&spec));
        let tensors = StateTensors::new(&layout);
        let mut state = State::zeros(layout);
        init::fill(&mut state, &tensors, &spec);
        (tensors, state)
    }

    #[test]
    fn iterations_find_the_greatest_singular_value() {
        let (tensors, mut state) = begun();
        assert_eq!(tensors.normalized.len(), 4, "three convolutions and a dense layer");
        for weight in &tensors.normalized {
            (0..300).for_each(|_| weight.update(&mut state));
            // No vector is made longer, and one keeps its length.
            let [normalized, v] = [weight.normalized, weight.v].map(|index| state.tensor(index));
            let length = |vector: &[f64]| vector.iter().map(|x| x * x).sum::<f64>().sqrt();
            assert!((length(&times(normalized, v)) - 1.0).abs() < 1e-4);
            let stream = RandomStream::new(1, Purpose::Data, 0, 0);
            let other = unit(stream.normals(v.len()).map(f64::from).collect());
            assert!(length(&times(normalized, &other)) < 1.0);
        }
    }

    #[test]
    fn gradients_are_the_differences_of_what_the_network_computes_with() {
        let (tensors, state) = begun();
        let weight = &tensors.normalized[2];
        // The loss is a product with a fixed matrix, so this is its gradient by the normalised W.
        let len = state.tensor(weight.weight).len();
        let factors: Vec<f32> = RandomStream::new(1, Purpose::Data, 0, 0).normals(len).collect();
        // With u and v as constants, as the gradient has them.
        let [w, u, v] = [weight.weight, weight.u, weight.v].map(|index| state.tensor(index));
        let loss = |w: &[f32]| dot(&factors, w) / sigma(w, u, v);
        let gradient = weight.gradient(&state, &factors);
        for i in [0, 1000, len - 1] {
            let moved = |by: f32| {
                let mut moved = w.to_vec();
                moved[i] += by;
                loss(&moved)
            };
            let difference = (moved(0.01) - moved(-0.01)) / 0.02;
            let error = (f64::from(gradient[i]) - difference).abs();
            assert!(error < 1e-3 * difference.abs().max(1.0), "{}: {difference}", gradient[i]);
        }
    }
}
