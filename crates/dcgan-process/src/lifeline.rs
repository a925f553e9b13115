//! Ends a child process when its parent ends, even if the parent is killed.
//!
//! A parent that is killed cannot tell its children to end. So it holds the other end of each
//! child's standard input: the system closes that whatever happens, and the child waits for it. A
//! child that is stopped cannot notice that, so the system is asked to let it continue then.

use std::io::{self, Read};

use crate::exit::{self, status};

/// Ends this process when its standard input closes.
pub fn exit_with_stdin() {
    // If the system refuses, a child that is stopped ends when somebody lets it continue.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::CONT));
    std::thread::spawn(|| {
        let mut ignored = [0; 64];
        while io::stdin().read(&mut ignored).is_ok_and(|n| n > 0) {}
        tracing::info!(
            event = "parent_gone",
            "the process that started this one has ended, so this one ends too"
        );
        exit::now(status::FAILED);
    });
}
