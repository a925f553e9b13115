//! Matrix products (gemm) whose bits do not depend on the processor.
//!
//! A BLAS library picks its blocking by the processor's caches and vector width, so the same
//! product has other last bits on another processor. Here the order of additions is fixed: each
//! element is `acc = fma(a, b, acc)` from zero, in the order of k, within blocks of 256; the
//! blocks' sums are then added in order. Vectors run along a row of the result, never along k, so
//! their width does not matter, and neither does the size of the register tile.
//!
//! The micro-kernel reads both factors where they lie, without packing them.

#![allow(unsafe_code, reason = "the innermost loops cannot afford a bounds check for each element")]

use pulp::{Simd, WithSimd};

/// Terms of a sum that are added up in registers before they are added to the result: `kc` in the
/// usual names of gemm's blocking. A change of it changes the results' last bits.
const K_BLOCK: usize = 256;

/// The lanes of the widest vectors. Rows of right factors and of results are whole multiples of it.
pub(crate) const LANES: usize = 16;

/// A left factor, row-major or transposed, given by its strides.
#[derive(Clone, Copy)]
pub(crate) struct LeftMatrix<'a> {
    values: &'a [f32],
    /// Elements between neighbours in a column.
    row_stride: usize,
    /// Elements between neighbours in a row.
    column_stride: usize,
}

impl<'a> LeftMatrix<'a> {
    /// The matrix `[rows, width]`.
    pub(crate) fn row_major(values: &'a [f32], width: usize) -> Self {
        Self { values, row_stride: width, column_stride: 1 }
    }

    /// The transpose `[width, rows]` of a row-major matrix `[rows, width]`.
    pub(crate) fn transposed(values: &'a [f32], width: usize) -> Self {
        Self { values, row_stride: 1, column_stride: width }
    }
}

/// Treatment of the result's old values: BLAS's beta, which is 0 or 1 here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beta {
    /// Overwrites them.
    Zero,
    /// Adds to them.
    One,
}

/// Computes `c = a b` or `c += a b`, where `a` is `[m, k]`, `b` is `[k, n]` and `c` is `[m, n]`,
/// with n a multiple of 16. `size` is `[m, k, n]`.
///
/// # Panics
/// If a dimension is zero, n is not a multiple of 16, or a matrix is smaller than its shape.
#[inline(always)]
pub(crate) fn gemm<S: Simd>(
    simd: S,
    size: [usize; 3],
    a: LeftMatrix<'_>,
    b: &[f32],
    beta: Beta,
    c: &mut [f32],
) {
    // The last vector of a row ends with the row.
    const { assert!(LANES.is_multiple_of(S::F32_LANES)) };
    let [m, k, n] = size;
    assert!(m > 0 && k > 0 && n > 0 && n.is_multiple_of(LANES));
    assert!(a.values.len() > (m - 1) * a.row_stride + (k - 1) * a.column_stride);
    assert!(b.len() >= k * n && c.len() >= m * n);
    for first in (0..k).step_by(K_BLOCK) {
        // Only the first block may overwrite: the others add to its sums.
        let add = beta == Beta::One || first > 0;
        let mut column = 0;
        while column < n {
            let panel = Panel {
                rows: m,
                depth: K_BLOCK.min(k - first),
                // SAFETY: `first < k` and `column < n`, so these are inside the matrices that were
                // checked above.
                a: unsafe { a.values.as_ptr().add(first * a.column_stride) },
                row_stride: a.row_stride,
                column_stride: a.column_stride,
                // SAFETY: as above.
                b: unsafe { b.as_ptr().add(first * n + column) },
                // SAFETY: as above.
                c: unsafe { c.as_mut_ptr().add(column) },
                width: n,
                add,
            };
            let vectors = (n - column) / S::F32_LANES;
            // The tile of `c` takes as many registers as it can and still leaves some for a row of
            // `b` and an element of `a`.
            //
            // SAFETY: the panel's rows, its depth and as many columns as are computed here are
            // inside the matrices.
            column += S::F32_LANES
                * unsafe {
                    match (S::REGISTER_COUNT >= 32, vectors) {
                        (true, 4..) => panel.compute::<S, 6, 4>(simd),
                        (true, 2..) => panel.compute::<S, 12, 2>(simd),
                        (true, _) => panel.compute::<S, 12, 1>(simd),
                        (false, 2..) => panel.compute::<S, 6, 2>(simd),
                        (false, _) => panel.compute::<S, 6, 1>(simd),
                    }
                };
        }
    }
}

/// A product `c = a b` to be run with an instruction set's vectors. Its fields are as in [`gemm`].
pub(crate) struct GemmTask<'a> {
    pub(crate) size: [usize; 3],
    pub(crate) a: LeftMatrix<'a>,
    pub(crate) b: &'a [f32],
    pub(crate) c: &'a mut [f32],
}

impl WithSimd for GemmTask<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        gemm(simd, self.size, self.a, self.b, Beta::Zero, self.c);
    }
}

/// A column panel of a product, over one block of k.
struct Panel {
    rows: usize,
    /// Terms of each sum: the length of the block of k.
    depth: usize,
    a: *const f32,
    row_stride: usize,
    column_stride: usize,
    b: *const f32,
    c: *mut f32,
    /// Elements in a row of `b` and of `c`.
    width: usize,
    /// True if the panel is added to `c` or overwrites it.
    add: bool,
}

