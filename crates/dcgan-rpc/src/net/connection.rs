//! A connection that was accepted: a TCP stream that ends when it loses its place.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tonic::transport::server::Connected;

use super::places::{ConnectionInfo, Seat};
use crate::Throttle;

/// A connection looks this often whether it has become overdue.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The beginnings of requests over HTTP/1, which a browser sends. HTTP/2 begins with `PRI`.
const HTTP_1: [&[u8; 4]; 4] = [b"GET ", b"HEAD", b"POST", b"PUT "];

/// A TCP stream that has a place. It breaks when it loses its place: whatever is done on it fails
/// then, and the server drops it with all of its requests.
pub(super) struct Connection {
    stream: TcpStream,
    seat: Seat,
    checks: Interval,
    is_closed: bool,
    /// The text for somebody who speaks HTTP/1, on a port that does not, until the first bytes.
    explanation: Option<Arc<str>>,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, seat: Seat, explanation: Option<Arc<str>>) -> Self {
        let mut checks = interval(CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { stream, seat, checks, is_closed: false, explanation }
    }

    /// Fails if the connection has lost its place. Else wakes the task when it may have.
    fn poll_place(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.is_closed {
            self.is_closed = self.loses_place(cx);
        }
        if self.is_closed { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    fn loses_place(&mut self, cx: &mut Context<'_>) -> bool {
        if Pin::new(&mut self.seat.evicted).poll(cx).is_ready() {
            self.log("another connection needs its place", true);
            return true;
        }
        while self.checks.poll_tick(cx).is_ready() {
            if let Some((why, is_warning)) = self.seat.overdue(Instant::now()) {
                self.log(why, is_warning);
                return true;
            }
        }
        false
    }

    /// Looks at the first bytes of a connection where HTTP/1 is not spoken, and answers in words if
    /// they are a browser's. Nothing else may be said before: a server of HTTP/2 speaks first.
    fn poll_first_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(text) = &self.explanation else {
            return Poll::Ready(Ok(()));
        };
        let mut first = [0; 4];
        ready!(self.stream.poll_peek(cx, &mut ReadBuf::new(&mut first)))?;
        if HTTP_1.contains(&&first) {
            let answer = format!(
                "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{text}\n",
                text.len() + 1
            );
            // It fits into the buffer of a new connection. Who does not get it asks again.
            let _ = self.stream.try_write(answer.as_bytes());
            // Closing a connection with bytes that nobody has read would take the answer back.
            let mut rest = [0; 4096];
            while self.stream.try_read(&mut rest).is_ok_and(|bytes| bytes > 0) {}
            self.is_closed = true;
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        self.explanation = None;
        Poll::Ready(Ok(()))
    }

    fn log(&self, why: &str, is_warning: bool) {
        static THROTTLE: Throttle = Throttle::new();
        let peer = self.seat.peer;
        if !is_warning {
            tracing::debug!(
                event = "connection_idle",
                %peer,
                "closing an idle connection of {peer}"
            );
        } else if let Some(more) = THROTTLE.pass() {
            tracing::warn!(
                event = "connection_closed",
                %peer,
                why,
                more,
                "closing a connection of {peer}: {why} ({more} more were closed)"
            );
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.seat.info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_place(cx)?;
        ready!(self.poll_first_bytes(cx))?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_place(cx)?;
        ready!(self.poll_first_bytes(cx))?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_place(cx)?;
        ready!(self.poll_first_bytes(cx))?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_place(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A connection that has lost its place says no goodbye: its client may not listen.
        if self.is_closed {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(ready!(Pin::new(&mut self.stream).poll_shutdown(cx)))
    }
}
