//! One all-reduce, as one member sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::tree::{Subtree, largest_subtrees};
use super::tree_sum::TreeSum;
use crate::ids::{Rank, ShardId};
use crate::protocol::plan::Plan;
use crate::state::values::SharedValues;

/// Numbers in one bucket at most: 256 KiB on the wire, large enough for few messages and small enough to overlap.
pub const BUCKET_VALUES_MAX: usize = 64 * 1024;

/// A bucket of a vector, as it travels between members.
#[derive(Clone, Debug, PartialEq)]
pub struct BucketSum {
    /// Which bucket of the vector.
    pub bucket: u32,
    /// Whose sum: a subtree's, on the way to the bucket's owner; or, with none, the whole sum on the way back.
    pub subtree: Option<Subtree>,
    /// Its values.
    pub values: SharedValues,
}

/// A bucket_sum that the plan does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bucket_sum of bucket {bucket} from rank {from}: {what}")]
pub struct InvalidBucket {
    from: Rank,
    bucket: u32,
    what: &'static str,
}

/// One all-reduce, as one member sees it.
#[derive(Debug)]
pub struct AllReduce {
    plan: Arc<Plan>,
    me: Rank,
    buckets: Vec<Bucket>,
    /// Vectors of this member's own shards, until they form one of its largest subtrees.
    local: TreeSum,
    own_subtrees: Vec<Subtree>,
    /// Parts that this member owns and that are not complete.
    owned: BTreeMap<u32, TreeSum>,
    /// Of each bucket, once it is there.
    sums: Vec<Option<SharedValues>>,
}

#[derive(Clone, Debug)]
struct Bucket {
    owner: Rank,
    range: Range<usize>,
}

impl AllReduce {
    /// The reduction of vectors of `len` numbers among the plan's members, as seen by rank `me`.
    pub fn new(plan: Arc<Plan>, me: Rank, len: usize) -> Self {
        let shards = plan.shards();
        let buckets = cut(len, plan.members.len());
        let owned = buckets.iter().zip(0..).filter(|(bucket, _)| bucket.owner == me);
        Self {
            me,
            local: TreeSum::new(shards),
            own_subtrees: largest_subtrees(shards, |shard| plan.owner(shard) == me),
            owned: owned.map(|(_, index)| (index, TreeSum::new(shards))).collect(),
            sums: vec![None; buckets.len()],
            buckets,
            plan,
        }
    }

    /// Adds the vector of one of this member's shards; gives what is to be sent.
    pub fn contribute(&mut self, shard: ShardId, vector: SharedValues) -> Vec<(Rank, BucketSum)> {
        let Some(subtree) = self.local.insert(Subtree::leaf(shard), vector) else {
            return Vec::new();
        };
        if !self.own_subtrees.contains(&subtree) {
            return Vec::new();
        }
        let sum = self.local.take(subtree).expect("it was just completed");
        let mut bucket_sums = Vec::new();
        for index in 0..self.buckets.len() as u32 {
            let Bucket { owner, range } = self.buckets[index as usize].clone();
            let values = sum.slice(range);
            if owner == self.me {
                bucket_sums.extend(self.add(index, subtree, values));
            } else {
                bucket_sums
                    .push((owner, BucketSum { bucket: index, subtree: Some(subtree), values }));
            }
        }
        bucket_sums
    }

    /// Takes a bucket_sum from another member; gives what is to be sent.
    ///
    /// # Errors
    /// If the plan does not allow it; nothing is changed then.
    pub fn receive(
        &mut self,
        from: Rank,
        bucket_sum: BucketSum,
    ) -> Result<Vec<(Rank, BucketSum)>, InvalidBucket> {
        let BucketSum { bucket, subtree, values } = bucket_sum;
        let invalid = |what| Err(InvalidBucket { from, bucket, what });
        let Some(Bucket { owner, range }) = self.buckets.get(bucket as usize).cloned() else {
            return invalid("there is no such bucket");
        };
        if values.len() != range.len() {
            return invalid("it has another length");
        }
        match subtree {
            Some(_) if owner != self.me => invalid("it belongs to another member"),
            Some(subtree) if !subtree.is_in_tree(self.plan.shards()) => {
                invalid("its shards are no subtree")
            }
            Some(subtree) if subtree.shards().any(|shard| self.plan.owner(shard) != from) => {
                invalid("its shards belong to another member")
            }
            Some(subtree) => Ok(self.add(bucket, subtree, values)),
            None if owner != from => invalid("only a bucket's owner sends its sum"),
            None => {
                self.sums[bucket as usize].get_or_insert(values);
                Ok(Vec::new())
            }
        }
    }

    /// Whether every bucket of the sum over all shards is there.
    pub fn is_finished(&self) -> bool {
        self.sums.iter().all(Option::is_some)
    }

    /// The sum over all shards, as far as it is there.
    pub fn sum(&self) -> Vec<f32> {
        let buckets: Vec<&[f32]> = self.sums.iter().flatten().map(|bucket| &**bucket).collect();
        buckets.concat()
    }

    /// Whether all of this member's own shards are in.
    pub fn contributed(&self) -> bool {
        self.plan.shards_of(self.me).all(|shard| self.local.has(shard))
    }

