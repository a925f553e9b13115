//! The layout of a DCGAN's state: weights and running statistics of both networks, Adam's moments,
//! the generator's moving average if the run keeps one, and the last step's metrics.

use dcgan_core::spec::RunSpec;
use dcgan_core::spec::networks::{DISCRIMINATOR, GENERATOR, METRIC_NAMES, NetworkSpec, TensorSpec};
use dcgan_core::state::Layout;

use crate::ema::{AveragedTensor, average_of};

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
    /// The trained tensors of D.
    pub(crate) discriminator_weights: Vec<usize>,
    /// The trained tensors of G, then those of D.
    pub(crate) both_networks_weights: Vec<usize>,
    /// The tensors of G with their moving averages; none if the run keeps no average.
    pub(crate) averaged: Vec<AveragedTensor>,
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
    let networks = [GENERATOR, DISCRIMINATOR].into_iter().flat_map(|network| network.tensors());
    let tensors = networks.flat_map(|TensorSpec { name, shape, trained }| {
        let moments = ['m', 'v'].map(|which| (moment(which, &name), shape.clone()));
        std::iter::once((name, shape)).chain(moments.into_iter().filter(move |_| trained))
    });
    let has_averages = spec.ema_decay() > 0.0;
    let averages = GENERATOR.tensors().into_iter().filter(|_| has_averages);
    let averages = averages.map(|TensorSpec { name, shape, .. }| (average_of(&name), shape));
    let tensors = tensors.chain(averages);
    Layout::new(tensors.chain([(METRICS_TENSOR.to_owned(), vec![METRIC_NAMES.len()])]))
}

impl StateTensors {
    /// Finds the tensors of [`layout`].
    pub(crate) fn new(layout: &Layout) -> Self {
        let generator = NetworkTensors::new(GENERATOR, layout);
        let discriminator = NetworkTensors::new(DISCRIMINATOR, layout);
        let both_networks_weights = [generator.weights(), discriminator.weights()].concat();
        Self {
            discriminator_weights: discriminator.weights(),
            both_networks_weights,
            averaged: AveragedTensor::all_of(&generator, layout),
            generator,
            discriminator,
            metrics: find(layout, METRICS_TENSOR),
        }
    }
}

impl NetworkTensors {
    fn new(network: NetworkSpec, layout: &Layout) -> Self {
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

    /// The indices of the trained tensors.
    fn weights(&self) -> Vec<usize> {
        self.trained.iter().map(|tensor| tensor.weight).collect()
    }
}

fn find(layout: &Layout, name: &str) -> usize {
    layout.find(name).expect("the layout is made of the same tables")
}