impl Panel {
    /// Computes `V` vectors of each row, in register tiles of `R` rows, and returns `V`.
    ///
    /// # Safety
    /// The rows, the depth and `V` vectors of columns must be inside all three matrices.
    #[inline(always)]
    unsafe fn compute<S: Simd, const R: usize, const V: usize>(&self, simd: S) -> usize {
        let mut row = 0;
        // SAFETY: no tile has more rows than are left, and the rest is the caller's promise.
        unsafe {
            while self.rows - row >= R {
                self.micro_kernel::<S, R, V>(simd, row);
                row += R;
            }
            while self.rows - row >= 4 {
                self.micro_kernel::<S, 4, V>(simd, row);
                row += 4;
            }
            while self.rows > row {
                self.micro_kernel::<S, 1, V>(simd, row);
                row += 1;
            }
        }
        V
    }

    /// Computes a tile of `R` rows and `V` vectors of columns, whose sums stay in registers over
    /// the whole block of k.
    ///
    /// # Safety
    /// As for [`Panel::compute`], with `R` rows from `row` on.
    #[inline(always)]
    unsafe fn micro_kernel<S: Simd, const R: usize, const V: usize>(&self, simd: S, row: usize) {
        let Self { depth, width, add, .. } = *self;
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        // SAFETY: every access is inside the caller's rows, depth and columns; a vector may have
        // any address.
        unsafe {
            // Rank-1 updates: a column of `a` times a row of `b` for each k.
            let a = self.a.add(row * self.row_stride);
            for k in 0..depth {
                let b: [S::f32s; V] = std::array::from_fn(|j| {
                    self.b.add(k * width + j * S::F32_LANES).cast::<S::f32s>().read_unaligned()
                });
                for (i, sums) in sums.iter_mut().enumerate() {
                    let element = *a.add(i * self.row_stride + k * self.column_stride);
                    let element = simd.splat_f32s(element);
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = simd.mul_add_f32s(element, b, *sum);
                    }
                }
            }
            // Write the tile back.
            for (i, sums) in sums.into_iter().enumerate() {
                for (j, sum) in sums.into_iter().enumerate() {
                    let c = self.c.add((row + i) * width + j * S::F32_LANES).cast::<S::f32s>();
                    c.write_unaligned(if add {
                        simd.add_f32s(c.read_unaligned(), sum)
                    } else {
                        sum
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use dcgan_core::random::{Purpose, RandomStream};

    use super::super::isa::Isa;
    use super::*;

    /// A product with its factors, and the result's values before it.
    struct Case<'a> {
        size: [usize; 3],
        a: &'a [f32],
        transposed: bool,
        b: &'a [f32],
        beta: Beta,
        c: Vec<f32>,
    }

    impl Case<'_> {
        fn left(&self) -> LeftMatrix<'_> {
            let [m, k, _] = self.size;
            if self.transposed {
                LeftMatrix::transposed(self.a, m)
            } else {
                LeftMatrix::row_major(self.a, k)
            }
        }

        /// The result by the definition in the module's header, `[m, n]`.
        fn expected(&self) -> Vec<f32> {
            let [m, _, n] = self.size;
            (0..m * n).map(|index| self.expected_element(index / n, index % n)).collect()
        }

        fn expected_element(&self, i: usize, j: usize) -> f32 {
            let [_, k, n] = self.size;
            let left = self.left();
            let start = (self.beta == Beta::One).then_some(self.c[i * n + j]);
            let blocks = (0..k).step_by(K_BLOCK).map(|first| {
                (first..k.min(first + K_BLOCK)).fold(0f32, |sum, k| {
                    let a = left.values[i * left.row_stride + k * left.column_stride];
                    a.mul_add(self.b[k * n + j], sum)
                })
            });
            start.into_iter().chain(blocks).reduce(|sum, block| sum + block).unwrap()
        }
    }

    impl WithSimd for Case<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(mut self, simd: S) -> Vec<f32> {
            let mut c = std::mem::take(&mut self.c);
            gemm(simd, self.size, self.left(), self.b, self.beta, &mut c);
            c
        }
    }

    #[test]
    fn every_instruction_set_gives_the_bits_of_the_definition() {
        let sizes = [
            [1, 1, 16],
            [5, 3, 16],
            [13, 256, 32],
            [7, 257, 48],
            [49, 128, 64],
            [24, 600, 80],
            [31, 9, 112],
        ];
        for (number, size) in (0..).zip(sizes) {
            let [m, k, n] = size;
            let random = |item, len| {
                RandomStream::new(7, Purpose::Data, item, number).normals(len).collect::<Vec<_>>()
            };
            let (a, b, c) = (random(0, m * k), random(1, k * n), random(2, m * n));
            for (transposed, beta) in [(false, Beta::Zero), (true, Beta::One)] {
                for isa in Isa::available() {
                    let case = || Case { size, a: &a, transposed, b: &b, beta, c: c.clone() };
                    assert_eq!(isa.run(case()), case().expected(), "{size:?} with {isa:?}");
                }
            }
        }
    }
}
