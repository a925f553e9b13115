//! Both networks as a table: names, shapes, counts. `dcgan-model` builds its tensors from it, `summary` prints it.

/// A network of the GAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// What its tensors' names begin with.
    pub name: &'static str,
    /// What goes in: channels, rows, columns.
    pub input: [usize; 3],
    /// The layers, in order.
    pub layers: &'static [Layer],
}

/// One layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What its tensors' names go on with; empty for layers without tensors.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// What comes out: channels, rows, columns.
    pub output: [usize; 3],
}

/// What a layer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A full connection.
    Dense,
    /// A 3 x 3 convolution with 'same' padding.
    Conv {
        /// Pixels between its windows.
        stride: usize,
    },
    /// Batch normalisation over images, rows and columns; epsilon 1e-3, momentum 0.2 of the new value.
    BatchNorm,
    /// Every pixel four times.
    Upsample,
    /// max(x, 0).
    Relu,
    /// x, or 0.2 x where negative.
    LeakyRelu,
    /// Between -1 and 1.
    Tanh,
    /// A vector as channels of an image.
    Reshape,
    /// The mean of each channel.
    AveragePool,
}

/// A named array of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// As in `generator.conv1.weight`.
    pub name: String,
    /// As PyTorch lays it out.
    pub shape: Vec<usize>,
    /// Trained by gradients, or a running statistic.
    pub trained: bool,
}

impl Tensor {
    /// Its number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

const fn layer(name: &'static str, kind: Kind, output: [usize; 3]) -> Layer {
    Layer { name, kind, output }
}

/// Numbers in a latent vector.
pub const LATENT: usize = 100;

/// From a latent vector to an image.
pub const GENERATOR: Network = Network {
    name: "generator",
    input: [LATENT, 1, 1],
    layers: &[
        layer("dense", Kind::Dense, [1568, 1, 1]),
        layer("", Kind::Relu, [1568, 1, 1]),
        layer("", Kind::Reshape, [32, 7, 7]),
        layer("conv1", Kind::Conv { stride: 1 }, [64, 7, 7]),
        layer("bn1", Kind::BatchNorm, [64, 7, 7]),
        layer("", Kind::Relu, [64, 7, 7]),
        layer("", Kind::Upsample, [64, 14, 14]),
        layer("conv2", Kind::Conv { stride: 1 }, [128, 14, 14]),
        layer("bn2", Kind::BatchNorm, [128, 14, 14]),
        layer("", Kind::Relu, [128, 14, 14]),
        layer("", Kind::Upsample, [128, 28, 28]),
        layer("conv3", Kind::Conv { stride: 1 }, [64, 28, 28]),
        layer("bn3", Kind::BatchNorm, [64, 28, 28]),
        layer("", Kind::Relu, [64, 28, 28]),
        layer("conv4", Kind::Conv { stride: 1 }, [1, 28, 28]),
        layer("", Kind::Tanh, [1, 28, 28]),
    ],
};

/// From an image to a logit: positive where it looks real.
pub const DISCRIMINATOR: Network = Network {
    name: "discriminator",
    input: [1, 28, 28],
    layers: &[
        layer("conv1", Kind::Conv { stride: 2 }, [32, 14, 14]),
        layer("bn1", Kind::BatchNorm, [32, 14, 14]),
        layer("", Kind::LeakyRelu, [32, 14, 14]),
        layer("conv2", Kind::Conv { stride: 2 }, [64, 7, 7]),
        layer("bn2", Kind::BatchNorm, [64, 7, 7]),
        layer("", Kind::LeakyRelu, [64, 7, 7]),
        layer("conv3", Kind::Conv { stride: 2 }, [128, 4, 4]),
        layer("bn3", Kind::BatchNorm, [128, 4, 4]),
        layer("", Kind::LeakyRelu, [128, 4, 4]),
        layer("", Kind::AveragePool, [128, 1, 1]),
        layer("dense", Kind::Dense, [1, 1, 1]),
    ],
};

impl Network {
    /// Every layer with the shape that goes into it.
    pub fn with_inputs(&self) -> impl Iterator<Item = ([usize; 3], &'static Layer)> {
        let inputs = std::iter::once(self.input).chain(self.layers.iter().map(|layer| layer.output));
        inputs.zip(self.layers)
    }

    /// Its tensors, layer by layer.
    pub fn tensors(&self) -> Vec<Tensor> {
        self.with_inputs().flat_map(|(input, layer)| layer.tensors(self.name, input)).collect()
    }

    /// The number of its parameters, running statistics included, as Keras counts.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(Tensor::len).sum()
    }
}

impl Layer {
    /// Its tensors in a network of that name, with `input` going in.
    pub fn tensors(&self, network: &str, input: [usize; 3]) -> Vec<Tensor> {
        let (inputs, outputs) = (input[0], self.output[0]);
        let parts: Vec<(&str, Vec<usize>, bool)> = match self.kind {
            Kind::Dense => vec![("weight", vec![outputs, inputs], true), ("bias", vec![outputs], true)],
            Kind::Conv { .. } => vec![("weight", vec![outputs, inputs, 3, 3], true), ("bias", vec![outputs], true)],
            Kind::BatchNorm => ["weight", "bias", "running_mean", "running_var"]
                .map(|part| (part, vec![outputs], !part.starts_with("running")))
                .to_vec(),
            _ => Vec::new(),
        };
        let tensor =
            |(part, shape, trained)| Tensor { name: format!("{network}.{}.{part}", self.name), shape, trained };
        parts.into_iter().map(tensor).collect()
    }

    /// Its parameters with `input` going in, as Keras counts.
    pub fn parameters(&self, input: [usize; 3]) -> usize {
        self.tensors("", input).iter().map(Tensor::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_networks_have_as_many_parameters_as_the_tutorials() {
        assert_eq!((GENERATOR.parameters(), DISCRIMINATOR.parameters()), (326_113, 93_697));
        let trained = |network: Network| network.tensors().iter().filter(|t| t.trained).map(Tensor::len).sum::<usize>();
        assert_eq!(trained(GENERATOR) + trained(DISCRIMINATOR), 418_850);
    }

    #[test]
    fn shapes_follow_from_the_layers() {
        for network in [GENERATOR, DISCRIMINATOR] {
            for (input, layer) in network.with_inputs() {
                let [c, h, w] = input;
                let expected = match layer.kind {
                    Kind::Conv { stride } => [layer.output[0], h.div_ceil(stride), w.div_ceil(stride)],
                    Kind::Upsample => [c, 2 * h, 2 * w],
                    Kind::AveragePool => [c, 1, 1],
                    Kind::Dense => [layer.output[0], 1, 1],
                    Kind::Reshape => [layer.output[0], layer.output[1], c / (layer.output[0] * layer.output[1])],
                    Kind::BatchNorm | Kind::Relu | Kind::LeakyRelu | Kind::Tanh => input,
                };
                assert_eq!(layer.output, expected, "{} {layer:?}", network.name);
            }
        }
    }
}
