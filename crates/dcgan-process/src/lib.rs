//! Parts that the three programs share as processes. Their work is not shared.
//!
//! # Layout
//!
//! * [`exit`]: exit statuses, and how an error becomes one.
//! * [`logging`]: log lines as text or as JSON, with stable fields.
//! * [`settings`]: flags and `DCGAN_*` variables; `help` describes them.
//! * [`similar`]: the name that a person may have meant.
//! * [`signals`]: Ctrl-C, SIGTERM and SIGHUP; the second one ends the process.
//! * [`lifeline`]: ends a child process when its parent ends.
//! * [`names`]: what a process calls its machine, its user and itself.
//! * [`output`]: standard output and standard error, which nobody waits for.
//! * [`open_files`]: the limit of open files.
//! * [`panics`]: a panic ends the process, or becomes an error.
//! * [`fault`]: injects faults at points of a program, for tests.

pub mod exit;
pub mod fault;
mod help;
pub mod lifeline;
pub mod logging;
pub mod names;
pub mod open_files;
pub mod output;
pub mod panics;
pub mod settings;
pub mod signals;
pub mod similar;

use std::process::Command;

pub use output::print;

/// Removes every `DCGAN_*` variable from the environment of a program that is about to start: its
/// settings are its arguments alone. A variable that a person set for the parent must not change a
/// child in secret.
pub fn without_settings(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with(settings::PREFIX) {
            command.env_remove(name);
        }
    }
    command
}
