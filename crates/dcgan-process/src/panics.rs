//! Panics. A thread that is gone would leave the others waiting for it, so a panic ends the process,
//! unless it happens where it is caught and reported.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;

use crate::exit::status;

thread_local! {
    /// Whether a panic of this thread is caught.
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// From now on a panic that is not caught by [`catch`] ends the process.
pub(crate) fn end_the_process() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        if !IS_CAUGHT.get() {
            std::process::exit(status::FAILED.into());
        }
    }));
}

/// Runs something whose panic does not end the process.
///
/// # Errors
/// The panic's message, if it panicked.
pub fn catch<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    IS_CAUGHT.set(true);
    let result = std::panic::catch_unwind(AssertUnwindSafe(run));
    IS_CAUGHT.set(false);
    result.map_err(|panic| match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "a panic without a message".to_owned(),
    })
}
