//! The kernel distance: the squared maximum mean discrepancy with a polynomial kernel.

use dcgan_core::spec::networks::FEATURES;

/// An unbiased estimate of the squared maximum mean discrepancy between two sets of equally many
/// features `[N, 64]`, with the kernel (x y / 64 + 1)^3 (Bińkowski et al., "Demystifying MMD GANs",
/// ICLR 2018, section 4, where it is called KID). The mean over several blocks is unbiased as well.
///
/// The features are divided by the root of `square`, which makes them as large as Inception's.
pub(super) fn kernel_distance(a: &[f32], b: &[f32], square: f64) -> f64 {
    assert_eq!(a.len(), b.len(), "both sets have as many images");
    let count = (a.len() / FEATURES) as f64;
    let sum = |a, b, with_same| sum(a, b, square, with_same);
    let within = (sum(a, a, false) + sum(b, b, false)) / (count * (count - 1.0));
    within - 2.0 * sum(a, b, true) / (count * count)
}

/// The sum of the kernel over all pairs of an image of `a` and one of `b`. Without `with_same`, the
/// pairs of images with one place are left out.
fn sum(a: &[f32], b: &[f32], square: f64, with_same: bool) -> f64 {
    let mut sum = 0.0;
    for (i, x) in a.chunks_exact(FEATURES).enumerate() {
        for (j, y) in b.chunks_exact(FEATURES).enumerate() {
            if with_same || i != j {
                let product: f32 = x.iter().zip(y).map(|(x, y)| x * y).sum();
                let base = f64::from(product) / (square * FEATURES as f64) + 1.0;
                sum += base * base * base;
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images whose features are all the same number.
    fn constant(values: &[f32]) -> Vec<f32> {
        values.iter().flat_map(|&value| [value; FEATURES]).collect()
    }

    #[test]
    fn the_distance_is_the_mean_over_pairs() {
        // The kernel of numbers x and y is (x y + 1)^3: between 0 and 2 it is 1, of 2 and 2 it is
        // 125, and of 1 and 1 it is 8.
        let found = kernel_distance(&constant(&[0.0, 4.0]), &constant(&[2.0, 2.0]), 4.0);
        let (of_a, of_b, between) = (1.0, 8.0, (1.0 + 27.0) / 2.0);
        assert!((found - (of_a + of_b - 2.0 * between)).abs() < 1e-12, "{found}");
    }
}
