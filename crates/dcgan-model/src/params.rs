//! A network's tensors, made anew for each shard and phase from the state.

use burn::tensor::{Gradients, Tensor, TensorData};
use dcgan_core::state::State;

use crate::device::ExecutionDevice;
use crate::layout::NetworkTensors;
use crate::ops::{
    ConvOutput, Implementation, LayerInput, LayerWeights, Normalization, PackWeights,
};

/// A convolution and the batch norm after it.
pub(crate) struct ConvBatchNorm<P> {
    pub(crate) kernel: LayerWeights<4, P>,
    pub(crate) bias: Tensor<1>,
    pub(crate) scale: Tensor<1>,
    pub(crate) shift: Tensor<1>,
}

impl<P> ConvBatchNorm<P> {
    /// What the next convolution is given.
    pub(crate) fn norm(&self, raw: ConvOutput, slope: f32) -> LayerInput {
        let ConvOutput { maps, statistics } = raw;
        let norm = Normalization {
            statistics,
            scale: self.scale.clone(),
            shift: self.shift.clone(),
            slope,
        };
        LayerInput { maps, norm: Some(norm) }
    }
}

/// Weights and biases.
pub(crate) struct WeightAndBias<const D: usize, P> {
    pub(crate) kernel: LayerWeights<D, P>,
    pub(crate) bias: Tensor<1>,
}

/// Takes a network's trained tensors out of a state, one after the other in the order of its table.
pub(crate) struct ParamReader<'a> {
    state: &'a State,
    tensors: std::slice::Iter<'a, crate::layout::TrainedTensor>,
    device: &'a ExecutionDevice,
    trained: bool,
}

impl<'a> ParamReader<'a> {
    /// Tensors that gradients are wanted of, if `trained`; constants otherwise.
    pub(crate) fn new(
        state: &'a State,
        network: &'a NetworkTensors,
        device: &'a ExecutionDevice,
        trained: bool,
    ) -> Self {
        Self { state, tensors: network.trained.iter(), device, trained }
    }

    pub(crate) fn conv_norm<P: PackWeights>(&mut self) -> ConvBatchNorm<P> {
        ConvBatchNorm {
            kernel: self.kernel(),
            bias: self.tensor(),
            scale: self.tensor(),
            shift: self.tensor(),
        }
    }

    pub(crate) fn weighted<const D: usize, P: PackWeights>(&mut self) -> WeightAndBias<D, P> {
        WeightAndBias { kernel: self.kernel(), bias: self.tensor() }
    }

    fn kernel<const D: usize, P: PackWeights>(&mut self) -> LayerWeights<D, P> {
        let tensor = self
            .tensors
            .as_slice()
            .first()
            .expect("networks and table agree on the number of tensors");
        let prepare =
            || self.state.derived(tensor.weight, |values| P::prepare(values, &tensor.table.shape));
        let path = self
            .device
            .isa
            .map_or(Implementation::Plain, |isa| Implementation::Cpu(isa, prepare()));
        LayerWeights { tensor: self.tensor(), path }
    }

    fn tensor<const D: usize>(&mut self) -> Tensor<D> {
        let tensor =
            self.tensors.next().expect("networks and table agree on the number of tensors");
        let shape: [usize; D] =
            tensor.table.shape.as_slice().try_into().expect("and on their ranks");
        let data = TensorData::new(self.state.tensor(tensor.weight).to_vec(), shape);
        let leaf = Tensor::from_data(data, &self.device.device);
        if self.trained { leaf.autodiff().require_grad() } else { leaf }
    }
}

/// Collects gradients in the order of the table.
pub(crate) struct GradCollector<'a> {
    gradients: &'a mut Gradients,
    flat: Vec<f32>,
}

impl<'a> GradCollector<'a> {
    pub(crate) fn new(gradients: &'a mut Gradients, len: usize) -> Self {
        Self { gradients, flat: Vec::with_capacity(len) }
    }

    pub(crate) fn conv_norm<P>(mut self, layer: &ConvBatchNorm<P>) -> Self {
        self.push(&layer.kernel.tensor);
        self.push(&layer.bias);
        self.push(&layer.scale);
        self.push(&layer.shift);
        self
    }

    pub(crate) fn weighted<const D: usize, P>(mut self, layer: &WeightAndBias<D, P>) -> Self {
        self.push(&layer.kernel.tensor);
        self.push(&layer.bias);
        self
    }

    pub(crate) fn finish(self) -> Vec<f32> {
        self.flat
    }

    /// What the result does not depend on, a bias in front of a batch norm, has gradient zero.
    fn push<const D: usize>(&mut self, leaf: &Tensor<D>) {
        match leaf.grad_remove(self.gradients) {
            Some(gradient) => append(&mut self.flat, gradient),
            None => self.flat.resize(self.flat.len() + leaf.shape().num_elements(), 0.0),
        }
    }
}

/// Appends a tensor's values.
pub(crate) fn append<const D: usize>(flat: &mut Vec<f32>, tensor: Tensor<D>) {
    let data = tensor.into_data();
    flat.extend_from_slice(data.as_slice::<f32>().expect("all tensors are of f32"));
}
