//! A network's parameters as tensors, made anew for each shard and phase from what the phase has
//! brought to the device, and their gradients. Both follow the order of the network's table.

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use dcgan_core::state::State;

use crate::device::ExecutionDevice;
use crate::layout::{NetworkTensors, TrainedTensor};
use crate::ops::{
    ConvOutput, Implementation, Isa, LayerInput, LayerWeights, Normalization, PackWeights,
    WeightedOp,
};

/// The trained tensors of a network, where the operations of a device read them.
pub(crate) struct NetworkParams<'a> {
    trained: &'a [TrainedTensor],
    values: ParamValues<'a>,
}

/// The values of a network's trained tensors.
enum ParamValues<'a> {
    /// The state's own, for the operations that were written for the processor.
    OfState(&'a State, Isa, &'a Device),
    /// A tensor `[elements]` on the device for each, for plain burn operations.
    Uploaded(Vec<Tensor<1>>),
}

/// Brings to a device what a phase reads: the trained tensors of networks, and inputs. The latter
/// come as tensors `[elements]`.
///
/// To a device that has a memory of its own everything goes in one copy, the flat vector
/// `[tensors of the networks | inputs]`, and is split there. The processor reads the state where it
/// is.
pub(crate) fn upload<'a, const N: usize>(
    device: &'a ExecutionDevice,
    state: &'a State,
    networks: [&'a NetworkTensors; N],
    inputs: Vec<Vec<f32>>,
) -> ([NetworkParams<'a>; N], Vec<Tensor<1>>) {
    let to_tensor = |values: Vec<f32>| {
        let len = values.len();
        Tensor::<1>::from_data(TensorData::new(values, [len]), &device.device)
    };
    if let Some(isa) = device.isa {
        let networks = networks.map(|NetworkTensors { trained, .. }| NetworkParams {
            trained,
            values: ParamValues::OfState(state, isa, &device.device),
        });
        return (networks, inputs.into_iter().map(to_tensor).collect());
    }

    // Copy everything at once.
    let trained = networks.iter().flat_map(|network| &network.trained);
    let parts: Vec<&[f32]> = trained
        .map(|tensor| state.tensor(tensor.weight))
        .chain(inputs.iter().map(Vec::as_slice))
        .collect();
    let lens = parts.iter().map(|part| part.len()).collect();
    let flat = to_tensor(parts.concat());

    // Split it on the device.
    let mut parts = flat.split_with_sizes(lens, 0).into_iter();
    let networks = networks.map(|NetworkTensors { trained, .. }| {
        let tensors = parts.by_ref().take(trained.len()).collect();
        NetworkParams { trained, values: ParamValues::Uploaded(tensors) }
    });
    (networks, parts.collect())
}

/// A convolution and the batch norm after it.
pub(crate) struct ConvBatchNorm<O: WeightedOp> {
    pub(crate) kernel: LayerWeights<4, O>,
    /// The convolution's, `[channels]`. It has no influence in training mode: see [`ConvOutput`].
    pub(crate) bias: Tensor<1>,
    /// The batch norm's gamma and beta, `[channels]` each.
    pub(crate) scale: Tensor<1>,
    pub(crate) shift: Tensor<1>,
}

impl<O: WeightedOp> ConvBatchNorm<O> {
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
pub(crate) struct WeightAndBias<const D: usize, O: WeightedOp> {
    pub(crate) kernel: LayerWeights<D, O>,
    pub(crate) bias: Tensor<1>,
}

/// Takes a network's trained tensors, one after the other in the order of its table.
pub(crate) struct ParamReader<'a> {
    params: &'a NetworkParams<'a>,
    /// The number of tensors that have been taken.
    taken: usize,
    trained: bool,
}

impl<'a> ParamReader<'a> {
    /// Reads a network's tensors. They are leaves of the autodiff graph if `trained`, constants
    /// otherwise.
    pub(crate) fn new(params: &'a NetworkParams<'a>, trained: bool) -> Self {
        Self { params, taken: 0, trained }
    }

    /// Takes the next four tensors: kernel, bias, scale, shift.
    pub(crate) fn conv_batch_norm<O: WeightedOp>(&mut self) -> ConvBatchNorm<O> {
        ConvBatchNorm {
            kernel: self.kernel(),
            bias: self.tensor(),
            scale: self.tensor(),
            shift: self.tensor(),
        }
    }

    /// Takes the next two tensors: kernel, bias.
    pub(crate) fn weight_and_bias<const D: usize, O: WeightedOp>(&mut self) -> WeightAndBias<D, O> {
        WeightAndBias { kernel: self.kernel(), bias: self.tensor() }
    }

    /// Takes the next tensor, with the form that its implementation reads.
    fn kernel<const D: usize, O: WeightedOp>(&mut self) -> LayerWeights<D, O> {
        let implementation = match self.params.values {
            ParamValues::Uploaded(_) => Implementation::Plain,
            ParamValues::OfState(state, isa, _) => {
                // Packed once for all shards: the state keeps it until the weights change.
                let TrainedTensor { spec, weight, .. } = self.next();
                let pack = |values: &[f32]| O::CpuWeights::pack(values, &spec.shape);
                Implementation::Cpu(isa, state.derived(*weight, pack))
            }
        };
        LayerWeights { tensor: self.tensor(), implementation }
    }

    /// Takes the next tensor. Each shard gets leaves of its own: see the crate's documentation.
    pub(crate) fn tensor<const D: usize>(&mut self) -> Tensor<D> {
        let TrainedTensor { spec, weight, .. } = self.next();
        let shape: [usize; D] =
            spec.shape.as_slice().try_into().expect("networks and table agree on the ranks");
        let leaf = match &self.params.values {
            ParamValues::Uploaded(tensors) => tensors[self.taken].clone().reshape(shape),
            ParamValues::OfState(state, _, device) => {
                let data = TensorData::new(state.tensor(*weight).to_vec(), shape);
                Tensor::from_data(data, *device)
            }
        };
        self.taken += 1;
        if self.trained { leaf.autodiff().require_grad() } else { leaf }
    }

    /// The tensor that is to be taken next.
    fn next(&self) -> &'a TrainedTensor {
        self.params
            .trained
            .get(self.taken)
            .expect("networks and table agree on the number of tensors")
    }
}

