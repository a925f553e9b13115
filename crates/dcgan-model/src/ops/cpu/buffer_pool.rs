//! Memory for maps, kept by each thread from one shard to the next: fresh memory costs a page fault for every 4 KiB.

use std::cell::RefCell;

/// More than the operations of a step need.
const KEPT: usize = 64;

thread_local! {
    /// The one given back last comes last: it is most likely in the cache.
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer with unspecified contents: whoever takes it writes every element, or takes [`zeros`].
pub(crate) fn take(len: usize) -> Vec<f32> {
    let kept = FREE.with_borrow_mut(|free| {
        // All steps need buffers of the same lengths.
        let device = free.iter().rposition(|buffer| buffer.len() == len)?;
        Some(free.remove(device))
    });
    kept.unwrap_or_else(|| vec![0.0; len])
}

/// A buffer of zeros.
pub(crate) fn zeros(len: usize) -> Vec<f32> {
    let mut buffer = take(len);
    buffer.fill(0.0);
    buffer
}

/// Gives a buffer back.
pub(crate) fn give(buffer: Vec<f32>) {
    FREE.with_borrow_mut(|free| {
        if free.len() == KEPT {
            free.remove(0);
        }
        free.push(buffer);
    });
}
