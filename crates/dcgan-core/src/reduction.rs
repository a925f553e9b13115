//! The sum over shards: parts in any order, additions in tree order.
//!
//! Floating-point addition is not associative, so a sum in order of arrival, or in an order that depends on the number
//! of workers, gives other bits every time. Here the order is a binary tree over the shard numbers, whatever the
//! number of workers: a range of n shards splits at the largest power of two below n. A worker adds up the largest
//! whole subtrees that it owns; whoever owns a part of the vector combines the subtrees along the tree. One worker,
//! four, or three with 3 + 3 + 2 shards: the same additions, the same bits.
//!
//! The vector is cut into one chunk a member, and a chunk into parts of at most [`PART_VALUES`] numbers, which travel
//! and are reduced on their own: every member moves about 2 (W - 1) / W of the vector each way, in two hops.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::ids::{Rank, ShardId};
use crate::plan::Plan;
use crate::values::Values;

/// Numbers in one part at most: 256 KiB on the wire, large enough for few messages and small enough to overlap.
pub const PART_VALUES: usize = 64 * 1024;

/// A node of the reduction tree: the shards `lo..hi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// First shard.
    pub lo: u16,
    /// One past the last.
    pub hi: u16,
}

impl Node {
    /// The node of all shards.
    pub fn root(shards: u16) -> Self {
        Self { lo: 0, hi: shards }
    }

    /// The node of one shard.
    pub fn leaf(shard: ShardId) -> Self {
        Self { lo: shard.0, hi: shard.0 + 1 }
    }

    /// Its shards.
    pub fn shards(self) -> impl Iterator<Item = ShardId> {
        (self.lo..self.hi).map(ShardId)
    }

    fn len(self) -> u16 {
        self.hi - self.lo
    }

    fn contains(self, other: Self) -> bool {
        self.lo <= other.lo && other.hi <= self.hi
    }

    /// Left and right half; none for a leaf.
    fn children(self) -> Option<[Self; 2]> {
        if self.len() < 2 {
            return None;
        }
        let middle = self.lo + self.len().div_ceil(2).next_power_of_two();
        Some([Self { hi: middle, ..self }, Self { lo: middle, ..self }])
    }

    /// The other half of its parent, in the tree of `shards` shards; none for the root and for what is no node of it.
    fn sibling(self, shards: u16) -> Option<Self> {
        let mut node = Self::root(shards);
        while let Some([left, right]) = node.children() {
            if self == left {
                return Some(right);
            }
            if self == right {
                return Some(left);
            }
            node = if left.contains(self) { left } else { right };
        }
        None
    }

    /// Whether it is a node of the tree of `shards` shards.
    pub fn is_in_tree(self, shards: u16) -> bool {
        self == Self::root(shards) || (self.lo < self.hi && self.sibling(shards).is_some())
    }
}

impl fmt::Display for Node {
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
pub fn largest_subtrees(shards: u16, owned: impl Fn(ShardId) -> bool) -> Vec<Node> {
    let mut found = Vec::new();
    let mut open = vec![Node::root(shards)];
    while let Some(node) = open.pop() {
        if node.shards().all(&owned) {
            found.push(node);
        } else if let Some([left, right]) = node.children() {
            open.extend([right, left]);
        }
    }
    found
}

/// Vectors of subtrees, added up when the sum is taken: all at once, a block at a time, which reads each only once.
#[derive(Clone, Debug)]
pub struct TreeSum {
    shards: u16,
    seen: BTreeSet<ShardId>,
    nodes: BTreeMap<Node, Values>,
}

/// Numbers that are added up at once; a block for each level of the tree is on the stack.
const BLOCK_VALUES: usize = 1024;

impl TreeSum {
    /// An empty sum over `shards` shards.
    pub fn new(shards: u16) -> Self {
        Self { shards, seen: BTreeSet::new(), nodes: BTreeMap::new() }
    }

    /// Adds the sum of `node`, and gives the largest node that is complete with it. A node any of whose shards is in
    /// already is ignored, so nothing is ever added twice.
    pub fn insert(&mut self, mut node: Node, values: Values) -> Option<Node> {
        if node.shards().any(|shard| self.seen.contains(&shard)) {
            return None;
        }
        self.seen.extend(node.shards());
        self.nodes.insert(node, values);
        while let Some(sibling) = node.sibling(self.shards)
            && sibling.shards().all(|shard| self.seen.contains(&shard))
        {
            node = Node { lo: node.lo.min(sibling.lo), hi: node.hi.max(sibling.hi) };
        }
        Some(node)
    }