    /// Who else owes this member something: contributions to its own buckets first, then sums of others' buckets.
    pub fn owed_by(&self) -> BTreeSet<Rank> {
        let shards = || (0..self.plan.shards()).map(ShardId);
        let owes = |sum: &TreeSum| shards().filter(|&shard| !sum.has(shard)).collect::<Vec<_>>();
        let contributors: BTreeSet<Rank> = self
            .owned
            .values()
            .flat_map(owes)
            .map(|shard| self.plan.owner(shard))
            .filter(|&r| r != self.me)
            .collect();
        if !contributors.is_empty() {
            return contributors;
        }
        let missing = self.buckets.iter().zip(&self.sums).filter(|(_, sum)| sum.is_none());
        missing.map(|(bucket, _)| bucket.owner).filter(|&r| r != self.me).collect()
    }

    fn add(
        &mut self,
        bucket: u32,
        subtree: Subtree,
        values: SharedValues,
    ) -> Vec<(Rank, BucketSum)> {
        let root = Subtree::root(self.plan.shards());
        let Some(sum) = self.owned.get_mut(&bucket) else {
            return Vec::new();
        };
        if sum.insert(subtree, values) != Some(root) {
            return Vec::new();
        }
        let values = sum.take(root).expect("it was just completed");
        self.owned.remove(&bucket);
        self.sums[bucket as usize] = Some(values.clone());
        let bucket_sum = BucketSum { bucket, subtree: None, values };
        self.plan
            .ranks()
            .filter(|&rank| rank != self.me)
            .map(|rank| (rank, bucket_sum.clone()))
            .collect()
    }
}

/// Cuts a vector into a chunk a member, as even as can be, and each chunk into buckets.
fn cut(len: usize, members: usize) -> Vec<Bucket> {
    let boundary = |rank: usize| len * rank / members;
    let mut buckets = Vec::new();
    for rank in 0..members {
        let chunk = boundary(rank)..boundary(rank + 1);
        let owner = Rank(rank as u16);
        let starts = chunk.clone().step_by(BUCKET_VALUES_MAX);
        buckets.extend(
            starts.map(|start| Bucket {
                owner,
                range: start..chunk.end.min(start + BUCKET_VALUES_MAX),
            }),
        );
    }
    buckets
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::plan::fixture;
    use crate::spec::shard_ids;

    #[test]
    fn pieces_that_the_plan_does_not_allow_change_nothing() {
        let mut reduce = AllReduce::new(fixture::plan(8, &[0, 0, 0, 1, 1, 1, 2, 2]), Rank(0), 30);
        let bucket_sum = |bucket, subtree: Option<(u16, u16)>, len| BucketSum {
            bucket,
            subtree: subtree.map(|(lo, hi)| Subtree { lo, hi }),
            values: vec![1.0; len].into(),
        };
        for (from, bucket_sum, what) in [
            (1, bucket_sum(3, None, 10), "there is no such bucket"),
            (1, bucket_sum(1, None, 9), "it has another length"),
            (1, bucket_sum(2, Some((4, 6)), 10), "it belongs to another member"),
            (1, bucket_sum(0, Some((3, 5)), 10), "its shards are no subtree"),
            (1, bucket_sum(0, Some((6, 8)), 10), "its shards belong to another member"),
            (1, bucket_sum(2, None, 10), "only a bucket's owner sends its sum"),
        ] {
            let error = reduce.receive(Rank(from), bucket_sum).unwrap_err();
            assert_eq!(error.what, what);
        }
        assert_eq!(reduce.owed_by().into_iter().collect::<Vec<_>>(), [Rank(1), Rank(2)]);
    }

    /// Runs the members' reductions against each other, delivering bucket_sums in the order that `next` picks, some twice.
    fn reduce_among(
        plan: &Arc<Plan>,
        vectors: &[Vec<f32>],
        mut next: impl FnMut(usize) -> usize,
    ) -> Vec<Vec<f32>> {
        let len = vectors[0].len();
        let mut members: Vec<AllReduce> =
            plan.ranks().map(|me| AllReduce::new(Arc::clone(plan), me, len)).collect();
        let mut shards: Vec<ShardId> = shard_ids(plan.shards()).collect();
        let mut wire: Vec<(Rank, Rank, BucketSum)> = Vec::new();
        while !(shards.is_empty() && wire.is_empty()) {
            let pick = next(shards.len() + wire.len());
            let (from, sent) = if pick < shards.len() {
                let shard = shards.swap_remove(pick);
                let owner = plan.owner(shard);
                let vector = vectors[usize::from(shard.0)].clone();
                (owner, members[usize::from(owner.0)].contribute(shard, vector.into()))
            } else {
                let (from, to, bucket_sum) = wire.swap_remove(pick - shards.len());
                let member = &mut members[usize::from(to.0)];
                let sent = member.receive(from, bucket_sum.clone()).unwrap();
                assert_eq!(
                    member.receive(from, bucket_sum),
                    Ok(Vec::new()),
                    "a repeated bucket_sum is ignored"
                );
                (to, sent)
            };
            wire.extend(sent.into_iter().map(|(to, bucket_sum)| (from, to, bucket_sum)));
        }
        for member in &members {
            assert!(member.contributed() && member.owed_by().is_empty());
        }
        assert!(members.iter().all(AllReduce::is_finished), "all bucket_sums are delivered");
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
                .map(|s| crate::random::RandomStream::new(seed, crate::random::Purpose::Toy, s.into(), 0).normals(len).collect())
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
            let buckets = cut(len, members);
            let mut end = 0;
            for bucket in buckets {
                prop_assert_eq!(bucket.range.start, end);
                prop_assert!(!bucket.range.is_empty() && bucket.range.len() <= BUCKET_VALUES_MAX);
                end = bucket.range.end;
            }
            prop_assert_eq!(end, len);
        }
    }
}
