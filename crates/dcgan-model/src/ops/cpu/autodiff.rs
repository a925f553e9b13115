//! The operations as nodes of burn's autodiff graph.
//!
//! burn can only be extended by operations with a fixed number of tensors. All operations here
//! share one such extension with four inputs, of which each reads what it needs.

use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor, TensorData};

use super::buffer_pool;

/// An operation's inputs: maps `x`, scale, shift and weights. Those that it does not read are
/// empty.
///
/// The shift is what is added to each channel: that of the batch norm before the operation, or the
/// bias of an operation that has no batch norm before it (dense, bias and tanh). No operation has
/// both, so the bias has no slot of its own.
pub(crate) type OpInputs<'a> = [&'a [f32]; 4];

/// An operation on arrays, with its gradients.
pub(crate) trait Operation: Debug + Send + Sync {
    /// The shape of the result `y`.
    fn shape(&self) -> Vec<usize>;

    /// Computes the result.
    fn forward(&self, inputs: OpInputs<'_>) -> Vec<f32>;

    /// Computes the gradients of the loss with respect to the inputs, each in the input's shape,
    /// from the result `y` and the gradient `dy` with respect to it. Where `needs_gradient` is
    /// false, the gradient may be missing.
    fn backward(
        &self,
        inputs: OpInputs<'_>,
        y: &[f32],
        dy: &[f32],
        needs_gradient: [bool; 4],
    ) -> [Option<Vec<f32>>; 4];
}

/// Applies an operation to tensors of the processor. Gradients flow if the tensors have a graph.
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

/// The extension of burn's backends.
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

/// A tensor of the processor, without a graph.
type Array = FloatTensor<Flex>;

/// Makes an array of values in row-major order.
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
        // Compute on plain arrays, and add one node to the graph if any input is tracked.
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

/// The type of all nodes: burn's key for the backward pass below.
#[derive(Debug)]
struct OperationNode;

/// The values of the forward pass that the backward pass needs.
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
        // Only inputs that are tracked have a parent in the graph.
        let needs_gradient = ops.parents.each_ref().map(Option::is_some);
        let results = operation.backward(slices, y.storage(), dy.storage(), needs_gradient);
        for ((result, parent), input) in results.into_iter().zip(ops.parents).zip(&inputs) {
            if let (Some(values), Some(parent)) = (result, parent) {
                gradients.register::<Flex>(parent.id, array(values, input.shape()));
            }
        }
        give_back(dy);
        give_back(y);
    }
}

/// Gives an array's memory to the pool, unless others hold the array.
fn give_back(array: Array) {
    if array.is_unique()
        && let Ok(values) = array.into_data().try_into_vec::<f32>()
    {
        buffer_pool::give(values);
    }
}
