//! A network's parameters as tensors, made anew from the state for each shard and phase, and their
//! gradients as one flat vector. Both follow the order of the network's table.

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
    /// The convolution's, `[channels]`. It has no influence in training mode: see [`ConvOutput`].
    pub(crate) bias: Tensor<1>,
    /// The batch norm's gamma and beta, `[channels]` each.
    pub(crate) scale: Tensor<1>,
    pub(crate) shift: Tensor<1>,
}

impl<P> ConvBatchNorm<P> {
    /// The input of the next layer: this convolution's output, to be normalised and activated
    /// there.
    pub(crate) fn normalize(&self, output: ConvOutput, negative_slope: f32) -> LayerInput {
        let ConvOutput { maps, statistics } = output;
        let norm = Normalization {
            statistics,
            scale: self.scale.clone(),
            shift: self.shift.clone(),
            negative_slope,
        };
        LayerInput { maps, norm: Some(norm) }
    }
}

/// The weights and the bias of a layer without batch norm.
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
    /// Reads a network's tensors. They are leaves of the autodiff graph if `trained`, constants
    /// otherwise.
    pub(crate) fn new(
        state: &'a State,
        network: &'a NetworkTensors,
        device: &'a ExecutionDevice,
        trained: bool,
    ) -> Self {
        Self { state, tensors: network.trained.iter(), device, trained }
    }

    /// Takes the next four tensors: kernel, bias, scale, shift.
    pub(crate) fn conv_batch_norm<P: PackWeights>(&mut self) -> ConvBatchNorm<P> {
        ConvBatchNorm {
            kernel: self.kernel(),
            bias: self.tensor(),
            scale: self.tensor(),
            shift: self.tensor(),
        }
    }

    /// Takes the next two tensors: kernel, bias.
    pub(crate) fn weight_and_bias<const D: usize, P: PackWeights>(
        &mut self,
    ) -> WeightAndBias<D, P> {
        WeightAndBias { kernel: self.kernel(), bias: self.tensor() }
    }

    /// Takes the next tensor, with its packed form where the device has one.
    fn kernel<const D: usize, P: PackWeights>(&mut self) -> LayerWeights<D, P> {
        let tensor = self
            .tensors
            .as_slice()
            .first()
            .expect("networks and table agree on the number of tensors");
        let implementation = match self.device.isa {
            None => Implementation::Plain,
            Some(isa) => {
                // Packed once for all shards: the state keeps it until the weights change.
                let shape = &tensor.spec.shape;
                let packed = self.state.derived(tensor.weight, |values| P::pack(values, shape));
                Implementation::Cpu(isa, packed)
            }
        };
        LayerWeights { tensor: self.tensor(), implementation }
    }

    /// Takes the next tensor.
    fn tensor<const D: usize>(&mut self) -> Tensor<D> {
        let tensor =
            self.tensors.next().expect("networks and table agree on the number of tensors");
        let shape: [usize; D] =
            tensor.spec.shape.as_slice().try_into().expect("and on their ranks");
        let data = TensorData::new(self.state.tensor(tensor.weight).to_vec(), shape);
        let leaf = Tensor::from_data(data, &self.device.device);
        if self.trained { leaf.autodiff().require_grad() } else { leaf }
    }
}

/// Collects a network's gradients, one after the other in the order of its table.
pub(crate) struct GradCollector<'a> {
    gradients: &'a mut Gradients,
    flat: Vec<f32>,
}

impl<'a> GradCollector<'a> {
    /// Begins to collect `len` elements.
    pub(crate) fn new(gradients: &'a mut Gradients, len: usize) -> Self {
        Self { gradients, flat: Vec::with_capacity(len) }
    }

    /// Appends the gradients of a layer's four tensors.
    pub(crate) fn conv_batch_norm<P>(mut self, layer: &ConvBatchNorm<P>) -> Self {
        self.push(&layer.kernel.tensor);
        self.push(&layer.bias);
        self.push(&layer.scale);
        self.push(&layer.shift);
        self
    }

    /// Appends the gradients of a layer's two tensors.
    pub(crate) fn weight_and_bias<const D: usize, P>(
        mut self,
        layer: &WeightAndBias<D, P>,
    ) -> Self {
        self.push(&layer.kernel.tensor);
        self.push(&layer.bias);
        self
    }

    /// The gradients of all tensors so far.
    pub(crate) fn finish(self) -> Vec<f32> {
        self.flat
    }

    /// Appends a gradient. It is zero if the loss does not depend on the tensor: a bias in front of
    /// a batch norm.
    fn push<const D: usize>(&mut self, leaf: &Tensor<D>) {
        match leaf.grad_remove(self.gradients) {
            Some(gradient) => append(&mut self.flat, gradient),
            None => self.flat.resize(self.flat.len() + leaf.shape().num_elements(), 0.0),
        }
    }
}

/// Appends a tensor's values in row-major order.
pub(crate) fn append<const D: usize>(flat: &mut Vec<f32>, tensor: Tensor<D>) {
    let data = tensor.into_data();
    flat.extend_from_slice(data.as_slice::<f32>().expect("all tensors are of f32"));
}
