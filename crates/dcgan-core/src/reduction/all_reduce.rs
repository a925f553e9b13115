//! One all-reduce, as one member sees it.
//!
//! ```text
//! hop 1, reduce-scatter: a member finishes one of its largest subtrees, cuts the subtree sum into
//!                        buckets, and sends each bucket to the member that owns it
//! hop 2, all-gather:     the owner of a bucket has the subtree sums of all shards, adds them up,
//!                        and sends the sum to every other member
//! ```
//!
//! A ring all-reduce moves as many bytes, but takes 2 (W - 1) hops and adds along the ring, so that
//! the bits of the result depend on the number of workers. Here the owner of a bucket sees every
//! subtree sum on its own and can add them up in tree order.
//!
//! There is no barrier between the hops: buckets are independent, and a bucket's sum leaves as soon
//! as it is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::tree::{Subtree, largest_subtrees};
use super::tree_sum::TreeSum;
use crate::ids::Rank;
use crate::protocol::plan::Plan;
use crate::state::values::SharedValues;

/// The largest number of values in a bucket: 256 KiB on the wire. That is large enough for few
/// messages, and small enough for sending and adding to overlap.
pub const BUCKET_VALUES_MAX: usize = 64 * 1024;

/// The sum of one bucket, on its way between two members.
#[derive(Clone, Debug, PartialEq)]
pub struct BucketSum {
    /// The index of the bucket in the vector.
    pub bucket: u32,
    /// The shards that are summed: a subtree on the way to the bucket's owner (hop 1), or `None`
    /// for all shards on the way back (hop 2).
    pub subtree: Option<Subtree>,
    /// The values of the bucket.
    pub values: SharedValues,
}

/// The error for a bucket sum that the plan does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid sum of bucket {bucket} from rank {from}: {what}")]
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
    /// All buckets of the vector, in order.
    buckets: Vec<Bucket>,
    /// The largest subtrees of this member's own shards that it has not contributed.
    missing: BTreeSet<Subtree>,
    /// The vectors of this member's own shards, until one of `missing` is complete.
    local: TreeSum,
    /// The incomplete buckets of this member's own slice, by index.
    owned: BTreeMap<u32, OwnedBucket>,
    /// The sum over all shards of each bucket, once it is known.
    sums: Vec<Option<SharedValues>>,
}

/// A part of a slice that travels on its own.
#[derive(Clone, Debug)]
struct Bucket {
    owner: Rank,
    /// The elements of the vector that the bucket holds.
    range: Range<usize>,
}

/// A bucket that this member adds up.
#[derive(Debug)]
struct OwnedBucket {
    /// The subtree sums so far.
    sum: TreeSum,
    /// The number of shards, by the rank of their owner, that are not in it.
    owed: Vec<u16>,
}

impl AllReduce {
    /// Begins the all-reduce of vectors of `len` values among the members of `plan`, as seen by
    /// rank `me`.
    pub fn new(plan: Arc<Plan>, me: Rank, len: usize) -> Self {
        let shards = plan.shards();
        let own = plan.shards_of(me);
        let buckets = cut_into_buckets(len, plan.members().len());
        let owed: Vec<u16> = plan.ranks().map(|rank| plan.shards_of(rank).len() as u16).collect();
        let mut owned = BTreeMap::new();
        for (index, bucket) in (0..).zip(&buckets) {
            if bucket.owner == me {
                let sum = TreeSum::new(shards);
                owned.insert(index, OwnedBucket { sum, owed: owed.clone() });
            }
        }
        Self {
            me,
            missing: largest_subtrees(shards, own, own.len()).into_iter().collect(),
            local: TreeSum::new(shards),
            owned,
            sums: vec![None; buckets.len()],
            buckets,
            plan,
        }
    }

