//! Panics end the process, unless the code that panics is run by [`catch`].
//!
//! By default a panic ends only its thread. The other threads would wait for that one without end,
//! and to the other processes this one would look alive.

use std::any::Any;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;

use crate::exit::{self, status};

thread_local! {
    /// True if a panic of this thread is caught.
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Makes panics end the process from now on, unless [`catch`] runs the code that panics.
pub(crate) fn end_the_process() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        if !IS_CAUGHT.get() {
            exit::now(status::FAILED);
        }
    }));
}

/// Runs code whose panic becomes an error.
///
/// # Errors
/// The message of the panic, if the code panicked.
pub fn catch<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    IS_CAUGHT.set(true);
    let result = std::panic::catch_unwind(AssertUnwindSafe(run));
    IS_CAUGHT.set(false);
    result.map_err(|panic| message(&*panic))
}

/// The message of a panic. It is a string of one of two types, unless the code used its own.
fn message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caught_panic_becomes_its_message() {
        assert_eq!(catch(|| 5), Ok(5));
        assert_eq!(catch(|| -> u8 { panic!("plain") }), Err("plain".to_owned()));
        let step = 7;
        assert_eq!(catch(|| -> u8 { panic!("step {step}") }), Err("step 7".to_owned()));
    }
}
