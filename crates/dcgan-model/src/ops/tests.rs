//! Every operation in every implementation: values against the definition, gradients against finite
//! differences of the definition, and the same bits with all instruction sets.

use burn::tensor::Tensor;
use proptest::prelude::*;

use super::reference::{self, Array, assert_near, values};
use super::*;

/// An operation with its numbers of channels.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Conv { inputs: usize, outputs: usize, stride: usize },
    Upsample { inputs: usize, outputs: usize },
    ToImages { inputs: usize },
    ToLogits { inputs: usize },
    Dense { inputs: usize, channels: usize },
}

/// The results of an operation.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    y: Vec<f32>,
    /// Mean and variance of the output's channels, if the operation computes them.
    statistics: Vec<Vec<f32>>,
    /// The gradients with respect to the arguments of a [`Case`], where the result depends on them.
    gradients: [Option<Vec<f32>>; 5],
}

/// A case's arguments without the weights, as leaves of the autodiff graph.
struct Leaves {
    /// None for the dense layer, whose input has no gradient.
    maps: Option<Tensor<4>>,
    scale: Tensor<1>,
    shift: Tensor<1>,
    bias: Tensor<1>,
}

impl Leaves {
    fn new(case: &Case) -> Self {
        let [x, scale, shift, _, bias] = &case.arguments;
        let maps = match case.kind {
            Kind::Dense { .. } => None,
            _ => Some(x.leaf::<4>()),
        };
        Self { maps, scale: scale.leaf(), shift: shift.leaf(), bias: bias.leaf() }
    }

    /// The input of a layer, normalised if there is a slope.
    fn input(&self, slope: Option<f32>) -> LayerInput {
        let maps = self.maps.clone().expect("only the dense layer has vectors");
        let norm = slope.map(|negative_slope| {
            // In a network, the layer before computes them.
            let ConvOutput { statistics, .. } = plain::with_statistics(maps.clone());
            let (scale, shift) = (self.scale.clone(), self.shift.clone());
            Normalization { statistics, scale, shift, negative_slope }
        });
        LayerInput { maps, norm }
    }

    /// The outcome of an operation whose result is `y`.
    fn outcome<const D: usize, O: WeightedOp>(
        &self,
        y: FeatureMaps,
        statistics: Vec<Vec<f32>>,
        kernel: &LayerWeights<D, O>,
        direction: &Array,
    ) -> Outcome {
        let gradients = (y.clone() * direction.leaf::<4>().without_autodiff()).sum().backward();
        let d_x = self.maps.as_ref().and_then(|leaf| gradient(leaf, &gradients));
        let d_scale = gradient(&self.scale, &gradients);
        let d_shift = gradient(&self.shift, &gradients);
        let d_weight = gradient(&kernel.tensor, &gradients);
        let d_bias = gradient(&self.bias, &gradients);
        let gradients = [d_x, d_scale, d_shift, d_weight, d_bias];
        Outcome { y: values(&y), statistics, gradients }
    }

    /// The outcome of an operation whose output comes with its statistics.
    fn outcome_with_statistics<const D: usize, O: WeightedOp>(
        &self,
        output: ConvOutput,
        kernel: &LayerWeights<D, O>,
        direction: &Array,
    ) -> Outcome {
        let Statistics { mean, variance } = output.statistics;
        let statistics = vec![values(&mean), values(&variance)];
        self.outcome(output.maps, statistics, kernel, direction)
    }
}

/// The gradient with respect to a leaf, if the result depends on it.
fn gradient<const D: usize>(
    leaf: &Tensor<D>,
    gradients: &burn::tensor::Gradients,
) -> Option<Vec<f32>> {
    leaf.grad(gradients).as_ref().map(values)
}

/// Weights for an instruction set's implementation, or for the plain one.
fn layer_weights<const D: usize, O: WeightedOp>(
    isa: Option<Isa>,
    weight: &Array,
) -> LayerWeights<D, O> {
    let implementation = match isa {
        None => Implementation::Plain,
        Some(isa) => {
            let packed = O::CpuWeights::pack(&weight.singles(), &weight.shape);
            Implementation::Cpu(isa, Arc::new(packed))
        }
    };
    LayerWeights { tensor: weight.leaf(), implementation }
}

/// An operation with its arguments.
struct Case {
    kind: Kind,
    /// The negative slope of the activation after the batch norm before the operation, if there is
    /// a batch norm.
    slope: Option<f32>,
    /// Maps; scale and shift of the batch norm; weights; bias.
    arguments: [Array; 5],
}

