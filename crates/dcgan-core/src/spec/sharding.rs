//! The assignment of images to shards and steps.
//!
//! The seed splits the data set once into S fixed partitions. Shard s walks through its own
//! partition, in an order that is drawn anew for every epoch. Both are functions of numbers that
//! everybody knows. Therefore a worker needs only the partitions of its own shards, and no position
//! in the data is ever saved or handed over.

use crate::ids::{ShardId, Step};
use crate::random::{Purpose, RandomStream};
use crate::words::counted;

/// The split of a data set into partitions, and each shard's walk through its partition.
///
/// It is a function of (seed, images, shards, batch size), and exists only for values that fit
/// together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharding {
    seed: u64,
    images: usize,
    shards: u16,
    /// The number of images that a shard sees in each step.
    shard_batch: usize,
}

/// The error for a data set that cannot be split as requested.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ShardingError {
    /// The batch size is not a multiple of the number of shards.
    #[error(
        "--batch-size {batch_size} cannot be split into --shards {shards}: the nearest is {}",
        nearest(*batch_size, (*shards).into())
    )]
    Uneven {
        /// The number of images in a step.
        batch_size: usize,
        /// The number of shards.
        shards: u16,
    },
    /// A shard would see a single image in each step. Batch statistics need at least two.
    #[error("--batch-size {batch_size} leaves fewer than 2 images for each of --shards {shards}")]
    TooThin {
        /// The number of images in a step.
        batch_size: usize,
        /// The number of shards.
        shards: u16,
    },
    /// The images do not fill one batch.
    #[error(
        "the data set has {}, and a step takes --batch-size {batch_size}: give more images in \
         --data, or a smaller batch",
        counted(*images, "image")
    )]
    TooFewImages {
        /// The number of images in the data set.
        images: usize,
        /// The number of images in a step.
        batch_size: usize,
    },
}

/// The batch sizes next to this one that can be split into shards of 2 images and more.
fn nearest(batch_size: usize, shards: usize) -> String {
    let below = batch_size / shards.max(1);
    let sizes = [below, below + 1].map(|images| images.max(2) * shards);
    let [low, high] = sizes;
    if low == high { high.to_string() } else { format!("{low} or {high}") }
}

impl Sharding {
    /// Splits `images` images into `shards` partitions, for batches of `batch_size` images.
    ///
    /// # Errors
    /// If `batch_size` is not a multiple of `shards`, leaves a shard fewer than 2 images,
    /// or is larger than an epoch.
    pub fn new(
        seed: u64,
        images: usize,
        shards: u16,
        batch_size: usize,
    ) -> Result<Self, ShardingError> {
        if shards == 0 || !batch_size.is_multiple_of(usize::from(shards)) {
            return Err(ShardingError::Uneven { batch_size, shards });
        }
        let shard_batch = batch_size / usize::from(shards);
        if shard_batch < 2 {
            return Err(ShardingError::TooThin { batch_size, shards });
        }
        if images < batch_size {
            return Err(ShardingError::TooFewImages { images, batch_size });
        }
        Ok(Self { seed, images, shards, shard_batch })
    }

    /// The number of shards.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// The number of images that a shard sees in each step.
    pub fn shard_batch(&self) -> usize {
        self.shard_batch
    }

    /// The number of steps in an epoch: the number of whole batches in the smallest partition.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.images / usize::from(self.shards) / self.shard_batch) as u64
    }

    /// The epoch that `step` belongs to, counted from 1.
    pub fn epoch(&self, step: Step) -> u64 {
        step.saturating_sub(1) / self.steps_per_epoch() + 1
    }

    /// The number of images in the partition of `shard`. Partitions differ by one image at most.
    pub fn partition_len(&self, shard: ShardId) -> usize {
        self.boundary(shard.0 + 1) - self.boundary(shard.0)
    }

    /// The images of every partition, as indices into the data set.
    pub fn partitions(&self) -> Vec<Vec<u32>> {
        let order = RandomStream::new(self.seed, Purpose::Split, 0, 0).permutation(self.images);
        (0..self.shards)
            .map(|shard| order[self.boundary(shard)..self.boundary(shard + 1)].to_vec())
            .collect()
    }

    /// The images that `shard` sees in `step`, as indices into its partition.
    ///
    /// The images that are left over at the end of an epoch, fewer than a batch, are not used in
    /// it.
    pub fn batch(&self, shard: ShardId, step: Step) -> Vec<u32> {
        let order = RandomStream::new(self.seed, Purpose::Order, shard.0.into(), self.epoch(step))
            .permutation(self.partition_len(shard));
        let first = ((step - 1) % self.steps_per_epoch()) as usize * self.shard_batch;
        order[first..first + self.shard_batch].to_vec()
    }

    /// The first place in the split's permutation that belongs to `shard`. The first
    /// `images % shards` partitions hold one image more than the others.
    fn boundary(&self, shard: u16) -> usize {
        let (shards, shard) = (usize::from(self.shards), usize::from(shard));
        shard * (self.images / shards) + shard.min(self.images % shards)
    }
}

