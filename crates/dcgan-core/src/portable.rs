//! Elementary functions with the same bits on every platform.
//!
//! Those of the standard library may differ in their last digits between platforms, and weights
//! depend on what is computed with them. These are made of sums, products and quotients alone,
//! which IEEE 754 defines to the last bit.

/// Computes base^exponent by squaring.
pub fn power(base: f64, exponent: u64) -> f64 {
    let (mut result, mut square, mut rest) = (1.0, base, exponent);
    while rest > 0 {
        if rest & 1 == 1 {
            result *= square;
        }
        square *= square;
        rest >>= 1;
    }
    result
}

/// Computes the cosine of 0 <= x <= pi / 2: its series, whose first omitted term is below 1e-19.
pub fn cosine(x: f64) -> f64 {
    // 1 - x^2 / (1 * 2) * (1 - x^2 / (3 * 4) * (...))
    (1..=11).rev().fold(1.0, |sum, n| 1.0 - sum * (x * x) / f64::from((2 * n - 1) * (2 * n)))
}

#[cfg(test)]
mod tests {
    use std::f64::consts::FRAC_PI_2;

    use super::*;

    #[test]
    fn power_agrees_with_powf() {
        assert_eq!(power(0.5, 10), 1.0 / 1024.0);
        assert!((power(0.999, 4680) - 0.999f64.powf(4680.0)).abs() < 1e-15);
        assert_eq!(power(0.999, 0), 1.0);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a comparison that leaves room for rounding")]
    fn cosine_agrees_with_libm_to_the_last_digits() {
        for i in 0..=10_000 {
            let x = FRAC_PI_2 * f64::from(i) / 10_000.0;
            assert!((cosine(x) - x.cos()).abs() < 4e-16, "{x}");
        }
        assert_eq!(cosine(0.0), 1.0);
    }
}
