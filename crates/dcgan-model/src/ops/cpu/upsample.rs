//! Nearest upsampling by two and a 3 x 3 convolution as one Winograd-like (Toom-Cook) convolution:
//! 25 products for each 2 x 2 pixels before upsampling.
//!
//! The direct form takes 144 for the sixteen pixels after it. In one dimension, take four pixels a,
//! b, c, d and taps g0, g1, g2. Upsampling doubles each pixel; the four outputs at the two copies
//! of b (e0, o0) and of c (e1, o1) are
//!
//! ```text
//! e0 = g0 a + (g1+g2) b     o0 = (g0+g1) b + g2 c
//! e1 = g0 b + (g1+g2) c     o1 = (g0+g1) c + g2 d
//! ```
//!
//! two filters of two taps, (g0, g1+g2) and (g0+g1, g2). Toom-Cook evaluates the first at 0, 1, -1
//! and the second at 1, -1, infinity; at 1 both give the same product, so five are enough:
//!
//! ```text
//! p0 = (g0+g1+g2)/2 (b+c)   p1 = (g1+g2-g0)/2 (b-c)   p2 = g0 (a-c)
//! p3 = (g0+g1-g2)/2 (b-c)   p4 = g2 (d-b)
//!
//! e0 = p0+p1+p2             o0 = p0+p3                e1 = p0-p1      o1 = p0-p3+p4
//! ```
//!
//! In two dimensions the same holds along rows and columns: five by five products, each a gemm of
//! `[tiles, inputs]` and `[inputs, outputs]`. As in Winograd's convolutions there are three
//! transforms: of the kernel (once a step), of the inputs, and of the products to outputs. The
//! operation is linear in the maps and in the weights, so the gradients are the same gemms between
//! the transforms' transposes. All constants are 1 and 1/2, so no rounding comes from them.

use std::sync::Arc;

use pulp::Simd;

use super::PackWeights;
use super::buffer_pool;
use super::fused_layer::{BlockOp, GradientTargets, PaddedShape};
use super::gemm::{Beta, LeftMatrix, gemm};
use super::kernel_layout::{hwio_to_oihw, oihw_to_hwio};

/// The transformed input of each of five products in one dimension: p1 and p3 share `b-c`.
const SHARED_INPUT: [usize; 5] = [0, 1, 2, 1, 3];

/// The 25 products, each with the number (of 16) of its transformed input.
fn products() -> impl Iterator<Item = (usize, usize)> {
    (0..25).map(|p| (p, 4 * SHARED_INPUT[p / 5] + SHARED_INPUT[p % 5]))
}

/// Tiles that make a gemm efficient.
const EFFICIENT_TILES: usize = 64;

/// The kernel transform in one dimension: the factors of g0, g1, g2 in each of the five products.
const KERNEL_TRANSFORM: [[f32; 3]; 5] =
    [[0.5, 0.5, 0.5], [-0.5, 0.5, 0.5], [1.0, 0.0, 0.0], [0.5, 0.5, -0.5], [0.0, 0.0, 1.0]];

/// A convolution's weights `[outputs, inputs, 3, 3]`, transformed and packed for gemm.
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
    fn pack(values: &[f32], shape: &[usize]) -> Self {
        let (outputs, inputs) = (shape[0], shape[1]);
        // `[9, inputs, outputs]`, and the same as `[9, outputs, inputs]`.
        let hwio = oihw_to_hwio(values, outputs, inputs);
        let mut hwoi = vec![0.0; values.len()];
        let plane = inputs * outputs;
        for (from, to) in hwio.chunks_exact(plane).zip(hwoi.chunks_exact_mut(plane)) {
            transpose(from, outputs, to);
        }
        Self {
            inputs,
            outputs,
            forward: transform_kernel(&hwio),
            backward: transform_kernel(&hwoi),
        }
    }
}

/// Upsampling and convolution of images of one size.
#[derive(Debug)]
pub(crate) struct Upsample {
    /// Rows and columns of the input; the output has twice as many.
    pub(crate) size: [usize; 2],
    pub(crate) weights: Arc<UpsampleWeights>,
}

