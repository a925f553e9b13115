//! Matrix products whose bits do not depend on the processor.
//!
//! Each element is `acc = fma(a, b, acc)` from zero, in the order of k, within slices of 256; slices are then added up in
//! order. Vectors run along a row of the result, never along k, so their width does not matter, and neither does the
//! size of the tile that is kept in registers.

#![allow(unsafe_code, reason = "the innermost loops cannot afford a bounds check for each element")]

use pulp::Simd;

/// Elements of a sum that are added up in registers before they are added to the result.
const SLICE: usize = 256;

/// Rows of right factors and results are whole multiples of this: the lanes of the widest vectors.
pub(crate) const LANES: usize = 16;

/// A left factor, by the distances of its rows and of its columns.
#[derive(Clone, Copy)]
pub(crate) struct LeftMatrix<'a> {
    values: &'a [f32],
    row: usize,
    column: usize,
}

impl<'a> LeftMatrix<'a> {
    /// A matrix with rows of `width` elements.
    pub(crate) fn rows(values: &'a [f32], width: usize) -> Self {
        Self { values, row: width, column: 1 }
    }

    /// The transpose of a matrix with rows of `width` elements.
    pub(crate) fn transposed(values: &'a [f32], width: usize) -> Self {
        Self { values, row: 1, column: width }
    }
}

/// Whether a product replaces the result or is added to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accumulate {
    Set,
    Add,
}

/// `c = a b` or `c += a b`, where `a` is `m x k`, `b` is `k x n` and `c` is `m x n`, with n a multiple of 16.
///
/// # Panics
/// If a matrix is smaller than that.
#[inline(always)]
pub(crate) fn gemm<S: Simd>(
    simd: S,
    [m, k, n]: [usize; 3],
    a: LeftMatrix<'_>,
    b: &[f32],
    update: Accumulate,
    c: &mut [f32],
) {
    assert!(m > 0 && k > 0 && n > 0 && n.is_multiple_of(LANES));
    assert!(a.values.len() > (m - 1) * a.row + (k - 1) * a.column);
    assert!(b.len() >= k * n && c.len() >= m * n);
    for first in (0..k).step_by(SLICE) {
        let add = update == Accumulate::Add || first > 0;
        let mut column = 0;
        while column < n {
            let span = Span {
                rows: m,
                depth: SLICE.min(k - first),
                // SAFETY: `first < k` and `column < n`, so these are inside the matrices that were checked above.
                a: unsafe { a.values.as_ptr().add(first * a.column) },
                row: a.row,
                column: a.column,
                // SAFETY: as above.
                b: unsafe { b.as_ptr().add(first * n + column) },
                // SAFETY: as above.
                c: unsafe { c.as_mut_ptr().add(column) },
                width: n,
                add,
            };
            let vectors = (n - column) / S::F32_LANES;
            // SAFETY: the span's rows, its depth and as many columns as are computed here are inside the matrices.
            // Tiles are as large as leaves registers for a row of `b` and an element of `a`.
            column += S::F32_LANES
                * unsafe {
                    match (S::REGISTER_COUNT >= 32, vectors) {
                        (true, 4..) => span.run::<S, 6, 4>(simd),
                        (true, 2..) => span.run::<S, 12, 2>(simd),
                        (true, _) => span.run::<S, 12, 1>(simd),
                        (false, 2..) => span.run::<S, 6, 2>(simd),
                        (false, _) => span.run::<S, 6, 1>(simd),
                    }
                };
        }
    }
}

/// Some columns of a product, over one slice of k.
struct Span {
    rows: usize,
    depth: usize,
    a: *const f32,
    row: usize,
    column: usize,
    b: *const f32,
    c: *mut f32,
    width: usize,
    add: bool,
}

impl Span {
    /// Computes `V` vectors of each row, `R` rows at a time, and returns `V`.
    ///
    /// # Safety
    /// The rows, the depth and `V` vectors of columns must be inside all three matrices.
    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const V: usize>(&self, simd: S) -> usize {
        let mut row = 0;
        // SAFETY: no tile has more rows than are left, and the rest is the caller's promise.
        unsafe {
            while self.rows - row >= R {
                self.tile::<S, R, V>(simd, row);
                row += R;
            }
            while self.rows - row >= 4 {
                self.tile::<S, 4, V>(simd, row);
                row += 4;
            }
            while self.rows > row {
                self.tile::<S, 1, V>(simd, row);
                row += 1;
            }
        }
        V
    }

    /// # Safety
    /// As for [`Span::run`], with `R` rows from `row` on.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const V: usize>(&self, simd: S, row: usize) {
        let Self { depth, width, add, .. } = *self;
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        // SAFETY: every access is inside the caller's rows, depth and columns; a vector may have any address.
        unsafe {
            let a = self.a.add(row * self.row);
            for k in 0..depth {
                let b: [S::f32s; V] = std::array::from_fn(|j| {
                    self.b.add(k * width + j * S::F32_LANES).cast::<S::f32s>().read_unaligned()
                });
                for (i, sums) in sums.iter_mut().enumerate() {
                    let a = simd.splat_f32s(*a.add(i * self.row + k * self.column));
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = simd.mul_add_f32s(a, b, *sum);
                    }
                }
            }
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
    use pulp::WithSimd;

    use super::super::isa::Isa;
    use super::*;

    struct Case<'a> {
        size: [usize; 3],
        a: &'a [f32],
        transposed: bool,
        b: &'a [f32],
        update: Accumulate,
        c: Vec<f32>,
    }

    impl Case<'_> {
        fn left(&self) -> LeftMatrix<'_> {
            let [m, k, _] = self.size;
            if self.transposed {
                LeftMatrix::transposed(self.a, m)
            } else {
                LeftMatrix::rows(self.a, k)
            }
        }

        /// The definition in the module's words.
        fn expected(&self) -> Vec<f32> {
            let [m, k, n] = self.size;
            let left = self.left();
            let element = |i: usize, j: usize| {
                let start = (self.update == Accumulate::Add).then_some(self.c[i * n + j]);
                let slices = (0..k).step_by(SLICE).map(|first| {
                    (first..k.min(first + SLICE)).fold(0f32, |sum, k| {
                        left.values[i * left.row + k * left.column].mul_add(self.b[k * n + j], sum)
                    })
                });
                start.into_iter().chain(slices).reduce(|sum, slice| sum + slice).unwrap()
            };
            (0..m * n).map(|device| element(device / n, device % n)).collect()
        }
    }

    impl WithSimd for Case<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn with_simd<S: Simd>(mut self, simd: S) -> Vec<f32> {
            let mut c = std::mem::take(&mut self.c);
            gemm(simd, self.size, self.left(), self.b, self.update, &mut c);
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
            for (transposed, update) in [(false, Accumulate::Set), (true, Accumulate::Add)] {
                for isa in Isa::available() {
                    let case = || Case { size, a: &a, transposed, b: &b, update, c: c.clone() };
                    assert_eq!(isa.run(case()), case().expected(), "{size:?} with {isa:?}");
                }
            }
        }
    }
}
