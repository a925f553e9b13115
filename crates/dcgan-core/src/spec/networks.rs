//! The two networks of the DCGAN as tables of layers, and the names of its metrics.
//!
//! The tables are the only place that says how many channels a layer has. `dcgan-model` names and
//! shapes its tensors by them, and `dcgan-coord summary` prints them.

use crate::evaluation::EvaluationInfo;
use crate::ids::Digest;
use crate::spec::alarm::{AlarmRule, Limit, Sign};

/// The names of the DCGAN's metrics: the loss of each phase in order, then the accuracy of each
/// phase.
///
/// An accuracy is the share of images on the right side of probability 0.5. In the generator's
/// phase (`gacc`) that is the share of fakes that the discriminator takes for real.
pub const METRIC_NAMES: &[&str] =
    &["d_loss_real", "d_loss_fake", "g_loss", "real_dacc", "fake_dacc", "gacc"];

/// The names of the same metrics in a line for people. Metrics in a row with one name share it.
pub const SHORT_METRIC_NAMES: &[&str] = &["d_real", "d_fake", "g", "acc", "acc", "acc"];
const _: () = assert!(SHORT_METRIC_NAMES.len() == METRIC_NAMES.len());

/// The beginning of the names of the generator's moving averages: the average of
/// `generator.conv1.weight` is `ema.generator.conv1.weight`.
pub const EMA_PREFIX: &str = "ema.";

/// One of the two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkSpec {
    /// The name of the network, with which the names of its tensors begin.
    pub name: &'static str,
    /// The shape of the input: `[channels, rows, columns]`.
    pub input: [usize; 3],
    /// The layers, from input to output.
    pub layers: &'static [LayerSpec],
}

/// One layer of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSpec {
    /// The middle part of its tensors' names; empty for layers without tensors.
    pub name: &'static str,
    /// The operation.
    pub kind: LayerKind,
    /// The shape of the output: `[channels, rows, columns]`.
    pub output: [usize; 3],
}

/// The operation of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// A fully connected layer with bias.
    Dense,
    /// A 3 x 3 convolution with bias and 'same' padding.
    Conv {
        /// The distance between two windows, in pixels.
        stride: usize,
    },
    /// Batch normalisation over images, rows and columns. Epsilon is 1e-3; running statistics move
    /// a fifth of the way to each new value.
    BatchNorm,
    /// Doubles rows and columns: every pixel becomes a square of four equal ones.
    Upsample,
    /// `max(x, 0)`.
    Relu,
    /// `x` where it is positive, `0.2 x` elsewhere.
    LeakyRelu,
    /// The hyperbolic tangent, between -1 and 1.
    Tanh,
    /// Reads a vector as the channels of an image.
    Reshape,
    /// The mean of each channel over rows and columns.
    AveragePool,
}

/// A named tensor of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The full name, as in `generator.conv1.weight`.
    pub name: String,
    /// The shape in PyTorch's order of dimensions, such as `[outputs, inputs, 3, 3]`.
    pub shape: Vec<usize>,
    /// True if gradients train the tensor; false for a running statistic.
    pub trained: bool,
}

