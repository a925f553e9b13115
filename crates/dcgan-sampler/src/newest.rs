//! The newest generator, and drawing with it.

use std::sync::Arc;

use bytes::Bytes;
use dcgan_core::ids::Step;
use dcgan_model::Generator;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;

use crate::picture::{GRID, png};

/// A generator, and which one it is.
pub(crate) struct Source {
    /// The step after which it was taken.
    pub(crate) step: Step,
    /// The run's, which determines the latents of its own grids.
    pub(crate) seed: u64,
    pub(crate) generator: Generator,
}

impl Source {
    /// A grid of samples as a PNG; without a seed, of the run's own latents.
    pub(crate) fn picture(&self, rows: u32, columns: u32, seed: Option<u64>) -> Vec<u8> {
        let images = self.generator.draw((rows * columns) as usize, seed, self.seed);
        png(&images, rows, columns)
    }
}

/// A generator with the grid of the run's own latents.
#[derive(Clone)]
pub(crate) struct Drawn {
    pub(crate) source: Arc<Source>,
    pub(crate) grid: Bytes,
}

/// The newest generator that there is, for all who show it. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Newest {
    drawn: watch::Sender<Option<Drawn>>,
    /// One picture at a time: training has the other cores.
    drawing: Arc<Semaphore>,
}

impl Newest {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self { drawn: watch::Sender::new(None), drawing: Arc::new(Semaphore::new(1)) }
    }

    /// The newest, if there is one.
    pub(crate) fn get(&self) -> Option<Drawn> {
        self.drawn.borrow().clone()
    }

    /// Takes a newer generator, made by `load` apart from the network's threads; gives its grid.
    pub(crate) async fn replace(
        &self,
        load: impl FnOnce() -> anyhow::Result<Source> + Send + 'static,
    ) -> anyhow::Result<Drawn> {
        let _turn = self.drawing.acquire().await?;
        let drawn = spawn_blocking(move || {
            let source = load()?;
            let grid = source.picture(GRID.0, GRID.1, None).into();
            anyhow::Ok(Drawn { source: Arc::new(source), grid })
        })
        .await??;
        self.drawn.send_replace(Some(drawn.clone()));
        Ok(drawn)
    }

    /// Draws with a generator apart from the network's threads, when it is this picture's turn.
    pub(crate) async fn picture(
        &self,
        source: Arc<Source>,
        rows: u32,
        columns: u32,
        seed: Option<u64>,
    ) -> anyhow::Result<Vec<u8>> {
        let _turn = self.drawing.acquire().await?;
        Ok(spawn_blocking(move || source.picture(rows, columns, seed)).await?)
    }
}
