//! A layer in one pass: batch norm and (leaky) ReLU of its input as a prologue, a linear operation,
//! and the sums for the next batch norm as an epilogue.
//!
//! Maps are kept as the operation before gave them. A normalised copy would be as large again, and
//! writing and reading it would cost more than computing it twice. So each layer normalises its
//! input itself, a few images at a time, into a padded buffer that stays in the cache; backward
//! does it again. The output's statistics are taken while an image is still in the cache.

use std::sync::{Arc, OnceLock};

use pulp::{Simd, WithSimd};

use super::autodiff::{OpInputs, Operation};
use super::buffer_pool;
use super::isa::Isa;
use super::norm::{BatchNorm, BatchNormBackward, ChannelSums, NormCoefficients};

/// How an image `[rows, columns, channels]` lies in the padded input of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PaddedShape {
    /// Rows and columns of the image.
    pub(crate) size: [usize; 2],
    pub(crate) channels: usize,
    /// Zero rows above the image, and as many zero columns to its left.
    pub(crate) pad_before: usize,
    /// Rows and columns with the padding.
    pub(crate) padded_size: [usize; 2],
}

impl PaddedShape {
    /// Elements of an image.
    pub(crate) fn len(&self) -> usize {
        self.size[0] * self.row_len()
    }

    /// Elements of a padded image.
    pub(crate) fn padded_len(&self) -> usize {
        self.padded_size[0] * self.padded_size[1] * self.channels
    }

    /// Elements of an image's row.
    fn row_len(&self) -> usize {
        self.size[1] * self.channels
    }

    /// The offsets of an image's rows in the padded image.
    fn row_offsets(&self) -> impl Iterator<Item = usize> {
        let Self { size, channels, pad_before, padded_size } = *self;
        (0..size[0]).map(move |row| ((row + pad_before) * padded_size[1] + pad_before) * channels)
    }
}

/// An operation on blocks of images that is linear in the maps and in the weights, with its
/// gradients.
pub(crate) trait BlockOp: std::fmt::Debug + Send + Sync {
    /// The shape of an input image.
    fn input_shape(&self) -> PaddedShape;

    /// The shape of an output image, `[rows, columns, channels]`.
    fn output_shape(&self) -> [usize; 3];

    /// Images that are computed at once: few, to stay in the cache. It decides where sums over
    /// images are cut, so it depends on shapes alone; otherwise results would change their last
    /// bits.
    fn images_per_block(&self) -> usize;

    /// Elements of the weight gradient that [`BlockOp::backward`] adds to.
    fn packed_gradient_len(&self) -> usize;

    /// Computes `y` `[images, rows, columns, channels]` of [`BlockOp::output_shape`] from padded
    /// inputs `x` of [`BlockOp::input_shape`].
    fn forward<S: Simd>(&self, simd: S, images: usize, x: &[f32], y: &mut [f32]);

    /// Adds, to each of `targets`, the gradient of the loss with respect to it. `dy` is the
    /// gradient with respect to the output, in the output's shape; `x` are the padded inputs, which
    /// only the weight gradient needs.
    fn backward<S: Simd>(
        &self,
        simd: S,
        images: usize,
        x: &[f32],
        dy: &[f32],
        targets: GradientTargets<'_>,
    );

    /// Brings a weight gradient from the layout of [`GradientTargets::dw`] to that of the state.
    fn unpack_weight_gradient(&self, packed: &[f32]) -> Vec<f32>;
}

/// The gradients that are asked for; [`BlockOp::backward`] adds to them.
pub(crate) struct GradientTargets<'a> {
    /// With respect to the padded inputs, in their shape.
    pub(crate) dx: Option<&'a mut [f32]>,
    /// With respect to the weights, in the operation's own layout.
    pub(crate) dw: Option<&'a mut [f32]>,
}

