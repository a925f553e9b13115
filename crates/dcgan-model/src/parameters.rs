//! A network's tensors, made anew for each shard and phase from the flat state.

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use dcgan_core::state::State;

use crate::layout::NetworkTensors;

/// A convolution and the batch norm after it.
pub(crate) struct ConvNorm {
    pub(crate) weight: Tensor<4>,
    pub(crate) bias: Tensor<1>,
    pub(crate) scale: Tensor<1>,
    pub(crate) shift: Tensor<1>,
}

/// Weights `[outputs, inputs]` and biases.
pub(crate) struct Dense {
    pub(crate) weight: Tensor<2>,
    pub(crate) bias: Tensor<1>,
}

/// Weights `[outputs, inputs, 3, 3]` and biases.
pub(crate) struct Conv {
    pub(crate) weight: Tensor<4>,
    pub(crate) bias: Tensor<1>,
}

/// Takes a network's trained tensors out of a state, one after the other in the order of its table.
pub(crate) struct Reader<'a> {
    state: &'a State,
    tensors: std::slice::Iter<'a, crate::layout::TrainedTensor>,
    device: &'a Device,
    trained: bool,
}

impl<'a> Reader<'a> {
    /// Tensors that gradients are wanted of, if `trained`; constants otherwise.
    pub(crate) fn new(state: &'a State, network: &'a NetworkTensors, device: &'a Device, trained: bool) -> Self {
        Self { state, tensors: network.trained.iter(), device, trained }
    }

    pub(crate) fn conv_norm(&mut self) -> ConvNorm {
        ConvNorm { weight: self.next(), bias: self.next(), scale: self.next(), shift: self.next() }
    }

    pub(crate) fn conv(&mut self) -> Conv {
        Conv { weight: self.next(), bias: self.next() }
    }

    pub(crate) fn dense(&mut self) -> Dense {
        Dense { weight: self.next(), bias: self.next() }
    }

    fn next<const D: usize>(&mut self) -> Tensor<D> {
        let tensor = self.tensors.next().expect("networks and table agree on the number of tensors");
        let shape: [usize; D] = tensor.table.shape.as_slice().try_into().expect("and on their ranks");
        let data = TensorData::new(self.state.tensor(tensor.weight).to_vec(), shape);
        let leaf = Tensor::from_data(data, self.device);
        if self.trained { leaf.autodiff().require_grad() } else { leaf }
    }
}

/// Collects gradients in the order of the table.
pub(crate) struct Collector<'a> {
    gradients: &'a mut Gradients,
    flat: Vec<f32>,
}

impl<'a> Collector<'a> {
    pub(crate) fn new(gradients: &'a mut Gradients, len: usize) -> Self {
        Self { gradients, flat: Vec::with_capacity(len) }
    }

    pub(crate) fn conv_norm(mut self, layer: &ConvNorm) -> Self {
        self.push(&layer.weight);
        self.push(&layer.bias);
        self.push(&layer.scale);
        self.push(&layer.shift);
        self
    }

    pub(crate) fn conv(mut self, layer: &Conv) -> Self {
        self.push(&layer.weight);
        self.push(&layer.bias);
        self
    }

    pub(crate) fn dense(mut self, layer: &Dense) -> Self {
        self.push(&layer.weight);
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
