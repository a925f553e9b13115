//! A layer: what came out of the layer before is normalised, passes a (leaky) ReLU, and is mapped linearly.
//!
//! The maps between two layers are kept as they come out of the op map. Normalising is left to whoever reads them,
//! a few images at a time, and done again on the way back: that is cheaper than keeping a normalised copy, and the
//! statistics are taken while an image is still in the cache.

use std::sync::{Arc, OnceLock};

use pulp::{Simd, WithSimd};

use super::autodiff::{OpInputs, Operation};
use super::buffer_pool;
use super::isa::Isa;
use super::norm::{BatchNorm, Sums};

/// How an image lies in the padded input of a op map: `[rows, columns, channels]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PaddedShape {
    pub(crate) size: [usize; 2],
    pub(crate) channels: usize,
    /// Rows and columns before the image.
    pub(crate) before: usize,
    /// Rows and columns with the padding.
    pub(crate) padded: [usize; 2],
}

impl PaddedShape {
    /// Elements of an image.
    pub(crate) fn len(&self) -> usize {
        self.size[0] * self.size[1] * self.channels
    }

    /// Elements of a padded image.
    pub(crate) fn padded_len(&self) -> usize {
        self.padded[0] * self.padded[1] * self.channels
    }

    /// Where the rows of an image lie in the padded input.
    fn rows(&self) -> impl Iterator<Item = usize> {
        let Self { size, channels, before, padded } = *self;
        (0..size[0]).map(move |row| ((row + before) * padded[1] + before) * channels)
    }
}

/// A op map of single images, and its gradients.
pub(crate) trait BlockOp: std::fmt::Debug + Send + Sync {
    /// Its input.
    fn frame(&self) -> PaddedShape;

    /// The shape of an image's output, `[rows, columns, channels]`.
    fn output(&self) -> [usize; 3];

    /// How many images are mapped at once: few, to stay in the cache, and always as many, since this decides where sums
    /// over images are cut.
    fn block(&self) -> usize;

    /// Elements of the gradient that [`BlockOp::backward`] adds up.
    fn gradient_len(&self) -> usize;

    /// FeatureMaps `images` padded inputs.
    fn forward<S: Simd>(&self, simd: S, images: usize, x: &[f32], y: &mut [f32]);

    /// Adds the gradients by the padded inputs and by the weights to what they are, where they are wanted.
    fn backward<S: Simd>(
        &self,
        simd: S,
        images: usize,
        x: &[f32],
        dy: &[f32],
        wanted: GradientTargets<'_>,
    );

    /// The gradient by the weights as the state knows them.
    fn weight_gradient(&self, sum: &[f32]) -> Vec<f32>;
}

/// Where a op map adds gradients.
pub(crate) struct GradientTargets<'a> {
    /// By the padded inputs.
    pub(crate) dx: Option<&'a mut [f32]>,
    /// By the weights.
    pub(crate) dw: Option<&'a mut [f32]>,
}

/// A layer for a number of images.
#[derive(Debug)]
pub(crate) struct FusedLayer<L> {
    pub(crate) isa: Isa,
    pub(crate) op: L,
    pub(crate) norm: Option<BatchNorm>,
    pub(crate) images: usize,
    /// Sums over the output's channels, if it is to be normalised.
    pub(crate) sums: Option<Arc<OnceLock<Sums>>>,
}

impl<L: BlockOp> FusedLayer<L> {
    /// The images of a block, padded.
    #[inline(always)]
    fn stage<S: Simd>(
        &self,
        simd: S,
        block: &[f32],
        norm: Option<&[Vec<f32>; 3]>,
        padded: &mut [f32],
    ) {
        let frame = self.op.frame();
        let width = frame.size[1] * frame.channels;
        for (image, padded) in
            block.chunks_exact(frame.len()).zip(padded.chunks_exact_mut(frame.padded_len()))
        {
            for (row, start) in image.chunks_exact(width).zip(frame.rows()) {
                let to = &mut padded[start..start + width];
                match (&self.norm, norm) {
                    (Some(norm), Some(terms)) => norm.apply(simd, terms, row, to),
                    _ => to.copy_from_slice(row),
                }
            }
        }
    }
}

struct Forward<'a, L>(&'a FusedLayer<L>, OpInputs<'a>);

