//! The sum over shards: parts in any order, additions in tree order.
//!
//! Floating-point addition is not associative, so a sum in order of arrival, or in an order that depends on the number
//! of workers, gives other bits every time. Here the order is a binary tree over the shard numbers, whatever the
//! number of workers: a range of n shards splits at the largest power of two below n. A worker adds up the largest
//! whole subtrees that it owns; whoever owns a part of the vector combines the subtrees along the tree. One worker,
//! four, or three with 3 + 3 + 2 shards: the same additions, the same bits.
//!
//! The vector is cut into one chunk a member, and a chunk into parts of at most [`BUCKET_VALUES_MAX`] numbers, which travel
//! and are reduced on their own: every member moves about 2 (W - 1) / W of the vector each way, in two hops.

mod all_reduce;
mod tree;
mod tree_sum;

pub use all_reduce::{AllReduce, BUCKET_VALUES_MAX, BucketSum, InvalidBucket};
pub use tree::{Subtree, largest_subtrees};
pub use tree_sum::TreeSum;
