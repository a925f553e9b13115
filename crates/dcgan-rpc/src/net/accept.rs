//! Accepts connections: each gets a place or is turned away, and an operating system that has no
//! descriptor left is not asked again and again.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tonic::transport::server::TcpIncoming;

use super::connection::Connection;
use super::places::Places;
use crate::Throttle;

/// The pause after the system had no descriptor or no memory for a connection. Clients wait in the
/// listener's backlog meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The system asks after a peer on whose connection nothing has come for this long. It ends
/// connections whose other machine is gone.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// Connections of a listener. It never ends.
pub(super) struct Incoming {
    listener: TcpIncoming,
    places: Places,
    /// The text for somebody who speaks HTTP/1, if the server does not.
    explanation: Option<Arc<str>>,
    /// Nothing is accepted before it is over.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    pub(super) fn new(
        listener: TcpListener,
        places: Places,
        explanation: Option<Arc<str>>,
    ) -> Self {
        let listener = TcpIncoming::from(listener)
            .with_nodelay(Some(true))
            .with_keepalive(Some(TCP_KEEPALIVE));
        Self { listener, places, explanation, pause: None }
    }

    /// Accepts the next connection; `None` if it is turned away.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Connection>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        if self.places.are_overfull() {
            self.begin_pause();
            return Poll::Ready(None);
        }
        match ready!(Pin::new(&mut self.listener).poll_next(cx)) {
            Some(Ok(stream)) => Poll::Ready(self.seat(stream)),
            Some(Err(error)) => {
                self.on_error(&error);
                Poll::Ready(None)
            }
            None => Poll::Pending,
        }
    }

    fn seat(&self, stream: TcpStream) -> Option<Connection> {
        // A client that is gone already has no address, and needs no place.
        let peer = stream.peer_addr().ok()?;
        let Some(seat) = self.places.take(peer, Instant::now()) else {
            static THROTTLE: Throttle = Throttle::new();
            if let Some(more) = THROTTLE.pass() {
                tracing::warn!(
                    event = "connection_refused",
                    %peer,
                    more,
                    "turning away {peer}: all places are taken by workers and samplers ({more} \
                     more were turned away)"
                );
            }
            return None;
        };
        Some(Connection::new(stream, seat, self.explanation.clone()))
    }

    fn on_error(&mut self, error: &io::Error) {
        if !is_exhaustion(error) {
            return;
        }
        static THROTTLE: Throttle = Throttle::new();
        if let Some(more) = THROTTLE.pass() {
            tracing::warn!(
                event = "accept_failed",
                more,
                "cannot accept a connection: {error} ({more} more times); raise the limit of open \
                 files (ulimit -n)"
            );
        }
        self.places.evict_one();
        self.begin_pause();
    }

    fn begin_pause(&mut self) {
        self.pause = Some(Box::pin(sleep(ACCEPT_PAUSE)));
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(connection) = ready!(self.poll_accept(cx)) {
                return Poll::Ready(Some(Ok(connection)));
            }
        }
    }
}

/// Returns whether the system has nothing left to make a connection of. Any other error belongs to
/// one connection that its client has broken off already.
fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    exhausted.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