    /// Adds the vector of one of this member's own shards, or the sum of a subtree of them, and
    /// returns the messages to send.
    ///
    /// Nothing is sent until one of the member's largest subtrees is complete. Then the subtree sum
    /// is cut into buckets, and each goes to its owner (hop 1). The buckets that this member owns
    /// stay here; if that completes their sums, these are sent as well (hop 2).
    pub fn contribute(&mut self, part: Subtree, vector: SharedValues) -> Vec<(Rank, BucketSum)> {
        let Some(subtree) = self.local.insert(part, vector) else {
            return Vec::new();
        };
        if !self.missing.remove(&subtree) {
            return Vec::new();
        }
        let subtree_sum = self.local.take(subtree).expect("it was just completed");

        let mut messages = Vec::new();
        for index in 0..self.buckets.len() as u32 {
            let Bucket { owner, range } = self.buckets[index as usize].clone();
            let values = subtree_sum.slice(range);
            if owner == self.me {
                messages.extend(self.add_to_owned(index, self.me, subtree, values));
            } else {
                let subtree = Some(subtree);
                messages.push((owner, BucketSum { bucket: index, subtree, values }));
            }
        }
        messages
    }

    /// Takes a bucket sum from another member, and returns the messages to send.
    ///
    /// A subtree sum (hop 1) is added to a bucket that this member owns; if that completes the sum
    /// over all shards, it is sent to everybody (hop 2). A sum over all shards is kept. What has
    /// been received before is ignored.
    ///
    /// # Errors
    /// If the plan does not allow it. In that case nothing is changed.
    pub fn receive(
        &mut self,
        from: Rank,
        bucket_sum: BucketSum,
    ) -> Result<Vec<(Rank, BucketSum)>, InvalidBucket> {
        // A member with another plan, or with a fault, must not get its values into a sum.
        check(&self.buckets, &self.plan, self.me, from, &bucket_sum)?;
        let BucketSum { bucket, subtree, values } = bucket_sum;
        match subtree {
            Some(subtree) => Ok(self.add_to_owned(bucket, from, subtree, values)),
            None => {
                self.sums[bucket as usize].get_or_insert(values);
                Ok(Vec::new())
            }
        }
    }

    /// Tells whether the sum over all shards is known for every bucket.
    pub fn is_finished(&self) -> bool {
        self.sums.iter().all(Option::is_some)
    }

    /// The sum over all shards. Only complete once [`AllReduce::is_finished`].
    pub fn sum(&self) -> Vec<f32> {
        let buckets: Vec<&[f32]> = self.sums.iter().flatten().map(|bucket| &**bucket).collect();
        buckets.concat()
    }

    /// Tells whether this member has contributed the vectors of all its shards.
    pub fn has_contributed(&self) -> bool {
        self.missing.is_empty()
    }

    /// The members for whose messages this member waits.
    ///
    /// Members that still owe a subtree sum to this member's own slice (hop 1) come alone. Only if
    /// there are none, the owners of the missing sums (hop 2) are named: such an owner may itself
    /// be waiting for somebody else, so it is the less likely culprit.
    pub fn owed_by(&self) -> BTreeSet<Rank> {
        let mut contributors = BTreeSet::new();
        for bucket in self.owned.values() {
            let owing = self.plan.ranks().zip(&bucket.owed).filter(|&(_, &shards)| shards > 0);
            contributors.extend(owing.map(|(rank, _)| rank));
        }
        contributors.remove(&self.me);
        if !contributors.is_empty() {
            return contributors;
        }

        let mut owners = BTreeSet::new();
        for (bucket, sum) in self.buckets.iter().zip(&self.sums) {
            if sum.is_none() {
                owners.insert(bucket.owner);
            }
        }
        owners.remove(&self.me);
        owners
    }

    /// Adds a subtree sum of the shards of rank `from` to a bucket that this member owns. If that
    /// completes the sum over all shards, returns it once for every other member.
    fn add_to_owned(
        &mut self,
        bucket: u32,
        from: Rank,
        subtree: Subtree,
        values: SharedValues,
    ) -> Vec<(Rank, BucketSum)> {
        let root = Subtree::root(self.plan.shards());
        // A complete bucket is not in `owned` any more: this subtree sum is a repetition.
        let Some(owned) = self.owned.get_mut(&bucket) else {
            return Vec::new();
        };
        let Some(complete) = owned.sum.insert(subtree, values) else {
            return Vec::new();
        };
        owned.owed[usize::from(from.0)] -= subtree.len();
        if complete != root {
            return Vec::new();
        }

        let sum = owned.sum.take(root).expect("it was just completed");
        self.owned.remove(&bucket);
        self.sums[bucket as usize] = Some(sum.clone());

        let mut messages = Vec::new();
        for rank in self.plan.ranks() {
            if rank != self.me {
                let values = sum.clone();
                messages.push((rank, BucketSum { bucket, subtree: None, values }));
            }
        }
        messages
    }
}

