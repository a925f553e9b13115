//! Nearest neighbours among features or pixels: precision, recall, density, coverage, and copies of
//! training images.

use std::num::NonZeroUsize;
use std::thread;

use crate::ops::{GemmTask, Isa, LeftMatrix};

/// Neighbours of an image that its neighbourhood reaches to.
const NEIGHBOURS: usize = 5;
/// Rows of distances that are computed at once.
const BLOCK_ROWS: usize = 64;
/// Columns of a product are whole multiples of this.
const LANES: usize = 16;

/// How well two sets of images cover each other. All but the density are shares, from 0 to 1.
///
/// The neighbourhood of an image is the ball around its features that reaches to its fifth nearest
/// neighbour in its own set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coverage {
    /// Samples in the neighbourhood of a real image (Kynkäänniemi et al., NeurIPS 2019).
    pub precision: f64,
    /// Real images in the neighbourhood of a sample (the same).
    pub recall: f64,
    /// Neighbourhoods of real images that a sample is in, as a mean and over the number that it is
    /// for real images (Naeem et al., ICML 2020).
    pub density: f64,
    /// Real images in whose neighbourhood there is a sample (the same).
    pub coverage: f64,
}

/// Vectors of one length, prepared for distances to them.
pub(super) struct Points {
    /// `[length, columns]`, of whose columns the last are zero.
    transposed: Vec<f32>,
    columns: usize,
    length: usize,
    /// The squared length of each vector.
    norms: Vec<f32>,
}

impl Points {
    /// Prepares vectors `[N, length]`.
    pub(super) fn new(vectors: &[f32], length: usize) -> Self {
        let count = vectors.len() / length;
        let columns = count.next_multiple_of(LANES);
        let mut transposed = vec![0.0; length * columns];
        for (column, vector) in vectors.chunks_exact(length).enumerate() {
            for (row, &value) in vector.iter().enumerate() {
                transposed[row * columns + column] = value;
            }
        }
        Self { transposed, columns, length, norms: norms(vectors, length) }
    }

    /// Computes something from the squared distances of each of these vectors `[M, length]` to all
    /// points: calls `of` with the number of the vector and with the distances.
    pub(super) fn for_each<T: Send>(
        &self,
        isa: Isa,
        vectors: &[f32],
        of: impl Fn(usize, &mut [f32]) -> T + Sync,
    ) -> Vec<T> {
        let rows = vectors.len() / self.length;
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let rows_of_thread = rows.div_ceil(threads).max(1);
        thread::scope(|scope| {
            let of = &of;
            let parts: Vec<_> = vectors
                .chunks(rows_of_thread * self.length)
                .enumerate()
                .map(|(part, vectors)| {
                    scope
                        .spawn(move || self.block_by_block(isa, part * rows_of_thread, vectors, of))
                })
                .collect();
            let join = |part: thread::ScopedJoinHandle<'_, Vec<T>>| {
                part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            parts.into_iter().flat_map(join).collect()
        })
    }

    fn block_by_block<T>(
        &self,
        isa: Isa,
        first: usize,
        vectors: &[f32],
        of: &impl Fn(usize, &mut [f32]) -> T,
    ) -> Vec<T> {
        let mut results = Vec::new();
        let mut distances = vec![0.0; BLOCK_ROWS * self.columns];
        for block in vectors.chunks(BLOCK_ROWS * self.length) {
            let rows = block.len() / self.length;
            let distances = &mut distances[..rows * self.columns];
            let a = LeftMatrix::row_major(block, self.length);
            let size = [rows, self.length, self.columns];
            isa.run(GemmTask { size, a, b: &self.transposed, c: distances });
            // |x - y|^2 = |x|^2 + |y|^2 - 2 x y
            for (row, norm) in
                distances.chunks_exact_mut(self.columns).zip(norms(block, self.length))
            {
                let row = &mut row[..self.norms.len()];
                for (distance, of_point) in row.iter_mut().zip(&self.norms) {
                    *distance = (norm + of_point - 2.0 * *distance).max(0.0);
                }
                results.push(of(first + results.len(), row));
            }
        }
        results
    }
}

/// The squared length of each vector.
fn norms(vectors: &[f32], length: usize) -> Vec<f32> {
    vectors.chunks_exact(length).map(|vector| vector.iter().map(|x| x * x).sum()).collect()
}

