//! What is done with the bytes that a fuzzer makes up: one function for each target.
//!
//! Bytes that are refused are fine. Bytes that are read must be read again as the same, after they
//! were written; and nothing may panic, or take memory that the bytes do not have.
//!
//! `cargo test --test seeds` calls the same functions with the files in `seeds/`, which needs no
//! fuzzer. It includes this file by its path.

mod files;
mod messages;

/// A function that does something with bytes.
type Target = fn(&[u8]);

/// Defines the table of all targets.
macro_rules! targets {
    ($($module:ident::$name:ident,)*) => {
        /// All targets by their names, which are also those of their folders in `seeds/`.
        pub const TARGETS: &[(&str, Target)] = &[$((stringify!($name), $module::$name),)*];
    };
}

targets! {
    files::idx,
    files::picture,
    files::state_file,
    files::manifest,
    files::run_file,
    files::config,
    files::rows,
    messages::worker_message,
    messages::coordinator_message,
    messages::exchange_message,
    messages::copy_state,
    messages::put_snapshot,
    messages::feed,
    messages::requests,
}

/// Runs the target of this name.
///
/// # Panics
/// If there is none, or the bytes are a finding.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.0 == name);
    let (_, target) = target.unwrap_or_else(|| panic!("there is no target {name}"));
    target(bytes);
}