/// Checks a bucket sum of rank `from` before its all-reduce has begun at rank `me`: it is one of
/// those that this member sends, each once, for a vector of `len` values.
///
/// # Errors
/// If the plan does not allow it.
pub fn check_sum(
    plan: &Plan,
    me: Rank,
    len: usize,
    from: Rank,
    bucket_sum: &BucketSum,
) -> Result<(), InvalidBucket> {
    check(&cut_into_buckets(len, plan.members().len()), plan, me, from, bucket_sum)?;
    let own = plan.shards_of(from);
    let is_sent = |subtree| largest_subtrees(plan.shards(), own, own.len()).contains(&subtree);
    if bucket_sum.subtree.is_none_or(is_sent) {
        return Ok(());
    }
    let what = "only the largest subtrees are sent";
    Err(InvalidBucket { from, bucket: bucket_sum.bucket, what })
}

/// Checks a bucket sum that rank `from` has sent to rank `me`.
///
/// # Errors
/// If the plan does not allow it.
fn check(
    buckets: &[Bucket],
    plan: &Plan,
    me: Rank,
    from: Rank,
    bucket_sum: &BucketSum,
) -> Result<(), InvalidBucket> {
    let invalid = |what| Err(InvalidBucket { from, bucket: bucket_sum.bucket, what });
    let Some(Bucket { owner, range }) = buckets.get(bucket_sum.bucket as usize) else {
        return invalid("there is no such bucket");
    };
    if bucket_sum.values.len() != range.len() {
        return invalid("it has another length");
    }
    let Some(subtree) = bucket_sum.subtree else {
        return if *owner == from {
            Ok(())
        } else {
            invalid("only the owner of a bucket sends its sum")
        };
    };
    if *owner != me {
        return invalid("the bucket belongs to another member");
    }
    if !subtree.is_in_tree(plan.shards()) {
        return invalid("its shards are no subtree");
    }
    if subtree.shards().any(|shard| plan.owner(shard) != Some(from)) {
        return invalid("its shards belong to another member");
    }
    Ok(())
}

