//! Connections to servers.

use std::error::Error;

use tonic::transport::{Channel, Endpoint};

use super::{
    Address, CONNECT_MAX, CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, PING_INTERVAL, PING_MAX,
    STREAM_WINDOW_BYTES,
};

/// A server that cannot be reached.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot reach {address}: {why}")]
pub struct ConnectError {
    address: String,
    why: String,
}

impl ConnectError {
    /// Keeps the innermost cause of `error`: the outer ones only say that connecting failed.
    fn new(address: &Address, error: &dyn Error) -> Self {
        let mut cause = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Self { address: address.to_string(), why: cause.to_string() }
    }
}

/// Connects to the server at `address`.
///
/// # Errors
/// If the server refuses the connection or does not answer within [`CONNECT_MAX`]; the error names
/// the address and the cause.
pub async fn connect(address: &Address) -> Result<Channel, ConnectError> {
    let endpoint = Endpoint::from_shared(address.to_string())
        .map_err(|error| ConnectError::new(address, &error))?;
    endpoint
        .connect_timeout(CONNECT_MAX)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_MAX)
        .connect()
        .await
        .map_err(|error| ConnectError::new(address, &error))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::net::listen;

    #[tokio::test]
    async fn a_refused_connection_is_reported_with_its_address() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = Address::from(listener.local_addr().unwrap());
        drop(listener);
        let error = connect(&address).await.unwrap_err().to_string();
        let expected = format!("cannot reach {address}: Connection refused");
        assert!(error.starts_with(&expected), "{error}");
    }
}
