//! Nearest upsampling by two and a 3 x 3 convolution, in 25 products for each 2 x 2 pixels before upsampling.
//!
//! The direct form takes 144 for the sixteen pixels after it. In one dimension, take four pixels a, b, c, d and taps g0,
//! g1, g2. The four outputs above b and c are
//!
//! ```text
//! e0 = g0 a + (g1+g2) b     o0 = (g0+g1) b + g2 c     e1 = g0 b + (g1+g2) c     o1 = (g0+g1) c + g2 d
//! ```
//!
//! two filters of two taps, (g0, g1+g2) and (g0+g1, g2). Toom-Cook evaluates the first at 0, 1, -1 and the second at 1,
//! -1, infinity; at 1 both give the same product, so five are enough:
//!
//! ```text
//! p0 = (g0+g1+g2)/2 (b+c)   p1 = (g1+g2-g0)/2 (b-c)   p2 = g0 (a-c)   p3 = (g0+g1-g2)/2 (b-c)   p4 = g2 (d-b)
//! e0 = p0+p1+p2             o0 = p0+p3                e1 = p0-p1      o1 = p0-p3+p4
//! ```
//!
//! In two dimensions the same holds along rows and columns: five by five products of matrices `[tiles, inputs]` and
//! `[inputs, outputs]`. The operation is op in the maps and in the weights, so the gradients are the same products
//! with every transformation transposed. All constants are 1 and 1/2: it is as exact as the direct form.

use std::sync::Arc;

use pulp::Simd;

use super::PackWeights;
use super::buffer_pool;
use super::fused_layer::{BlockOp, GradientTargets, PaddedShape};
use super::gemm::{Accumulate, LeftMatrix, gemm};
use super::kernel_layout::{taps_first, taps_last};

/// The transformed input of each of five products.
const SHARED: [usize; 5] = [0, 1, 2, 1, 3];

/// The 25 products: the number of the transformed input of each.
fn products() -> impl Iterator<Item = (usize, usize)> {
    (0..25).map(|p| (p, 4 * SHARED[p / 5] + SHARED[p % 5]))
}

/// Tiles of a product that make it efficient.
const TILES: usize = 64;

/// The combinations of a kernel's taps, row combination slowest.
const TAPS: [[f32; 3]; 5] =
    [[0.5, 0.5, 0.5], [-0.5, 0.5, 0.5], [1.0, 0.0, 0.0], [0.5, 0.5, -0.5], [0.0, 0.0, 1.0]];

/// A convolution's weights `[outputs, inputs, 3, 3]`, as products need them.
#[derive(Debug)]
pub(crate) struct UpsampleWeights {
    inputs: usize,
    outputs: usize,
    /// `[25, inputs, outputs]`
    forward: Vec<f32>,
    /// `[25, outputs, inputs]`
    backward: Vec<f32>,
}

impl PackWeights for UpsampleWeights {
    fn prepare(values: &[f32], shape: &[usize]) -> Self {
        let (outputs, inputs) = (shape[0], shape[1]);
        // `[9, inputs, outputs]`, and the same with inputs last.
        let forward = taps_first(values, outputs, inputs);
        let mut backward = vec![0.0; values.len()];
        let planes =
            forward.chunks_exact(inputs * outputs).zip(backward.chunks_exact_mut(inputs * outputs));
        planes.for_each(|(from, to)| transpose(from, outputs, to));
        let [forward, backward] = [forward, backward].map(|taps| combine(&taps));
        Self { inputs, outputs, forward, backward }
    }
}

/// Upsampling and convolution of images of a size.
#[derive(Debug)]
pub(crate) struct Upsample {
    pub(crate) size: [usize; 2],
    pub(crate) weights: Arc<UpsampleWeights>,
}

impl Upsample {
    /// Rows and columns of tiles.
    fn tiles(&self) -> [usize; 2] {
        self.size.map(|size| size.div_ceil(2))
    }