/// A fused layer for a number of images.
#[derive(Debug)]
pub(crate) struct FusedLayer<L> {
    pub(crate) isa: Isa,
    pub(crate) op: L,
    /// The prologue. None if the input is used as it is.
    pub(crate) norm: Option<BatchNorm>,
    pub(crate) images: usize,
    /// The epilogue: where forward leaves the sums over the output's channels. None if no batch
    /// norm follows.
    pub(crate) output_sums: Option<Arc<OnceLock<ChannelSums>>>,
}

impl<L: BlockOp> FusedLayer<L> {
    /// Normalises the images `[images, rows, columns, channels]` of a block into the padded buffer.
    /// Its padding stays as it is, zero.
    #[inline(always)]
    fn pad_block<S: Simd>(
        &self,
        simd: S,
        images: &[f32],
        coefficients: Option<&NormCoefficients>,
        padded: &mut [f32],
    ) {
        let shape = self.op.input_shape();
        let row_len = shape.row_len();
        for (image, padded) in
            images.chunks_exact(shape.len()).zip(padded.chunks_exact_mut(shape.padded_len()))
        {
            for (row, start) in image.chunks_exact(row_len).zip(shape.row_offsets()) {
                let to = &mut padded[start..start + row_len];
                match (&self.norm, coefficients) {
                    (Some(norm), Some(coefficients)) => norm.apply(simd, coefficients, row, to),
                    _ => to.copy_from_slice(row),
                }
            }
        }
    }

    /// Turns a block's gradient with respect to the padded inputs, `d_padded`, into `dx`: without
    /// the padding, and taken back through the activation if there is a prologue. `x` and `dx` are
    /// `[images, rows, columns, channels]`.
    #[inline(always)]
    fn unpad_gradient<S: Simd>(
        &self,
        simd: S,
        x: &[f32],
        d_padded: &[f32],
        dx: &mut [f32],
        norm: &mut Option<BatchNormBackward<'_>>,
    ) {
        let shape = self.op.input_shape();
        let row_len = shape.row_len();
        let images = x.chunks_exact(shape.len()).zip(dx.chunks_exact_mut(shape.len()));
        for ((x, dx), d_padded) in images.zip(d_padded.chunks_exact(shape.padded_len())) {
            let rows = x.chunks_exact(row_len).zip(dx.chunks_exact_mut(row_len));
            for ((x, dx), start) in rows.zip(shape.row_offsets()) {
                let dy = &d_padded[start..start + row_len];
                match norm {
                    Some(norm) => norm.add_row(simd, x, dy, dx),
                    None => dx.copy_from_slice(dy),
                }
            }
            if let Some(norm) = norm {
                norm.end_image();
            }
        }
    }
}

/// The forward pass of a layer.
struct Forward<'a, L>(&'a FusedLayer<L>, OpInputs<'a>);

impl<L: BlockOp> WithSimd for Forward<'_, L> {
    /// The output, `[images, rows, columns, channels]`.
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self(layer, [x, scale, shift, _]) = self;
        let FusedLayer { op, images, .. } = layer;
        let (shape, out) = (op.input_shape(), op.output_shape());
        let (block_images, out_len) = (op.images_per_block(), out.iter().product::<usize>());
        let coefficients = layer.norm.as_ref().map(|norm| norm.coefficients(scale, shift));
        let mut sums = ChannelSums::new(out[2]);
        // Zeros once: blocks write the inside only, so the padding stays zero.
        let mut padded = buffer_pool::zeros(block_images * shape.padded_len());
        let mut y = buffer_pool::take(images * out_len);
        let blocks = x.chunks(block_images * shape.len()).zip(y.chunks_mut(block_images * out_len));
        for (x, y) in blocks {
            layer.pad_block(simd, x, coefficients.as_ref(), &mut padded);
            op.forward(simd, y.len() / out_len, &padded, y);
            if layer.output_sums.is_some() {
                y.chunks_exact(out_len).for_each(|image| sums.add_image(simd, image));
            }
        }
        buffer_pool::give(padded);
        if let Some(slot) = &layer.output_sums {
            slot.get_or_init(|| sums);
        }
        y
    }
}

