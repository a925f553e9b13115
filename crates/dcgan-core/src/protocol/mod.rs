//! The protocol.

pub mod coordinator;
pub mod message;
pub mod plan;
pub mod worker;