impl<L: BlockOp> WithSimd for Forward<'_, L> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self(layer, [x, scale, shift, _]) = self;
        let FusedLayer { op, images, .. } = layer;
        let (frame, out) = (op.frame(), op.output());
        let out_len = out.iter().product::<usize>();
        let terms = layer.norm.as_ref().map(|norm| norm.terms(scale, shift));
        let mut sums = Sums::new(out[2]);
        let mut padded = buffer_pool::zeros(op.block() * frame.padded_len());
        let mut y = buffer_pool::take(images * out_len);
        let blocks = x.chunks(op.block() * frame.len()).zip(y.chunks_mut(op.block() * out_len));
        for (x, y) in blocks {
            layer.stage(simd, x, terms.as_ref(), &mut padded);
            op.forward(simd, y.len() / out_len, &padded, y);
            if layer.sums.is_some() {
                y.chunks_exact(out_len).for_each(|image| sums.add(simd, image));
            }
        }
        buffer_pool::give(padded);
        if let Some(slot) = &layer.sums {
            slot.get_or_init(|| sums);
        }
        y
    }
}

struct Backward<'a, L> {
    layer: &'a FusedLayer<L>,
    inputs: OpInputs<'a>,
    dy: &'a [f32],
    wanted: [bool; 4],
}

impl<L: BlockOp> WithSimd for Backward<'_, L> {
    type Output = [Option<Vec<f32>>; 4];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self {
            layer,
            inputs: [x, scale, shift, _],
            dy,
            wanted: [by_x, by_scale, by_shift, by_weight],
        } = self;
        let FusedLayer { op, .. } = layer;
        let frame = op.frame();
        let out_len = op.output().iter().product::<usize>();
        let by_input = by_x || by_scale || by_shift;
        let terms = layer.norm.as_ref().map(|norm| norm.terms(scale, shift));
        let mut gradients =
            layer.norm.as_ref().map(|norm| norm.gradients(terms.as_ref().expect("as above")));
        let width = frame.size[1] * frame.channels;
        let mut padded = buffer_pool::zeros(op.block() * frame.padded_len());
        let mut d_padded = buffer_pool::take(op.block() * frame.padded_len());
        let mut dw = by_weight.then(|| buffer_pool::zeros(op.gradient_len()));
        let mut dx = buffer_pool::take(if by_input { x.len() } else { 0 });
        let block = op.block() * frame.len();
        for ((index, x), dy) in x.chunks(block).enumerate().zip(dy.chunks(op.block() * out_len)) {
            if by_weight {
                layer.stage(simd, x, terms.as_ref(), &mut padded);
            }
            if by_input {
                d_padded.fill(0.0);
            }
            let wanted = GradientTargets {
                dx: by_input.then_some(&mut d_padded[..]),
                dw: dw.as_deref_mut(),
            };
            op.backward(simd, dy.len() / out_len, &padded, dy, wanted);
            if by_input {
                let dx = &mut dx[index * block..][..x.len()];
                let images = x.chunks_exact(frame.len()).zip(dx.chunks_exact_mut(frame.len()));
                for ((x, dx), padded) in images.zip(d_padded.chunks_exact(frame.padded_len())) {
                    let rows = x.chunks_exact(width).zip(dx.chunks_exact_mut(width));
                    for ((x, dx), start) in rows.zip(frame.rows()) {
                        let dy = &padded[start..start + width];
                        match &mut gradients {
                            Some(gradients) => gradients.add(simd, x, dy, dx),
                            None => dx.copy_from_slice(dy),
                        }
                    }
                    gradients.iter_mut().for_each(|gradients| gradients.end_image());
                }
            }
        }
        buffer_pool::give(padded);
        buffer_pool::give(d_padded);
        let (by_scales, by_shifts) = gradients
            .map(|gradients| gradients.finish(simd, x, &mut dx))
            .map_or((None, None), |(by_scales, by_shifts)| (Some(by_scales), Some(by_shifts)));
        let by_weights = dw.map(|dw| {
            let gradient = op.weight_gradient(&dw);
            buffer_pool::give(dw);
            gradient
        });
        [
            by_x.then_some(dx),
            by_scales.filter(|_| by_scale),
            by_shifts.filter(|_| by_shift),
            by_weights,
        ]
    }
}

impl<L: BlockOp + 'static> Operation for FusedLayer<L> {
    fn shape(&self) -> Vec<usize> {
        let [rows, columns, channels] = self.op.output();
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
        wanted: [bool; 4],
    ) -> [Option<Vec<f32>>; 4] {
        self.isa.run(Backward { layer: self, inputs, dy, wanted })
    }
}
