//! Real processes on real ports, with real failures.
#![expect(clippy::unwrap_used, reason = "a test that is wrong should stop")]

mod deployment;
mod elastic;
mod network;
mod points;
mod process;
mod protocol;
mod run;
mod sampling;
mod training;
mod usage;
