//! The operations as nodes of burn's autodiff graph.

use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor, TensorData};

use super::buffer_pool;

/// What an operation reads: maps, scale, shift, weights. Those that it has no use for are empty.
pub(crate) type OpInputs<'a> = [&'a [f32]; 4];

/// An operation on arrays with its gradients.
pub(crate) trait Operation: Debug + Send + Sync {
    /// The shape of the result.
    fn shape(&self) -> Vec<usize>;

    /// The result.
    fn forward(&self, inputs: OpInputs<'_>) -> Vec<f32>;

    /// From the result `y` and the gradient by it, the gradients by those inputs of which they are wanted.
    fn backward(
        &self,
        inputs: OpInputs<'_>,
        y: &[f32],
        dy: &[f32],
        wanted: [bool; 4],
    ) -> [Option<Vec<f32>>; 4];
}

/// Applies an operation to tensors of the processor.
pub(crate) fn apply<const D: usize, const E: usize, const F: usize>(
    operation: Arc<dyn Operation>,
    x: Tensor<D>,
    [scale, shift]: [Tensor<1>; 2],
    weight: Tensor<E>,
) -> Tensor<F> {
    Tensor::from_dispatch(<Dispatch as Apply>::apply(
        operation,
        x.into_dispatch(),
        scale.into_dispatch(),
        shift.into_dispatch(),
        weight.into_dispatch(),
    ))
}

#[backend_extension(Autodiff, Flex)]
trait Apply: Backend {
    fn apply(
        operation: Arc<dyn Operation>,
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        weight: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

type Array = FloatTensor<Flex>;

fn array(values: Vec<f32>, shape: impl Into<Shape>) -> Array {
    Array::from_data(TensorData::new(values, shape))
}

impl Apply for Flex {
    fn apply(
        operation: Arc<dyn Operation>,
        x: Array,
        scale: Array,
        shift: Array,
        weight: Array,
    ) -> Array {
        let inputs = [x, scale, shift, weight].map(|input| input.to_contiguous());
        let y = operation.forward(inputs.each_ref().map(|input| input.storage::<f32>()));
        array(y, operation.shape())
    }
}

impl<C: CheckpointStrategy> Apply for Autodiff<Flex, C> {
    fn apply(
        operation: Arc<dyn Operation>,
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        weight: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), scale.node(), shift.node(), weight.node()];
        let inputs = [x, scale, shift, weight].map(|input| input.into_primitive().to_contiguous());
        let y = {
            let [x, scale, shift, weight] = inputs.clone();
            Flex::apply(Arc::clone(&operation), x, scale, shift, weight)
        };
        match OperationNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(node) => {
                node.finish(SavedForBackward { operation, inputs, y: y.clone() }, y)
            }
            OpsKind::UnTracked(node) => node.finish(y),
        }
    }
}

#[derive(Debug)]
struct OperationNode;

/// What the way back needs.
#[derive(Clone, Debug)]
struct SavedForBackward {
    operation: Arc<dyn Operation>,
    inputs: [Array; 4],
    y: Array,
}

impl Backward<Flex, 4> for OperationNode {
    type State = SavedForBackward;

    fn backward(
        self,
        ops: Ops<SavedForBackward, 4>,
        gradients: &mut Gradients,
        _: &mut Checkpointer,
    ) {
        let SavedForBackward { operation, inputs, y } = ops.state;
        let dy = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let slices = inputs.each_ref().map(|input| input.storage::<f32>());
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let results = operation.backward(slices, y.storage(), dy.storage(), wanted);
        for ((result, parent), input) in results.into_iter().zip(ops.parents).zip(&inputs) {
            if let (Some(values), Some(parent)) = (result, parent) {
                gradients.register::<Flex>(parent.id, array(values, input.shape()));
            }
        }
        give_back(dy);
        give_back(y);
    }
}

/// Keeps the memory of a large array that nobody else holds.
fn give_back(array: Array) {
    if array.is_unique()
        && let Ok(values) = array.into_data().try_into_vec::<f32>()
    {
        buffer_pool::give(values);
    }
}
