//! The operations that take the time, in plain burn operations: these run on every device, and autodiff works through
//! them. Feature maps are channel-major, `[channels, images, rows, columns]`, so that every convolution is one or a few
//! matrix products without a transposition.

mod conv;
mod norm;
mod upsample;

pub(crate) use conv::{conv3x3, conv3x3_to_one};
pub(crate) use norm::{Statistics, batch_norm, normalize};
pub(crate) use upsample::upsample_conv3x3;

use burn::tensor::Tensor;

/// Feature maps, `[channels, images, rows, columns]`.
pub(crate) type Maps = Tensor<4>;

/// The definitions, as loops over single numbers: what the operations are tested against.
#[cfg(test)]
mod reference {
    use burn::tensor::{Device, Tensor, TensorData};
    use dcgan_core::random::{Purpose, Stream};

    /// Maps with their shape.
    #[derive(Clone)]
    pub(super) struct Array {
        pub(super) shape: [usize; 4],
        pub(super) values: Vec<f32>,
    }

    impl Array {
        pub(super) fn random(shape: [usize; 4], seed: u64) -> Self {
            let values = Stream::new(seed, Purpose::Data, 0, 0).normals(shape.iter().product()).collect();
            Self { shape, values }
        }

        pub(super) fn tensor(&self) -> Tensor<4> {
            Tensor::from_data(TensorData::new(self.values.clone(), self.shape), &Device::flex())
        }

        /// Element [a, b, i, j]; zero outside.
        fn at(&self, a: usize, b: usize, i: isize, j: isize) -> f64 {
            let [_, n, h, w] = self.shape;
            let inside = (0..h as isize).contains(&i) && (0..w as isize).contains(&j);
            if inside { self.values[((a * n + b) * h + i as usize) * w + j as usize].into() } else { 0.0 }
        }
    }

    /// A 3 x 3 convolution with 'same' padding of maps that are first upsampled by `factor`, by its definition.
    pub(super) fn conv(x: &Array, weight: &Array, factor: usize, stride: usize) -> Array {
        let [c, n, h, w] = x.shape;
        let (h, w) = (h * factor, w * factor);
        let outputs = weight.shape[0];
        let shape = [outputs, n, h.div_ceil(stride), w.div_ceil(stride)];
        let before = |size: usize, out: usize| ((out - 1) * stride + 3).saturating_sub(size) / 2;
        let (top, left) = (before(h, shape[2]), before(w, shape[3]));
        let pixel = |channel, image, y: isize, x_: isize| {
            let f = factor as isize;
            x.at(channel, image, y.div_euclid(f), x_.div_euclid(f))
        };
        let mut values = Vec::new();
        for o in 0..outputs {
            for image in 0..n {
                for i in 0..shape[2] {
                    for j in 0..shape[3] {
                        let mut sum = 0.0;
                        for channel in 0..c {
                            for (a, b) in (0..9).map(|tap| (tap / 3, tap % 3)) {
                                let y = (i * stride + a) as isize - top as isize;
                                let x = (j * stride + b) as isize - left as isize;
                                sum += weight.at(o, channel, a as isize, b as isize) * pixel(channel, image, y, x);
                            }
                        }
                        values.push(sum as f32);
                    }
                }
            }
        }
        Array { shape, values }
    }

    /// Checks an operation's values against the definition, and its gradients by finite differences of the definition.
    pub(super) fn check(
        x: &Array,
        weight: &Array,
        definition: impl Fn(&Array, &Array) -> Array,
        operation: impl Fn(Tensor<4>, Tensor<4>) -> Tensor<4>,
    ) {
        let expected = definition(x, weight);
        let [x_leaf, weight_leaf] = [x, weight].map(|array| array.tensor().autodiff().require_grad());
        let result = operation(x_leaf.clone(), weight_leaf.clone());
        assert_eq!(result.dims(), expected.shape);
        let scale = expected.values.iter().fold(1f32, |max, v| max.max(v.abs()));
        for (found, expected) in values(&result).iter().zip(&expected.values) {
            assert!((found - expected).abs() <= 1e-5 * scale, "{found} instead of {expected}");
        }
        // The operation is linear in either argument, so differences of any size are exact.
        let direction = Array::random(expected.shape, 99);
        let dot = |a: &Array, b: &Array| -> f64 {
            a.values.iter().zip(&b.values).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let gradients = (result * direction.tensor()).sum().backward();
        for (leaf, array) in [(x_leaf, x), (weight_leaf, weight)] {
            let gradient = values(&leaf.grad(&gradients).unwrap());
            for place in (0..array.values.len()).step_by(array.values.len() / 7 + 1) {
                let mut moved = array.clone();
                moved.values.fill(0.0);
                moved.values[place] = 1.0;
                let change = if std::ptr::eq(array, x) { definition(&moved, weight) } else { definition(x, &moved) };
                let expected = dot(&change, &direction);
                let found = f64::from(gradient[place]);
                assert!((found - expected).abs() <= 2e-4 * (1.0 + expected.abs()), "{found} instead of {expected}");
            }
        }
    }

    pub(super) fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
        tensor.clone().without_autodiff().into_data().as_slice::<f32>().unwrap().to_vec()
    }
}