/// Collects a network's gradients, one after the other in the order of its table.
pub(crate) struct GradCollector<'a> {
    gradients: &'a mut Gradients,
    collected: Vec<Tensor<1>>,
}

impl<'a> GradCollector<'a> {
    /// Begins to collect.
    pub(crate) fn new(gradients: &'a mut Gradients) -> Self {
        Self { gradients, collected: Vec::new() }
    }

    /// Appends the gradients of a layer's four tensors.
    pub(crate) fn conv_batch_norm<O: WeightedOp>(mut self, layer: &ConvBatchNorm<O>) -> Self {
        self.push(&layer.kernel.tensor);
        self.push(&layer.bias);
        self.push(&layer.scale);
        self.push(&layer.shift);
        self
    }

    /// Appends the gradients of a layer's two tensors.
    pub(crate) fn weight_and_bias<const D: usize, O: WeightedOp>(
        mut self,
        layer: &WeightAndBias<D, O>,
    ) -> Self {
        self.push(&layer.kernel.tensor);
        self.push(&layer.bias);
        self
    }

    /// The gradients of all tensors so far, `[elements]` each.
    pub(crate) fn finish(self) -> Vec<Tensor<1>> {
        self.collected
    }

    /// Appends a gradient. It is zero if the loss does not depend on the tensor: a bias in front of
    /// a batch norm.
    pub(crate) fn push<const D: usize>(&mut self, leaf: &Tensor<D>) {
        let len = leaf.shape().num_elements();
        self.collected.push(match leaf.grad_remove(self.gradients) {
            Some(gradient) => gradient.reshape([len]),
            None => Tensor::zeros([len], &leaf.device().without_autodiff()),
        });
    }
}

/// Appends a tensor's values in row-major order.
pub(crate) fn append<const D: usize>(flat: &mut Vec<f32>, tensor: Tensor<D>) {
    let data = tensor.into_data();
    flat.extend_from_slice(data.as_slice::<f32>().expect("all tensors are of f32"));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dcgan_core::ids::Digest;
    use dcgan_core::spec::{DatasetInfo, RunSpec};

    use super::*;
    use crate::layout::{StateTensors, layout};

    /// Checks that tensors have the shapes `[elements]` and the values that are expected.
    fn check<'a>(tensors: &[Tensor<1>], expected: impl IntoIterator<Item = &'a [f32]>) {
        let mut expected = expected.into_iter();
        for tensor in tensors {
            let data = tensor.clone().into_data();
            assert_eq!(data.as_slice::<f32>().ok(), expected.next());
        }
        assert_eq!(expected.next(), None);
    }

    #[test]
    fn an_upload_is_split_into_the_tensors_and_inputs_that_went_into_it() {
        // A state in which no two elements are equal.
        let data = DatasetInfo { images: 256, rows: 28, columns: 28, digest: Digest(0) };
        let layout = Arc::new(layout(&RunSpec::builder().build(data).unwrap()));
        let mut state = State::zeros(Arc::clone(&layout));
        let mut numbers = (1..).map(|number| number as f32);
        for index in state.all() {
            state.tensor_mut(index).fill_with(|| numbers.next().unwrap());
        }
        let tensors = StateTensors::new(&layout);
        let device = ExecutionDevice { device: Device::flex(), isa: None };

        let both = [&tensors.discriminator, &tensors.generator];
        let inputs = vec![vec![-1.0, -2.0], vec![-3.0]];
        let (networks, uploaded) = upload(&device, &state, both, inputs.clone());

        for (params, network) in networks.iter().zip(both) {
            let ParamValues::Uploaded(values) = &params.values else { panic!("not uploaded") };
            check(values, network.trained.iter().map(|tensor| state.tensor(tensor.weight)));
        }
        check(&uploaded, inputs.iter().map(Vec::as_slice));
    }
}
