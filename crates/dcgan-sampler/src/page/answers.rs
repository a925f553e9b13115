//! Answers of the HTTP API, and the parameters of its requests.

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use dcgan_core::ids::Step;
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

use super::ShownRun;
use crate::newest::RunGenerator;

/// The caching of what changes: none.
pub(super) const NO_STORE: &str = "no-store";
/// The caching of a grid of a step, which never changes.
pub(super) const KEEP: &str = "max-age=31536000, immutable";

/// A request that is refused: a status, and a sentence that says why.
pub(super) struct Failure(StatusCode, String);

impl Failure {
    pub(super) fn wrong(why: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, why.into())
    }

    pub(super) fn missing(why: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, why.into())
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let code = match status.code() {
            Code::ResourceExhausted => StatusCode::SERVICE_UNAVAILABLE,
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::NotFound => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(code, status.message().to_owned())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(code, why) = self;
        let headers = [(CONTENT_TYPE, "text/plain; charset=utf-8"), (CACHE_CONTROL, NO_STORE)];
        (code, headers, format!("{why}\n")).into_response()
    }
}

/// The run with this number in an address.
pub(super) fn one_of<'a>(runs: &'a [ShownRun], number: &str) -> Result<&'a ShownRun, Failure> {
    let run = number.parse::<usize>().ok().and_then(|number| runs.get(number));
    run.ok_or_else(|| Failure::missing(format!("there is no run {}", number.escape_default())))
}

/// An answer as JSON.
pub(super) fn as_json(value: &(impl Serialize + ?Sized)) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => {
            let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, NO_STORE)];
            (headers, text).into_response()
        }
        Err(error) => Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// A picture, with the checkpoint that it was drawn with.
pub(super) fn png(generator: &RunGenerator, bytes: impl IntoResponse) -> Response {
    let digest = generator.digest.map_or_else(String::new, |digest| digest.to_string());
    let headers = [
        (CONTENT_TYPE, "image/png".to_owned()),
        (CACHE_CONTROL, NO_STORE.to_owned()),
        (HeaderName::from_static("x-step"), generator.step.to_string()),
        (HeaderName::from_static("x-digest"), digest),
    ];
    (headers, bytes).into_response()
}

/// A file to be saved under this name.
pub(super) fn download(kind: &'static str, name: &str, bytes: Vec<u8>) -> Response {
    let headers = [
        (CONTENT_TYPE, kind.to_owned()),
        (CACHE_CONTROL, NO_STORE.to_owned()),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
    ];
    (headers, bytes).into_response()
}

/// The parameters of a request. Others than those that are asked for are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Parameters(HashMap<String, String>);

impl Parameters {
    /// The text of a parameter; `None` if it is absent or empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// A number in a range; `default` if it is absent.
    pub(super) fn number<N: FromStr + PartialOrd + Display>(
        &self,
        name: &str,
        range: RangeInclusive<N>,
        default: N,
    ) -> Result<N, Failure> {
        let Some(text) = self.text(name) else {
            return Ok(default);
        };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            Failure::wrong(format!("{name}: expected a number from {least} to {most}"))
        })
    }

    pub(super) fn step(&self, name: &str, default: Step) -> Result<Step, Failure> {
        self.number(name, 0..=Step::MAX, default)
    }
}
