//! A sum in tree order of vectors that come in any order.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::Subtree;
use crate::ids::ShardId;
use crate::state::values::SharedValues;

/// Vectors of subtrees, added up when the sum is taken: all at once, a block at a time, which reads each only once.
#[derive(Clone, Debug)]
pub struct TreeSum {
    shards: u16,
    seen: BTreeSet<ShardId>,
    subtrees: BTreeMap<Subtree, SharedValues>,
}

/// Numbers that are added up at once; a block for each level of the tree is on the stack.
const BLOCK_VALUES: usize = 1024;

impl TreeSum {
    /// An empty sum over `shards` shards.
    pub fn new(shards: u16) -> Self {
        Self { shards, seen: BTreeSet::new(), subtrees: BTreeMap::new() }
    }

    /// Adds the sum of `subtree`, and gives the largest subtree that is complete with it. A subtree any of whose shards is in
    /// already is ignored, so nothing is ever added twice.
    pub fn insert(&mut self, mut subtree: Subtree, values: SharedValues) -> Option<Subtree> {
        if subtree.shards().any(|shard| self.seen.contains(&shard)) {
            return None;
        }
        self.seen.extend(subtree.shards());
        self.subtrees.insert(subtree, values);
        while let Some(sibling) = subtree.sibling(self.shards)
            && sibling.shards().all(|shard| self.seen.contains(&shard))
        {
            subtree = Subtree { lo: subtree.lo.min(sibling.lo), hi: subtree.hi.max(sibling.hi) };
        }
        Some(subtree)
    }

    /// Takes out the sum of a `subtree` that is complete, and has not been taken as a part of another.
    pub fn take(&mut self, subtree: Subtree) -> Option<SharedValues> {
        if let Some(whole) = self.subtrees.remove(&subtree) {
            return Some(whole);
        }
        let inside: Vec<Subtree> =
            self.subtrees.keys().copied().filter(|&other| subtree.contains(other)).collect();
        if inside.iter().map(|inside| inside.len()).sum::<u16>() != subtree.len() {
            return None;
        }
        let len = self.subtrees[&inside[0]].len();
        let mut sum = Vec::with_capacity(len);
        let mut block = [0.0; BLOCK_VALUES];
        for start in (0..len).step_by(BLOCK_VALUES) {
            let block = &mut block[..BLOCK_VALUES.min(len - start)];
            self.add_up(subtree, start, block);
            sum.extend_from_slice(block);
        }
        inside.iter().for_each(|inside| drop(self.subtrees.remove(inside)));
        Some(sum.into())
    }

    /// Whether the shard is in.
    pub fn has(&self, shard: ShardId) -> bool {
        self.seen.contains(&shard)
    }

    /// Sets `sum` to the block from `start` on of the sum of `subtree`, which is complete.
    fn add_up(&self, subtree: Subtree, start: usize, sum: &mut [f32]) {
        if let Some(values) = self.subtrees.get(&subtree) {
            sum.copy_from_slice(&values[start..][..sum.len()]);
        } else if let Some([left, right]) = subtree.children() {
            self.add_up(left, start, sum);
            let mut others = [0.0; BLOCK_VALUES];
            let others = &mut others[..sum.len()];
            self.add_up(right, start, others);
            sum.iter_mut().zip(others).for_each(|(sum, other)| *sum += *other);
        }
    }
}
