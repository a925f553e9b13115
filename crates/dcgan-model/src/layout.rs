//! The state's tensors: weights and running statistics of both networks, Adam's moments, and the last step's metrics.

use dcgan_core::layers::{DISCRIMINATOR, GENERATOR, Network, Tensor};
use dcgan_core::metrics::METRICS;
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
    pub(crate) table: Tensor,
    pub(crate) weight: usize,
    /// Adam's first and second moment.
    pub(crate) moments: [usize; 2],
}

/// Where everything is.
#[derive(Clone, Debug)]
pub(crate) struct StateTensors {
    pub(crate) generator: NetworkTensors,
    pub(crate) discriminator: NetworkTensors,
    /// The weights of D, and those of both.
    pub(crate) read: [Vec<usize>; 2],
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
    let tensors = networks.flat_map(|Tensor { name, shape, trained }| {
        let moments = ['m', 'v'].map(|which| (moment(which, &name), shape.clone()));
        std::iter::once((name, shape)).chain(moments.into_iter().filter(move |_| trained))
    });
    Layout::new(tensors.chain([(METRICS_TENSOR.to_owned(), vec![METRICS])]))
}

impl StateTensors {
    /// The places in [`layout`].
    pub(crate) fn new(layout: &Layout) -> Self {
        let find = |name: &str| layout.find(name).expect("the layout is made of the same tables");
        let network = |network: Network| {
            let (trained, running): (Vec<Tensor>, Vec<Tensor>) = network.tensors().into_iter().partition(|t| t.trained);
            let trained = trained.into_iter().map(|table| TrainedTensor {
                weight: find(&table.name),
                moments: ['m', 'v'].map(|which| find(&moment(which, &table.name))),
                table,
            });
            NetworkTensors { trained: trained.collect(), running: running.iter().map(|t| find(&t.name)).collect() }
        };
        let (generator, discriminator, metrics) = (network(GENERATOR), network(DISCRIMINATOR), find(METRICS_TENSOR));
        let weights = |network: &NetworkTensors| network.trained.iter().map(|t| t.weight).collect::<Vec<_>>();
        let read = [weights(&discriminator), [weights(&generator), weights(&discriminator)].concat()];
        Self { generator, discriminator, read, metrics }
    }
}

impl NetworkTensors {
    /// Elements of all trained tensors.
    pub(crate) fn trained_len(&self) -> usize {
        self.trained.iter().map(|tensor| tensor.table.len()).sum()
    }
}
