//! Which images a shard sees at which step.
//!
//! The data set is split once, by the seed, into S fixed partitions; shard s walks its own partition in an order drawn
//! anew every epoch. So a worker needs the partitions of its own shards only, and no cursor is ever saved.

use crate::ids::{ShardId, Step};
use crate::random::{Purpose, RandomStream};

/// The split of a data set, and the walk through it: a function of (seed, images, shards, batch size).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharding {
    seed: u64,
    images: usize,
    shards: u16,
    shard_batch: usize,
}

/// Why a data set cannot be split that way.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ShardingError {
    /// The batch does not fall into equal shards.
    #[error(
        "batch size {batch_size} cannot be split into {shards} shards: it must be a multiple of the shards"
    )]
    Uneven {
        /// Images a step.
        batch_size: usize,
        /// Logical shards.
        shards: u16,
    },
    /// Batch statistics need at least two images.
    #[error("batch size {batch_size} leaves fewer than 2 images for each of {shards} shards")]
    TooThin {
        /// Images a step.
        batch_size: usize,
        /// Logical shards.
        shards: u16,
    },
    /// Not one batch in the smallest partition.
    #[error("{images} images in {shards} shards do not fill one batch of {batch_size}")]
    TooFewImages {
        /// Images in the data set.
        images: usize,
        /// Images a step.
        batch_size: usize,
        /// Logical shards.
        shards: u16,
    },
}

impl Sharding {
    /// Splits `images` images into `shards` partitions, for batches of `batch_size` images.
    ///
    /// # Errors
    /// If the batch is not a multiple of the shards, leaves a shard fewer than 2 images, or is larger than an epoch.
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
        if images / usize::from(shards) < shard_batch {
            return Err(ShardingError::TooFewImages { images, batch_size, shards });
        }
        Ok(Self { seed, images, shards, shard_batch })
    }

    /// Logical shards.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// Images a shard sees at each step.
    pub fn shard_batch(&self) -> usize {
        self.shard_batch
    }

    /// Steps in an epoch: as many whole batches as the smallest partition holds.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.images / usize::from(self.shards) / self.shard_batch) as u64
    }

    /// The epoch, counted from 1, that `step` belongs to.
    pub fn epoch(&self, step: Step) -> u64 {
        step.saturating_sub(1) / self.steps_per_epoch() + 1
    }

    /// Images in the partition of `shard`; sizes differ by one at most.
    pub fn partition_len(&self, shard: ShardId) -> usize {
        self.boundary(shard.0 + 1) - self.boundary(shard.0)
    }

    /// The images of every partition, by their number in the data set.
    pub fn partitions(&self) -> Vec<Vec<u32>> {
        let order = RandomStream::new(self.seed, Purpose::Split, 0, 0).permutation(self.images);
        (0..self.shards).map(|s| order[self.boundary(s)..self.boundary(s + 1)].to_vec()).collect()
    }

    /// The images that `shard` sees at `step`, by their number in its partition.
    pub fn batch(&self, shard: ShardId, step: Step) -> Vec<u32> {
        let order = RandomStream::new(self.seed, Purpose::Order, shard.0.into(), self.epoch(step))
            .permutation(self.partition_len(shard));
        let first = ((step - 1) % self.steps_per_epoch()) as usize * self.shard_batch;
        order[first..first + self.shard_batch].to_vec()
    }

    fn boundary(&self, shard: u16) -> usize {
        let (shards, shard) = (usize::from(self.shards), usize::from(shard));
        shard * (self.images / shards) + shard.min(self.images % shards)
    }
}

/// The images of one shard's partition, one byte a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    image_bytes: usize,
    pixels: Vec<u8>,
}

impl Partition {
    /// A partition of images of `image_bytes` bytes each, one after the other in `pixels`.
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

    /// Image `index`.
    pub fn image(&self, index: u32) -> &[u8] {
        &self.pixels[index as usize * self.image_bytes..][..self.image_bytes]
    }

    /// All images, one after the other.
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
    fn what_cannot_be_split_is_refused() {
        let text = |shards, batch, images| {
            Sharding::new(22, images, shards, batch).unwrap_err().to_string()
        };
        assert_eq!(
            text(7, 256, 60_000),
            "batch size 256 cannot be split into 7 shards: it must be a multiple of the shards"
        );
        assert_eq!(
            text(256, 256, 60_000),
            "batch size 256 leaves fewer than 2 images for each of 256 shards"
        );
        assert_eq!(text(8, 256, 255), "255 images in 8 shards do not fill one batch of 256");
        assert!(Sharding::new(22, 60_000, 0, 256).is_err());
    }

    proptest! {
        #[test]
        fn partitions_cover_the_data_set_once(images in 24usize..500, shards in 1u16..12, seed: u64) {
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
        fn no_image_is_seen_twice_in_an_epoch(images in 24usize..500, shards in 1u16..12, epoch in 0u64..3) {
            let sharding = Sharding::new(7, images, shards, usize::from(shards) * 2).unwrap();
            for shard in (0..shards).map(ShardId) {
                let steps = sharding.steps_per_epoch();
                let mut seen: Vec<u32> =
                    (1..=steps).flat_map(|step| sharding.batch(shard, epoch * steps + step)).collect();
                seen.sort_unstable();
                seen.dedup();
                prop_assert_eq!(seen.len(), steps as usize * 2);
                prop_assert!(seen.iter().all(|&i| (i as usize) < sharding.partition_len(shard)));
            }
        }
    }
}
