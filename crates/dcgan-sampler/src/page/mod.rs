//! The web page, and the HTTP API under it. docs/http.md describes the API.
//!
//! All addresses are relative, so that the page works below any path of a proxy.

mod answers;
mod history;
mod pictures;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use dcgan_core::ids::Step;
use dcgan_store::file;
use dcgan_store::png::PNG_BYTES_MAX;
use dcgan_store::run_dir::RunPaths;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;

use crate::newest::Newest;
use crate::watch::{News, View};
pub(crate) use pictures::Cache;

use answers::{Failure, KEEP, NO_STORE, Parameters, as_json, download, one_of, png};

/// The most rows of metrics in an answer.
const ROWS_MAX: usize = 2000;
/// A stream of news is asked for anew after this time. It is less than a request may take.
const EVENTS_MAX: Duration = Duration::from_secs(50);
/// The text in place of a grid, before its step.
const ALT: &str = "Digits drawn by the generator after step";
/// The page loads nothing from elsewhere, and no text of a run becomes a script.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'self'; object-src 'none'; \
                      require-trusted-types-for 'script'";

/// A run that the page shows.
pub(crate) struct ShownRun {
    pub(crate) view: Arc<View>,
    pub(crate) newest: Newest,
    /// Its directory, if a person has named it.
    pub(crate) directory: Option<PathBuf>,
    pub(crate) cache: Cache,
}

type Runs = Arc<Vec<ShownRun>>;

/// Creates the routes of the page and of its API.
pub(crate) fn router(runs: Vec<ShownRun>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/page.css", get(|| part("text/css; charset=utf-8", include_str!("page.css"))))
        .route("/page.js", get(|| part("text/javascript; charset=utf-8", include_str!("page.js"))))
        .route("/icon.svg", get(|| part("image/svg+xml", include_str!("icon.svg"))))
        .route("/grid.png", get(newest_grid))
        .route("/runs", get(names))
        .route("/runs/{run}/status", get(status))
        .route("/runs/{run}/rows", get(rows))
        .route("/runs/{run}/evaluations", get(evaluations))
        .route("/runs/{run}/grids", get(grids))
        .route("/runs/{run}/grids/{file}", get(grid))
        .route("/runs/{run}/sample.png", get(sample))
        .route("/runs/{run}/interpolation.png", get(interpolation))
        .route("/runs/{run}/history.gif", get(history))
        .route("/runs/{run}/generator.safetensors", get(generator))
        .route("/runs/{run}/metrics.csv", get(metrics))
        .route("/runs/{run}/events", get(events))
        .with_state(Arc::new(runs))
}

async fn part(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, NO_STORE)], text)
}

/// The page itself, with what is known now: it shows that without a script, too.
async fn page(State(runs): State<Runs>) -> Response {
    let views = || runs.iter().map(|run| &run.view);
    let names: Vec<Value> = views().map(|view| json!({ "name": view.name() })).collect();
    let statuses: Vec<Value> = views().map(|view| view.known().status.clone()).collect();
    let steps: Vec<Value> = views().map(|view| json!(view.known().grids)).collect();
    let state = json!({ "runs": names, "status": statuses, "grids": steps }).to_string();
    let title = views().map(|view| view.name().to_owned()).collect::<Vec<_>>().join(" and ");
    let sentence = match &statuses[0]["sentence"] {
        Value::String(sentence) => escaped(sentence),
        _ => "One moment: the run is looked at.".to_owned(),
    };
    let newest = runs[0].view.known().grids.last().copied();
    let grid = match newest {
        Some(step) => format!(
            r#"<img src="runs/0/grids/{step}.png" width="302" height="302" alt="{ALT} {step}">"#
        ),
        None => "<p>There is no grid of digits yet.</p>".to_owned(),
    };
    // Each placeholder stands there once, and none in what takes its place.
    let mut html = String::new();
    let mut rest = include_str!("page.html");
    for (name, text) in [
        ("{{title}}", escaped(&title)),
        ("{{sentence}}", sentence),
        ("{{grid}}", grid),
        ("{{state}}", state.replace('<', "\\u003c")),
    ] {
        let (before, after) = rest.split_once(name).unwrap_or((rest, ""));
        html.push_str(before);
        html.push_str(&text);
        rest = after;
    }
    html.push_str(rest);
    let headers = [(CACHE_CONTROL, NO_STORE), (CONTENT_SECURITY_POLICY, POLICY)];
    (headers, Html(html)).into_response()
}

/// A text as HTML shows it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The newest grid of the first run, at an address that stays.
async fn newest_grid(State(runs): State<Runs>) -> Result<Response, Failure> {
    match runs[0].newest.get() {
        Some(drawn) => Ok(png(&drawn.generator, drawn.grid)),
        None => Err(Failure::missing("there is no grid yet")),
    }
}

async fn names(State(runs): State<Runs>) -> Response {
    as_json(&runs.iter().map(|run| json!({ "name": run.view.name() })).collect::<Vec<_>>())
}

async fn status(State(runs): State<Runs>, Path(run): Path<String>) -> Result<Response, Failure> {
    Ok(as_json(&one_of(&runs, &run)?.view.known().status))
}

