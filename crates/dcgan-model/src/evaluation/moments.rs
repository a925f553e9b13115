//! Mean and covariance of features, and the Fréchet distance between two normal distributions.

use dcgan_core::spec::networks::FEATURES;
use nalgebra::{DMatrix, DVector, Dyn, SymmetricEigen};

/// Products of two features: the upper triangle of a symmetric matrix, row by row.
const PRODUCTS: usize = FEATURES * (FEATURES + 1) / 2;

/// Rounds of the search for eigenvalues: it takes a few for each, and has no end if a number is not
/// finite.
const EIGEN_ROUNDS_MAX: usize = 100 * FEATURES;

/// The number of images, the sums of their features, and the sums of the products of two features.
pub(super) struct Moments {
    count: f64,
    sums: Vec<f64>,
    products: Vec<f64>,
}

/// The numbers in [`Moments`].
pub(super) const MOMENTS_LEN: usize = 1 + FEATURES + PRODUCTS;

/// A normal distribution.
pub(super) struct Normal {
    mean: DVector<f64>,
    covariance: DMatrix<f64>,
}

impl Moments {
    /// The moments of features `[N, 64]`.
    pub(super) fn of(features: &[f32]) -> Self {
        let (mut sums, mut products) = (vec![0.0; FEATURES], vec![0.0; PRODUCTS]);
        for row in features.chunks_exact(FEATURES) {
            let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
            sums.iter_mut().zip(&row).for_each(|(sum, x)| *sum += x);
            let mut rest = &mut products[..];
            for (i, x) in row.iter().enumerate() {
                let (of_x, after) = rest.split_at_mut(FEATURES - i);
                of_x.iter_mut().zip(&row[i..]).for_each(|(sum, y)| *sum += x * y);
                rest = after;
            }
        }
        Self { count: (features.len() / FEATURES) as f64, sums, products }
    }

    /// Appends the numbers to a vector.
    pub(super) fn append_to(&self, values: &mut Vec<f64>) {
        values.push(self.count);
        values.extend(&self.sums);
        values.extend(&self.products);
    }

    /// The moments of all images, from the numbers of several parts.
    ///
    /// # Panics
    /// If a part has another length than [`MOMENTS_LEN`].
    pub(super) fn sum<'a>(parts: impl IntoIterator<Item = &'a [f64]>) -> Self {
        let mut sum = vec![0.0; MOMENTS_LEN];
        for part in parts {
            assert_eq!(part.len(), MOMENTS_LEN, "a part has one length");
            sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
        let products = sum.split_off(1 + FEATURES);
        let sums = sum.split_off(1);
        Self { count: sum[0], sums, products }
    }

    /// The normal distribution with this mean and the unbiased covariance.
    pub(super) fn normal(&self) -> Normal {
        let mean = DVector::from_iterator(FEATURES, self.sums.iter().map(|sum| sum / self.count));
        let mut covariance = DMatrix::zeros(FEATURES, FEATURES);
        let mut products = self.products.iter();
        for i in 0..FEATURES {
            for j in i..FEATURES {
                let product = products.next().expect("there is one for each pair");
                let value = (product - self.count * mean[i] * mean[j]) / (self.count - 1.0);
                covariance[(i, j)] = value;
                covariance[(j, i)] = value;
            }
        }
        Normal { mean, covariance }
    }
}

impl Normal {
    /// The squared Fréchet distance to another normal distribution: |m1 - m2|^2 + tr(C1 + C2 -
    /// 2 (C1 C2)^(1/2)) (Dowson and Landau, 1982). Heusel et al. (NIPS 2017) apply it to features
    /// of Inception, and call it FID.
    pub(super) fn frechet_distance(&self, other: &Self) -> f64 {
        // C1 C2 has the eigenvalues of R C2 R with R = C1^(1/2), which is symmetric.
        let Some(own) = eigen(self.covariance.clone()) else {
            return f64::NAN;
        };
        let roots = own.eigenvalues.map(|value| value.max(0.0).sqrt());
        let root = product(
            &product(&own.eigenvectors, &DMatrix::from_diagonal(&roots)),
            &own.eigenvectors.transpose(),
        );
        let between = product(&product(&root, &other.covariance), &root);
        let between = (&between + between.transpose()) * 0.5;
        let Some(between) = eigen(between) else {
            return f64::NAN;
        };
        let root_trace: f64 = between.eigenvalues.iter().map(|value| value.max(0.0).sqrt()).sum();
        let traces = self.covariance.trace() + other.covariance.trace();
        (&self.mean - &other.mean).norm_squared() + traces - 2.0 * root_trace
    }
}

/// The eigenvalues and eigenvectors of a symmetric matrix of finite numbers.
fn eigen(matrix: DMatrix<f64>) -> Option<SymmetricEigen<f64, Dyn>> {
    SymmetricEigen::try_new(matrix, f64::EPSILON, EIGEN_ROUNDS_MAX)
}

/// The product of two square matrices, with sums in one order on every processor.
fn product(a: &DMatrix<f64>, b: &DMatrix<f64>) -> DMatrix<f64> {
    DMatrix::from_fn(a.nrows(), b.ncols(), |i, j| {
        (0..a.ncols()).map(|k| a[(i, k)] * b[(k, j)]).sum()
    })
}

#[cfg(test)]
mod tests {
    use dcgan_core::random::{Purpose, RandomStream};

    use super::*;

    /// Features of which the first has this mean and this factor of its deviation.
    fn features(seed: u64, mean: f32, factor: f32) -> Vec<f32> {
        let mut all: Vec<f32> =
            RandomStream::new(seed, Purpose::Data, 0, 0).normals(20_000 * FEATURES).collect();
        for row in all.chunks_exact_mut(FEATURES) {
            row[0] = mean + factor * row[0];
        }
        all
    }

    fn distance(a: &[f32], b: &[f32]) -> f64 {
        Moments::of(a).normal().frechet_distance(&Moments::of(b).normal())
    }

    #[test]
    fn the_distance_of_known_distributions_is_found() {
        let a = features(1, 0.0, 1.0);
        assert!(distance(&a, &a).abs() < 1e-9);
        // Of normal distributions with means 0 and 3 and deviations 1 and 2: 9 + (1 - 2)^2. What
        // the samples add is about 64 * 65 / 4 / 20,000 for each pair.
        let found = distance(&a, &features(2, 3.0, 2.0));
        assert!((found - 10.0).abs() < 0.25, "{found}");
        let found = distance(&features(2, 3.0, 2.0), &a);
        assert!((found - 10.0).abs() < 0.25, "{found}");
    }

    #[test]
    fn what_is_not_finite_has_no_distance() {
        let (mut a, b) = (features(1, 0.0, 1.0), features(2, 0.0, 1.0));
        a[7] = f32::NAN;
        assert!(distance(&a, &b).is_nan() && distance(&b, &a).is_nan());
    }

    #[test]
    fn moments_of_parts_are_those_of_the_whole() {
        let all = features(3, 1.0, 2.0);
        let (first, second) = all.split_at(7_000 * FEATURES);
        let parts = [first, second].map(|part| {
            let mut values = Vec::new();
            Moments::of(part).append_to(&mut values);
            values
        });
        let sum = Moments::sum(parts.iter().map(Vec::as_slice)).normal();
        assert!(sum.frechet_distance(&Moments::of(&all).normal()).abs() < 1e-9);
    }
}