/// Compares samples with real images by their features `[N, length]`.
pub(super) fn coverage(isa: Isa, real: &[f32], samples: &[f32], length: usize) -> Coverage {
    let (real_points, sample_points) = (Points::new(real, length), Points::new(samples, length));
    // The image itself is the nearest of its set.
    let radius = |_: usize, distances: &mut [f32]| {
        *distances.select_nth_unstable_by(NEIGHBOURS, f32::total_cmp).1
    };
    let real_radii = real_points.for_each(isa, real, radius);
    let sample_radii = sample_points.for_each(isa, samples, radius);

    let inside = real_points.for_each(isa, samples, |_, distances| {
        distances.iter().zip(&real_radii).filter(|(distance, radius)| distance <= radius).count()
    });
    let of_real = sample_points.for_each(isa, real, |image, distances| {
        let is_near_a_sample =
            distances.iter().zip(&sample_radii).any(|(distance, radius)| distance <= radius);
        let has_a_sample = distances.iter().any(|distance| *distance <= real_radii[image]);
        (is_near_a_sample, has_a_sample)
    });
    let share = |count: usize, of: usize| count as f64 / of as f64;
    Coverage {
        precision: share(inside.iter().filter(|count| **count > 0).count(), inside.len()),
        recall: share(of_real.iter().filter(|(is_near, _)| *is_near).count(), of_real.len()),
        density: share(inside.iter().sum(), NEIGHBOURS * inside.len()),
        coverage: share(of_real.iter().filter(|(_, has)| *has).count(), of_real.len()),
    }
}

/// The distance of each vector `[M, length]` to the nearest point.
pub(super) fn nearest(isa: Isa, points: &Points, vectors: &[f32]) -> Vec<f32> {
    points.for_each(isa, vectors, |_, distances| {
        distances.iter().copied().fold(f32::INFINITY, f32::min).sqrt()
    })
}

#[cfg(test)]
mod tests {
    use dcgan_core::random::{Purpose, RandomStream};

    use super::*;

    fn plane(seed: u64, count: usize) -> Vec<f32> {
        RandomStream::new(seed, Purpose::Data, 0, 0).normals(2 * count).collect()
    }

    fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
    }

    #[test]
    fn distances_are_those_of_the_definition() {
        let (points, vectors) = (plane(1, 37), plane(2, 130));
        let all = Points::new(&points, 2)
            .for_each(Isa::widest(), &vectors, |row, distances| (row, distances.to_vec()));
        for ((row, distances), vector) in all.iter().zip(vectors.chunks_exact(2)) {
            assert_eq!(&vectors[2 * row..2 * row + 2], vector);
            for (distance, point) in distances.iter().zip(points.chunks_exact(2)) {
                assert!((distance - squared_distance(point, vector)).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn equal_distributions_cover_each_other_and_distant_ones_do_not() {
        let (a, b) = (plane(1, 400), plane(2, 400));
        let same = coverage(Isa::widest(), &a, &b, 2);
        assert!(same.precision > 0.9 && same.recall > 0.9 && same.coverage > 0.9, "{same:?}");
        assert!((same.density - 1.0).abs() < 0.2, "{same:?}");
        let far: Vec<f32> = b.iter().map(|x| x + 100.0).collect();
        let apart = coverage(Isa::widest(), &a, &far, 2);
        assert_eq!(apart, Coverage { precision: 0.0, recall: 0.0, density: 0.0, coverage: 0.0 });
        // All samples are alike: each is plausible, and most real ones are missed.
        let one: Vec<f32> = [0.01, 0.02].repeat(400);
        let collapsed = coverage(Isa::widest(), &a, &one, 2);
        assert!(collapsed.precision == 1.0 && collapsed.recall == 0.0, "{collapsed:?}");
        assert!(collapsed.coverage < 0.1, "{collapsed:?}");
    }

    #[test]
    fn the_nearest_point_is_found() {
        let points = Points::new(&[0.0, 0.0, 3.0, 4.0], 2);
        let found = nearest(Isa::widest(), &points, &[0.0, 1.0, 3.0, 4.0]);
        assert!((found[0] - 1.0).abs() < 1e-6 && found[1] < 1e-3, "{found:?}");
    }
}
