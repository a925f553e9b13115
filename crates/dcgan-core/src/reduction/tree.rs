//! The reduction tree: the order in which the vectors of the shards are added up.
//!
//! The leaves are the shards. A subtree of n shards splits at the largest power of two below n, so
//! the shape of the tree depends on the number of shards only.

use std::fmt;

use crate::ids::ShardId;

/// A subtree of the reduction tree, named by its range of shards, `lo..hi`.
///
/// The fields may hold any range. [`Subtree::is_in_tree`] tells whether it belongs to a given tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subtree {
    /// The first shard.
    pub lo: u16,
    /// One past the last shard.
    pub hi: u16,
}

impl Subtree {
    /// The whole tree of `shards` shards.
    pub fn root(shards: u16) -> Self {
        Self { lo: 0, hi: shards }
    }

    /// The subtree that consists of one shard.
    pub fn leaf(shard: ShardId) -> Self {
        Self { lo: shard.0, hi: shard.0 + 1 }
    }

    /// The shards of the subtree, in order.
    pub fn shards(self) -> impl Iterator<Item = ShardId> {
        (self.lo..self.hi).map(ShardId)
    }

    /// The number of shards in the subtree.
    pub(super) fn len(self) -> u16 {
        self.hi - self.lo
    }

    /// Tells whether every shard of `other` is in this subtree.
    pub(super) fn contains(self, other: Self) -> bool {
        self.lo <= other.lo && other.hi <= self.hi
    }

    /// The two subtrees that this one is the sum of, left and right; `None` for a leaf.
    pub(super) fn children(self) -> Option<[Self; 2]> {
        if self.len() < 2 {
            return None;
        }
        // The largest power of two below `len` is the smallest one that is at least half of it.
        let left_len = self.len().div_ceil(2).next_power_of_two();
        let middle = self.lo + left_len;
        Some([Self { hi: middle, ..self }, Self { lo: middle, ..self }])
    }

    /// The other child of this subtree's parent, in the tree of `shards` shards. `None` for the
    /// root, and for a range that is not in the tree.
    pub(super) fn sibling(self, shards: u16) -> Option<Self> {
        // Walk down from the root, always into the child that contains this subtree.
        let mut subtree = Self::root(shards);
        while let Some([left, right]) = subtree.children() {
            if self == left {
                return Some(right);
            }
            if self == right {
                return Some(left);
            }
            subtree = if left.contains(self) { left } else { right };
        }
        None
    }

    /// Tells whether this range is a subtree of the tree of `shards` shards.
    pub fn is_in_tree(self, shards: u16) -> bool {
        self == Self::root(shards) || (self.lo < self.hi && self.sibling(shards).is_some())
    }
}

impl fmt::Display for Subtree {
    /// Writes the subtree as in `((01)(23))`, with spaces if a shard number has two digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.children() {
            None => write!(f, "{}", self.lo),
            Some([left, right]) if self.hi > 10 => write!(f, "({left} {right})"),
            Some([left, right]) => write!(f, "({left}{right})"),
        }
    }
}

/// The largest subtrees of the tree of `shards` shards that consist of `owned` shards only and have
/// at most `len_max` of them, in the order of the shards. `owned` is sorted.
///
/// Together they cover the owned shards exactly. A member can add each of them up on its own.
pub fn largest_subtrees(shards: u16, owned: &[ShardId], len_max: usize) -> Vec<Subtree> {
    let mut found = Vec::new();
    let mut to_visit = vec![(Subtree::root(shards), owned)];
    while let Some((subtree, owned)) = to_visit.pop() {
        let len = usize::from(subtree.len());
        if owned.len() == len && len <= len_max {
            found.push(subtree);
        } else if let Some([left, right]) = subtree.children() {
            let (in_left, in_right) =
                owned.split_at(owned.partition_point(|shard| shard.0 < right.lo));
            // The left one is popped first. One without owned shards need not be visited.
            let children = [(right, in_right), (left, in_left)];
            to_visit.extend(children.into_iter().filter(|(_, owned)| !owned.is_empty()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_split_at_the_largest_power_of_two() {
        let drawn: Vec<String> =
            [1, 2, 3, 5, 8, 12].map(|shards| Subtree::root(shards).to_string()).to_vec();
        let expected = [
            "0",
            "(01)",
            "((01)2)",
            "(((01)(23))4)",
            "(((01)(23))((45)(67)))",
            "((((01)(23))((45)(67))) ((89) (10 11)))",
        ];
        assert_eq!(drawn, expected);
    }

    /// Draws the largest subtrees of at most `len_max` among the `owned` shards.
    fn draw_largest_subtrees(shards: u16, owned: &[u16], len_max: usize) -> String {
        let owned: Vec<ShardId> = owned.iter().copied().map(ShardId).collect();
        let subtrees = largest_subtrees(shards, &owned, len_max);
        subtrees.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_member_sends_its_largest_subtrees() {
        for (shards, owned, expected) in [
            (8, &[0, 1, 2][..], "(01) 2"),
            (8, &[3, 4, 5], "3 (45)"),
            (8, &[6, 7], "(67)"),
            (8, &[4, 5, 6, 7], "((45)(67))"),
            (5, &[0, 1, 2, 3, 4], "(((01)(23))4)"),
            (8, &[], ""),
        ] {
            assert_eq!(draw_largest_subtrees(shards, owned, owned.len()), expected);
        }
    }

    #[test]
    fn subtrees_can_be_kept_small() {
        for (len_max, expected) in [(1, "1 2 3 4 5 6"), (2, "1 (23) (45) 6"), (7, "1 (23) ((45)6)")]
        {
            assert_eq!(draw_largest_subtrees(7, &[1, 2, 3, 4, 5, 6], len_max), expected);
        }
    }

    #[test]
    fn ranges_that_are_no_subtree_are_recognised() {
        for (lo, hi) in [(0, 8), (4, 6), (7, 8)] {
            assert!(Subtree { lo, hi }.is_in_tree(8), "{lo}..{hi}");
        }
        for (lo, hi) in [(1, 3), (0, 3), (8, 9), (3, 3), (0, 9)] {
            assert!(!Subtree { lo, hi }.is_in_tree(8), "{lo}..{hi}");
        }
    }
}