/// The images of one shard's partition, with one byte a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    image_bytes: usize,
    pixels: Vec<u8>,
}

impl Partition {
    /// A partition of the images in `pixels`, one after the other, of `image_bytes` bytes each.
    ///
    /// # Panics
    /// If `pixels` does not hold whole images.
    pub fn new(image_bytes: usize, pixels: Vec<u8>) -> Self {
        assert!(
            image_bytes > 0 && pixels.len().is_multiple_of(image_bytes),
            "a partition holds whole images"
        );
        Self { image_bytes, pixels }
    }

    /// The pixels of image `index`.
    ///
    /// # Panics
    /// If the partition has no such image.
    pub fn image(&self, index: u32) -> &[u8] {
        &self.pixels[index as usize * self.image_bytes..][..self.image_bytes]
    }

    /// The pixels of all images, one after the other.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mnist_has_234_steps_an_epoch() {
        let mnist = Sharding::new(22, 60_000, 8, 256).unwrap();
        assert_eq!(mnist.steps_per_epoch(), 234);
        assert_eq!(mnist.shard_batch(), 32);
        assert_eq!([1, 234, 235, 468, 469].map(|step| mnist.epoch(step)), [1, 1, 2, 2, 3]);
    }

    #[test]
    fn a_batch_that_does_not_fit_is_refused_with_the_reason() {
        for (images, shards, batch_size, reason) in [
            (
                60_000,
                7,
                256,
                "--batch-size 256 cannot be split into --shards 7: the nearest is 252 or 259",
            ),
            (60_000, 8, 10, "--batch-size 10 cannot be split into --shards 8: the nearest is 16"),
            (
                60_000,
                256,
                256,
                "--batch-size 256 leaves fewer than 2 images for each of --shards 256",
            ),
            (
                255,
                8,
                256,
                "the data set has 255 images, and a step takes --batch-size 256: give more images \
                 in --data, or a smaller batch",
            ),
        ] {
            let error = Sharding::new(22, images, shards, batch_size).unwrap_err();
            assert_eq!(error.to_string(), reason);
        }
        assert!(Sharding::new(22, 60_000, 0, 256).is_err());
    }

    proptest! {
        #[test]
        fn partitions_cover_the_data_set_once(
            images in 24usize..500,
            shards in 1u16..12,
            seed: u64,
        ) {
            let sharding = Sharding::new(seed, images, shards, usize::from(shards) * 2).unwrap();
            let partitions = sharding.partitions();
            for (shard, partition) in partitions.iter().enumerate() {
                prop_assert_eq!(partition.len(), sharding.partition_len(ShardId(shard as u16)));
                prop_assert!(partition.len().abs_diff(images / usize::from(shards)) <= 1);
            }
            let mut all: Vec<u32> = partitions.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..images as u32).collect::<Vec<_>>());
        }

        #[test]
        fn no_image_is_seen_twice_in_an_epoch(
            images in 24usize..500,
            shards in 1u16..12,
            epoch in 0u64..3,
        ) {
            let sharding = Sharding::new(7, images, shards, usize::from(shards) * 2).unwrap();
            for shard in (0..shards).map(ShardId) {
                let steps = sharding.steps_per_epoch();
                let mut seen: Vec<u32> = (1..=steps)
                    .flat_map(|step| sharding.batch(shard, epoch * steps + step))
                    .collect();
                seen.sort_unstable();
                seen.dedup();
                prop_assert_eq!(seen.len(), steps as usize * 2);
                prop_assert!(seen.iter().all(|&i| (i as usize) < sharding.partition_len(shard)));
            }
        }
    }
}
