//! What the three programs have in common as processes. They do not share what they do.
//!
//! # Layout
//!
//! * [`exit`]: exit statuses, and how an error becomes one.
//! * [`logging`]: log lines as text or as JSON, with stable fields.
//! * [`signals`]: Ctrl-C and SIGTERM as events.
//! * [`lifeline`]: a child process ends when its parent does.
//! * [`panics`]: a panic ends the process, or becomes an error.
//! * [`fault`]: faults at points of a program, for tests.

pub mod exit;
pub mod fault;
pub mod lifeline;
pub mod logging;
pub mod panics;
pub mod signals;

use std::io::{self, Write};

/// Prints to standard output. A closed pipe, as of `head`, is no failure.
pub fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Removes every `DCGAN_*` variable from the environment of a program that is about to start: its
/// settings are its arguments alone.
pub fn without_settings(command: &mut std::process::Command) -> &mut std::process::Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DCGAN_") {
            command.env_remove(name);
        }
    }
    command
}
