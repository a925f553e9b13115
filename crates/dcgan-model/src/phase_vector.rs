//! The flat vector that a phase computes for a shard, and that the all-reduce adds up over the
//! shards.
//!
//! One vector holds everything that has to be summed, so that a phase needs a single all-reduce:
//! `[gradients | batch statistics | loss | accuracy]`.

use dcgan_core::state::Layout;

use crate::layout::NetworkTensors;
use crate::loss::Loss;
use crate::ops::Statistics;
use crate::params::append;

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
        self.gradients_len() + self.statistic_lens.iter().sum::<usize>() + 2
    }

    /// Elements of all gradients together.
    pub(crate) fn gradients_len(&self) -> usize {
        self.gradient_lens.iter().sum()
    }

    /// Assembles the vector of a shard. `gradients` holds those of all trained tensors, one after
    /// the other.
    ///
    /// # Panics
    /// If the parts together do not have the length [`PhaseVectorLayout::len`].
    pub(crate) fn assemble(
        &self,
        gradients: Vec<f32>,
        statistics: Vec<Statistics>,
        loss: &Loss,
    ) -> Vec<f32> {
        // The rest is appended to the gradients, which are most of the vector.
        let mut vector = gradients;
        vector.reserve_exact(self.len() - vector.len());
        for Statistics { mean, variance } in statistics {
            append(&mut vector, mean);
            append(&mut vector, variance);
        }
        vector.extend([loss.value, loss.accuracy]);
        assert_eq!(vector.len(), self.len(), "the networks and their table agree");
        vector
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
