//! The end of a network: one bias, and tanh if the result is an image.

use super::autodiff::{OpInputs, Operation};
use super::buffer_pool;
use super::isa::{Isa, WithIsa};

/// Adds a bias to all values, and applies the hyperbolic tangent if `tanh`.
#[derive(Debug)]
pub(crate) struct BiasTanh {
    pub(crate) isa: Isa,
    pub(crate) shape: Vec<usize>,
    pub(crate) tanh: bool,
}

impl Operation for BiasTanh {
    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    /// The bias, a single value, comes in the slot of the shift: see [`OpInputs`].
    fn forward(&self, [x, _, bias, _]: OpInputs<'_>) -> Vec<f32> {
        let mut y = buffer_pool::take(x.len());
        y.iter_mut().zip(x).for_each(|(y, x)| *y = x + bias[0]);
        if self.tanh {
            self.isa.run(WithIsa(|| y.iter_mut().for_each(|x| *x = tanh(*x))));
        }
        y
    }

    /// Computes the gradients with respect to `x` and to the bias.
    fn backward(
        &self,
        _: OpInputs<'_>,
        y: &[f32],
        dy: &[f32],
        needs_gradient: [bool; 4],
    ) -> [Option<Vec<f32>>; 4] {
        // The derivative of tanh, in terms of its result.
        let slope = |y: f32| if self.tanh { 1.0 - y * y } else { 1.0 };
        let mut dx = buffer_pool::take(dy.len());
        dx.iter_mut().zip(y.iter().zip(dy)).for_each(|(dx, (y, dy))| *dx = dy * slope(*y));
        let sum = || dx.iter().map(|dx| f64::from(*dx)).sum::<f64>();
        let d_bias = needs_gradient[2].then(|| vec![sum() as f32]);
        [Some(dx), None, d_bias, None]
    }
}

/// Beyond this, tanh is 1 in single precision.
const LARGE: f64 = 9.1;

/// Below this, tanh x is x in single precision.
const SMALL: f64 = 1e-4;

/// Adding this rounds a number to a whole one, which then stands in the sum's lowest bits.
const ROUND: f64 = (3u64 << 51) as f64;

/// 1 / n! from n = 10 down.
const INVERSE_FACTORIALS: [f64; 11] = [
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

/// The hyperbolic tangent, with the same bits on every platform, which libm's has not.
///
/// It is (1 - e) / (1 + e) with e = exp(-2 |x|), in double precision, where exp is 2^k times a
/// series in |r| <= ln 2 / 2, whose first omitted term is below 1e-12. It has no branches, so that
/// the compiler vectorises it.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    let magnitude = f64::from(x.abs());
    let magnitude = if magnitude < LARGE { magnitude } else { LARGE };
    let exponent = -2.0 * std::f64::consts::LOG2_E * magnitude;
    let shifted = exponent + ROUND;
    let r = (exponent - (shifted - ROUND)) * std::f64::consts::LN_2;
    let series = INVERSE_FACTORIALS.iter().fold(0.0, |sum, term| sum * r + term);
    let e = series * f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    let result = if magnitude < SMALL { magnitude } else { (1.0 - e) / (1.0 + e) };
    let signed = (result as f32).copysign(x);
    if x.is_nan() { x } else { signed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tanh_is_right_to_the_last_digit() {
        for i in -4000..4000 {
            let x = i as f32 / 400.0;
            let expected = f64::from(x).tanh();
            let error = (f64::from(tanh(x)) - expected).abs();
            assert!(error <= f64::from(f32::EPSILON) * expected.abs(), "tanh {x}");
        }
        assert_eq!((tanh(f32::INFINITY), tanh(-1e30)), (1.0, -1.0));
        assert!(tanh(f32::NAN).is_nan());
    }
}
