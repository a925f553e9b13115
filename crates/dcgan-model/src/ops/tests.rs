//! Every operation on every path: values by the definition, gradients by finite differences of the definition, and the
//! same bits with all instructions.

use burn::tensor::Tensor;
use proptest::prelude::*;

use super::reference::{self, Array, assert_near, values};
use super::*;

/// Which operation, as the definition and the paths need it.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Conv { inputs: usize, outputs: usize, stride: usize },
    Upsample { inputs: usize, outputs: usize },
    ToImages { inputs: usize },
    ToLogits { inputs: usize },
    Dense { inputs: usize, channels: usize },
}

/// A result, its statistics if it has any, and the gradients by each argument on which it depends.
type Found = (Vec<f32>, Vec<Vec<f32>>, [Option<Vec<f32>>; 5]);

/// An operation with its arguments: maps, scale and shift of the norm before, weights, bias.
struct Case {
    kind: Kind,
    /// The slope of the activation after the norm before, if there is a norm.
    slope: Option<f32>,
    arguments: [Array; 5],
}

impl Case {
    fn new(kind: Kind, images: usize, size: [usize; 2], slope: Option<f32>, seed: u64) -> Self {
        let [h, w] = size;
        let (x, weight, bias) = match kind {
            Kind::Conv { inputs, outputs, .. } | Kind::Upsample { inputs, outputs } => {
                (vec![images, h, w, inputs], vec![outputs, inputs, 3, 3], 1)
            }
            Kind::ToImages { inputs } => (vec![images, h, w, inputs], vec![1, inputs, 3, 3], 1),
            Kind::ToLogits { inputs } => (vec![images, h, w, inputs], vec![1, inputs], 1),
            Kind::Dense { inputs, channels } => {
                (vec![images, inputs], vec![channels * 49, inputs], channels * 49)
            }
        };
        let channels = *x.last().unwrap();
        let mut weight = Array::random(&weight, seed + 1);
        // Outputs of about 1, so that tanh is not flat.
        let fan = (weight.values.len() / weight.shape[0]) as f64;
        weight.values.iter_mut().for_each(|value| *value = f64::from((*value / fan.sqrt()) as f32));
        let of_channels = |seed| Array::random(&[channels], seed);
        let arguments = [
            Array::random(&x, seed),
            of_channels(seed + 2),
            of_channels(seed + 3),
            weight,
            Array::random(&[bias], 4),
        ];
        Self { kind, slope, arguments }
    }

    fn definition(&self, [x, scale, shift, weight, bias]: &[Array; 5]) -> Array {
        let normed = self.slope.map(|slope| reference::norm(x, scale, shift, slope.into()));
        let x = normed.as_ref().unwrap_or(x);
        match self.kind {
            Kind::Conv { stride, .. } => reference::conv(x, weight, 1, stride),
            Kind::Upsample { .. } => reference::conv(x, weight, 2, 1),
            Kind::ToImages { .. } => {
                let mut images = reference::conv(x, weight, 1, 1);
                images
                    .values
                    .iter_mut()
                    .for_each(|value| *value = (*value + bias.values[0]).tanh());
                images
            }
            Kind::ToLogits { .. } => reference::logits(x, weight, bias),
            Kind::Dense { .. } => reference::dense(x, weight, bias),
        }
    }

    /// The operation, with the gradients of its result's product with `direction`.
    fn run(&self, isa: Option<Isa>, direction: &Array) -> Found {
        let [x, scale, shift, weight, bias] = &self.arguments;
        let [scale, shift, bias] = [scale, shift, bias].map(|array| array.leaf::<1>());
        let mut x_leaf = None;
        let mut input = || {
            let maps = x.leaf::<4>();
            x_leaf = Some(maps.clone());
            let norm = self.slope.map(|slope| {
                // Each path takes the statistics of its own results; here they are given.
                let ConvOutput { statistics, .. } = plain::with_statistics(maps.clone());
                Normalization { statistics, scale: scale.clone(), shift: shift.clone(), slope }
            });
            LayerInput { maps, norm }
        };
        let mut seen = Vec::new();
        let mut maps = |ConvOutput { maps, statistics: Statistics { mean, variance } }| {
            seen.extend([values(&mean), values(&variance)]);
            maps
        };
        fn kernel<const D: usize, P: PackWeights>(
            isa: Option<Isa>,
            weight: &Array,
        ) -> LayerWeights<D, P> {
            let prepare = || Arc::new(P::prepare(&weight.singles(), &weight.shape));
            LayerWeights {
                tensor: weight.leaf(),
                path: isa.map_or(Implementation::Plain, |isa| Implementation::Cpu(isa, prepare())),
            }
        }
        fn gradient<const D: usize>(
            leaf: &Tensor<D>,
            gradients: &burn::tensor::Gradients,
        ) -> Option<Vec<f32>> {
            leaf.grad(gradients).as_ref().map(values)
        }
        /// The result, all gradients of its product with `direction`, and the one by the weights.
        fn differentiate<const D: usize, P>(
            y: FeatureMaps,
            kernel: &LayerWeights<D, P>,
            direction: &Array,
        ) -> (FeatureMaps, burn::tensor::Gradients, Option<Vec<f32>>) {
            let gradients = (y.clone() * direction.leaf::<4>().without_autodiff()).sum().backward();
            let by_weight = gradient(&kernel.tensor, &gradients);
            (y, gradients, by_weight)
        }
        let (y, gradients, by_weight) = match self.kind {
            Kind::Conv { stride, .. } => {
                let kernel = kernel(isa, weight);
                differentiate(maps(conv(input(), &kernel, stride)), &kernel, direction)
            }
            Kind::Upsample { .. } => {
                let kernel = kernel(isa, weight);
                differentiate(maps(upsample_conv(input(), &kernel)), &kernel, direction)
            }
            Kind::ToImages { .. } => {
                let kernel = kernel(isa, weight);
                differentiate(to_images(input(), &kernel, &bias), &kernel, direction)
            }
            Kind::ToLogits { .. } => {
                let kernel = kernel(isa, weight);
                differentiate(to_logits(input(), &kernel, &bias), &kernel, direction)
            }
            Kind::Dense { .. } => {
                let kernel = kernel(isa, weight);
                let y = dense(x.leaf::<2>().without_autodiff(), &kernel, &bias);
                differentiate(y, &kernel, direction)
            }
        };
        let by_x = x_leaf.and_then(|leaf| gradient(&leaf, &gradients));
        let [by_scale, by_shift, by_bias] =
            [&scale, &shift, &bias].map(|leaf| gradient(leaf, &gradients));
        (values(&y), seen, [by_x, by_scale, by_shift, by_weight, by_bias])
    }

