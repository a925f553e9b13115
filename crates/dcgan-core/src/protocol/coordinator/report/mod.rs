//! The reports to people about a run: notices, the reason for waiting, failures and the status.
//!
//! The texts are for people and may change. Programs and tests match the variants, or the codes
//! that the log and the status carry beside each text.

mod failure;
mod lost;
mod notice;
mod reason;
mod recoveries;
mod status;

pub use failure::Failure;
pub use lost::LostSteps;
pub use notice::{Departure, Notice};
pub use reason::{LastSeen, Reason};
pub(super) use recoveries::Recoveries;
pub use recoveries::Recovery;
pub use status::{Outsider, Role, Status, WorkerStatus};