/// Two by two pixels of an input image, four by four of the output.
struct Tile {
    /// The first of the tile's 4 x 4 pixels (two by two and one around them) in the padded images.
    input_pixel: usize,
    /// The first of its 4 x 4 pixels in the output images.
    output_pixel: usize,
    /// Rows and columns from there to the end of the output image. Where they are fewer than four,
    /// the tile sticks out.
    inside: [usize; 2],
}

impl Upsample {
    /// Rows and columns of tiles in an image.
    fn tile_grid(&self) -> [usize; 2] {
        self.size.map(|size| size.div_ceil(2))
    }

    /// The number of tiles of `images` images.
    fn tile_count(&self, images: usize) -> usize {
        let [rows, columns] = self.tile_grid();
        rows * columns * images
    }

    /// The tiles of `images` images, in order.
    fn tiles(&self, images: usize) -> impl Iterator<Item = Tile> {
        let [rows, columns] = self.tile_grid();
        let [padded_height, padded_width] = self.input_shape().padded_size;
        let [height, width, _] = self.output_shape();
        (0..self.tile_count(images)).map(move |tile| {
            let (image, row, column) =
                (tile / (rows * columns), tile / columns % rows, tile % columns);
            Tile {
                input_pixel: (image * padded_height + 2 * row) * padded_width + 2 * column,
                output_pixel: (image * height + 4 * row) * width + 4 * column,
                inside: [height - 4 * row, width - 4 * column],
            }
        })
    }

    /// Transforms padded images `x` to the factors of the products: `[4 x 4, tiles, inputs]`.
    #[inline(always)]
    fn transform_inputs<S: Simd>(&self, simd: S, images: usize, x: &[f32]) -> Vec<f32> {
        let (inputs, count) = (self.weights.inputs, self.tile_count(images));
        let width = self.input_shape().padded_size[1];
        let mut u = buffer_pool::take(16 * count * inputs);
        let vectors = inputs / S::F32_LANES;
        let (x, to) = (S::as_simd_f32s(x).0, S::as_mut_simd_f32s(&mut u).0);
        let zero = simd.splat_f32s(0.0);
        for (tile, Tile { input_pixel, .. }) in self.tiles(images).enumerate() {
            for v in 0..vectors {
                // Along rows, then along columns.
                let mut d = [[zero; 4]; 4];
                for (i, d) in d.iter_mut().enumerate() {
                    let row = (input_pixel + i * width) * vectors + v;
                    *d = input_transform(
                        simd,
                        [x[row], x[row + vectors], x[row + 2 * vectors], x[row + 3 * vectors]],
                    );
                }
                for j in 0..4 {
                    let column = input_transform(simd, [d[0][j], d[1][j], d[2][j], d[3][j]]);
                    for (i, column) in column.into_iter().enumerate() {
                        to[((4 * i + j) * count + tile) * vectors + v] = column;
                    }
                }
            }
        }
        u
    }

    /// Adds the gradient with respect to the padded images, `dx`, from that with respect to the
    /// transformed inputs, `du` `[4 x 4, tiles, inputs]`: the transpose of
    /// [`Upsample::transform_inputs`].
    #[inline(always)]
    fn transform_inputs_transposed<S: Simd>(
        &self,
        simd: S,
        images: usize,
        du: &[f32],
        dx: &mut [f32],
    ) {
        let count = self.tile_count(images);
        let width = self.input_shape().padded_size[1];
        let vectors = self.weights.inputs / S::F32_LANES;
        let (from, to) = (S::as_simd_f32s(du).0, S::as_mut_simd_f32s(dx).0);
        let zero = simd.splat_f32s(0.0);
        for (tile, Tile { input_pixel, .. }) in self.tiles(images).enumerate() {
            for v in 0..vectors {
                let mut d = [[zero; 4]; 4];
                for (i, d) in d.iter_mut().enumerate() {
                    let at = |j: usize| ((4 * i + j) * count + tile) * vectors + v;
                    *d = input_transform_transposed(
                        simd,
                        [from[at(0)], from[at(1)], from[at(2)], from[at(3)]],
                    );
                }
                for j in 0..4 {
                    let column =
                        input_transform_transposed(simd, [d[0][j], d[1][j], d[2][j], d[3][j]]);
                    // Neighbouring tiles overlap, so their gradients add up.
                    for (i, column) in column.into_iter().enumerate() {
                        let to = &mut to[(input_pixel + i * width + j) * vectors + v];
                        *to = simd.add_f32s(*to, column);
                    }
                }
            }
        }
    }