impl TensorSpec {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Tells whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

const fn layer(name: &'static str, kind: LayerKind, output: [usize; 3]) -> LayerSpec {
    LayerSpec { name, kind, output }
}

/// The number of elements of a latent vector.
pub const LATENT_LEN: usize = 100;

/// The generator: turns a latent vector into an image with values from -1 to 1.
pub const GENERATOR: NetworkSpec = NetworkSpec {
    name: "generator",
    input: [LATENT_LEN, 1, 1],
    layers: &[
        layer("dense", LayerKind::Dense, [1568, 1, 1]),
        layer("", LayerKind::Relu, [1568, 1, 1]),
        layer("", LayerKind::Reshape, [32, 7, 7]),
        layer("conv1", LayerKind::Conv { stride: 1 }, [64, 7, 7]),
        layer("bn1", LayerKind::BatchNorm, [64, 7, 7]),
        layer("", LayerKind::Relu, [64, 7, 7]),
        layer("", LayerKind::Upsample, [64, 14, 14]),
        layer("conv2", LayerKind::Conv { stride: 1 }, [128, 14, 14]),
        layer("bn2", LayerKind::BatchNorm, [128, 14, 14]),
        layer("", LayerKind::Relu, [128, 14, 14]),
        layer("", LayerKind::Upsample, [128, 28, 28]),
        layer("conv3", LayerKind::Conv { stride: 1 }, [64, 28, 28]),
        layer("bn3", LayerKind::BatchNorm, [64, 28, 28]),
        layer("", LayerKind::Relu, [64, 28, 28]),
        layer("conv4", LayerKind::Conv { stride: 1 }, [1, 28, 28]),
        layer("", LayerKind::Tanh, [1, 28, 28]),
    ],
};

/// The discriminator: turns an image into a logit, which is positive if the image looks real.
pub const DISCRIMINATOR: NetworkSpec = NetworkSpec {
    name: "discriminator",
    input: [1, 28, 28],
    layers: &[
        layer("conv1", LayerKind::Conv { stride: 2 }, [32, 14, 14]),
        layer("bn1", LayerKind::BatchNorm, [32, 14, 14]),
        layer("", LayerKind::LeakyRelu, [32, 14, 14]),
        layer("conv2", LayerKind::Conv { stride: 2 }, [64, 7, 7]),
        layer("bn2", LayerKind::BatchNorm, [64, 7, 7]),
        layer("", LayerKind::LeakyRelu, [64, 7, 7]),
        layer("conv3", LayerKind::Conv { stride: 2 }, [128, 4, 4]),
        layer("bn3", LayerKind::BatchNorm, [128, 4, 4]),
        layer("", LayerKind::LeakyRelu, [128, 4, 4]),
        layer("", LayerKind::AveragePool, [128, 1, 1]),
        layer("dense", LayerKind::Dense, [1, 1, 1]),
    ],
};

/// The number of features of an image in an evaluation: the classifier's last hidden layer.
pub const FEATURES: usize = 64;
/// The number of classes that the classifier tells apart.
pub const CLASSES: usize = 10;

/// The evaluation of a state of the DCGAN: 10,000 samples in pieces of 100. The names of its values
/// stand for: the Fréchet distance and the kernel distance of the samples' features from those of
/// real images; the classifier score (Salimans et al., NIPS 2016, there with Inception); and the
/// shares of the rarest and of the most frequent class.
pub const EVALUATION: EvaluationInfo = EvaluationInfo {
    pieces: 100,
    names: &[
        "frechet_distance",
        "kernel_distance",
        "classifier_score",
        "class_share_min",
        "class_share_max",
    ],
    criterion: "frechet_distance",
};

/// The least Fréchet distance above the best one that counts as far: near the end of a training two
/// evaluations in a row differ by 1 or so, and 5 more can be seen.
const DISTANCE_FAR: f64 = 5.0;
/// A class with less than this share of the samples is almost gone. It should have 10%.
const SHARE_GONE: f64 = 0.01;
/// A class is only missed that once had this share. At the beginning all samples are alike.
const SHARE_ONCE: f64 = 0.03;
/// Losses and accuracies must stay beyond a limit for this many steps, most of an epoch of MNIST:
/// single steps are there in every training.
const STUCK_STEPS: u64 = 200;

/// The signs of a training that goes wrong: of samples that become worse, of classes that are lost
/// (mode collapse), and of one network that has won, so that the other one learns nothing more.
///
/// When both accuracies of the discriminator are 0.99, or both its losses below 0.02, it is right
/// about nearly all images and nearly sure of it. A generator's loss of 5 means that the
/// discriminator gives its images a probability of exp(-5), below 0.01.
pub const ALARMS: &[AlarmRule] = &[
    AlarmRule {
        code: "samples_worse",
        what: "the samples have become much worse",
        sign: Sign::FarAboveBest { value: "frechet_distance", times: 2.0, by: DISTANCE_FAR },
    },
    AlarmRule {
        code: "class_lost",
        what: "one class of digits is almost gone from the samples",
        sign: Sign::AlmostGone { value: "class_share_min", below: SHARE_GONE, once: SHARE_ONCE },
    },
    AlarmRule {
        code: "discriminator_right",
        what: "the discriminator is right about nearly all images",
        sign: Sign::Stuck {
            steps: STUCK_STEPS,
            limits: &[("real_dacc", Limit::AtLeast(0.99)), ("fake_dacc", Limit::AtLeast(0.99))],
        },
    },
    AlarmRule {
        code: "discriminator_sure",
        what: "the discriminator has next to no loss",
        sign: Sign::Stuck {
            steps: STUCK_STEPS,
            limits: &[("d_loss_real", Limit::AtMost(0.02)), ("d_loss_fake", Limit::AtMost(0.02))],
        },
    },
    AlarmRule {
        code: "generator_lost",
        what: "the discriminator recognises nearly all images of the generator",
        sign: Sign::Stuck { steps: STUCK_STEPS, limits: &[("g_loss", Limit::AtLeast(5.0))] },
    },
];

/// The digest of the training images whose evaluator is built in: MNIST's.
pub const EVALUATED_DATA: Digest = Digest(0xee3d_62f5_5dfa_fffb);

/// The classifier that judges samples: the discriminator's convolutions, and two dense layers.
/// Training does not change it.
pub const CLASSIFIER: NetworkSpec = NetworkSpec {
    name: "classifier",
    input: [1, 28, 28],
    layers: &[
        layer("conv1", LayerKind::Conv { stride: 2 }, [32, 14, 14]),
        layer("bn1", LayerKind::BatchNorm, [32, 14, 14]),
        layer("", LayerKind::LeakyRelu, [32, 14, 14]),
        layer("conv2", LayerKind::Conv { stride: 2 }, [64, 7, 7]),
        layer("bn2", LayerKind::BatchNorm, [64, 7, 7]),
        layer("", LayerKind::LeakyRelu, [64, 7, 7]),
        layer("conv3", LayerKind::Conv { stride: 2 }, [128, 4, 4]),
        layer("bn3", LayerKind::BatchNorm, [128, 4, 4]),
        layer("", LayerKind::LeakyRelu, [128, 4, 4]),
        layer("", LayerKind::Reshape, [2048, 1, 1]),
        layer("dense1", LayerKind::Dense, [FEATURES, 1, 1]),
        layer("", LayerKind::Relu, [FEATURES, 1, 1]),
        layer("dense2", LayerKind::Dense, [CLASSES, 1, 1]),
    ],
};

impl NetworkSpec {
    /// Every layer, together with the shape of its input.
    pub fn with_inputs(&self) -> impl Iterator<Item = ([usize; 3], &'static LayerSpec)> {
        let inputs =
            std::iter::once(self.input).chain(self.layers.iter().map(|layer| layer.output));
        inputs.zip(self.layers)
    }

