//! Differentiable augmentation: every image, real or fake, is moved a little before the
//! discriminator sees it (Zhao et al., "Differentiable Augmentation for Data-Efficient GAN
//! Training", NeurIPS 2020; there the translation of the policy). The generator's gradient passes
//! through it, so the generator does not learn to draw images that are moved.

use burn::tensor::Tensor;
use dcgan_core::ids::Phase;
use dcgan_core::objective::ShardTask;
use dcgan_core::random::{Purpose, RandomStream};
use dcgan_core::spec::RunSpec;

use crate::ops::FeatureMaps;

/// The value of pixels that come in from outside: black.
const OUTSIDE: f32 = -1.0;

/// The shifts of a shard's images in a phase. The default moves none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Translation {
    /// The greatest shift, in pixels.
    max: usize,
    /// For each image the first row and column that are kept, of the image with a margin of `max`.
    from: Vec<[usize; 2]>,
}

impl Translation {
    /// Draws the shifts of a shard's images in the phase of the task.
    pub(crate) fn draw(spec: &RunSpec, task: &ShardTask<'_>) -> Self {
        let max = usize::from(spec.augment_translation());
        if max == 0 {
            return Self::default();
        }
        let time = (task.at.step + 1) * Phase::ALL.len() as u64 + task.at.phase.index() as u64;
        let shard = task.shard.0.into();
        let stream = RandomStream::new(spec.seed(), Purpose::Augmentation, shard, time);
        let uniforms: Vec<f32> = stream.uniforms(2 * spec.sharding().shard_batch()).collect();
        let shift = |u: f32| (u * (2 * max + 1) as f32) as usize;
        let from = uniforms.chunks_exact(2).map(|pair| [shift(pair[0]), shift(pair[1])]).collect();
        Self { max, from }
    }

    /// Moves images `[N, rows, columns, 1]`.
    pub(crate) fn apply(&self, images: FeatureMaps) -> FeatureMaps {
        let Self { max, from } = self;
        if from.is_empty() {
            return images;
        }
        let [_, rows, columns, _] = images.dims();
        let margin = (*max, *max);
        let padded = images.pad([margin, margin, (0, 0)], OUTSIDE);
        let moved = from.iter().enumerate().map(|(i, &[row, column])| {
            padded.clone().slice([i..i + 1, row..row + rows, column..column + columns, 0..1])
        });
        Tensor::cat(moved.collect(), 0)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use dcgan_core::ids::{Digest, Position, ShardId};
    use dcgan_core::spec::DatasetInfo;
    use dcgan_core::spec::sharding::Partition;
    use dcgan_core::state::{Layout, State};

    use super::*;

    #[test]
    fn images_and_their_gradients_are_moved_together() {
        let pixels: Vec<f32> = (0..18).map(|i| i as f32).collect();
        let images = Tensor::<1>::from_data(pixels.as_slice(), &Device::flex());
        let images = images.reshape([2, 3, 3, 1]).autodiff().require_grad();
        // The first image moves one row up and one column to the right, the second stays.
        let translation = Translation { max: 1, from: vec![[2, 0], [1, 1]] };
        let moved = translation.apply(images.clone());
        let values: Vec<f32> = moved.clone().into_data().try_into_vec().unwrap();
        assert_eq!(values[..9], [-1.0, 3.0, 4.0, -1.0, 6.0, 7.0, -1.0, -1.0, -1.0]);
        assert_eq!(values[9..], pixels[9..]);
        let mut gradients = moved.sum().backward();
        let gradient = images.grad_remove(&mut gradients).unwrap();
        let gradient: Vec<f32> = gradient.into_data().try_into_vec().unwrap();
        assert_eq!(gradient[..9], [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0]);
        assert!(gradient[9..].iter().all(|&g| g == 1.0));
    }

    #[test]
    fn shifts_are_spread_evenly_and_differ_between_phases() {
        let data = DatasetInfo { images: 4096, rows: 28, columns: 28, digest: Digest(0) };
        let builder = RunSpec::builder().batch_size(2000).shards(1).augment_translation(2);
        let spec = builder.build(data).unwrap();
        let state = State::zeros(Layout::new([]).into());
        let partition = Partition::new(1, Vec::new());
        let draw = |phase| {
            let at = Position { step: 0, phase };
            let task = ShardTask { state: &state, at, shard: ShardId(0), partition: &partition };
            Translation::draw(&spec, &task)
        };
        let translation = draw(Phase::DiscriminatorReal);
        let mut counts = [[0; 2]; 5];
        for from in &translation.from {
            (0..2).for_each(|axis| counts[from[axis]][axis] += 1);
        }
        assert!(counts.as_flattened().iter().all(|&count| (330..470).contains(&count)));
        assert_ne!(translation, draw(Phase::DiscriminatorFake));
        assert_eq!(translation, draw(Phase::DiscriminatorReal));
    }
}
