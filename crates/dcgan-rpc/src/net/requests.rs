//! Keeps an account of open requests, for the places of their connections.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http_body::{Frame, SizeHint};

use super::places::{ConnectionInfo, OpenRequest};

/// Notes that a request begins, and that it is over when its answer is, or when it is given up.
pub(super) async fn count(mut request: Request, next: Next) -> Response {
    let Some(connection) = request.extensions().get::<ConnectionInfo>().cloned() else {
        return next.run(request).await;
    };
    let open = connection.begin(Instant::now());
    request.extensions_mut().insert(open.clone());
    let counted = Counted(open);
    let response = next.run(request).await;
    response.map(|body| Body::new(CountedBody { body, _counted: counted }))
}

/// A request that counts as open as long as this lives.
struct Counted(OpenRequest);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.end(Instant::now());
    }
}

/// The body of an answer.
struct CountedBody {
    body: Body,
    _counted: Counted,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
