//! Memory for maps, kept by each thread from one shard to the next: fresh memory costs a page fault for every 4 KiB.

use std::cell::RefCell;

/// A phase of a shard takes and gives back fewer than this.
const KEPT: usize = 32;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer with unspecified contents: whoever takes it writes every element, or takes [`zeros`].
pub(crate) fn take(len: usize) -> Vec<f32> {
    let kept = FREE.with_borrow_mut(|free| {
        // The smallest that is large enough, unless that would waste most of it.
        let fits = |buffer: &&(usize, usize)| (len..=2 * len).contains(&buffer.1);
        let sizes = free.iter().map(Vec::capacity).enumerate().collect::<Vec<_>>();
        let best = sizes.iter().filter(fits).min_by_key(|(_, capacity)| *capacity)?;
        Some(free.swap_remove(best.0))
    });
    let mut buffer = kept.unwrap_or_else(|| Vec::with_capacity(len));
    buffer.resize(len, 0.0);
    buffer
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
        if free.len() < KEPT {
            free.push(buffer);
        }
    });
}
