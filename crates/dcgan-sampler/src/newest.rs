//! The newest generator, and pictures that are drawn with it.
//!
//! Drawing takes up to seconds of a whole core. It happens on threads of its own, so that the
//! network's thread can go on answering. A run on the same machine needs the other cores, so there
//! are two such threads at most: one draws the run's own grids, and the other the pictures that
//! people ask for, one at a time. So the run's grids never wait for strangers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::anyhow;
use bytes::Bytes;
use dcgan_core::ids::{Digest, Step};
use dcgan_model::{Generator, GeneratorError, Weights};
use dcgan_process::exit::usage;
use dcgan_store::state_file;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tonic::Status;

use crate::picture::{GRID, GridSize, png, tiles};

/// Pictures that people may have asked for, with the one that is being drawn. Another request is
/// refused.
const PICTURES_MAX: usize = 8;

/// The names of the generator's tensors, and those of their moving averages, begin with these.
const GENERATOR_PREFIXES: [&str; 2] = ["generator.", "ema.generator."];

/// A generator, with the step and the seed of the run that trained it.
pub(crate) struct RunGenerator {
    /// The step after which the generator was taken.
    pub(crate) step: Step,
    /// The seed of the run. It determines the latent vectors of the run's own grids.
    pub(crate) seed: u64,
    /// The digest of the run's state after the step, if it is known.
    pub(crate) digest: Option<Digest>,
    /// All weights of the generator, as a safetensors file.
    pub(crate) file: Bytes,
    pub(crate) generator: Generator,
}

impl RunGenerator {
    /// Reads a generator from a state file, with the weights that are wanted or with the best.
    ///
    /// # Errors
    /// If the file does not hold them.
    pub(crate) fn read(
        state: &[u8],
        weights: Option<Weights>,
        step: Step,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let generator = Generator::from_file(state, weights).map_err(|error| match error {
            GeneratorError::NoEma => usage(anyhow!("--weights ema: {error}")),
            GeneratorError::File(error) => error.into(),
        })?;
        let file = state_file::subset(state, &GENERATOR_PREFIXES)?.into();
        Ok(Self { step, seed, digest: None, file, generator })
    }

    /// The same generator with other weights, if the run has them.
    ///
    /// # Errors
    /// If it has not.
    pub(crate) fn with_weights(&self, weights: Weights) -> anyhow::Result<Self> {
        let Self { step, seed, digest, file, .. } = self;
        Ok(Self { digest: *digest, ..Self::read(file, Some(weights), *step, *seed)? })
    }

    /// The names of the weights that it can draw with, the best first.
    pub(crate) fn weights(&self) -> Vec<&'static str> {
        let average = Generator::has_average(&self.file);
        average.then_some("ema").into_iter().chain(["raw"]).collect()
    }

    /// Draws a grid of samples as a PNG. Without a seed, it draws those of the run's own grids.
    pub(crate) fn picture(&self, size: GridSize, seed: Option<u64>) -> Vec<u8> {
        let images = self.generator.draw(size.images(), seed, self.seed);
        png(&images, size)
    }

    /// Draws a grid of these latents, `[N, 100]`, without a gap between its images.
    pub(crate) fn tiles_while(
        &self,
        is_wanted: impl Fn() -> bool,
        size: GridSize,
        latents: &[f32],
    ) -> Option<Vec<u8>> {
        Some(tiles(&self.generator.draw_latents(is_wanted, latents)?, size))
    }

    /// Draws a grid like [`picture`](Self::picture), unless it is not wanted any more.
    pub(crate) fn picture_while(
        &self,
        is_wanted: impl Fn() -> bool,
        size: GridSize,
        seed: Option<u64>,
    ) -> Option<Vec<u8>> {
        let images = self.generator.draw_while(is_wanted, size.images(), seed, self.seed)?;
        Some(png(&images, size))
    }
}

/// A generator with the grid that the run shows for its step.
#[derive(Clone)]
pub(crate) struct Drawn {
    pub(crate) generator: Arc<RunGenerator>,
    /// The grid, as a PNG.
    pub(crate) grid: Bytes,
}

/// The newest generator, if there is one yet. Clones share it.
#[derive(Clone)]
pub(crate) struct Newest {
    /// The weights that a person wants; `None` for the best that there are.
    weights: Option<Weights>,
    drawn: watch::Sender<Option<Drawn>>,
    /// Held by the thread that draws a picture for somebody, and not by the request: the thread may
    /// go on for a moment when the request is given up.
    turn: Arc<Semaphore>,
    /// Held by each request for a picture.
    asked: Arc<Semaphore>,
}

impl Newest {
    /// Creates a place for generators with these weights. There is none yet.
    pub(crate) fn new(weights: Option<Weights>) -> Self {
        Self {
            weights,
            drawn: watch::Sender::new(None),
            turn: Arc::new(Semaphore::new(1)),
            asked: Arc::new(Semaphore::new(PICTURES_MAX)),
        }
    }

    /// Returns the newest generator; `None` if there is none yet.
    pub(crate) fn get(&self) -> Option<Drawn> {
        self.drawn.borrow().clone()
    }

    /// Loads a newer generator with `load`, which is given the weights that are wanted, draws its
    /// grid, and keeps both in place of the older generator.
    ///
    /// # Errors
    /// If `load` fails. The older generator stays then.
    pub(crate) async fn replace(
        &self,
        load: impl FnOnce(Option<Weights>) -> anyhow::Result<RunGenerator> + Send + 'static,
    ) -> anyhow::Result<Drawn> {
        let weights = self.weights;
        let drawn = spawn_blocking(move || draw(load(weights)?)).await??;
        self.drawn.send_replace(Some(drawn.clone()));
        Ok(drawn)
    }

    /// Draws a picture, when it is this picture's turn. `draw` is given a function that tells
    /// whether the picture is still wanted: it is not when the future is dropped.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if too many pictures are asked for; `INTERNAL` if drawing panicked; or
    /// what `draw` gives.
    pub(crate) async fn in_turn<T: Send + 'static>(
        &self,
        draw: impl FnOnce(&dyn Fn() -> bool) -> Result<Option<T>, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let _asked = self.asked.try_acquire().map_err(|_| {
            Status::resource_exhausted(format!(
                "{PICTURES_MAX} pictures are being drawn or waited for: ask again later"
            ))
        })?;
        let internal = |text: String| Status::internal(text);
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        let turn = turn.map_err(|error| internal(error.to_string()))?;
        let wanted = Wanted(Arc::new(AtomicBool::new(true)));
        let is_wanted = Arc::clone(&wanted.0);
        let drawing = spawn_blocking(move || {
            let _turn = turn;
            draw(&|| is_wanted.load(Ordering::Relaxed))
        });
        let picture = drawing.await.map_err(|error| internal(error.to_string()))??;
        picture.ok_or_else(|| Status::cancelled("nobody waits for the picture"))
    }
}

/// Says that a picture is wanted, until it is dropped.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn draw(generator: RunGenerator) -> anyhow::Result<Drawn> {
    let grid = generator.picture(GRID, None).into();
    Ok(Drawn { generator: Arc::new(generator), grid })
}