    /// The tensors of the network, layer by layer.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        self.with_inputs().flat_map(|(input, layer)| layer.tensors(self.name, input)).collect()
    }

    /// The number of parameters, counted as Keras does: running statistics are included.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(TensorSpec::len).sum()
    }
}

impl LayerSpec {
    /// The tensors of the layer in the network named `network`, for an input of shape
    /// `[channels, rows, columns]`.
    pub fn tensors(&self, network: &str, input: [usize; 3]) -> Vec<TensorSpec> {
        let (inputs, outputs) = (input[0], self.output[0]);
        let tensor = |suffix: &str, shape: Vec<usize>, trained| TensorSpec {
            name: format!("{network}.{}.{suffix}", self.name),
            shape,
            trained,
        };
        match self.kind {
            LayerKind::Dense => vec![
                tensor("weight", vec![outputs, inputs], true),
                tensor("bias", vec![outputs], true),
            ],
            LayerKind::Conv { .. } => vec![
                tensor("weight", vec![outputs, inputs, 3, 3], true),
                tensor("bias", vec![outputs], true),
            ],
            LayerKind::BatchNorm => vec![
                tensor("weight", vec![outputs], true),
                tensor("bias", vec![outputs], true),
                tensor("running_mean", vec![outputs], false),
                tensor("running_var", vec![outputs], false),
            ],
            LayerKind::Upsample
            | LayerKind::Relu
            | LayerKind::LeakyRelu
            | LayerKind::Tanh
            | LayerKind::Reshape
            | LayerKind::AveragePool => Vec::new(),
        }
    }

    /// The number of parameters of the layer for an input of shape `[channels, rows, columns]`,
    /// counted as Keras does.
    pub fn parameters(&self, input: [usize; 3]) -> usize {
        self.tensors("", input).iter().map(TensorSpec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_networks_have_as_many_parameters_as_those_of_the_tutorial() {
        assert_eq!((GENERATOR.parameters(), DISCRIMINATOR.parameters()), (326_113, 93_697));
        let tensors = GENERATOR.tensors().into_iter().chain(DISCRIMINATOR.tensors());
        let trained: usize = tensors.filter(|tensor| tensor.trained).map(|t| t.len()).sum();
        assert_eq!(trained, 418_850);
    }

    #[test]
    fn the_output_shapes_in_the_tables_follow_from_the_inputs() {
        for network in [GENERATOR, DISCRIMINATOR] {
            for (input, layer) in network.with_inputs() {
                let [c, h, w] = input;
                let expected = match layer.kind {
                    LayerKind::Conv { stride } => {
                        [layer.output[0], h.div_ceil(stride), w.div_ceil(stride)]
                    }
                    LayerKind::Upsample => [c, 2 * h, 2 * w],
                    LayerKind::AveragePool => [c, 1, 1],
                    LayerKind::Dense => [layer.output[0], 1, 1],
                    LayerKind::Reshape => {
                        [layer.output[0], layer.output[1], c / (layer.output[0] * layer.output[1])]
                    }
                    LayerKind::BatchNorm
                    | LayerKind::Relu
                    | LayerKind::LeakyRelu
                    | LayerKind::Tanh => input,
                };
                assert_eq!(layer.output, expected, "{} {layer:?}", network.name);
            }
        }
    }
}
