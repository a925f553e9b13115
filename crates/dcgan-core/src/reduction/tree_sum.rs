//! A sum in tree order of vectors that arrive in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::tree::Subtree;
use crate::ids::ShardId;
use crate::state::values::SharedValues;

/// The number of values that are added up at once. A block for each level of the tree lies on the
/// stack, 4 KiB each, so that the blocks stay in the first-level cache.
const BLOCK_VALUES: usize = 1024;

/// A complete subtree of this many vectors is added up at once. Of shards that come in order, few
/// vectors more than this are ever kept.
const VECTORS_MAX: usize = 16;

/// The vectors of subtrees, added up along the tree.
///
/// A sum is computed in one pass over up to [`VECTORS_MAX`] vectors, block by block, rather than by
/// twos: so each vector is read once, and few intermediate vectors are written. Fewer vectors are
/// kept as they are until their sum is taken.
#[derive(Clone, Debug)]
pub struct TreeSum {
    /// The number of leaves of the tree.
    shards: u16,
    /// The largest complete subtrees, also those whose sum has been taken since. No two of them
    /// overlap.
    complete: BTreeSet<Subtree>,
    /// The vectors, each of a subtree that lies in a complete one.
    vectors: BTreeMap<Subtree, SharedValues>,
}

impl TreeSum {
    /// An empty sum over `shards` shards.
    pub fn new(shards: u16) -> Self {
        Self { shards, complete: BTreeSet::new(), vectors: BTreeMap::new() }
    }

    /// Inserts the sum of `subtree`, and returns the largest subtree that is complete with it.
    ///
    /// If any of its shards has been inserted before, the call is ignored and returns `None`, so a
    /// repeated message is never added twice.
    pub fn insert(&mut self, subtree: Subtree, values: SharedValues) -> Option<Subtree> {
        if self.has_any_of(subtree) {
            return None;
        }
        self.vectors.insert(subtree, values);

        // Climb towards the root while the other half of the parent is complete as well.
        let mut complete = subtree;
        while let Some(sibling) = complete.sibling(self.shards)
            && self.complete.remove(&sibling)
        {
            complete = Subtree { lo: complete.lo.min(sibling.lo), hi: complete.hi.max(sibling.hi) };
        }
        self.complete.insert(complete);

        if self.vectors.range(inside(complete)).count() >= VECTORS_MAX
            && let Some(sum) = self.take(complete)
        {
            self.vectors.insert(complete, sum);
        }
        Some(complete)
    }

    /// Removes the sum of `subtree` and returns it.
    ///
    /// Returns `None` if the subtree is not complete, or if a part of it has been taken before.
    pub fn take(&mut self, subtree: Subtree) -> Option<SharedValues> {
        // It may have been inserted as a whole. Then there is nothing to add.
        if let Some(values) = self.vectors.remove(&subtree) {
            return Some(values);
        }

        let parts: Vec<Subtree> =
            self.vectors.range(inside(subtree)).map(|(&part, _)| part).collect();
        let shards_in_parts: usize = parts.iter().map(|part| usize::from(part.len())).sum();
        if shards_in_parts != usize::from(subtree.len()) {
            return None;
        }

        let len = self.vectors[&parts[0]].len();
        let mut sum = Vec::with_capacity(len);
        let mut buffer = [0.0; BLOCK_VALUES];
        for start in (0..len).step_by(BLOCK_VALUES) {
            let block = &mut buffer[..BLOCK_VALUES.min(len - start)];
            self.add_up_block(subtree, start, block);
            sum.extend_from_slice(block);
        }
        for part in parts {
            self.vectors.remove(&part);
        }
        Some(sum.into())
    }

    /// Tells whether a shard has been inserted, alone or in a subtree.
    pub fn has(&self, shard: ShardId) -> bool {
        self.has_any_of(Subtree::leaf(shard))
    }

    /// Removes all vectors that are kept, and returns them with their subtrees, in order.
    pub fn into_vectors(self) -> impl Iterator<Item = (Subtree, SharedValues)> {
        self.vectors.into_iter()
    }

    /// Tells whether any shard of `subtree` has been inserted.
    fn has_any_of(&self, subtree: Subtree) -> bool {
        // Of the complete subtrees that begin before its end, the last one ends last.
        let end = Subtree { lo: subtree.hi, hi: 0 };
        self.complete.range(..end).next_back().is_some_and(|complete| complete.hi > subtree.lo)
    }

    /// Sets `block` to the sum of `subtree`, in the elements from `start` on. The subtree must be
    /// complete.
    fn add_up_block(&self, subtree: Subtree, start: usize, block: &mut [f32]) {
        if let Some(values) = self.vectors.get(&subtree) {
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

/// The range that the subtrees inside `subtree` have in a map by subtree.
fn inside(subtree: Subtree) -> Range<Subtree> {
    let at = |lo| Subtree { lo, hi: 0 };
    at(subtree.lo)..at(subtree.hi)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, RandomStream};

    #[test]
    fn many_shards_are_added_up_in_tree_order_and_few_vectors_are_kept() {
        /// The sum of a subtree by its definition.
        fn expected(subtree: Subtree, values: &[f32]) -> f32 {
            match subtree.children() {
                None => values[usize::from(subtree.lo)],
                Some([left, right]) => expected(left, values) + expected(right, values),
            }
        }
        for shards in [15, 16, 17, 1000, 4096] {
            let root = Subtree::root(shards);
            let values: Vec<f32> =
                RandomStream::new(1, Purpose::Toy, 0, 0).normals(shards.into()).collect();
            let shuffled = RandomStream::new(2, Purpose::Toy, 0, 0).permutation(shards.into());
            let in_order: Vec<u32> = (0..shards.into()).collect();
            for order in [&in_order, &shuffled] {
                let mut sum = TreeSum::new(shards);
                let mut most = 0;
                for &shard in order {
                    let leaf = Subtree::leaf(ShardId(shard as u16));
                    let value = vec![values[shard as usize]];
                    assert!(sum.insert(leaf, value.clone().into()).is_some());
                    assert!(sum.insert(leaf, value.into()).is_none(), "it is there already");
                    most = most.max(sum.vectors.len());
                }
                assert!(order != &in_order || most < 2 * VECTORS_MAX, "{most} of {shards}");
                assert_eq!(&*sum.take(root).unwrap(), &[expected(root, &values)]);
            }
        }
    }

    #[test]
    fn a_sum_that_was_taken_is_neither_inserted_nor_taken_again() {
        let mut sum = TreeSum::new(4);
        let (left, root) = (Subtree { lo: 0, hi: 2 }, Subtree::root(4));
        assert_eq!(sum.insert(left, vec![1.0].into()), Some(left));
        assert_eq!(sum.take(left).as_deref(), Some(&[1.0][..]));
        assert_eq!(sum.insert(Subtree::leaf(ShardId(1)), vec![1.0].into()), None);
        assert_eq!(sum.insert(Subtree { lo: 2, hi: 4 }, vec![1.0].into()), Some(root));
        assert_eq!(sum.take(root), None);
    }
}
