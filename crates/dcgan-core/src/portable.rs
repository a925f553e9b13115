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

/// The logarithm of 2 in two parts, the first with so few digits that its products with exponents
/// are exact (Cody and Waite, Software Manual for the Elementary Functions, 1980).
const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// Computes e^x for x <= 0: 2^k times a series in |r| <= ln 2 / 2, whose first omitted term is
/// below 1e-17.
pub fn exp_negative(x: f64) -> f64 {
    if x.is_nan() || x < -700.0 {
        return if x.is_nan() { x } else { 0.0 };
    }
    let k = (x * std::f64::consts::LOG2_E).round_ties_even();
    let r = (x - k * LN_2_HIGH) - k * LN_2_LOW;
    let series = (1..=14).rev().fold(1.0, |sum, n| 1.0 + sum * r / f64::from(n));
    series * f64::from_bits(((k as i64 + 1023) as u64) << 52)
}

/// Computes ln(1 + u) for 0 <= u <= 1: 2 artanh(u / (2 + u)) as a series in at most 1/9.
pub fn ln_1p(u: f64) -> f64 {
    let s = u / (2.0 + u);
    2.0 * s * (0..17).rev().fold(0.0, |sum, k| sum * (s * s) + 1.0 / f64::from(2 * k + 1))
}

/// Computes ln x for a normal x > 0: that of x = 2^k m is k ln 2 + ln m.
pub fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let k = (bits >> 52) as f64 - 1023.0;
    let m = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    k * LN_2_HIGH + (k * LN_2_LOW + ln_1p(m - 1.0))
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

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a comparison that leaves room for rounding")]
    fn exp_and_ln_agree_with_libm_to_the_last_digits() {
        for i in 0..=2000 {
            let x = -0.05 * f64::from(i);
            assert!((exp_negative(x) / x.exp() - 1.0).abs() < 4e-15, "exp {x}");
            let u = f64::from(i) / 2000.0;
            assert!((ln_1p(u) - u.ln_1p()).abs() < 4e-16, "ln_1p {u}");
            let x = 1e-3 * f64::from(1 + i) * f64::from(1 + i);
            assert!((ln(x) - x.ln()).abs() < 4e-15, "ln {x}");
        }
        assert_eq!(exp_negative(-1e9), 0.0);
        assert!(exp_negative(f64::NAN).is_nan());
    }
}
