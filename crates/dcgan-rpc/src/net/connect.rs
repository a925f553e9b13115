//! Connections to servers.

use std::error::Error;
use std::fmt;

use dcgan_core::ids::RunId;
use dcgan_core::words::worker;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{
    Address, CONNECT_MAX, CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, PING_INTERVAL, PING_MAX,
    STREAM_WINDOW_BYTES,
};

/// Makes all connections of a program. It is made once, from the program's flags.
#[derive(Clone, Debug)]
pub struct Connector {
    insecure: bool,
}

/// The program that is expected at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The coordinator of this run, or of any run.
    Coordinator(Option<RunId>),
    /// The worker with this name.
    Worker(String),
}

/// A server that cannot be reached.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot reach {peer} at {address}: {why}")]
pub struct ConnectError {
    peer: Peer,
    address: Address,
    why: String,
}

impl Connector {
    /// Makes a connector. Without `insecure` it connects to loopback addresses only, because
    /// connections are not encrypted.
    pub fn new(insecure: bool) -> Self {
        Self { insecure }
    }

    /// Connects to `peer`, which is expected at `address`.
    ///
    /// # Errors
    /// If other machines can reach the address and this is not allowed, or the server refuses the
    /// connection or does not answer within [`CONNECT_MAX`]. The error names the peer, the address
    /// and the cause.
    pub async fn connect(&self, address: &Address, peer: &Peer) -> Result<Channel, ConnectError> {
        self.try_connect(address).await.map_err(|error| ConnectError {
            peer: peer.clone(),
            address: address.clone(),
            why: innermost(&*error),
        })
    }

    async fn try_connect(
        &self,
        address: &Address,
    ) -> Result<Channel, Box<dyn Error + Send + Sync>> {
        address.check(self.insecure)?;
        let endpoint = Endpoint::from_shared(address.to_string())?
            .connect_timeout(CONNECT_MAX)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_MAX);
        Ok(endpoint.connect().await?)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator(None) => f.write_str("the coordinator"),
            Self::Coordinator(Some(run)) => write!(f, "the coordinator of run {run}"),
            Self::Worker(name) => f.write_str(&worker(name)),
        }
    }
}

/// Describes the innermost cause of an error: the outer ones only say that connecting failed.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The words for a server that is none of gRPC's.
const NO_GRPC: &str =
    "what answers there speaks no gRPC: it may be a page for browsers, or another program";

/// Tells whether another program than the one that is meant has answered a request.
pub fn is_of_another_program(status: &Status) -> bool {
    status.code() == Code::Unimplemented || in_words(status) == NO_GRPC
}

/// Describes a failed request for people: the server's own words. Its other text, such as its
/// metadata, says nothing to them.
pub fn in_words(status: &Status) -> String {
    match (status.code(), status.message()) {
        // Servers of earlier versions answer an unknown method without a word.
        (Code::Unimplemented, "") => {
            "the other program does not know this request: use programs of one build".to_owned()
        }
        (_, message) if message.starts_with("grpc-status header missing") => NO_GRPC.to_owned(),
        // Only the error of a connection has another error as its source.
        (_, message) if status.source().is_some() => match innermost(status) {
            // The first bytes of an answer over HTTP/1, read as the head of a frame of HTTP/2.
            cause if cause.contains("frame with invalid size") => NO_GRPC.to_owned(),
            cause => format!("the connection broke: {cause} ({message})"),
        },
        (_, message) => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::net::listen;

    #[tokio::test]
    async fn a_refused_connection_is_reported_with_the_peer_and_its_address() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = Address::from(listener.local_addr().unwrap());
        drop(listener);
        let peers = [
            (Peer::Coordinator(None), "the coordinator"),
            (Peer::Coordinator(Some(RunId(1))), "the coordinator of run 0000000000000001"),
            (Peer::Worker("w1".to_owned()), "worker w1"),
        ];
        for (peer, name) in peers {
            let error = Connector::new(false).connect(&address, &peer).await.unwrap_err();
            let expected = format!("cannot reach {name} at {address}: Connection refused");
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
    }

    #[tokio::test]
    async fn other_machines_are_not_connected_to_unless_it_is_allowed() {
        let address = "http://10.255.255.1:1".parse().unwrap();
        let peer = Peer::Worker("w1".to_owned());
        let error = Connector::new(false).connect(&address, &peer).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot reach worker w1 at http://10.255.255.1:1: "), "{error}");
        assert!(error.contains("add --insecure"), "{error}");
    }
}
