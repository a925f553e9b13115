//! What people see.

mod failure;
mod notice;
mod reason;
mod recoveries;
mod status;

pub use failure::Failure;
pub use notice::{Departure, Notice};
pub use reason::{LastSeen, Reason};
pub(super) use recoveries::Recoveries;
pub use recoveries::Recovery;
pub use status::{Role, Status, WorkerStatus};
