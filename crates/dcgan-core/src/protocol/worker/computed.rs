//! The vectors that a worker has computed from its state, kept until the state changes.
//!
//! After a failure the members go on from the state that they have, and compute the lost shards
//! only (rule 6 of `docs/protocol.md`). So a worker keeps the vectors of its own shards, each by
//! itself, as long as they take no more than [`KEPT_BYTES_MAX`]. With more shards it keeps the sums
//! of groups of 2, 4, 8 or more neighbouring shards, as few as possible in a group. A group is a
//! whole subtree of the reduction tree, so its sum can be used under any plan that gives all of it
//! to this worker; otherwise its shards are computed again.
//!
//! What cannot be added up is kept as it is: a worker that owns every other shard of a tree keeps a
//! vector for each.

use std::collections::BTreeMap;

use crate::ids::ShardId;
use crate::reduction::{Subtree, TreeSum, largest_subtrees};
use crate::state::values::SharedValues;

/// The memory that vectors of one phase take while a worker keeps each by itself, in bytes.
pub(super) const KEPT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The vectors that were computed from the present state, added up in groups.
pub(super) struct ComputedVectors {
    bytes_max: usize,
    /// The largest number of shards in a group, a power of two.
    group_len: usize,
    /// The groups of this worker's shards. No two of them overlap.
    groups: BTreeMap<Subtree, Group>,
    /// The number of shards whose vectors are in `groups`.
    shards: usize,
}

/// The vectors of a group.
enum Group {
    /// Some are missing.
    Incomplete(TreeSum),
    /// All are here, added up.
    Complete(SharedValues),
}

