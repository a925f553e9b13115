//! The sum over shards: vectors arrive in any order, and additions happen in tree order.
//!
//! Floating-point addition is not associative. A sum in order of arrival gives other bits in every
//! run, and a sum in order of ranks gives other bits for every number of workers. Here the order is
//! a binary tree over the shard numbers, which depends on nothing else: a range of n shards splits
//! at the largest power of two below n. A worker adds up the largest whole subtrees among its own
//! shards, and the owner of a slice adds up those subtrees along the tree. One worker, four
//! workers, or three workers with 3 + 3 + 2 shards perform the same additions and get the same
//! bits.
//!
//! The vector is cut into one slice for each member, and a slice into buckets of at most
//! [`BUCKET_VALUES_MAX`] values, which travel and are summed independently. Each member sends and
//! receives about 2 (W - 1) / W of the vector in two hops: subtree sums to the owner of the slice,
//! and sums from the owner to everybody.

mod all_reduce;
mod tree;
mod tree_sum;

pub use all_reduce::{AllReduce, BUCKET_VALUES_MAX, BucketSum, InvalidBucket, check_sum};
pub use tree::{Subtree, largest_subtrees};
pub use tree_sum::TreeSum;