/// The backward pass of a layer.
struct Backward<'a, L> {
    layer: &'a FusedLayer<L>,
    inputs: OpInputs<'a>,
    /// The gradient with respect to the output.
    dy: &'a [f32],
    /// The inputs whose gradients are asked for.
    needs_gradient: [bool; 4],
}

impl<L: BlockOp> WithSimd for Backward<'_, L> {
    /// The gradients with respect to the inputs.
    type Output = [Option<Vec<f32>>; 4];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self { layer, inputs: [x, scale, shift, _], dy, needs_gradient } = self;
        let [needs_x, needs_scale, needs_shift, needs_weights] = needs_gradient;
        let op = &layer.op;
        let (shape, out_len) = (op.input_shape(), op.output_shape().iter().product::<usize>());
        let block_images = op.images_per_block();
        let block_len = block_images * shape.len();
        // The gradients of scale and shift are sums of the gradient with respect to the normalised
        // maps, so they need it as well.
        let needs_input = needs_x || needs_scale || needs_shift;

        let coefficients = layer.norm.as_ref().map(|norm| norm.coefficients(scale, shift));
        let mut norm = match (&layer.norm, &coefficients) {
            (Some(norm), Some(coefficients)) => Some(norm.backward(coefficients)),
            _ => None,
        };
        let mut padded = buffer_pool::zeros(block_images * shape.padded_len());
        let mut d_padded = buffer_pool::take(block_images * shape.padded_len());
        let mut dw = needs_weights.then(|| buffer_pool::zeros(op.packed_gradient_len()));
        let mut dx = buffer_pool::take(if needs_input { x.len() } else { 0 });

        for ((index, x), dy) in
            x.chunks(block_len).enumerate().zip(dy.chunks(block_images * out_len))
        {
            // Normalise the block again: only the weight gradient reads it.
            if needs_weights {
                layer.pad_block(simd, x, coefficients.as_ref(), &mut padded);
            }
            if needs_input {
                d_padded.fill(0.0);
            }
            let targets = GradientTargets {
                dx: needs_input.then_some(&mut d_padded[..]),
                dw: dw.as_deref_mut(),
            };
            op.backward(simd, dy.len() / out_len, &padded, dy, targets);
            if needs_input {
                let dx = &mut dx[index * block_len..][..x.len()];
                layer.unpad_gradient(simd, x, &d_padded, dx, &mut norm);
            }
        }
        buffer_pool::give(padded);
        buffer_pool::give(d_padded);

        // A batch norm's input gradient depends on sums over all images, so it comes last.
        let (d_scale, d_shift) = match norm {
            Some(norm) => {
                let (d_scale, d_shift) = norm.finish(simd, x, &mut dx);
                (Some(d_scale), Some(d_shift))
            }
            None => (None, None),
        };
        let d_weights = dw.map(|packed| {
            let gradient = op.unpack_weight_gradient(&packed);
            buffer_pool::give(packed);
            gradient
        });
        [
            needs_x.then_some(dx),
            d_scale.filter(|_| needs_scale),
            d_shift.filter(|_| needs_shift),
            d_weights,
        ]
    }
}

impl<L: BlockOp + 'static> Operation for FusedLayer<L> {
    fn shape(&self) -> Vec<usize> {
        let [rows, columns, channels] = self.op.output_shape();
        vec![self.images, rows, columns, channels]
    }

    fn forward(&self, inputs: OpInputs<'_>) -> Vec<f32> {
        self.isa.run(Forward(self, inputs))
    }

    fn backward(
        &self,
        inputs: OpInputs<'_>,
        _: &[f32],
        dy: &[f32],
        needs_gradient: [bool; 4],
    ) -> [Option<Vec<f32>>; 4] {
        self.isa.run(Backward { layer: self, inputs, dy, needs_gradient })
    }
}
