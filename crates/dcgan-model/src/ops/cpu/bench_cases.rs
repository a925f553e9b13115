//! The networks' layers one by one, for benchmarks.

use std::sync::Arc;

use dcgan_core::random::{Purpose, RandomStream};

use super::autodiff::{OpInputs, Operation};
use super::conv::Conv;
use super::conv_to_image::ConvToImage;
use super::fused_layer::{BlockOp, FusedLayer};
use super::gemm::{GemmTask, LANES, LeftMatrix};
use super::isa::Isa;
use super::norm::BatchNorm;
use super::upsample::Upsample;
use super::{PackWeights, buffer_pool};

/// Images of a case: one shard's.
const IMAGES: usize = 32;

/// A layer with its inputs and the gradient with respect to its output.
pub struct Case {
    /// A name such as `upsample 14x14x128 to 64`.
    pub name: &'static str,
    /// Multiplications and additions of the gemms in forward. Backward takes twice as many.
    pub operations: u64,
    layer: Box<dyn Operation>,
    inputs: [Vec<f32>; 4],
    y: Vec<f32>,
    dy: Vec<f32>,
    /// `[m, k, n]` of one gemm with as many operations.
    gemm_size: [usize; 3],
}

impl Case {
    /// Computes the result.
    pub fn forward(&self) {
        buffer_pool::give(self.layer.forward(self.inputs()));
    }

    /// Computes the gradients with respect to all inputs.
    pub fn backward(&self) {
        let results = self.layer.backward(self.inputs(), &self.y, &self.dy, [true; 4]);
        results.into_iter().flatten().for_each(buffer_pool::give);
    }

    /// Computes one gemm of as many operations, with the layer's own numbers of inputs and outputs.
    pub fn gemm(&self) {
        let [m, k, n] = self.gemm_size;
        let mut result = buffer_pool::take(m * n);
        // Both factors are the same values, whatever they are.
        let factors = buffer_pool::take(m.max(n) * k);
        Isa::widest().run(GemmTask {
            size: self.gemm_size,
            a: LeftMatrix::row_major(&factors, k),
            b: &factors,
            c: &mut result,
        });
        buffer_pool::give(result);
        buffer_pool::give(factors);
    }

    fn inputs(&self) -> OpInputs<'_> {
        self.inputs.each_ref().map(Vec::as_slice)
    }
}

/// A row of the table of layers.
struct Row {
    name: &'static str,
    /// Rows and columns of the input, which is square.
    side: usize,
    inputs: usize,
    outputs: usize,
    /// Multiply-adds for each image and each pair of an input and an output channel.
    products: usize,
}

impl Row {
    /// A layer of the table: `size` is side, inputs and outputs.
    fn new(name: &'static str, size: [usize; 3], products: usize) -> Self {
        let [side, inputs, outputs] = size;
        Self { name, side, inputs, outputs, products }
    }

    fn conv(self, stride: usize) -> Case {
        self.case(|size, weights| Conv { size, stride, weights })
    }

    fn upsample(self) -> Case {
        self.case(|size, weights| Upsample { size, weights })
    }

    fn conv_to_image(self) -> Case {
        self.case(|size, weights| ConvToImage { size, weights })
    }

    /// Makes the case from a function that makes the operation.
    fn case<W: PackWeights, L: BlockOp + 'static>(
        self,
        op: impl Fn([usize; 2], Arc<W>) -> L,
    ) -> Case {
        let Self { name, side, inputs, outputs, products } = self;
        let weight: Vec<f32> = normals(9 * inputs * outputs).iter().map(|w| w / 24.0).collect();
        let op = op([side; 2], Arc::new(W::pack(&weight, &[outputs, inputs])));
        // The discriminator's first layer reads images, which no batch norm precedes.
        let norm = (inputs > 1).then(|| BatchNorm {
            mean: vec![0.0; inputs],
            variance: vec![1.0; inputs],
            negative_slope: 0.2,
        });
        let channels = if norm.is_some() { inputs } else { 0 };
        // No batch norm follows the generator's last layer.
        let output_sums = (outputs > 1).then(Arc::default);
        let layer = FusedLayer { isa: Isa::widest(), op, norm, images: IMAGES, output_sums };
        let arguments = [
            normals(IMAGES * side * side * inputs),
            vec![1.0; channels],
            vec![0.1; channels],
            weight,
        ];
        let y = layer.forward(arguments.each_ref().map(Vec::as_slice));
        let rows = IMAGES * products;
        Case {
            name,
            operations: (2 * rows * inputs * outputs) as u64,
            layer: Box::new(layer),
            inputs: arguments,
            dy: normals(y.len()),
            y,
            gemm_size: [rows, inputs, outputs.next_multiple_of(LANES)],
        }
    }
}

/// Standard normals, the same at every call.
fn normals(len: usize) -> Vec<f32> {
    RandomStream::new(1, Purpose::Data, 0, 0).normals(len).collect()
}

/// The layers that take the most time, for 32 images.
pub fn cases() -> Vec<Case> {
    vec![
        Row::new("G conv 7x7x32 to 64", [7, 32, 64], 49 * 9).conv(1),
        Row::new("G upsample, conv 7x7x64 to 128", [7, 64, 128], 16 * 25).upsample(),
        Row::new("G upsample, conv 14x14x128 to 64", [14, 128, 64], 49 * 25).upsample(),
        Row::new("G conv 28x28x64 to 1", [28, 64, 1], 784 * 9).conv_to_image(),
        Row::new("D conv 28x28x1 to 32, stride 2", [28, 1, 32], 196 * 9).conv(2),
        Row::new("D conv 14x14x32 to 64, stride 2", [14, 32, 64], 49 * 9).conv(2),
        Row::new("D conv 7x7x64 to 128, stride 2", [7, 64, 128], 16 * 9).conv(2),
    ]
}
