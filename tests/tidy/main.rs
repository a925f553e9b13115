//! Tests of the source itself: the architecture's arrows, the form of lines and comments, and the
//! events of the log. Each failure names a file, a line, and what to do about it.
#![expect(clippy::unwrap_used, reason = "a test that is wrong should stop")]

mod arrows;
mod comments;
mod events;
mod limits;
mod lines;
mod sources;
