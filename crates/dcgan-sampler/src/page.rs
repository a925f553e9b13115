//! The web page: the newest grid, and the step after which it was drawn.
//!
//! The page asks for the step every second, and loads the picture only when the step has changed.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

use crate::newest::Newest;

/// Creates the routes of the page (`/`), of its picture (`/grid.png`) and of its step (`/step`).
pub(crate) fn router(newest: Newest) -> Router {
    Router::new()
        .route("/", get(|| async { Html(include_str!("page.html")) }))
        .route("/grid.png", get(grid))
        .route("/step", get(step))
        .with_state(newest)
}

/// Answers with the newest grid, or with status 404 if there is none yet.
async fn grid(State(newest): State<Newest>) -> Response {
    match newest.get() {
        Some(drawn) => {
            // The address stays, the picture changes: a browser must not keep it.
            let headers =
                [(header::CONTENT_TYPE, "image/png"), (header::CACHE_CONTROL, "no-store")];
            (headers, drawn.grid).into_response()
        }
        None => (StatusCode::NOT_FOUND, "there is no grid yet\n").into_response(),
    }
}

/// Answers with the step of the newest grid, as text; with an empty text if there is none yet.
async fn step(State(newest): State<Newest>) -> impl IntoResponse {
    let step = newest.get().map_or_else(String::new, |drawn| drawn.generator.step.to_string());
    ([(header::CACHE_CONTROL, "no-store")], step)
}