    /// Transforms products `[5 x 5, tiles, outputs]` to images `y` `[images, rows, columns,
    /// outputs]`.
    #[inline(always)]
    fn transform_products<S: Simd>(&self, simd: S, images: usize, products: &[f32], y: &mut [f32]) {
        let count = self.tile_count(images);
        let [_, width, outputs] = self.output_shape();
        let vectors = outputs / S::F32_LANES;
        let (from, to) = (S::as_simd_f32s(products).0, S::as_mut_simd_f32s(y).0);
        let zero = simd.splat_f32s(0.0);
        for (tile, Tile { output_pixel, inside, .. }) in self.tiles(images).enumerate() {
            for v in 0..vectors {
                let mut m = [[zero; 4]; 5];
                for (i, m) in m.iter_mut().enumerate() {
                    let at = |j: usize| ((5 * i + j) * count + tile) * vectors + v;
                    *m = output_transform(
                        simd,
                        [from[at(0)], from[at(1)], from[at(2)], from[at(3)], from[at(4)]],
                    );
                }
                for j in 0..4 {
                    let column =
                        output_transform(simd, [m[0][j], m[1][j], m[2][j], m[3][j], m[4][j]]);
                    for (i, output) in column.into_iter().enumerate() {
                        if i < inside[0] && j < inside[1] {
                            to[(output_pixel + i * width + j) * vectors + v] = output;
                        }
                    }
                }
            }
        }
    }

    /// Transforms the gradient with respect to the output, `dy` `[images, rows, columns, outputs]`,
    /// to that with respect to the products, `[5 x 5, tiles, outputs]`: the transpose of
    /// [`Upsample::transform_products`].
    #[inline(always)]
    fn transform_products_transposed<S: Simd>(
        &self,
        simd: S,
        images: usize,
        dy: &[f32],
    ) -> Vec<f32> {
        let count = self.tile_count(images);
        let [_, width, outputs] = self.output_shape();
        let mut d_products = buffer_pool::take(25 * count * outputs);
        let vectors = outputs / S::F32_LANES;
        let (from, to) = (S::as_simd_f32s(dy).0, S::as_mut_simd_f32s(&mut d_products).0);
        let zero = simd.splat_f32s(0.0);
        for (tile, Tile { output_pixel, inside, .. }) in self.tiles(images).enumerate() {
            for v in 0..vectors {
                let mut d = [[zero; 5]; 4];
                for (i, d) in d.iter_mut().enumerate() {
                    let mut outputs = [zero; 4];
                    for (j, output) in outputs.iter_mut().enumerate() {
                        if i < inside[0] && j < inside[1] {
                            *output = from[(output_pixel + i * width + j) * vectors + v];
                        }
                    }
                    *d = output_transform_transposed(simd, outputs);
                }
                for j in 0..5 {
                    let column =
                        output_transform_transposed(simd, [d[0][j], d[1][j], d[2][j], d[3][j]]);
                    for (i, column) in column.into_iter().enumerate() {
                        to[((5 * i + j) * count + tile) * vectors + v] = column;
                    }
                }
            }
        }
        d_products
    }

