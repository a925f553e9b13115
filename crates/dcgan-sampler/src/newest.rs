//! The newest generator, and pictures that are drawn with it.
//!
//! Drawing takes up to seconds of a whole core. It happens on threads of its own, so that the
//! network's thread can go on answering, and one picture at a time, because a run on the same
//! machine needs the other cores.

use std::sync::Arc;

use bytes::Bytes;
use dcgan_core::ids::Step;
use dcgan_model::Generator;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;

use crate::picture::{GRID, GridSize, png};

/// A generator, with the step and the seed of the run that trained it.
pub(crate) struct RunGenerator {
    /// The step after which the generator was taken.
    pub(crate) step: Step,
    /// The seed of the run. It determines the latent vectors of the run's own grids.
    pub(crate) seed: u64,
    pub(crate) generator: Generator,
}

impl RunGenerator {
    /// Draws a grid of samples as a PNG. Without a seed, it draws those of the run's own grids.
    pub(crate) fn picture(&self, size: GridSize, seed: Option<u64>) -> Vec<u8> {
        let images = self.generator.draw(size.images(), seed, self.seed);
        png(&images, size)
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
    drawn: watch::Sender<Option<Drawn>>,
    /// Held by the one task that is drawing.
    turn: Arc<Semaphore>,
}

impl Newest {
    /// Creates a place for generators. There is none yet.
    pub(crate) fn new() -> Self {
        Self { drawn: watch::Sender::new(None), turn: Arc::new(Semaphore::new(1)) }
    }

    /// Returns the newest generator; `None` if there is none yet.
    pub(crate) fn get(&self) -> Option<Drawn> {
        self.drawn.borrow().clone()
    }

    /// Loads a newer generator with `load`, draws its grid, and keeps both in place of the older
    /// generator.
    ///
    /// # Errors
    /// If `load` fails. The older generator stays then.
    pub(crate) async fn replace(
        &self,
        load: impl FnOnce() -> anyhow::Result<RunGenerator> + Send + 'static,
    ) -> anyhow::Result<Drawn> {
        let _turn = self.turn.acquire().await?;
        let drawn = spawn_blocking(move || draw(load()?)).await??;
        self.drawn.send_replace(Some(drawn.clone()));
        Ok(drawn)
    }

    /// Draws a picture with a generator, when it is this picture's turn.
    ///
    /// # Errors
    /// If drawing panicked.
    pub(crate) async fn picture(
        &self,
        generator: Arc<RunGenerator>,
        size: GridSize,
        seed: Option<u64>,
    ) -> anyhow::Result<Vec<u8>> {
        let _turn = self.turn.acquire().await?;
        Ok(spawn_blocking(move || generator.picture(size, seed)).await?)
    }
}

fn draw(generator: RunGenerator) -> anyhow::Result<Drawn> {
    let grid = generator.picture(GRID, None).into();
    Ok(Drawn { generator: Arc::new(generator), grid })
}