impl Case {
    fn new(kind: Kind, images: usize, size: [usize; 2], slope: Option<f32>, seed: u64) -> Self {
        let [h, w] = size;
        // The shapes of the maps and the weights, and the length of the bias.
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

    /// The result by the definition, for given arguments.
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

    /// Runs the operation, and differentiates the sum of its result's products with `direction`.
    fn run(&self, isa: Option<Isa>, direction: &Array) -> Outcome {
        let [x, .., weight, _] = &self.arguments;
        let leaves = Leaves::new(self);
        match self.kind {
            Kind::Conv { stride, .. } => {
                let kernel = layer_weights(isa, weight);
                let output = conv(leaves.input(self.slope), &kernel, stride);
                leaves.outcome_with_statistics(output, &kernel, direction)
            }
            Kind::Upsample { .. } => {
                let kernel = layer_weights(isa, weight);
                let output = upsample_conv(leaves.input(self.slope), &kernel);
                leaves.outcome_with_statistics(output, &kernel, direction)
            }
            Kind::ToImages { .. } => {
                let kernel = layer_weights(isa, weight);
                let y = to_images(leaves.input(self.slope), &kernel, &leaves.bias);
                leaves.outcome(y, Vec::new(), &kernel, direction)
            }
            Kind::ToLogits { .. } => {
                let kernel = layer_weights(isa, weight);
                let y = to_logits(leaves.input(self.slope), &kernel, &leaves.bias);
                leaves.outcome(y, Vec::new(), &kernel, direction)
            }
            Kind::Dense { .. } => {
                let kernel = layer_weights(isa, weight);
                let y = dense(x.leaf::<2>().without_autodiff(), &kernel, &leaves.bias);
                leaves.outcome(y, Vec::new(), &kernel, direction)
            }
        }
    }

    /// Checks the plain implementation and each instruction set's: values, statistics and gradients
    /// against the definition, bits against each other.
    fn check(&self) {
        let expected = self.definition(&self.arguments);
        let direction = Array::random(&expected.shape, 99);
        let statistics = reference::statistics(&expected);
        let mut bits = None;
        for isa in [None].into_iter().chain(Isa::available().into_iter().map(Some)) {
            let name = format!("{:?} of {:?} by {isa:?}", self.kind, self.arguments[0].shape);
            let outcome = self.run(isa, &direction);
            assert_near(&name, &outcome.y, &expected.values, 2e-5);
            for (found, expected) in outcome.statistics.iter().zip(&statistics) {
                assert_near(&format!("statistics of {name}"), found, expected, 2e-5);
            }
            for (number, gradient) in outcome.gradients.iter().enumerate() {
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
                let first = bits.get_or_insert(outcome.clone());
                assert_eq!(first, &outcome, "{name} gives other bits");
            }
        }
    }

    /// Compares some entries of a gradient with central differences of the definition. `number` is
    /// the argument's.
    fn check_gradient(&self, name: &str, number: usize, gradient: &[f32], direction: &Array) {
        const STEP: f64 = 1e-6;
        let scale = f64::from(gradient.iter().fold(1e-2f32, |max, value| max.max(value.abs())));
        for index in (0..gradient.len()).step_by(gradient.len() / 5 + 1) {
            let [after, before] = [STEP, -STEP].map(|step| {
                let mut moved = self.arguments.clone();
                moved[number].values[index] += step;
                self.definition(&moved).dot(direction)
            });
            let (found, expected) = (f64::from(gradient[index]), (after - before) / (2.0 * STEP));
            assert!(
                (found - expected).abs() <= 2e-4 * scale,
                "{name}[{index}]: {found} instead of {expected}"
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
    #![proptest_config(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn operations_agree_with_their_definitions(
        kind in kinds(),
        images in 1usize..6,
        size in 1usize..8,
        slope in prop_oneof![Just(0.0f32), Just(0.2)],
        seed in 0u64..1000,
    ) {
        let normed = !matches!(kind, Kind::Dense { .. } | Kind::Conv { inputs: 1, .. });
        Case::new(kind, images, [size, size], normed.then_some(slope), seed).check();
    }
}

#[test]
fn the_networks_own_layers_agree_with_their_definitions() {
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

#[test]
fn maps_may_be_wider_than_high() {
    for kind in [Kind::Upsample { inputs: 16, outputs: 16 }, Kind::ToImages { inputs: 16 }] {
        Case::new(kind, 2, [3, 6], Some(0.0), 5).check();
    }
}