    /// The inputs of all tiles, transformed: `[4 x 4, tiles, inputs]`.
    #[inline(always)]
    fn transform<S: Simd>(&self, simd: S, images: usize, x: &[f32]) -> Vec<f32> {
        let (places, count) = self.places(images);
        let inputs = self.weights.inputs;
        let width = self.frame().padded[1];
        let mut u = buffer_pool::take(16 * count * inputs);
        let vectors = inputs / S::F32_LANES;
        let (x, to) = (S::as_simd_f32s(x).0, S::as_mut_simd_f32s(&mut u).0);
        let zero = simd.splat_f32s(0.0);
        for (tile, (pixel, ..)) in places.enumerate() {
            for v in 0..vectors {
                let mut d = [[zero; 4]; 4];
                for (i, d) in d.iter_mut().enumerate() {
                    let row = (pixel + i * width) * vectors + v;
                    *d = to_products(
                        simd,
                        [x[row], x[row + vectors], x[row + 2 * vectors], x[row + 3 * vectors]],
                    );
                }
                for j in 0..4 {
                    let column = to_products(simd, [d[0][j], d[1][j], d[2][j], d[3][j]]);
                    for (i, column) in column.into_iter().enumerate() {
                        to[((4 * i + j) * count + tile) * vectors + v] = column;
                    }
                }
            }
        }
        u
    }

    /// For each tile its first pixel in the padded images, its image, and its row and column of tiles; and their number.
    fn places(&self, images: usize) -> (impl Iterator<Item = (usize, usize, [usize; 2])>, usize) {
        let [rows, columns] = self.tiles();
        let [height, width] = self.frame().padded;
        let count = rows * columns * images;
        let device = move |tile: usize| {
            let (image, row, column) =
                (tile / (rows * columns), tile / columns % rows, tile % columns);
            ((image * height + 2 * row) * width + 2 * column, image, [row, column])
        };
        ((0..count).map(device), count)
    }
}

/// Four pixels to what is multiplied.
#[inline(always)]
fn to_products<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; 4]) -> [S::f32s; 4] {
    [simd.add_f32s(b, c), simd.sub_f32s(b, c), simd.sub_f32s(a, c), simd.sub_f32s(d, b)]
}

/// The transpose of [`to_products`].
#[inline(always)]
fn from_products<S: Simd>(simd: S, [p, q, r, s]: [S::f32s; 4]) -> [S::f32s; 4] {
    let (sum, difference) = (simd.add_f32s(p, q), simd.sub_f32s(p, q));
    [r, simd.sub_f32s(sum, s), simd.sub_f32s(difference, r), s]
}

/// Five products to four outputs.
#[inline(always)]
fn to_outputs<S: Simd>(simd: S, [p0, p1, p2, p3, p4]: [S::f32s; 5]) -> [S::f32s; 4] {
    let e0 = simd.add_f32s(simd.add_f32s(p0, p1), p2);
    let o1 = simd.add_f32s(simd.sub_f32s(p0, p3), p4);
    [e0, simd.add_f32s(p0, p3), simd.sub_f32s(p0, p1), o1]
}

/// The transpose of [`to_outputs`].
#[inline(always)]
fn from_outputs<S: Simd>(simd: S, [e0, o0, e1, o1]: [S::f32s; 4]) -> [S::f32s; 5] {
    let all = simd.add_f32s(simd.add_f32s(e0, o0), simd.add_f32s(e1, o1));
    [all, simd.sub_f32s(e0, e1), e0, simd.sub_f32s(o0, o1), o1]
}

impl BlockOp for Upsample {
    fn frame(&self) -> PaddedShape {
        let padded = self.tiles().map(|tiles| 2 * tiles + 2);
        PaddedShape { size: self.size, channels: self.weights.inputs, before: 1, padded }
    }

    fn output(&self) -> [usize; 3] {
        let [rows, columns] = self.size;
        [2 * rows, 2 * columns, self.weights.outputs]
    }

    fn block(&self) -> usize {
        let [rows, columns] = self.tiles();
        (TILES / (rows * columns)).max(1)
    }

    fn gradient_len(&self) -> usize {
        self.weights.forward.len()
    }

