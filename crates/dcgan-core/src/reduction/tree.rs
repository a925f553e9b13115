//! The reduction tree: which shards are added up with which, whoever computes them.

use std::fmt;

use crate::ids::ShardId;

/// A subtree of the reduction tree: the shards `lo..hi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subtree {
    /// First shard.
    pub lo: u16,
    /// One past the last.
    pub hi: u16,
}

impl Subtree {
    /// The subtree of all shards.
    pub fn root(shards: u16) -> Self {
        Self { lo: 0, hi: shards }
    }

    /// The subtree of one shard.
    pub fn leaf(shard: ShardId) -> Self {
        Self { lo: shard.0, hi: shard.0 + 1 }
    }

    /// Its shards.
    pub fn shards(self) -> impl Iterator<Item = ShardId> {
        (self.lo..self.hi).map(ShardId)
    }

    pub(super) fn len(self) -> u16 {
        self.hi - self.lo
    }

    pub(super) fn contains(self, other: Self) -> bool {
        self.lo <= other.lo && other.hi <= self.hi
    }

    /// Left and right half; none for a leaf.
    pub(super) fn children(self) -> Option<[Self; 2]> {
        if self.len() < 2 {
            return None;
        }
        let middle = self.lo + self.len().div_ceil(2).next_power_of_two();
        Some([Self { hi: middle, ..self }, Self { lo: middle, ..self }])
    }

    /// The other half of its parent, in the tree of `shards` shards; none for the root and for what is no subtree of it.
    pub(super) fn sibling(self, shards: u16) -> Option<Self> {
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

    /// Whether it is a subtree of the tree of `shards` shards.
    pub fn is_in_tree(self, shards: u16) -> bool {
        self == Self::root(shards) || (self.lo < self.hi && self.sibling(shards).is_some())
    }
}

impl fmt::Display for Subtree {
    /// As in `((01)(23))`, with spaces where a shard number has two digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.children() {
            None => write!(f, "{}", self.lo),
            Some([left, right]) if self.hi > 10 => write!(f, "({left} {right})"),
            Some([left, right]) => write!(f, "({left}{right})"),
        }
    }
}

/// The largest whole subtrees among the shards that `owned` says yes to, in order.
pub fn largest_subtrees(shards: u16, owned: impl Fn(ShardId) -> bool) -> Vec<Subtree> {
    let mut found = Vec::new();
    let mut open = vec![Subtree::root(shards)];
    while let Some(subtree) = open.pop() {
        if subtree.shards().all(&owned) {
            found.push(subtree);
        } else if let Some([left, right]) = subtree.children() {
            open.extend([right, left]);
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

    #[test]
    fn a_member_sends_its_largest_whole_subtrees() {
        let subtrees = |shards, owned: &[u16]| {
            let subtrees = largest_subtrees(shards, |shard| owned.contains(&shard.0));
            subtrees.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(subtrees(8, &[0, 1, 2]), "(01) 2");
        assert_eq!(subtrees(8, &[3, 4, 5]), "3 (45)");
        assert_eq!(subtrees(8, &[6, 7]), "(67)");
        assert_eq!(subtrees(8, &[4, 5, 6, 7]), "((45)(67))");
        assert_eq!(subtrees(5, &[0, 1, 2, 3, 4]), "(((01)(23))4)");
        assert_eq!(subtrees(8, &[]), "");
    }

    #[test]
    fn what_is_no_subtree_is_known() {
        let in_tree = |lo, hi| Subtree { lo, hi }.is_in_tree(8);
        assert!(in_tree(0, 8) && in_tree(4, 6) && in_tree(7, 8));
        assert!(
            !in_tree(1, 3) && !in_tree(0, 3) && !in_tree(8, 9) && !in_tree(3, 3) && !in_tree(0, 9)
        );
    }
}