    fn check(&self) {
        let expected = self.definition(&self.arguments);
        let direction = Array::random(&expected.shape, 99);
        let statistics = reference::statistics(&expected);
        let mut bits = None;
        for isa in [None].into_iter().chain(Isa::available().into_iter().map(Some)) {
            let name = format!("{:?} of {:?} by {isa:?}", self.kind, self.arguments[0].shape);
            let (y, seen, gradients) = self.run(isa, &direction);
            assert_near(&name, &y, &expected.values, 2e-5);
            for (seen, expected) in seen.iter().zip(&statistics) {
                assert_near(&format!("statistics of {name}"), seen, expected, 2e-5);
            }
            for (number, gradient) in gradients.iter().enumerate() {
                if let Some(gradient) = gradient {
                    self.check_gradient(
                        &format!("gradient {number} of {name}"),
                        number,
                        gradient,
                        &direction,
                    );
                }
            }
            if isa.is_some() {
                let all = (y, seen, gradients);
                assert_eq!(bits.get_or_insert(all.clone()), &all, "{name} gives other bits");
            }
        }
    }

    /// Compares some entries with central differences of the definition.
    fn check_gradient(&self, name: &str, number: usize, gradient: &[f32], direction: &Array) {
        const STEP: f64 = 1e-6;
        let scale = f64::from(gradient.iter().fold(1e-2f32, |max, value| max.max(value.abs())));
        for device in (0..gradient.len()).step_by(gradient.len() / 5 + 1) {
            let [after, before] = [STEP, -STEP].map(|step| {
                let mut moved = self.arguments.clone();
                moved[number].values[device] += step;
                self.definition(&moved).dot(direction)
            });
            let (found, expected) = (f64::from(gradient[device]), (after - before) / (2.0 * STEP));
            assert!(
                (found - expected).abs() <= 2e-4 * scale,
                "{name}[{device}]: {found} instead of {expected}"
            );
        }
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    let channels = || prop_oneof![Just(16usize), Just(32), Just(48)];
    prop_oneof![
        (prop_oneof![Just(1usize), channels()], channels(), 1usize..3)
            .prop_map(|(inputs, outputs, stride)| Kind::Conv { inputs, outputs, stride }),
        (channels(), channels()).prop_map(|(inputs, outputs)| Kind::Upsample { inputs, outputs }),
        channels().prop_map(|inputs| Kind::ToImages { inputs }),
        channels().prop_map(|inputs| Kind::ToLogits { inputs }),
        (1usize..9, channels()).prop_map(|(inputs, channels)| Kind::Dense { inputs, channels }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn operations_are_what_they_are_defined_to_be(
        kind in kinds(), images in 1usize..6, size in 1usize..8, slope in prop_oneof![Just(0.0f32), Just(0.2)],
        seed in 0u64..1000,
    ) {
        let normed = !matches!(kind, Kind::Dense { .. } | Kind::Conv { inputs: 1, .. });
        Case::new(kind, images, [size, size], normed.then_some(slope), seed).check();
    }
}

#[test]
fn the_networks_layers_are_right_too() {
    let conv = |inputs, outputs, stride| Kind::Conv { inputs, outputs, stride };
    for (kind, size, slope) in [
        (conv(1, 32, 2), 28, None),
        (conv(32, 64, 1), 7, None),
        (conv(64, 128, 2), 7, Some(0.2)),
        (Kind::Upsample { inputs: 128, outputs: 64 }, 14, Some(0.0)),
        (Kind::ToImages { inputs: 64 }, 28, Some(0.0)),
        (Kind::ToLogits { inputs: 128 }, 4, Some(0.2)),
        (Kind::Dense { inputs: 100, channels: 32 }, 7, None),
    ] {
        Case::new(kind, 3, [size, size], slope, 1).check();
    }
}

/// FeatureMaps that are wider than high.
#[test]
fn sides_may_differ() {
    for kind in [Kind::Upsample { inputs: 16, outputs: 16 }, Kind::ToImages { inputs: 16 }] {
        Case::new(kind, 2, [3, 6], Some(0.0), 5).check();
    }
}
