//! What speaks: the messages of `proto/`, their conversions from and to the core's types, and the channels and servers
//! that carry them, with every window, limit and deadline.
//!
//! Generated types stop here and at the service methods of the programs: whatever comes out of a conversion is valid.
//! Nothing here decides.

mod checksum;
mod collective;
mod control;
mod convert;
pub mod net;
mod status;
pub mod transfer;

pub use checksum::Checksummed;
pub use collective::{ExchangeMessage, Opening};
pub use control::{CoordinatorMessage, Welcome, WorkerMessage};
pub use convert::Malformed;
pub use status::status;

/// The generated types.
#[expect(missing_docs, clippy::allow_attributes_without_reason, reason = "it is generated")]
pub mod pb {
    tonic::include_proto!("dcgan.v1");

    /// What reflection tells of the services.
    pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("dcgan_descriptor");
}
