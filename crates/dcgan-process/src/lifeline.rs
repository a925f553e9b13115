//! Ends a child process when its parent ends, even if the parent is killed.
//!
//! A parent that is killed cannot tell its children to end. So it holds the other end of each
//! child's standard input: the system closes that whatever happens, and the child waits for it.

use std::io::{self, Read};

use crate::exit::status;

/// Ends this process when its standard input closes.
pub fn exit_with_stdin() {
    std::thread::spawn(|| {
        let mut ignored = [0; 64];
        while io::stdin().read(&mut ignored).is_ok_and(|n| n > 0) {}
        tracing::info!(
            event = "parent_gone",
            "the process that started this one has ended, so this one ends too"
        );
        std::process::exit(status::FAILED.into());
    });
}
