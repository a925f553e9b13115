//! The networks' layers one by one, for benchmarks.

use std::sync::Arc;

use dcgan_core::random::{Purpose, RandomStream};
use pulp::{Simd, WithSimd};

use super::autodiff::{OpInputs, Operation};
use super::conv::Conv;
use super::conv_to_image::ConvToImage;
use super::fused_layer::{BlockOp, FusedLayer};
use super::gemm::{Accumulate, LANES, LeftMatrix, gemm};
use super::isa::Isa;
use super::norm::BatchNorm;
use super::upsample::Upsample;
use super::{PackWeights, buffer_pool};

/// A layer with everything that it is given.
pub struct Case {
    /// As in `upsample 14x14x128 to 64`.
    pub name: &'static str,
    /// Multiplications and additions of its products, on the way there. The way back takes twice as many.
    pub operations: u64,
    layer: Box<dyn Operation>,
    inputs: [Vec<f32>; 4],
    y: Vec<f32>,
    dy: Vec<f32>,
    size: [usize; 3],
}

impl Case {
    /// The result.
    pub fn forward(&self) {
        buffer_pool::give(self.layer.forward(self.inputs()));
    }

    /// All gradients.
    pub fn backward(&self) {
        let results = self.layer.backward(self.inputs(), &self.y, &self.dy, [true; 4]);
        results.into_iter().flatten().for_each(buffer_pool::give);
    }

    /// One matrix product of as many operations, with the layer's own numbers of inputs and outputs.
    pub fn gemm(&self) {
        let [m, k, n] = self.size;
        let mut result = buffer_pool::take(m * n);
        let pattern = buffer_pool::take(m.max(n) * k);
        Isa::widest().run(Product { size: self.size, pattern: &pattern, result: &mut result });
        buffer_pool::give(result);
        buffer_pool::give(pattern);
    }

    fn inputs(&self) -> OpInputs<'_> {
        self.inputs.each_ref().map(Vec::as_slice)
    }
}

struct Product<'a> {
    size: [usize; 3],
    pattern: &'a [f32],
    result: &'a mut [f32],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { size, pattern, result } = self;
        gemm(simd, size, LeftMatrix::rows(pattern, size[1]), pattern, Accumulate::Set, result);
    }
}

const IMAGES: usize = 32;

/// A layer as the table gives it: its name, its side, inputs and outputs, and the products for each pair of those.
struct Row(&'static str, [usize; 3], usize);

impl Row {
    fn case<L: BlockOp + 'static>(self, op: impl Fn(usize, &[f32], &[usize]) -> L) -> Case {
        let Self(name, [side, inputs, outputs], products) = self;
        let random = |len: usize| {
            RandomStream::new(1, Purpose::Data, 0, 0).normals(len).collect::<Vec<f32>>()
        };
        let weight: Vec<f32> = random(9 * inputs * outputs).iter().map(|w| w / 24.0).collect();
        let op = op(side, &weight, &[outputs, inputs]);
        // The discriminator's first layer reads images.
        let norm = (inputs > 1).then(|| BatchNorm {
            mean: vec![0.0; inputs],
            variance: vec![1.0; inputs],
            slope: 0.2,
        });
        let channels = if norm.is_some() { inputs } else { 0 };
        let sums = (outputs > 1).then(Arc::default);
        let layer = FusedLayer { isa: Isa::widest(), op, norm, images: IMAGES, sums };
        let inputs_ = [
            random(IMAGES * side * side * inputs),
            vec![1.0; channels],
            vec![0.1; channels],
            weight,
        ];
        let y = layer.forward(inputs_.each_ref().map(Vec::as_slice));
        let rows = IMAGES * products;
        Case {
            name,
            operations: (2 * rows * inputs * outputs) as u64,
            layer: Box::new(layer),
            inputs: inputs_,
            dy: random(y.len()),
            y,
            size: [rows, inputs, outputs.next_multiple_of(LANES)],
        }
    }
}

/// The layers in which the time goes, for 32 images.
pub fn cases() -> Vec<Case> {
    let conv = |stride| {
        move |side, weight: &[f32], shape: &[usize]| Conv {
            size: [side; 2],
            stride,
            weights: Arc::new(PackWeights::prepare(weight, shape)),
        }
    };
    let upsample = |side, weight: &[f32], shape: &[usize]| Upsample {
        size: [side; 2],
        weights: Arc::new(PackWeights::prepare(weight, shape)),
    };
    let conv_to_image = |side, weight: &[f32], shape: &[usize]| ConvToImage {
        size: [side; 2],
        weights: Arc::new(PackWeights::prepare(weight, shape)),
    };
    vec![
        Row("G conv 7x7x32 to 64", [7, 32, 64], 49 * 9).case(conv(1)),
        Row("G upsample, conv 7x7x64 to 128", [7, 64, 128], 16 * 25).case(upsample),
        Row("G upsample, conv 14x14x128 to 64", [14, 128, 64], 49 * 25).case(upsample),
        Row("G conv 28x28x64 to 1", [28, 64, 1], 784 * 9).case(conv_to_image),
        Row("D conv 28x28x1 to 32, stride 2", [28, 1, 32], 196 * 9).case(conv(2)),
        Row("D conv 14x14x32 to 64, stride 2", [14, 32, 64], 49 * 9).case(conv(2)),
        Row("D conv 7x7x64 to 128, stride 2", [7, 64, 128], 16 * 9).case(conv(2)),
    ]
}
