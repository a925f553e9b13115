//! The layout of a DCGAN's state: weights and running statistics of both networks, Adam's moments,
//! the generator's moving average and the discriminator's normalised weights if the run has them,
//! and the last step's metrics.

use std::sync::Arc;

use dcgan_core::spec::RunSpec;
use dcgan_core::spec::networks::{DISCRIMINATOR, GENERATOR, METRIC_NAMES, NetworkSpec, TensorSpec};
use dcgan_core::state::{Layout, State};
use dcgan_store::state_file::{self, StateFileError};

use crate::ema::{AveragedTensor, average_of};
use crate::spectral_norm::{self, NormalizedWeight};

/// The indices in the layout of one network's tensors, in the network's order.
#[derive(Clone, Debug)]
pub(crate) struct NetworkTensors {
    /// The trained tensors.
    pub(crate) trained: Vec<TrainedTensor>,
    /// The running mean and the running variance of each batch norm, alternately.
    pub(crate) running: Vec<usize>,
}

/// A trained tensor, with its indices in the layout.
#[derive(Clone, Debug)]
pub(crate) struct TrainedTensor {
    pub(crate) spec: TensorSpec,
    pub(crate) weight: usize,
    /// Adam's first and second moments.
    pub(crate) moments: [usize; 2],
}

/// The indices of all tensors in the layout.
#[derive(Clone, Debug)]
pub(crate) struct StateTensors {
    pub(crate) generator: NetworkTensors,
    pub(crate) discriminator: NetworkTensors,
    /// D with the weights that it computes with: normalised ones, if the run has them.
    pub(crate) read_discriminator: NetworkTensors,
    /// The weights of D that are normalised; none if the run does not normalise them.
    pub(crate) normalized: Vec<NormalizedWeight>,
    /// The tensors that D computes with.
    pub(crate) discriminator_weights: Vec<usize>,
    /// The trained tensors of G, then those that D computes with.
    pub(crate) both_networks_weights: Vec<usize>,
    /// The tensors of G with their moving averages; none if the run keeps no average.
    pub(crate) averaged: Vec<AveragedTensor>,
    /// The tensors of G that samples are drawn with: the averages, if there are any.
    pub(crate) shown_generator: NetworkTensors,
    /// The losses and accuracies of the step that is being computed.
    pub(crate) metrics: usize,
}

/// The name of the tensor that holds the metrics.
const METRICS_TENSOR: &str = "metrics";

/// The name of a tensor's first (`m`) or second (`v`) moment.
fn moment(which: char, name: &str) -> String {
    format!("adam.{which}.{name}")
}

/// The layout of a training state.
pub(crate) fn layout(spec: &RunSpec) -> Layout {
    let tensors = [GENERATOR, DISCRIMINATOR].into_iter().flat_map(with_moments);
    let has_averages = spec.ema_decay() > 0.0;
    let averages = GENERATOR.tensors().into_iter().filter(|_| has_averages);
    let averages = averages.map(|TensorSpec { name, shape, .. }| (average_of(&name), shape));
    let normalized = if spec.spectral_norm() {
        spectral_norm::tensors(&DISCRIMINATOR.tensors())
    } else {
        vec![]
    };
    let tensors = tensors.chain(averages).chain(normalized);
    Layout::new(tensors.chain([(METRICS_TENSOR.to_owned(), vec![METRIC_NAMES.len()])]))
}

/// The names and shapes of a network's tensors, with the moments of those that are trained.
fn with_moments(network: NetworkSpec) -> impl Iterator<Item = (String, Vec<usize>)> {
    network.tensors().into_iter().flat_map(|TensorSpec { name, shape, trained }| {
        let moments = ['m', 'v'].map(|which| (moment(which, &name), shape.clone()));
        std::iter::once((name, shape)).chain(moments.into_iter().filter(move |_| trained))
    })
}

/// The layout of a state in which one network is trained by itself.
pub(crate) fn layout_of(network: NetworkSpec) -> Layout {
    Layout::new(with_moments(network))
}

/// Reads a network that is not trained any more from a file, in which a tensor has the name that
/// `saved` gives for it: a state of its tensors alone, and their indices. The file may have other
/// tensors.
///
/// # Errors
/// If the file does not hold the network.
pub(crate) fn network_from_file(
    network: NetworkSpec,
    bytes: &[u8],
    saved: impl Fn(&str) -> String,
) -> Result<(State, NetworkTensors), StateFileError> {
    let table = network.tensors();
    let named: Vec<(String, Vec<usize>)> =
        table.iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
    let in_file = named.iter().map(|(name, shape)| (saved(name), shape.clone()));
    let values = state_file::decode_tensors(bytes, &in_file.collect::<Vec<_>>())?;
    let mut state = State::zeros(Arc::new(Layout::new(named)));
    let mut tensors = NetworkTensors { trained: Vec::new(), running: Vec::new() };
    for (spec, values) in table.into_iter().zip(&values) {
        let index = find(state.layout(), &spec.name);
        state.tensor_mut(index).copy_from_slice(values);
        if spec.trained {
            // There are no moments.
            tensors.trained.push(TrainedTensor { spec, weight: index, moments: [index; 2] });
        } else {
            tensors.running.push(index);
        }
    }
    Ok((state, tensors))
}

impl StateTensors {
    /// Finds the tensors of [`layout`].
    pub(crate) fn new(layout: &Layout) -> Self {
        let generator = NetworkTensors::new(GENERATOR, layout);
        let discriminator = NetworkTensors::new(DISCRIMINATOR, layout);
        let normalized = NormalizedWeight::all_of(&discriminator, layout);
        let mut read_discriminator = discriminator.clone();
        spectral_norm::read_normalized(&mut read_discriminator, &normalized);
        let discriminator_weights = read_discriminator.weights();
        Self {
            both_networks_weights: [generator.weights(), discriminator_weights.clone()].concat(),
            discriminator_weights,
            read_discriminator,
            normalized,
            averaged: AveragedTensor::all_of(&generator, layout),
            shown_generator: generator.averages(layout).unwrap_or_else(|| generator.clone()),
            generator,
            discriminator,
            metrics: find(layout, METRICS_TENSOR),
        }
    }
}

impl NetworkTensors {
    pub(crate) fn new(network: NetworkSpec, layout: &Layout) -> Self {
        let (mut trained, mut running) = (Vec::new(), Vec::new());
        for spec in network.tensors() {
            let index = find(layout, &spec.name);
            if spec.trained {
                let moments = ['m', 'v'].map(|which| find(layout, &moment(which, &spec.name)));
                trained.push(TrainedTensor { spec, weight: index, moments });
            } else {
                running.push(index);
            }
        }
        Self { trained, running }
    }

    /// The same network with the moving averages in the places of its tensors, if the layout has
    /// them.
    fn averages(&self, layout: &Layout) -> Option<Self> {
        let average = |index: usize| layout.find(&average_of(&layout.tensors()[index].name));
        let mut averages = self.clone();
        for tensor in &mut averages.trained {
            tensor.weight = average(tensor.weight)?;
        }
        for index in &mut averages.running {
            *index = average(*index)?;
        }
        Some(averages)
    }

    /// The indices of the trained tensors.
    fn weights(&self) -> Vec<usize> {
        self.trained.iter().map(|tensor| tensor.weight).collect()
    }
}

/// The index of a tensor that the layout has.
pub(crate) fn find(layout: &Layout, name: &str) -> usize {
    layout.find(name).expect("the layout is made of the same tables")
}
