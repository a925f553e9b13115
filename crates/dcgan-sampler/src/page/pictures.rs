//! Pictures that somebody asks for over HTTP: samples, and the way from one digit to another.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::response::Response;
use dcgan_core::ids::Step;
use dcgan_core::spec::networks::LATENT_LEN;
use dcgan_model::{Weights, interpolate, latents};
use tonic::Status;

use super::ShownRun;
use super::answers::{Failure, Parameters, png};
use crate::args::CheckpointArg;
use crate::newest::RunGenerator;
use crate::picture::{GridSize, SIDE_MAX};
use crate::run_dir;

/// The largest number of a digit among those of its seed. Those before it are computed, too.
const INDEX_MAX: usize = 10_000;
/// The most pictures of an interpolation.
const FRAMES_MAX: u32 = 64;
/// The generators that are kept besides the newest one.
const KEPT_MAX: usize = 4;

/// Generators that were asked for last.
#[derive(Default)]
pub(crate) struct Cache(Arc<Mutex<VecDeque<Kept>>>);

/// A generator, and by which step and weights it was asked for.
struct Kept {
    key: (Step, Option<Weights>),
    generator: Arc<RunGenerator>,
}

/// Draws a grid of samples of a seed.
pub(super) async fn sample(run: &ShownRun, wanted: &Parameters) -> Result<Response, Failure> {
    let size = GridSize {
        rows: wanted.number("rows", 1..=SIDE_MAX, 4)?,
        columns: wanted.number("columns", 1..=SIDE_MAX, 8)?,
    };
    let seed = wanted.number("seed", 0..=u64::MAX, 0)?;
    let first = wanted.number("first", 0..=INDEX_MAX, 0)?;
    let count = size.images();
    let latents = move || {
        let all = latents(first + count, Some(seed), 0);
        all.skip(first * LATENT_LEN).collect::<Vec<f32>>()
    };
    draw(run, wanted, size, latents).await
}

/// Draws the way from one digit to another.
pub(super) async fn interpolation(
    run: &ShownRun,
    wanted: &Parameters,
) -> Result<Response, Failure> {
    let frames = wanted.number("frames", 2..=FRAMES_MAX, 12)?;
    let (from, to) = (digit(wanted, "from")?, digit(wanted, "to")?);
    let latents = move || {
        let of = |(seed, index): (u64, usize)| -> Vec<f32> {
            latents(index + 1, Some(seed), 0).skip(index * LATENT_LEN).collect()
        };
        interpolate(&of(from), &of(to), frames as usize)
    };
    draw(run, wanted, GridSize { rows: 1, columns: frames }, latents).await
}

/// The digit that a parameter names: its seed, and its number among those of the seed.
fn digit(wanted: &Parameters, name: &str) -> Result<(u64, usize), Failure> {
    let digit = wanted.text(name).and_then(|text| {
        let (seed, index) = text.split_once(':')?;
        Some((seed.parse().ok()?, index.parse().ok().filter(|index| *index <= INDEX_MAX)?))
    });
    digit.ok_or_else(|| {
        Failure::wrong(format!("{name}: expected SEED:INDEX, such as 5:0, up to {INDEX_MAX}"))
    })
}

/// Draws these latents with the generator that is wanted.
async fn draw(
    run: &ShownRun,
    wanted: &Parameters,
    size: GridSize,
    latents: impl FnOnce() -> Vec<f32> + Send + 'static,
) -> Result<Response, Failure> {
    let truncation: f32 = wanted.number("truncation", 0.1..=1.5, 1.0)?;
    let weights = match wanted.text("weights") {
        None => None,
        Some("ema") => Some(Weights::Ema),
        Some("raw") => Some(Weights::Raw),
        Some(_) => return Err(Failure::wrong("weights: expected ema or raw")),
    };
    let checkpoint: CheckpointArg = wanted
        .text("checkpoint")
        .unwrap_or("newest")
        .parse()
        .map_err(|expected: &str| Failure::wrong(format!("checkpoint: {expected}")))?;
    let shown = run.newest.get().map(|drawn| drawn.generator);
    let (directory, cache) = (directory(run), Arc::clone(&run.cache.0));
    let drawing = run.newest.in_turn(move |is_wanted| {
        let generator = find(&cache, shown, directory, checkpoint, weights)?;
        let latents: Vec<f32> = latents().iter().map(|latent| truncation * latent).collect();
        let picture = generator.tiles_while(is_wanted, size, &latents);
        Ok(picture.map(|picture| (generator, picture)))
    });
    let (generator, picture) = drawing.await?;
    Ok(png(&generator, picture))
}

/// The run directory, if this machine has it.
fn directory(run: &ShownRun) -> Option<PathBuf> {
    let told = || run.view.known().status["directory"].as_str().map(PathBuf::from);
    run.directory.clone().or_else(told).filter(|directory| directory.is_dir())
}

/// Finds a generator: the newest one, one that was asked for before, or one in a checkpoint.
fn find(
    cache: &Mutex<VecDeque<Kept>>,
    shown: Option<Arc<RunGenerator>>,
    directory: Option<PathBuf>,
    checkpoint: CheckpointArg,
    weights: Option<Weights>,
) -> Result<Arc<RunGenerator>, Status> {
    let refused = |error: anyhow::Error| Status::not_found(format!("{error:#}"));
    let step = match (checkpoint, &shown) {
        (CheckpointArg::Newest, Some(shown)) if weights.is_none() => return Ok(Arc::clone(shown)),
        (CheckpointArg::Newest, Some(shown)) => Some(shown.step),
        (CheckpointArg::Newest, None) => {
            return Err(Status::not_found("there is no generator yet"));
        }
        (CheckpointArg::Of(step), _) => Some(step),
        (CheckpointArg::Best, _) => None,
    };
    let mut kept = cache.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = kept.iter().find(|kept| Some(kept.key.0) == step && kept.key.1 == weights)
    {
        return Ok(Arc::clone(&found.generator));
    }
    let generator = match (&shown, weights) {
        (Some(shown), Some(weights)) if Some(shown.step) == step => shown.with_weights(weights),
        _ => {
            let directory = directory.ok_or_else(|| {
                Status::not_found("the checkpoints are on another machine: only the newest is here")
            })?;
            run_dir::checkpoint(&directory, checkpoint)
                .and_then(|checkpoint| run_dir::generator(&checkpoint, weights))
        }
    };
    let generator = Arc::new(generator.map_err(refused)?);
    kept.push_front(Kept { key: (generator.step, weights), generator: Arc::clone(&generator) });
    kept.truncate(KEPT_MAX);
    Ok(generator)
}