/// Cuts a vector of `len` values into one slice for each member, with sizes as even as possible,
/// and each slice into buckets.
fn cut_into_buckets(len: usize, members: usize) -> Vec<Bucket> {
    let mut buckets = Vec::new();
    for rank in 0..members {
        let slice = len * rank / members..len * (rank + 1) / members;
        for start in slice.clone().step_by(BUCKET_VALUES_MAX) {
            let end = slice.end.min(start + BUCKET_VALUES_MAX);
            buckets.push(Bucket { owner: Rank(rank as u16), range: start..end });
        }
    }
    buckets
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::ShardId;
    use crate::protocol::plan::fixture;
    use crate::random::{Purpose, RandomStream};
    use crate::spec::shard_ids;

    #[test]
    fn bucket_sums_that_the_plan_does_not_allow_change_nothing() {
        // Three members, so three slices of 10 values, each a bucket.
        let plan = fixture::plan(8, &[0, 0, 0, 1, 1, 1, 2, 2]);
        let mut reduce = AllReduce::new(plan, Rank(0), 30);
        for (from, bucket, subtree, len, what) in [
            (1, 3, None, 10, "there is no such bucket"),
            (1, 1, None, 9, "it has another length"),
            (1, 2, Some((4, 6)), 10, "the bucket belongs to another member"),
            (1, 0, Some((3, 5)), 10, "its shards are no subtree"),
            (1, 0, Some((6, 8)), 10, "its shards belong to another member"),
            (1, 2, None, 10, "only the owner of a bucket sends its sum"),
        ] {
            let subtree = subtree.map(|(lo, hi)| Subtree { lo, hi });
            let values = vec![1.0; len].into();
            let error = reduce.receive(Rank(from), BucketSum { bucket, subtree, values });
            assert_eq!(error.unwrap_err().what, what);
        }
        assert_eq!(reduce.owed_by().into_iter().collect::<Vec<_>>(), [Rank(1), Rank(2)]);
    }

    /// A message between two members: sender, receiver, content.
    type Message = (Rank, Rank, BucketSum);

    /// Runs the all-reduces of all members against each other, and returns each member's sum.
    ///
    /// Computations and deliveries happen in the order that `pick` chooses: it is given the number
    /// of possible actions. Every message is delivered twice.
    fn reduce_among(
        plan: &Arc<Plan>,
        vectors: &[Vec<f32>],
        mut pick: impl FnMut(usize) -> usize,
    ) -> Vec<Vec<f32>> {
        let len = vectors[0].len();
        let mut members: Vec<AllReduce> =
            plan.ranks().map(|me| AllReduce::new(Arc::clone(plan), me, len)).collect();
        let mut shards: Vec<ShardId> = shard_ids(plan.shards()).collect();
        let mut in_flight: Vec<Message> = Vec::new();
        while !(shards.is_empty() && in_flight.is_empty()) {
            let action = pick(shards.len() + in_flight.len());
            let (sender, sent) = if action < shards.len() {
                let shard = shards.swap_remove(action);
                let owner = plan.owner(shard).unwrap();
                let vector = vectors[usize::from(shard.0)].clone();
                let leaf = Subtree::leaf(shard);
                (owner, members[usize::from(owner.0)].contribute(leaf, vector.into()))
            } else {
                let (from, to, bucket_sum) = in_flight.swap_remove(action - shards.len());
                let receiver = &mut members[usize::from(to.0)];
                let sent = receiver.receive(from, bucket_sum.clone()).unwrap();
                let repeated = receiver.receive(from, bucket_sum);
                assert_eq!(repeated, Ok(Vec::new()), "a repeated bucket sum is ignored");
                (to, sent)
            };
            in_flight.extend(sent.into_iter().map(|(to, bucket_sum)| (sender, to, bucket_sum)));
        }
        for member in &members {
            assert!(member.has_contributed() && member.owed_by().is_empty());
            assert!(member.is_finished(), "every bucket sum has been delivered");
        }
        members.iter().map(AllReduce::sum).collect()
    }

    fn random_vectors(seed: u64, shards: u16, len: usize) -> Vec<Vec<f32>> {
        (0..shards)
            .map(|shard| RandomStream::new(seed, Purpose::Toy, shard.into(), 0))
            .map(|stream| stream.normals(len).collect())
            .collect()
    }

    proptest! {
        #[test]
        fn any_assignment_in_any_order_gives_the_sum_of_a_single_worker(
            owners in (1usize..14).prop_flat_map(|s| proptest::collection::vec(0u16..5, s)),
            len in 1usize..40,
            order: Vec<usize>,
            seed: u64,
        ) {
            let shards = owners.len() as u16;
            let vectors = random_vectors(seed, shards, len);
            let one_worker = fixture::plan(shards, &vec![0; owners.len()]);
            let expected = reduce_among(&one_worker, &vectors, |_| 0);
            let mut turn = 0;
            let sums = reduce_among(&fixture::plan(shards, &owners), &vectors, |actions| {
                turn += 1;
                order.get(turn % order.len().max(1)).copied().unwrap_or(turn) % actions
            });
            for sum in sums {
                prop_assert!(sum.iter().zip(&expected[0]).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }

        #[test]
        fn buckets_cover_the_vector(len in 0usize..1_000_000, members in 1usize..40) {
            let mut end = 0;
            for bucket in cut_into_buckets(len, members) {
                prop_assert_eq!(bucket.range.start, end);
                prop_assert!(!bucket.range.is_empty() && bucket.range.len() <= BUCKET_VALUES_MAX);
                end = bucket.range.end;
            }
            prop_assert_eq!(end, len);
        }
    }
}