    /// Computes the gradient with respect to the transformed inputs, `[4 x 4, tiles, inputs]`, from
    /// that with respect to the products, `[5 x 5, tiles, outputs]`.
    #[inline(always)]
    fn multiply_by_weights_transposed<S: Simd>(
        &self,
        simd: S,
        count: usize,
        d_products: &[f32],
    ) -> Vec<f32> {
        let UpsampleWeights { inputs, outputs, ref backward, .. } = *self.weights;
        let mut du = buffer_pool::take(16 * count * inputs);
        let mut is_written = [false; 16];
        for (p, shared) in products() {
            let left = LeftMatrix::row_major(&d_products[p * count * outputs..], outputs);
            let right = &backward[p * inputs * outputs..];
            // Of the products that share an input, the first overwrites and the others add.
            let beta = if is_written[shared] { Beta::One } else { Beta::Zero };
            is_written[shared] = true;
            let result = &mut du[shared * count * inputs..][..count * inputs];
            gemm(simd, [count, outputs, inputs], left, right, beta, result);
        }
        du
    }
}

/// Four pixels a, b, c, d to the products' factors b+c, b-c, a-c, d-b.
#[inline(always)]
fn input_transform<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; 4]) -> [S::f32s; 4] {
    [simd.add_f32s(b, c), simd.sub_f32s(b, c), simd.sub_f32s(a, c), simd.sub_f32s(d, b)]
}

/// The transpose of [`input_transform`].
#[inline(always)]
fn input_transform_transposed<S: Simd>(simd: S, [p, q, r, s]: [S::f32s; 4]) -> [S::f32s; 4] {
    let (sum, difference) = (simd.add_f32s(p, q), simd.sub_f32s(p, q));
    [r, simd.sub_f32s(sum, s), simd.sub_f32s(difference, r), s]
}

/// Five products to the outputs e0, o0, e1, o1.
#[inline(always)]
fn output_transform<S: Simd>(simd: S, [p0, p1, p2, p3, p4]: [S::f32s; 5]) -> [S::f32s; 4] {
    let e0 = simd.add_f32s(simd.add_f32s(p0, p1), p2);
    let o1 = simd.add_f32s(simd.sub_f32s(p0, p3), p4);
    [e0, simd.add_f32s(p0, p3), simd.sub_f32s(p0, p1), o1]
}

/// The transpose of [`output_transform`].
#[inline(always)]
fn output_transform_transposed<S: Simd>(simd: S, [e0, o0, e1, o1]: [S::f32s; 4]) -> [S::f32s; 5] {
    let all = simd.add_f32s(simd.add_f32s(e0, o0), simd.add_f32s(e1, o1));
    [all, simd.sub_f32s(e0, e1), e0, simd.sub_f32s(o0, o1), o1]
}

impl BlockOp for Upsample {
    fn input_shape(&self) -> PaddedShape {
        let padded_size = self.tile_grid().map(|tiles| 2 * tiles + 2);
        let channels = self.weights.inputs;
        PaddedShape { size: self.size, channels, pad_before: 1, padded_size }
    }

    fn output_shape(&self) -> [usize; 3] {
        let [rows, columns] = self.size;
        [2 * rows, 2 * columns, self.weights.outputs]
    }

    fn images_per_block(&self) -> usize {
        (EFFICIENT_TILES / self.tile_count(1)).max(1)
    }

    /// The weight gradient is that of the transformed kernel, `[25, inputs, outputs]`.
    fn packed_gradient_len(&self) -> usize {
        self.weights.forward.len()
    }