    #[inline(always)]
    fn forward<S: Simd>(&self, simd: S, images: usize, x: &[f32], y: &mut [f32]) {
        let UpsampleWeights { inputs, outputs, ref forward, .. } = *self.weights;
        let u = self.transform(simd, images, x);
        let (places, count) = self.places(images);
        let mut results = buffer_pool::take(25 * count * outputs);
        for ((p, shared), result) in products().zip(results.chunks_exact_mut(count * outputs)) {
            let left = LeftMatrix::rows(&u[shared * count * inputs..], inputs);
            gemm(
                simd,
                [count, inputs, outputs],
                left,
                &forward[p * inputs * outputs..],
                Accumulate::Set,
                result,
            );
        }
        let vectors = outputs / S::F32_LANES;
        let (from, to) = (S::as_simd_f32s(&results).0, S::as_mut_simd_f32s(y).0);
        let [height, width, _] = self.output();
        let zero = simd.splat_f32s(0.0);
        for (tile, (_, image, [row, column])) in places.enumerate() {
            let inside = [height - 4 * row, width - 4 * column];
            for v in 0..vectors {
                let mut m = [[zero; 4]; 5];
                for (i, m) in m.iter_mut().enumerate() {
                    let at = |j: usize| ((5 * i + j) * count + tile) * vectors + v;
                    *m = to_outputs(
                        simd,
                        [from[at(0)], from[at(1)], from[at(2)], from[at(3)], from[at(4)]],
                    );
                }
                for j in 0..4 {
                    let outputs = to_outputs(simd, [m[0][j], m[1][j], m[2][j], m[3][j], m[4][j]]);
                    for (i, output) in outputs.into_iter().enumerate() {
                        if i < inside[0] && j < inside[1] {
                            to[((image * height + 4 * row + i) * width + 4 * column + j)
                                * vectors
                                + v] = output;
                        }
                    }
                }
            }
        }
        buffer_pool::give(u);
        buffer_pool::give(results);
    }

    #[inline(always)]
    fn backward<S: Simd>(
        &self,
        simd: S,
        images: usize,
        x: &[f32],
        dy: &[f32],
        GradientTargets { dx, dw }: GradientTargets<'_>,
    ) {
        let UpsampleWeights { inputs, outputs, ref backward, .. } = *self.weights;
        let (places, count) = self.places(images);
        let mut gradients = buffer_pool::take(25 * count * outputs);
        let vectors = outputs / S::F32_LANES;
        let (from, to) = (S::as_simd_f32s(dy).0, S::as_mut_simd_f32s(&mut gradients).0);
        let [height, width, _] = self.output();
        let zero = simd.splat_f32s(0.0);
        for (tile, (_, image, [row, column])) in places.enumerate() {
            let inside = [height - 4 * row, width - 4 * column];
            for v in 0..vectors {
                let mut d = [[zero; 5]; 4];
                for (i, d) in d.iter_mut().enumerate() {
                    let mut outputs = [zero; 4];
                    for (j, output) in outputs.iter_mut().enumerate() {
                        if i < inside[0] && j < inside[1] {
                            *output =
                                from[((image * height + 4 * row + i) * width + 4 * column + j)
                                    * vectors
                                    + v];
                        }
                    }
                    *d = from_outputs(simd, outputs);
                }
                for j in 0..5 {
                    let column = from_outputs(simd, [d[0][j], d[1][j], d[2][j], d[3][j]]);
                    for (i, column) in column.into_iter().enumerate() {
                        to[((5 * i + j) * count + tile) * vectors + v] = column;
                    }
                }
            }
        }
        if let Some(dw) = dw {
            let u = self.transform(simd, images, x);
            for ((p, shared), dw) in products().zip(dw.chunks_exact_mut(inputs * outputs)) {
                let left = LeftMatrix::transposed(&u[shared * count * inputs..], inputs);
                let gradients = &gradients[p * count * outputs..];
                gemm(simd, [inputs, count, outputs], left, gradients, Accumulate::Add, dw);
            }
            buffer_pool::give(u);
        }
        if let Some(dx) = dx {
            let mut du = buffer_pool::take(16 * count * inputs);
            let mut seen = [false; 16];
            for (p, shared) in products() {
                let left = LeftMatrix::rows(&gradients[p * count * outputs..], outputs);
                let update = if std::mem::replace(&mut seen[shared], true) {
                    Accumulate::Add
                } else {
                    Accumulate::Set
                };
                let result = &mut du[shared * count * inputs..][..count * inputs];
                gemm(
                    simd,
                    [count, outputs, inputs],
                    left,
                    &backward[p * inputs * outputs..],
                    update,
                    result,
                );
            }
            let vectors = inputs / S::F32_LANES;
            let width = self.frame().padded[1];
            let (from, to) = (S::as_simd_f32s(&du).0, S::as_mut_simd_f32s(dx).0);
            for (tile, (pixel, ..)) in self.places(images).0.enumerate() {
                for v in 0..vectors {
                    let mut d = [[zero; 4]; 4];
                    for (i, d) in d.iter_mut().enumerate() {
                        let at = |j: usize| ((4 * i + j) * count + tile) * vectors + v;
                        *d = from_products(
                            simd,
                            [from[at(0)], from[at(1)], from[at(2)], from[at(3)]],
                        );
                    }
                    for j in 0..4 {
                        let column = from_products(simd, [d[0][j], d[1][j], d[2][j], d[3][j]]);
                        for (i, column) in column.into_iter().enumerate() {
                            let to = &mut to[(pixel + i * width + j) * vectors + v];
                            *to = simd.add_f32s(*to, column);
                        }
                    }
                }
            }
            buffer_pool::give(du);
        }
        buffer_pool::give(gradients);
    }

