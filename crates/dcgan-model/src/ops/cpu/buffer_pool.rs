//! Buffers that each thread keeps from one shard to the next.
//!
//! Fresh memory costs a page fault for every 4 KiB, and all steps need buffers of the same lengths.

use std::cell::RefCell;

/// Free buffers that a thread keeps: more than the operations of a step need. Beyond it, the oldest
/// is freed.
const FREE_MAX: usize = 64;

thread_local! {
    /// A stack: the most recently returned buffer is the likeliest to be in the cache.
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Takes a buffer of `len` elements with unspecified contents. The caller overwrites every element,
/// or takes [`zeros`].
pub(crate) fn take(len: usize) -> Vec<f32> {
    let free = FREE.with_borrow_mut(|free| {
        let index = free.iter().rposition(|buffer| buffer.len() == len)?;
        Some(free.remove(index))
    });
    free.unwrap_or_else(|| vec![0.0; len])
}

/// Takes a buffer of `len` zeros.
pub(crate) fn zeros(len: usize) -> Vec<f32> {
    let mut buffer = take(len);
    buffer.fill(0.0);
    buffer
}

/// Gives a buffer back to the calling thread's pool.
pub(crate) fn give(buffer: Vec<f32>) {
    FREE.with_borrow_mut(|free| {
        if free.len() == FREE_MAX {
            free.remove(0);
        }
        free.push(buffer);
    });
}
