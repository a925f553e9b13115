//! Channels and servers. HTTP/2 windows and frame sizes are set on both ends: the defaults (64 KiB) throttle a vector.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_health::ServingStatus;

use crate::pb;

/// Bytes on their way on one stream: many parts of a vector.
const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Bytes on their way on one connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Bytes of an HTTP/2 frame: a part of a vector fits into one.
const FRAME_BYTES_MAX: u32 = 1024 * 1024;
const _: () =
    assert!(FRAME_BYTES_MAX < STREAM_WINDOW_BYTES && STREAM_WINDOW_BYTES < CONNECTION_WINDOW_BYTES);
const _: () = assert!(4 * dcgan_core::reduction::BUCKET_VALUES_MAX < FRAME_BYTES_MAX as usize);

/// A connection that is not made in this time is not made.
pub const CONNECT_MAX: Duration = Duration::from_secs(3);
/// A connection whose other end says nothing is asked this often,
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// and is closed without an answer in this time.
const PING_MAX: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Where a server is: `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

/// An address that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an address such as http://127.0.0.1:7420, found {0:?}")]
pub struct InvalidAddress(String);

/// An address that others can reach, without a word that this is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is not an address of this machine alone, and the connection is not encrypted: add --insecure if the network \
     is trusted"
)]
pub struct NotLoopback(String);

impl std::str::FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let wrong = || InvalidAddress(text.to_owned());
        let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || (host.contains(':') && !bracketed) || host.contains(['/', '@', ' ']) {
            return Err(wrong());
        }
        let port = port.parse().ok().filter(|&port| port != 0).ok_or_else(wrong)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let host = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Self { host, port: address.port() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl Address {
    /// As `host:port`.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Refuses an address outside this machine, unless the user said that this is meant.
    ///
    /// # Errors
    /// If it is not this machine's own and `insecure` is false.
    pub fn check(&self, insecure: bool) -> Result<(), NotLoopback> {
        let bare = self.host.trim_matches(['[', ']']);
        let loopback = bare == "localhost" || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if loopback || insecure { Ok(()) } else { Err(NotLoopback(self.authority())) }
    }
}

/// A connection to the server at `address`.
///
/// # Errors
/// If there is none after [`CONNECT_MAX`]; says where and why.
pub async fn connect(address: &Address) -> Result<Channel, ConnectError> {
    let failed = |error: &dyn std::error::Error| {
        let mut root = error;
        while let Some(source) = root.source() {
            root = source;
        }
        ConnectError { address: address.to_string(), why: root.to_string() }
    };
    let endpoint = Endpoint::from_shared(address.to_string()).map_err(|error| failed(&error))?;
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
        .map_err(|error| failed(&error))
}

/// A server that cannot be reached.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot reach {address}: {why}")]
pub struct ConnectError {
    address: String,
    why: String,
}

/// A port that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}")]
pub struct ListenError {
    address: SocketAddr,
    error: io::Error,
}

/// Listens on `address`; port 0 takes any that is free.
///
/// # Errors
/// If the port is in use or the address is not this machine's.
pub fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // So that a program that is started again gets its port back at once.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|error| ListenError { address, error })
}

/// Serves `routes`, with health and reflection (v1 and v1alpha) of the services `names`, until `shutdown` and then to
/// the end of the streams that are open.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    names: &[&str],
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    for name in names {
        reporter.set_service_status(name, ServingStatus::Serving).await;
    }
    let reflection = || {
        let listed = names.iter().copied().chain(["grpc.health.v1.Health"]);
        listed.fold(
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET),
            |builder, name| builder.with_service_name(name),
        )
    };
    let routes = routes
        .add_service(health)
        .add_service(reflection().build_v1().expect("the descriptors are our own"))
        .add_service(reflection().build_v1alpha().expect("the descriptors are our own"));
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_MAX))
        .add_routes(routes)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            shutdown,
        )
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_people_do() {
        for text in ["http://127.0.0.1:7420", "127.0.0.1:7420", "http://127.0.0.1:7420/"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), "http://127.0.0.1:7420");
        }
        let address: Address = "http://[::1]:80".parse().unwrap();
        assert_eq!(address, SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 80)).into());
        for wrong in [
            "",
            "localhost",
            "http://:1",
            "http://host:0",
            "http://host:65536",
            "ftp://host:1",
            "::1:80",
        ] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn plaintext_is_for_this_machine_alone() {
        for here in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"] {
            assert_eq!(here.parse::<Address>().unwrap().check(false), Ok(()));
        }
        for elsewhere in ["http://10.0.0.4:1", "http://coordinator:1", "http://0.0.0.0:1"] {
            let address: Address = elsewhere.parse().unwrap();
            assert!(address.check(false).is_err(), "{elsewhere}");
            assert_eq!(address.check(true), Ok(()));
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let first = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = first.local_addr().unwrap();
        let error = listen(address).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot listen on {address}: Address already in use")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_the_address() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = Address::from(listener.local_addr().unwrap());
        drop(listener);
        let error = connect(&address).await.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot reach {address}: Connection refused")),
            "{error}"
        );
    }
}
