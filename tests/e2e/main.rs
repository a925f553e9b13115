//! End-to-end tests: real processes on real ports, with real failures.
//!
//! The programs write their log as JSON, and the tests match events and fields ([`events`]). The
//! sentences of the log may be reworded without a change here. Rows of metrics, usage errors and
//! the block that a failed run ends with are plain text: they are matched by the values, flags and
//! files that they name.
#![expect(clippy::unwrap_used, reason = "a test that is wrong should stop")]

mod addresses;
mod changed_files;
mod data;
mod deployment;
mod disk;
mod elastic;
mod endings;
mod evaluation;
mod events;
mod files;
mod hostile;
mod initial_weights;
mod limits;
mod log_format;
mod named_runs;
mod network;
mod newcomers;
mod older_runs;
mod outcomes;
mod page;
mod points;
mod process;
mod protocol;
mod run;
mod sampling;
mod services;
mod settings;
mod signals;
mod strangers;
mod terminals;
mod training;
mod usage;