    /// Takes out the sum of a `node` that is complete, and has not been taken as a part of another.
    pub fn take(&mut self, node: Node) -> Option<Values> {
        if let Some(whole) = self.nodes.remove(&node) {
            return Some(whole);
        }
        let inside: Vec<Node> = self.nodes.keys().copied().filter(|&other| node.contains(other)).collect();
        if inside.iter().map(|inside| inside.len()).sum::<u16>() != node.len() {
            return None;
        }
        let len = self.nodes[&inside[0]].len();
        let mut sum = Vec::with_capacity(len);
        let mut block = [0.0; BLOCK_VALUES];
        for start in (0..len).step_by(BLOCK_VALUES) {
            let block = &mut block[..BLOCK_VALUES.min(len - start)];
            self.add_up(node, start, block);
            sum.extend_from_slice(block);
        }
        inside.iter().for_each(|inside| drop(self.nodes.remove(inside)));
        Some(sum.into())
    }

    /// Whether the shard is in.
    pub fn has(&self, shard: ShardId) -> bool {
        self.seen.contains(&shard)
    }

    /// Sets `sum` to the block from `start` on of the sum of `node`, which is complete.
    fn add_up(&self, node: Node, start: usize, sum: &mut [f32]) {
        if let Some(values) = self.nodes.get(&node) {
            sum.copy_from_slice(&values[start..][..sum.len()]);
        } else if let Some([left, right]) = node.children() {
            self.add_up(left, start, sum);
            let mut others = [0.0; BLOCK_VALUES];
            let others = &mut others[..sum.len()];
            self.add_up(right, start, others);
            sum.iter_mut().zip(others).for_each(|(sum, other)| *sum += *other);
        }
    }
}

/// A part of a vector, as it travels between members.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Which part of the vector.
    pub part: u32,
    /// Whose sum: a subtree's, on the way to the part's owner; or, with none, the whole sum on the way back.
    pub node: Option<Node>,
    /// Its values.
    pub values: Values,
}

/// A piece that the plan does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("piece of part {part} from rank {from}: {what}")]
pub struct InvalidPiece {
    from: Rank,
    part: u32,
    what: &'static str,
}

/// One all-reduce, as one member sees it.
#[derive(Debug)]
pub struct AllReduce {
    plan: Arc<Plan>,
    me: Rank,
    parts: Vec<Part>,
    /// Vectors of this member's own shards, until they form one of its largest subtrees.
    local: TreeSum,
    own_subtrees: Vec<Node>,
    /// Parts that this member owns and that are not complete.
    owned: BTreeMap<u32, TreeSum>,
    /// Of each part, once it is there.
    sums: Vec<Option<Values>>,
}

#[derive(Clone, Debug)]
struct Part {
    owner: Rank,
    range: Range<usize>,
}

impl AllReduce {
    /// The reduction of vectors of `len` numbers among the plan's members, as seen by rank `me`.
    pub fn new(plan: Arc<Plan>, me: Rank, len: usize) -> Self {
        let shards = plan.shards();
        let parts = cut(len, plan.members.len());
        let owned = parts.iter().zip(0..).filter(|(part, _)| part.owner == me);
        Self {
            me,
            local: TreeSum::new(shards),
            own_subtrees: largest_subtrees(shards, |shard| plan.owner(shard) == me),
            owned: owned.map(|(_, index)| (index, TreeSum::new(shards))).collect(),
            sums: vec![None; parts.len()],
            parts,
            plan,
        }
    }

    /// Adds the vector of one of this member's shards; gives what is to be sent.
    pub fn contribute(&mut self, shard: ShardId, vector: Values) -> Vec<(Rank, Piece)> {
        let Some(node) = self.local.insert(Node::leaf(shard), vector) else { return Vec::new() };
        if !self.own_subtrees.contains(&node) {
            return Vec::new();
        }
        let sum = self.local.take(node).expect("it was just completed");
        let mut pieces = Vec::new();
        for index in 0..self.parts.len() as u32 {
            let Part { owner, range } = self.parts[index as usize].clone();
            let values = sum.part(range);
            if owner == self.me {
                pieces.extend(self.add(index, node, values));
            } else {
                pieces.push((owner, Piece { part: index, node: Some(node), values }));
            }
        }
        pieces
    }