    #[inline(always)]
    fn forward<S: Simd>(&self, simd: S, images: usize, x: &[f32], y: &mut [f32]) {
        let UpsampleWeights { inputs, outputs, ref forward, .. } = *self.weights;
        let count = self.tile_count(images);
        let u = self.transform_inputs(simd, images, x);
        let mut results = buffer_pool::take(25 * count * outputs);
        for ((p, shared), result) in products().zip(results.chunks_exact_mut(count * outputs)) {
            let left = LeftMatrix::row_major(&u[shared * count * inputs..], inputs);
            let right = &forward[p * inputs * outputs..];
            gemm(simd, [count, inputs, outputs], left, right, Beta::Zero, result);
        }
        self.transform_products(simd, images, &results, y);
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
        let UpsampleWeights { inputs, outputs, .. } = *self.weights;
        let count = self.tile_count(images);
        let d_products = self.transform_products_transposed(simd, images, dy);
        if let Some(dw) = dw {
            let u = self.transform_inputs(simd, images, x);
            for ((p, shared), dw) in products().zip(dw.chunks_exact_mut(inputs * outputs)) {
                let left = LeftMatrix::transposed(&u[shared * count * inputs..], inputs);
                let right = &d_products[p * count * outputs..];
                gemm(simd, [inputs, count, outputs], left, right, Beta::One, dw);
            }
            buffer_pool::give(u);
        }
        if let Some(dx) = dx {
            let du = self.multiply_by_weights_transposed(simd, count, &d_products);
            self.transform_inputs_transposed(simd, images, &du, dx);
            buffer_pool::give(du);
        }
        buffer_pool::give(d_products);
    }

    fn unpack_weight_gradient(&self, packed: &[f32]) -> Vec<f32> {
        let hwio = transform_kernel_transposed(packed);
        hwio_to_oihw(&hwio, self.weights.outputs, self.weights.inputs)
    }
}

/// Transposes a matrix `[rows, width]` into `to`, `[width, rows]`.
fn transpose(from: &[f32], width: usize, to: &mut [f32]) {
    let height = from.len() / width;
    for (row, from) in from.chunks_exact(width).enumerate() {
        from.iter().enumerate().for_each(|(column, value)| to[column * height + row] = *value);
    }
}

/// Transforms a kernel `[3, 3, a, b]` to the products' factors `[5, 5, a, b]`: rows first, then
/// columns.
fn transform_kernel(taps: &[f32]) -> Vec<f32> {
    let plane = taps.len() / 9;
    let mut row = vec![0.0; 3 * plane];
    let mut transformed = vec![0.0; 25 * plane];
    for (row_factors, to) in
        KERNEL_TRANSFORM.into_iter().zip(transformed.chunks_exact_mut(5 * plane))
    {
        combine_taps(row_factors, taps, &mut row);
        for (column_factors, to) in KERNEL_TRANSFORM.into_iter().zip(to.chunks_exact_mut(plane)) {
            combine_taps(column_factors, &row, to);
        }
    }
    transformed
}

/// Computes `to = p a + q b + r c`, where `from` is a, b and c, one after the other.
fn combine_taps([p, q, r]: [f32; 3], from: &[f32], to: &mut [f32]) {
    let (a, rest) = from.split_at(to.len());
    let (b, c) = rest.split_at(to.len());
    for (((to, a), b), c) in to.iter_mut().zip(a).zip(b).zip(c) {
        *to = p * a + q * b + r * c;
    }
}

/// Transforms `[5, 5, a, b]` to `[3, 3, a, b]`: the transpose of [`transform_kernel`], which takes
/// the gradient with respect to the transformed kernel to that with respect to the kernel.
fn transform_kernel_transposed(transformed: &[f32]) -> Vec<f32> {
    let plane = transformed.len() / 25;
    let mut rows = vec![0.0; 15 * plane];
    let mut taps = vec![0.0; 9 * plane];
    distribute_to_taps(transformed, &mut rows);
    for (row, taps) in rows.chunks_exact(5 * plane).zip(taps.chunks_exact_mut(3 * plane)) {
        distribute_to_taps(row, taps);
    }
    taps
}

/// Adds five equal parts of `from`, times their factors, to three equal parts of `to`.
fn distribute_to_taps(from: &[f32], to: &mut [f32]) {
    let len = to.len() / 3;
    for (tap, to) in to.chunks_exact_mut(len).enumerate() {
        for (product, from) in from.chunks_exact(len).enumerate() {
            let factor = KERNEL_TRANSFORM[product][tap];
            to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * from);
        }
    }
}