async fn rows(
    State(runs): State<Runs>,
    Path(run): Path<String>,
    Query(parameters): Query<Parameters>,
) -> Result<Response, Failure> {
    let (after, until) = (parameters.step("after", 0)?, parameters.step("until", Step::MAX)?);
    let known = one_of(&runs, &run)?.view.known();
    let rows = known.rows.iter().filter(|row| row.step > after && row.step <= until);
    let rows: Vec<_> = rows.collect();
    // Beyond so many, the changes of a generation, the last one, and of the others every few.
    let stride = rows.len().div_ceil(ROWS_MAX).max(1);
    let is_kept = |place: usize| {
        place.is_multiple_of(stride)
            || place + 1 == rows.len()
            || (place > 0 && rows[place].generation != rows[place - 1].generation)
    };
    let kept = (0..rows.len()).filter(|&place| is_kept(place)).map(|place| rows[place]);
    Ok(as_json(&kept.collect::<Vec<_>>()))
}

async fn evaluations(
    State(runs): State<Runs>,
    Path(run): Path<String>,
) -> Result<Response, Failure> {
    Ok(as_json(&one_of(&runs, &run)?.view.known().evaluations))
}

async fn grids(State(runs): State<Runs>, Path(run): Path<String>) -> Result<Response, Failure> {
    Ok(as_json(&one_of(&runs, &run)?.view.known().grids))
}

async fn grid(
    State(runs): State<Runs>,
    Path((run, file)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let run = one_of(&runs, &run)?;
    let step = file.strip_suffix(".png").and_then(|step| step.parse().ok());
    let bytes = match step {
        Some(step) => grid_of(run, step).await,
        None => None,
    };
    let bytes = bytes.ok_or_else(|| Failure::missing("there is no such grid"))?;
    Ok(([(CONTENT_TYPE, "image/png"), (CACHE_CONTROL, KEEP)], bytes).into_response())
}

/// The grid of a step, from the run directory or from memory.
async fn grid_of(run: &ShownRun, step: Step) -> Option<Vec<u8>> {
    let directory = {
        let known = run.view.known();
        if let Some(png) = known.drawn.get(&step) {
            return Some(png.to_vec());
        }
        if !known.grids.contains(&step) {
            return None;
        }
        known.status["directory"].as_str()?.to_owned()
    };
    let path = RunPaths::new(directory).grid(step);
    spawn_blocking(move || file::read(&path, PNG_BYTES_MAX as u64).ok()).await.ok()?
}

async fn sample(
    State(runs): State<Runs>,
    Path(run): Path<String>,
    Query(parameters): Query<Parameters>,
) -> Result<Response, Failure> {
    pictures::sample(one_of(&runs, &run)?, &parameters).await
}

async fn interpolation(
    State(runs): State<Runs>,
    Path(run): Path<String>,
    Query(parameters): Query<Parameters>,
) -> Result<Response, Failure> {
    pictures::interpolation(one_of(&runs, &run)?, &parameters).await
}

async fn history(State(runs): State<Runs>, Path(run): Path<String>) -> Result<Response, Failure> {
    let run = one_of(&runs, &run)?;
    let steps: Vec<Step> = run.view.known().grids.iter().copied().collect();
    let mut grids = Vec::new();
    for step in history::chosen(&steps) {
        grids.extend(grid_of(run, step).await);
    }
    let gif = run.newest.in_turn(move |is_wanted| Ok(history::gif(&grids, is_wanted))).await?;
    Ok(download("image/gif", "history.gif", gif))
}

async fn generator(State(runs): State<Runs>, Path(run): Path<String>) -> Result<Response, Failure> {
    let drawn = one_of(&runs, &run)?.newest.get();
    let drawn = drawn.ok_or_else(|| Failure::missing("there is no generator yet"))?;
    let name = format!("generator-step-{}.safetensors", drawn.generator.step);
    Ok(download("application/octet-stream", &name, drawn.generator.file.to_vec()))
}

async fn metrics(State(runs): State<Runs>, Path(run): Path<String>) -> Result<Response, Failure> {
    let known = one_of(&runs, &run)?.view.known();
    let mut text = String::new();
    for (number, row) in known.rows.iter().enumerate() {
        if number == 0 {
            let names = row.scalars().map(|(name, _)| name).collect::<Vec<_>>().join(",");
            text += &format!("step,{names}\n");
        }
        let values = row.scalars().map(|(_, value)| value.to_string()).collect::<Vec<_>>();
        text += &format!("{},{}\n", row.step, values.join(","));
    }
    Ok(download("text/csv; charset=utf-8", "metrics.csv", text.into_bytes()))
}

/// News of a run, as they come. A listener that misses some is cut off, and asks anew. No request
/// may last for ever, so that after a while the last event says to ask again.
async fn events(State(runs): State<Runs>, Path(run): Path<String>) -> Result<Response, Failure> {
    let news = BroadcastStream::new(one_of(&runs, &run)?.view.listen());
    let since = Instant::now();
    let news = news.map_while(Result::ok).take_while(move |_| since.elapsed() < EVENTS_MAX);
    let event =
        |kind: &str, data: &str| Ok::<_, Infallible>(Event::default().event(kind).data(data));
    let again = tokio_stream::once(event("again", "null"));
    let events = news.map(move |News { kind, data }| event(kind, &data)).chain(again);
    let stream = Sse::new(events).keep_alive(KeepAlive::default());
    Ok(([(CACHE_CONTROL, NO_STORE)], stream).into_response())
}
