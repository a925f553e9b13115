//! A plain page with the newest grid.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

use crate::newest::Newest;

/// The page, its picture and the step that it shows.
pub(crate) fn router(newest: Newest) -> Router {
    Router::new()
        .route("/", get(|| async { Html(include_str!("page.html")) }))
        .route("/grid.png", get(grid))
        .route("/step", get(step))
        .with_state(newest)
}

async fn grid(State(newest): State<Newest>) -> Response {
    match newest.get() {
        Some(drawn) => {
            let headers =
                [(header::CONTENT_TYPE, "image/png"), (header::CACHE_CONTROL, "no-store")];
            (headers, drawn.grid).into_response()
        }
        None => (StatusCode::NOT_FOUND, "there is no grid yet\n").into_response(),
    }
}

/// The step of the newest grid; empty if there is none.
async fn step(State(newest): State<Newest>) -> impl IntoResponse {
    let step = newest.get().map_or_else(String::new, |drawn| drawn.source.step.to_string());
    ([(header::CACHE_CONTROL, "no-store")], step)
}
