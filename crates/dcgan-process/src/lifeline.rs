//! A child process ends when its parent does, however that ends: the parent holds the other end of
//! the child's standard input, which closes with it.

use std::io::{self, Read};

use crate::exit::status;

/// Ends this process when standard input closes.
pub fn exit_with_stdin() {
    std::thread::spawn(|| {
        let mut ignored = [0; 64];
        while io::stdin().read(&mut ignored).is_ok_and(|n| n > 0) {}
        tracing::info!(
            event = "parent_gone",
            "the process that started this one has ended; this one ends, too"
        );
        std::process::exit(status::FAILED.into());
    });
}