    /// Takes a piece from another member; gives what is to be sent.
    ///
    /// # Errors
    /// If the plan does not allow it; nothing is changed then.
    pub fn receive(&mut self, from: Rank, piece: Piece) -> Result<Vec<(Rank, Piece)>, InvalidPiece> {
        let Piece { part, node, values } = piece;
        let invalid = |what| Err(InvalidPiece { from, part, what });
        let Some(Part { owner, range }) = self.parts.get(part as usize).cloned() else {
            return invalid("there is no such part");
        };
        if values.len() != range.len() {
            return invalid("it has another length");
        }
        match node {
            Some(_) if owner != self.me => invalid("it belongs to another member"),
            Some(node) if !node.is_in_tree(self.plan.shards()) => invalid("its shards are no subtree"),
            Some(node) if node.shards().any(|shard| self.plan.owner(shard) != from) => {
                invalid("its shards belong to another member")
            }
            Some(node) => Ok(self.add(part, node, values)),
            None if owner != from => invalid("only a part's owner sends its sum"),
            None => {
                self.sums[part as usize].get_or_insert(values);
                Ok(Vec::new())
            }
        }
    }

    /// Whether every part of the sum over all shards is there.
    pub fn is_finished(&self) -> bool {
        self.sums.iter().all(Option::is_some)
    }

    /// The sum over all shards, as far as it is there.
    pub fn sum(&self) -> Vec<f32> {
        let parts: Vec<&[f32]> = self.sums.iter().flatten().map(|part| &**part).collect();
        parts.concat()
    }

    /// Whether all of this member's own shards are in.
    pub fn contributed(&self) -> bool {
        self.plan.shards_of(self.me).all(|shard| self.local.has(shard))
    }

    /// Who else owes this member something: contributions to its own parts first, then sums of others' parts.
    pub fn owed_by(&self) -> BTreeSet<Rank> {
        let shards = || (0..self.plan.shards()).map(ShardId);
        let owes = |sum: &TreeSum| shards().filter(|&shard| !sum.has(shard)).collect::<Vec<_>>();
        let contributors: BTreeSet<Rank> =
            self.owned.values().flat_map(owes).map(|shard| self.plan.owner(shard)).filter(|&r| r != self.me).collect();
        if !contributors.is_empty() {
            return contributors;
        }
        let missing = self.parts.iter().zip(&self.sums).filter(|(_, sum)| sum.is_none());
        missing.map(|(part, _)| part.owner).filter(|&r| r != self.me).collect()
    }

    fn add(&mut self, part: u32, node: Node, values: Values) -> Vec<(Rank, Piece)> {
        let root = Node::root(self.plan.shards());
        let Some(sum) = self.owned.get_mut(&part) else { return Vec::new() };
        if sum.insert(node, values) != Some(root) {
            return Vec::new();
        }
        let values = sum.take(root).expect("it was just completed");
        self.owned.remove(&part);
        self.sums[part as usize] = Some(values.clone());
        let piece = Piece { part, node: None, values };
        self.plan.ranks().filter(|&rank| rank != self.me).map(|rank| (rank, piece.clone())).collect()
    }
}

