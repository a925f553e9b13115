//! Tells a client that does something wrong from a connection that breaks.

use std::error::Error;

use tonic::{Code, Status};

/// Returns whether a stream ended because of what its sender sent: a message that is malformed, too
/// long or out of order. If it only broke, because a process or a network is gone, there is nobody
/// to name.
pub fn is_senders_fault(status: &Status) -> bool {
    // An error of a connection becomes a status that has it as its source.
    let is_of_connection = status.source().is_some();
    let is_end = matches!(
        status.code(),
        Code::Cancelled | Code::Unavailable | Code::Unknown | Code::NotFound
    );
    !is_of_connection && !is_end && !status.message().starts_with("h2 protocol error")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::Malformed;

    #[test]
    fn a_malformed_message_has_somebody_to_blame_and_a_broken_connection_has_not() {
        assert!(is_senders_fault(&Status::from(Malformed("its checksum does not match"))));
        assert!(is_senders_fault(&Status::out_of_range("decoded message length too large")));
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(!is_senders_fault(&Status::from_error(broken.into())));
        assert!(!is_senders_fault(&Status::unavailable("the coordinator is ending")));
        assert!(!is_senders_fault(&Status::internal("h2 protocol error: error reading a body")));
    }
}
