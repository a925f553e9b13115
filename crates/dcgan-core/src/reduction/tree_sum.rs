//! A sum in tree order of vectors that arrive in any order.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::Subtree;
use crate::ids::ShardId;
use crate::state::values::SharedValues;

/// The number of values that are added up at once. A block for each level of the tree lies on the
/// stack, 4 KiB each, so that the blocks stay in the first-level cache.
const BLOCK_VALUES: usize = 1024;

/// The vectors of subtrees, kept until a sum is taken.
///
/// Nothing is added when a vector arrives. A sum is computed in one pass when it is taken, block by
/// block, so that each vector is read only once and no intermediate vector is written.
#[derive(Clone, Debug)]
pub struct TreeSum {
    /// The number of leaves of the tree.
    shards: u16,
    /// Every shard that has ever been inserted, even if its sum has been taken since.
    seen: BTreeSet<ShardId>,
    subtrees: BTreeMap<Subtree, SharedValues>,
}

impl TreeSum {
    /// An empty sum over `shards` shards.
    pub fn new(shards: u16) -> Self {
        Self { shards, seen: BTreeSet::new(), subtrees: BTreeMap::new() }
    }

    /// Inserts the sum of `subtree`, and returns the largest subtree that is complete with it.
    ///
    /// If any of its shards has been inserted before, the call is ignored and returns `None`, so a
    /// repeated message is never added twice.
    pub fn insert(&mut self, subtree: Subtree, values: SharedValues) -> Option<Subtree> {
        if subtree.shards().any(|shard| self.has(shard)) {
            return None;
        }
        self.seen.extend(subtree.shards());
        self.subtrees.insert(subtree, values);

        // Climb towards the root while the other half of the parent is complete as well.
        let mut complete = subtree;
        while let Some(sibling) = complete.sibling(self.shards)
            && sibling.shards().all(|shard| self.has(shard))
        {
            complete = Subtree { lo: complete.lo.min(sibling.lo), hi: complete.hi.max(sibling.hi) };
        }
        Some(complete)
    }

    /// Removes the sum of `subtree` and returns it.
    ///
    /// Returns `None` if the subtree is not complete, or if a part of it has been taken before.
    pub fn take(&mut self, subtree: Subtree) -> Option<SharedValues> {
        // It may have been inserted as a whole. Then there is nothing to add.
        if let Some(values) = self.subtrees.remove(&subtree) {
            return Some(values);
        }

        let inside: Vec<Subtree> =
            self.subtrees.keys().copied().filter(|&other| subtree.contains(other)).collect();
        let shards_inside: u16 = inside.iter().map(|other| other.len()).sum();
        if shards_inside != subtree.len() {
            return None;
        }

        let len = self.subtrees[&inside[0]].len();
        let mut sum = Vec::with_capacity(len);
        let mut buffer = [0.0; BLOCK_VALUES];
        for start in (0..len).step_by(BLOCK_VALUES) {
            let block = &mut buffer[..BLOCK_VALUES.min(len - start)];
            self.add_up_block(subtree, start, block);
            sum.extend_from_slice(block);
        }
        for other in inside {
            self.subtrees.remove(&other);
        }
        Some(sum.into())
    }

    /// Tells whether a shard has been inserted, alone or in a subtree.
    pub fn has(&self, shard: ShardId) -> bool {
        self.seen.contains(&shard)
    }

    /// Sets `block` to the sum of `subtree`, in the elements from `start` on. The subtree must be
    /// complete.
    fn add_up_block(&self, subtree: Subtree, start: usize, block: &mut [f32]) {
        if let Some(values) = self.subtrees.get(&subtree) {
            block.copy_from_slice(&values[start..][..block.len()]);
        } else if let Some([left, right]) = subtree.children() {
            self.add_up_block(left, start, block);
            let mut buffer = [0.0; BLOCK_VALUES];
            let right_block = &mut buffer[..block.len()];
            self.add_up_block(right, start, right_block);
            for (sum, value) in block.iter_mut().zip(right_block) {
                *sum += *value;
            }
        }
    }
}