impl ComputedVectors {
    /// No vectors yet, and no shards to have vectors of.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, group_len: 1, groups: BTreeMap::new(), shards: 0 }
    }

    /// Drops all vectors.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    /// Prepares for the vectors of this worker's `own` shards, of `shards` in all, with `len`
    /// values each. Of what has been computed, it keeps what these shards can use.
    pub(super) fn begin(&mut self, shards: u16, own: &[ShardId], len: usize) {
        let before = std::mem::take(&mut self.groups);
        // A group cannot be taken apart again, so groups never shrink while they hold something.
        if self.shards == 0 {
            self.group_len = 1;
        }
        while own.len().div_ceil(self.group_len) * len * size_of::<f32>() > self.bytes_max
            && self.group_len < own.len()
        {
            self.group_len *= 2;
        }
        for group in largest_subtrees(shards, own, self.group_len) {
            self.groups.insert(group, Group::Incomplete(TreeSum::new(shards)));
        }

        self.shards = 0;
        for (subtree, group) in before {
            match group {
                Group::Complete(sum) => drop(self.insert(subtree, sum)),
                Group::Incomplete(vectors) => {
                    for (subtree, vector) in vectors.into_vectors() {
                        self.insert(subtree, vector);
                    }
                }
            }
        }
    }

    /// Adds the vector of a shard, or the sum of a subtree. If that completes a group, returns the
    /// group with its sum. What is here already, or is not this worker's, is ignored.
    pub(super) fn insert(
        &mut self,
        subtree: Subtree,
        vector: SharedValues,
    ) -> Option<(Subtree, SharedValues)> {
        let (group, content) = self.group_with(subtree)?;
        let Group::Incomplete(vectors) = content else {
            return None;
        };
        let complete = vectors.insert(subtree, vector)?;
        let sum = if complete == group { vectors.take(group) } else { None };
        if let Some(sum) = &sum {
            *content = Group::Complete(sum.clone());
        }
        self.shards += usize::from(subtree.hi - subtree.lo);
        sum.map(|sum| (group, sum))
    }

    /// The number of this worker's shards whose vectors are here.
    pub(super) fn shards(&self) -> usize {
        self.shards
    }

    /// Tells whether the vector of a shard is here, by itself or in a sum.
    pub(super) fn has(&mut self, shard: ShardId) -> bool {
        match self.group_with(Subtree::leaf(shard)) {
            Some((_, Group::Complete(_))) => true,
            Some((_, Group::Incomplete(vectors))) => vectors.has(shard),
            None => false,
        }
    }

    /// The sums of the groups that are complete, in order.
    pub(super) fn sums(&self) -> Vec<(Subtree, SharedValues)> {
        let mut sums = Vec::new();
        for (&group, content) in &self.groups {
            if let Group::Complete(sum) = content {
                sums.push((group, sum.clone()));
            }
        }
        sums
    }

    /// The group that contains a subtree.
    fn group_with(&mut self, subtree: Subtree) -> Option<(Subtree, &mut Group)> {
        let end = Subtree { lo: subtree.lo, hi: u16::MAX };
        let (&group, content) = self.groups.range_mut(..=end).next_back()?;
        (subtree.hi <= group.hi).then_some((group, content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two shards of this vector fit.
    const VECTOR: [f32; 2] = [1.0, 2.0];
    const BYTES_MAX: usize = 2 * size_of_val(&VECTOR);

    fn begin(vectors: &mut ComputedVectors, own: &[u16]) {
        let own: Vec<ShardId> = own.iter().copied().map(ShardId).collect();
        vectors.begin(8, &own, VECTOR.len());
    }

    fn insert(vectors: &mut ComputedVectors, shard: u16) -> Option<String> {
        let leaf = Subtree::leaf(ShardId(shard));
        vectors.insert(leaf, VECTOR.to_vec().into()).map(|(group, _)| group.to_string())
    }

    /// Draws the groups that are complete, and the shards that are here besides.
    fn draw(vectors: &mut ComputedVectors) -> String {
        let sums = vectors.sums();
        let mut drawn: Vec<String> = sums.iter().map(|(group, _)| group.to_string()).collect();
        let in_sum =
            |shard: u16| sums.iter().any(|(group, _)| (group.lo..group.hi).contains(&shard));
        let alone = (0..8).filter(|&shard| !in_sum(shard) && vectors.has(ShardId(shard)));
        drawn.extend(alone.map(|shard| format!("+{shard}")));
        drawn.join(" ")
    }

    #[test]
    fn few_vectors_are_kept_each_by_itself() {
        let mut vectors = ComputedVectors::new(BYTES_MAX);
        begin(&mut vectors, &[2, 3]);
        assert_eq!(insert(&mut vectors, 3), Some("3".to_owned()));
        assert_eq!(insert(&mut vectors, 3), None, "it is there already");
        assert_eq!(insert(&mut vectors, 4), None, "it is not this worker's");
        assert_eq!((vectors.shards(), draw(&mut vectors)), (1, "3".to_owned()));
    }

    #[test]
    fn many_vectors_are_added_up_in_groups() {
        let mut vectors = ComputedVectors::new(BYTES_MAX);
        begin(&mut vectors, &[1, 2, 3, 4, 5]);
        assert_eq!(insert(&mut vectors, 4), None);
        assert_eq!(insert(&mut vectors, 5), Some("(45)".to_owned()));
        assert_eq!(vectors.sums()[0].1, vec![2.0, 4.0].into());
        assert_eq!(insert(&mut vectors, 1), Some("1".to_owned()), "it has no neighbour");
        insert(&mut vectors, 2);
        assert_eq!((vectors.shards(), draw(&mut vectors)), (4, "1 (45) +2".to_owned()));
    }

    #[test]
    fn a_new_plan_can_use_what_it_leaves_in_one_hand() {
        let mut vectors = ComputedVectors::new(BYTES_MAX);
        begin(&mut vectors, &[0, 1, 2, 3]);
        for shard in 0..4 {
            insert(&mut vectors, shard);
        }
        assert_eq!(draw(&mut vectors), "(01) (23)");
        // The worker loses shard 1. Shard 0 is not known by itself.
        begin(&mut vectors, &[0, 2, 3]);
        assert_eq!((vectors.shards(), draw(&mut vectors)), (2, "(23)".to_owned()));
        insert(&mut vectors, 0);
        // It gets more shards: larger groups take up the smaller ones.
        begin(&mut vectors, &[0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((vectors.shards(), draw(&mut vectors)), (3, "+0 +2 +3".to_owned()));
        assert_eq!(insert(&mut vectors, 1), Some("((01)(23))".to_owned()));
        // Fewer shards: the sum of four is still of use, although smaller groups would do.
        begin(&mut vectors, &[0, 1, 2, 3]);
        assert_eq!(draw(&mut vectors), "((01)(23))");
        vectors.clear();
        begin(&mut vectors, &[0, 1]);
        assert_eq!(insert(&mut vectors, 0), Some("0".to_owned()));
    }
}