    fn weight_gradient(&self, sum: &[f32]) -> Vec<f32> {
        taps_last(&uncombine(sum), self.weights.outputs, self.weights.inputs)
    }
}

/// A matrix with rows of `width`, transposed.
fn transpose(from: &[f32], width: usize, to: &mut [f32]) {
    let height = from.len() / width;
    for (row, from) in from.chunks_exact(width).enumerate() {
        from.iter().enumerate().for_each(|(column, value)| to[column * height + row] = *value);
    }
}

/// Nine planes of taps to the 25 planes that are multiplied: rows first, then columns.
fn combine(taps: &[f32]) -> Vec<f32> {
    let plane = taps.len() / 9;
    let mut rows = vec![0.0; 3 * plane];
    let mut all = vec![0.0; 25 * plane];
    let mix = |[p, q, r]: [f32; 3], from: &[f32], to: &mut [f32]| {
        let (a, rest) = from.split_at(to.len());
        let (b, c) = rest.split_at(to.len());
        for (((to, a), b), c) in to.iter_mut().zip(a).zip(b).zip(c) {
            *to = p * a + q * b + r * c;
        }
    };
    for (row, all) in TAPS.into_iter().zip(all.chunks_exact_mut(5 * plane)) {
        mix(row, taps, &mut rows);
        for (column, all) in TAPS.into_iter().zip(all.chunks_exact_mut(plane)) {
            mix(column, &rows, all);
        }
    }
    all
}

/// The transpose of [`combine`].
fn uncombine(all: &[f32]) -> Vec<f32> {
    let plane = all.len() / 25;
    let mut rows = vec![0.0; 15 * plane];
    let mut taps = vec![0.0; 9 * plane];
    let mix = |from: &[f32], to: &mut [f32]| {
        let len = to.len() / 3;
        for (tap, to) in to.chunks_exact_mut(len).enumerate() {
            for (combination, from) in from.chunks_exact(len).enumerate() {
                let term = TAPS[combination][tap];
                to.iter_mut().zip(from).for_each(|(to, from)| *to += term * from);
            }
        }
    };
    mix(all, &mut rows);
    for (rows, taps) in rows.chunks_exact(5 * plane).zip(taps.chunks_exact_mut(3 * plane)) {
        mix(rows, taps);
    }
    taps
}