/// Cuts a vector into a chunk a member, as even as can be, and each chunk into parts.
fn cut(len: usize, members: usize) -> Vec<Part> {
    let boundary = |rank: usize| len * rank / members;
    let mut parts = Vec::new();
    for rank in 0..members {
        let chunk = boundary(rank)..boundary(rank + 1);
        let owner = Rank(rank as u16);
        let starts = chunk.clone().step_by(PART_VALUES);
        parts.extend(starts.map(|start| Part { owner, range: start..chunk.end.min(start + PART_VALUES) }));
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::shard_ids;
    use crate::plan::fixture;

    #[test]
    fn trees_split_at_the_largest_power_of_two() {
        let drawn: Vec<String> = [1, 2, 3, 5, 8, 12].map(|shards| Node::root(shards).to_string()).to_vec();
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
            let nodes = largest_subtrees(shards, |shard| owned.contains(&shard.0));
            nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
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
        let in_tree = |lo, hi| Node { lo, hi }.is_in_tree(8);
        assert!(in_tree(0, 8) && in_tree(4, 6) && in_tree(7, 8));
        assert!(!in_tree(1, 3) && !in_tree(0, 3) && !in_tree(8, 9) && !in_tree(3, 3) && !in_tree(0, 9));
    }

    #[test]
    fn pieces_that_the_plan_does_not_allow_change_nothing() {
        let mut reduce = AllReduce::new(fixture::plan(8, &[0, 0, 0, 1, 1, 1, 2, 2]), Rank(0), 30);
        let piece = |part, node: Option<(u16, u16)>, len| Piece {
            part,
            node: node.map(|(lo, hi)| Node { lo, hi }),
            values: vec![1.0; len].into(),
        };
        for (from, piece, what) in [
            (1, piece(3, None, 10), "there is no such part"),
            (1, piece(1, None, 9), "it has another length"),
            (1, piece(2, Some((4, 6)), 10), "it belongs to another member"),
            (1, piece(0, Some((3, 5)), 10), "its shards are no subtree"),
            (1, piece(0, Some((6, 8)), 10), "its shards belong to another member"),
            (1, piece(2, None, 10), "only a part's owner sends its sum"),
        ] {
            let error = reduce.receive(Rank(from), piece).unwrap_err();
            assert_eq!(error.what, what);
        }
        assert_eq!(reduce.owed_by().into_iter().collect::<Vec<_>>(), [Rank(1), Rank(2)]);
    }

    /// Runs the members' reductions against each other, delivering pieces in the order that `next` picks, some twice.
    fn reduce_among(plan: &Arc<Plan>, vectors: &[Vec<f32>], mut next: impl FnMut(usize) -> usize) -> Vec<Vec<f32>> {
        let len = vectors[0].len();
        let mut members: Vec<AllReduce> = plan.ranks().map(|me| AllReduce::new(Arc::clone(plan), me, len)).collect();
        let mut shards: Vec<ShardId> = shard_ids(plan.shards()).collect();
        let mut wire: Vec<(Rank, Rank, Piece)> = Vec::new();
        while !(shards.is_empty() && wire.is_empty()) {
            let pick = next(shards.len() + wire.len());
            let (from, sent) = if pick < shards.len() {
                let shard = shards.swap_remove(pick);
                let owner = plan.owner(shard);
                let vector = vectors[usize::from(shard.0)].clone();
                (owner, members[usize::from(owner.0)].contribute(shard, vector.into()))
            } else {
                let (from, to, piece) = wire.swap_remove(pick - shards.len());
                let member = &mut members[usize::from(to.0)];
                let sent = member.receive(from, piece.clone()).unwrap();
                assert_eq!(member.receive(from, piece), Ok(Vec::new()), "a repeated piece is ignored");
                (to, sent)
            };
            wire.extend(sent.into_iter().map(|(to, piece)| (from, to, piece)));
        }
        for member in &members {
            assert!(member.contributed() && member.owed_by().is_empty());
        }
        assert!(members.iter().all(AllReduce::is_finished), "all pieces are delivered");
        members.iter().map(AllReduce::sum).collect()
    }

    proptest! {
        #[test]
        fn any_assignment_in_any_order_gives_one_workers_sum(
            owners in (1usize..14).prop_flat_map(|s| proptest::collection::vec(0u16..5, s)),
            len in 1usize..40,
            order: Vec<usize>,
            seed: u64,
        ) {
            let shards = owners.len() as u16;
            let vectors: Vec<Vec<f32>> = (0..shards)
                .map(|s| crate::random::Stream::new(seed, crate::random::Purpose::Toy, s.into(), 0).normals(len).collect())
                .collect();
            let alone = reduce_among(&fixture::plan(shards, &vec![0; owners.len()]), &vectors, |_| 0);
            let mut turn = 0;
            let together = reduce_among(&fixture::plan(shards, &owners), &vectors, |n| {
                turn += 1;
                order.get(turn % order.len().max(1)).copied().unwrap_or(turn) % n
            });
            for result in together {
                prop_assert!(result.iter().zip(&alone[0]).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }

        #[test]
        fn parts_cover_the_vector(len in 0usize..1_000_000, members in 1usize..40) {
            let parts = cut(len, members);
            let mut end = 0;
            for part in parts {
                prop_assert_eq!(part.range.start, end);
                prop_assert!(!part.range.is_empty() && part.range.len() <= PART_VALUES);
                end = part.range.end;
            }
            prop_assert_eq!(end, len);
        }
    }
}
