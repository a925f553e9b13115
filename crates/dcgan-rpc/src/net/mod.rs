//! Addresses, channels and servers: every TCP and HTTP/2 setting of the project.
//!
//! HTTP/2 windows and frame sizes are set on both ends of a connection. With the defaults (64 KiB
//! windows, 16 KiB frames) a sender would stop after every quarter of a bucket and wait a round
//! trip for permission to go on. Both ends also ping a connection on which nothing arrives, because
//! TCP alone takes minutes to notice that the other machine is gone.
//!
//! Each connection to a server has one of its [`Places`], and loses it in the end if it only waits.

mod accept;
mod address;
mod connect;
mod connection;
mod coordinator_at;
mod health;
mod places;
mod requests;
mod serve;

use std::time::Duration;

pub use address::{Address, InvalidAddress, ListenAddress, NoAddress, NotLoopback, interface_to};
pub use connect::{ConnectError, Connector, Peer, in_words, is_of_another_program};
pub use coordinator_at::CoordinatorAt;
pub use health::Pulse;
pub use places::{
    CONNECTIONS_MAX, DESCRIPTORS_RESERVED, FIRST_REQUEST_MAX, IDLE_MAX, OpenRequest, Places,
    REQUEST_MAX,
};
pub use serve::{ListenError, listen, serve, serve_pages};

/// How long a [`Connector`] tries before it gives up.
pub const CONNECT_MAX: Duration = Duration::from_secs(3);

/// Bytes that may be on their way on one stream, unacknowledged: 32 buckets of a vector.
const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Bytes that may be on their way on one connection, over all of its streams.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// The largest HTTP/2 frame, in bytes: one holds a whole bucket.
const FRAME_BYTES_MAX: u32 = 1024 * 1024;
/// Requests that may be open on one connection. A client waits with the next one.
const STREAMS_MAX: u32 = 32;
/// The headers of a request, in bytes. A request with more is refused.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Requests on one connection that were reset and still have to be cleared away. A client that
/// resets more at once loses its connection.
const RESETS_MAX: usize = 32;
/// A connection on which nothing has arrived for this long is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// A connection whose ping is not answered within this time is closed.
const PING_MAX: Duration = Duration::from_secs(5);
/// Connections that the operating system keeps for a listener until it accepts them.
const BACKLOG: u32 = 1024;

const _: () =
    assert!(FRAME_BYTES_MAX < STREAM_WINDOW_BYTES && STREAM_WINDOW_BYTES < CONNECTION_WINDOW_BYTES);
const _: () = assert!(4 * dcgan_core::reduction::BUCKET_VALUES_MAX < FRAME_BYTES_MAX as usize);
