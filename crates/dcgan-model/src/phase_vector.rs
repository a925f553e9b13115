//! The flat vector that a phase computes for a shard, and that the all-reduce adds up over the
//! shards.
//!
//! One vector holds everything that has to be summed, so that a phase needs a single all-reduce:
//! `[gradients | batch statistics | loss | accuracy]`.

use burn::tensor::Tensor;
use dcgan_core::state::Layout;

use crate::layout::NetworkTensors;
use crate::loss::LossTensors;
use crate::ops::Statistics;

/// The vector of one shard on the device that has computed it: its parts in order, `[elements]`
/// each.
pub(crate) struct VectorParts(Vec<Tensor<1>>);

impl VectorParts {
    /// Puts the parts of a vector in order. `gradients` are those of all trained tensors.
    pub(crate) fn new(
        gradients: Vec<Tensor<1>>,
        statistics: Vec<Statistics>,
        loss: LossTensors,
    ) -> Self {
        let mut parts = gradients;
        parts.extend(statistics.into_iter().flat_map(|of| [of.mean, of.variance]));
        parts.extend([loss.value, loss.accuracy]);
        Self(parts)
    }
}

/// The layout of a phase's vector, for the network that the phase trains.
#[derive(Clone, Debug)]
pub(crate) struct PhaseVectorLayout {
    /// Elements of each trained tensor's gradient, in the order of [`NetworkTensors::trained`].
    gradient_lens: Vec<usize>,
    /// Elements of each batch statistic, in the order of [`NetworkTensors::running`].
    statistic_lens: Vec<usize>,
}

/// A phase's vector, taken apart.
pub(crate) struct PhaseVector<'a> {
    /// The gradient of each trained tensor.
    pub(crate) gradients: Vec<&'a [f32]>,
    /// The mean and the biased variance of each batch norm's input, alternately.
    pub(crate) statistics: Vec<&'a [f32]>,
    /// The mean loss over the images; in a sum over shards, the sum of their means.
    pub(crate) loss: f32,
    /// The fraction of images on the right side of probability 0.5.
    pub(crate) accuracy: f32,
}

impl PhaseVectorLayout {
    /// The layout for a phase that trains `network`.
    pub(crate) fn new(network: &NetworkTensors, state: &Layout) -> Self {
        let statistic_len = |&index: &usize| state.tensors()[index].len();
        Self {
            gradient_lens: network.trained.iter().map(|tensor| tensor.spec.len()).collect(),
            statistic_lens: network.running.iter().map(statistic_len).collect(),
        }
    }

    /// Elements of the vector.
    pub(crate) fn len(&self) -> usize {
        self.gradient_lens.iter().chain(&self.statistic_lens).sum::<usize>() + 2
    }

    /// Copies the vectors of shards to the host: all of them at once, since a copy from a device
    /// waits until the device is done.
    ///
    /// # Panics
    /// If the parts of a vector do not have the length [`PhaseVectorLayout::len`] together.
    pub(crate) fn download(&self, shards: Vec<VectorParts>) -> Vec<Vec<f32>> {
        let count = shards.len();
        let parts: Vec<Tensor<1>> =
            shards.into_iter().flat_map(|VectorParts(parts)| parts).collect();
        let data = Tensor::cat(parts, 0).into_data();
        let flat: Vec<f32> = data.try_into_vec().expect("all tensors are of f32");
        assert_eq!(flat.len(), count * self.len(), "the networks and their table agree");
        match count {
            1 => vec![flat],
            _ => flat.chunks_exact(self.len()).map(<[f32]>::to_vec).collect(),
        }
    }

    /// Takes a vector apart: that of one shard, or a sum over shards.
    ///
    /// # Panics
    /// If the vector does not have the length [`PhaseVectorLayout::len`].
    pub(crate) fn split<'a>(&self, vector: &'a [f32]) -> PhaseVector<'a> {
        assert_eq!(vector.len(), self.len(), "a phase's vector has one length");
        let mut rest = vector;
        let mut take = |len: usize| {
            let (part, after) = rest.split_at(len);
            rest = after;
            part
        };
        PhaseVector {
            gradients: self.gradient_lens.iter().map(|&len| take(len)).collect(),
            statistics: self.statistic_lens.iter().map(|&len| take(len)).collect(),
            loss: take(1)[0],
            accuracy: take(1)[0],
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn a_download_gives_each_shard_its_parts_in_order() {
        let layout = PhaseVectorLayout { gradient_lens: vec![2, 1], statistic_lens: vec![1, 1] };
        let device = Device::flex();
        let tensor = |values: &[f32]| Tensor::<1>::from_data(values, &device);
        // The vector of a shard is n, n + 1, n + 2, ...
        let parts = |n: f32| {
            let statistics = Statistics { mean: tensor(&[n + 3.0]), variance: tensor(&[n + 4.0]) };
            let loss = LossTensors {
                value: tensor(&[n + 5.0]),
                accuracy: tensor(&[n + 6.0]),
                gradient: Tensor::zeros([1, 1, 1, 1], &device),
            };
            let gradients = vec![tensor(&[n, n + 1.0]), tensor(&[n + 2.0])];
            VectorParts::new(gradients, vec![statistics], loss)
        };
        let expected = |n: u8| (n..n + 7).map(f32::from).collect::<Vec<_>>();
        assert_eq!(layout.download(vec![parts(0.0)]), [expected(0)]);
        let vectors = layout.download(vec![parts(10.0), parts(20.0)]);
        assert_eq!(vectors, [expected(10), expected(20)]);

        let vector = layout.split(&vectors[1]);
        assert_eq!(vector.gradients, [&[20.0, 21.0][..], &[22.0]]);
        assert_eq!(vector.statistics, [[23.0], [24.0]]);
        assert_eq!([vector.loss, vector.accuracy], [25.0, 26.0]);
    }
}
