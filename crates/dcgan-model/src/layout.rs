//! The state's tensors: weights and running statistics of both networks, Adam's moments, and the last step's metrics.

use dcgan_core::metrics::METRIC_COUNT;
use dcgan_core::spec::networks::{DISCRIMINATOR, GENERATOR, NetworkSpec, TensorSpec};
use dcgan_core::state::Layout;

/// The numbers in the layout of one network's tensors, in the network's order.
#[derive(Clone, Debug)]
pub(crate) struct NetworkTensors {
    /// Trained tensors.
    pub(crate) trained: Vec<TrainedTensor>,
    /// Running mean and running variance of each batch norm, alternately.
    pub(crate) running: Vec<usize>,
}

/// The places of a trained tensor.
#[derive(Clone, Debug)]
pub(crate) struct TrainedTensor {
    pub(crate) table: TensorSpec,
    pub(crate) weight: usize,
    /// Adam's first and second moment.
    pub(crate) moments: [usize; 2],
}

/// Where everything is.
#[derive(Clone, Debug)]
pub(crate) struct StateTensors {
    pub(crate) generator: NetworkTensors,
    pub(crate) discriminator: NetworkTensors,
    /// The trained tensors of D.
    pub(crate) discriminator_weights: Vec<usize>,
    /// The trained tensors of G, then those of D.
    pub(crate) both_networks_weights: Vec<usize>,
    /// Losses and accuracies of the step that is computed.
    pub(crate) metrics: usize,
}

const METRICS_TENSOR: &str = "metrics";

fn moment(which: char, name: &str) -> String {
    format!("adam.{which}.{name}")
}

/// The layout of a training state.
pub(crate) fn layout() -> Layout {
    let networks = [GENERATOR, DISCRIMINATOR].into_iter().flat_map(|network| network.tensors());
    let tensors = networks.flat_map(|TensorSpec { name, shape, trained }| {
        let moments = ['m', 'v'].map(|which| (moment(which, &name), shape.clone()));
        std::iter::once((name, shape)).chain(moments.into_iter().filter(move |_| trained))
    });
    Layout::new(tensors.chain([(METRICS_TENSOR.to_owned(), vec![METRIC_COUNT])]))
}

impl StateTensors {
    /// The places in [`layout`].
    pub(crate) fn new(layout: &Layout) -> Self {
        let find = |name: &str| layout.find(name).expect("the layout is made of the same tables");
        let network = |network: NetworkSpec| {
            let (trained, running): (Vec<TensorSpec>, Vec<TensorSpec>) =
                network.tensors().into_iter().partition(|t| t.trained);
            let trained = trained.into_iter().map(|table| TrainedTensor {
                weight: find(&table.name),
                moments: ['m', 'v'].map(|which| find(&moment(which, &table.name))),
                table,
            });
            NetworkTensors {
                trained: trained.collect(),
                running: running.iter().map(|t| find(&t.name)).collect(),
            }
        };
        let (generator, discriminator, metrics) =
            (network(GENERATOR), network(DISCRIMINATOR), find(METRICS_TENSOR));
        let weights =
            |network: &NetworkTensors| network.trained.iter().map(|t| t.weight).collect::<Vec<_>>();
        let discriminator_weights = weights(&discriminator);
        let both_networks_weights = [weights(&generator), weights(&discriminator)].concat();
        Self { generator, discriminator, discriminator_weights, both_networks_weights, metrics }
    }
}
