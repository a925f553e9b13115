//! Both networks as a table: names, shapes, counts. `dcgan-model` builds its tensors from it, `summary` prints it.

/// A network of the GAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkSpec {
    /// What its tensors' names begin with.
    pub name: &'static str,
    /// What goes in: channels, rows, columns.
    pub input: [usize; 3],
    /// The layers, in order.
    pub layers: &'static [LayerSpec],
}

/// One layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSpec {
    /// What its tensors' names go on with; empty for layers without tensors.
    pub name: &'static str,
    /// What it does.
    pub kind: LayerKind,
    /// What comes out: channels, rows, columns.
    pub output: [usize; 3],
}

/// What a layer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
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
pub struct TensorSpec {
    /// As in `generator.conv1.weight`.
    pub name: String,
    /// As PyTorch lays it out.
    pub shape: Vec<usize>,
    /// Trained by gradients, or a running statistic.
    pub trained: bool,
}

impl TensorSpec {
    /// Its number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

const fn layer(name: &'static str, kind: LayerKind, output: [usize; 3]) -> LayerSpec {
    LayerSpec { name, kind, output }
}

/// Numbers in a latent vector.
pub const LATENT_LEN: usize = 100;

/// From a latent vector to an image.
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

/// From an image to a logit: positive where it looks real.
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

impl NetworkSpec {
    /// Every layer with the shape that goes into it.
    pub fn with_inputs(&self) -> impl Iterator<Item = ([usize; 3], &'static LayerSpec)> {
        let inputs =
            std::iter::once(self.input).chain(self.layers.iter().map(|layer| layer.output));
        inputs.zip(self.layers)
    }

    /// Its tensors, layer by layer.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        self.with_inputs().flat_map(|(input, layer)| layer.tensors(self.name, input)).collect()
    }

    /// The number of its parameters, running statistics included, as Keras counts.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(TensorSpec::len).sum()
    }
}

impl LayerSpec {
    /// Its tensors in a network of that name, with `input` going in.
    pub fn tensors(&self, network: &str, input: [usize; 3]) -> Vec<TensorSpec> {
        let (inputs, outputs) = (input[0], self.output[0]);
        let parts: Vec<(&str, Vec<usize>, bool)> = match self.kind {
            LayerKind::Dense => {
                vec![("weight", vec![outputs, inputs], true), ("bias", vec![outputs], true)]
            }
            LayerKind::Conv { .. } => {
                vec![("weight", vec![outputs, inputs, 3, 3], true), ("bias", vec![outputs], true)]
            }
            LayerKind::BatchNorm => ["weight", "bias", "running_mean", "running_var"]
                .map(|part| (part, vec![outputs], !part.starts_with("running")))
                .to_vec(),
            _ => Vec::new(),
        };
        let tensor = |(part, shape, trained)| TensorSpec {
            name: format!("{network}.{}.{part}", self.name),
            shape,
            trained,
        };
        parts.into_iter().map(tensor).collect()
    }

    /// Its parameters with `input` going in, as Keras counts.
    pub fn parameters(&self, input: [usize; 3]) -> usize {
        self.tensors("", input).iter().map(TensorSpec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_networks_have_as_many_parameters_as_the_tutorials() {
        assert_eq!((GENERATOR.parameters(), DISCRIMINATOR.parameters()), (326_113, 93_697));
        let trained = |network: NetworkSpec| {
            network.tensors().iter().filter(|t| t.trained).map(TensorSpec::len).sum::<usize>()
        };
        assert_eq!(trained(GENERATOR) + trained(DISCRIMINATOR), 418_850);
    }

    #[test]
    fn shapes_follow_from_the_layers() {
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
