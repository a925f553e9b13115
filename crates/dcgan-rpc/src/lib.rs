//! The wire: the messages of `proto/`, and the channels and servers that carry them.
//!
//! Generated types are used in this crate and at the service methods of the programs, and nowhere
//! else: whatever a conversion here returns is one of the core's types, and valid. Every window,
//! limit and deadline of a connection is set here. Nothing here decides what a program does.
//!
//! # Layout
//!
//! * [`pb`]: the generated types.
//! * [`services`]: which program offers which service, and for whom.
//! * `blame`: tells a client that does something wrong from a connection that breaks.
//! * `caller`: who sends a request, and for which run.
//! * `control`, `collective`, `status`, `convert`: conversions from and to the core's types.
//! * `checksum`: checksums over whole messages.
//! * [`transfer`]: files in chunks.
//! * [`net`]: addresses, channels and servers.
//! * `throttle`: a limit on log lines that somebody else can cause.

mod blame;
mod caller;
mod checksum;
mod collective;
mod control;
mod convert;
pub mod net;
pub mod services;
mod status;
mod throttle;
pub mod transfer;

pub use blame::is_senders_fault;
pub use caller::{Caller, Who};
pub use checksum::Checksummed;
pub use collective::{ExchangeMessage, Opening};
pub use control::{CoordinatorMessage, Welcome, WorkerMessage};
pub use convert::{Malformed, step_done};
pub use status::{best, newest_row, status};
pub use throttle::Throttle;

/// The generated types.
#[expect(missing_docs, clippy::allow_attributes_without_reason, reason = "it is generated")]
pub mod pb {
    tonic::include_proto!("dcgan.v1");

    /// The descriptors of all services, for reflection.
    pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("dcgan_descriptor");
}
