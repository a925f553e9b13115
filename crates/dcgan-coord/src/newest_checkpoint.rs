//! The newest checkpoint in memory: read and verified once, and shared by all who ask for it.
//!
//! When a whole run resumes, every worker asks for the same file at the same time. Reading it for
//! each of them would take 13 MB of memory a worker.

use std::sync::Arc;

use bytes::Bytes;
use dcgan_core::ids::{Digest, Step};
use dcgan_store::checkpoint::{Checkpoints, VerifiedCheckpoint};
use dcgan_store::state_file;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

/// The names of the generator's tensors, and those of their moving averages, begin with these.
pub(crate) const GENERATOR_PREFIXES: [&str; 2] = ["generator.", "ema.generator."];

/// The checkpoint that was asked for last. Clones share it.
#[derive(Clone)]
pub(crate) struct NewestCheckpoint(Arc<Shared>);

struct Shared {
    checkpoints: Checkpoints,
    /// Held while it is read: others wait for that instead of reading it as well.
    loaded: Mutex<Option<Loaded>>,
}

/// A checkpoint that was read and whose digests are right.
#[derive(Clone)]
pub(crate) struct Loaded {
    step: Step,
    /// The state, as a safetensors file.
    pub(crate) state: Bytes,
    /// The digest of that file.
    pub(crate) digest: Digest,
    /// The generator's part of it, once somebody has asked for that.
    generator: Option<Bytes>,
}

impl NewestCheckpoint {
    /// Nothing is read yet.
    pub(crate) fn new(checkpoints: Checkpoints) -> Self {
        Self(Arc::new(Shared { checkpoints, loaded: Mutex::default() }))
    }

    /// Returns the checkpoint of a step.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) async fn get(&self, step: Step) -> anyhow::Result<Loaded> {
        let mut loaded = self.0.loaded.lock().await;
        self.load(&mut loaded, step).await
    }

    /// Returns the generator in the checkpoint of a step, as a safetensors file.
    ///
    /// # Errors
    /// If the checkpoint cannot be read, or has no generator.
    pub(crate) async fn generator(&self, step: Step) -> anyhow::Result<Bytes> {
        let mut guard = self.0.loaded.lock().await;
        let mut loaded = self.load(&mut guard, step).await?;
        if let Some(generator) = loaded.generator {
            return Ok(generator);
        }
        let state = loaded.state.clone();
        let subset =
            spawn_blocking(move || state_file::subset(&state, &GENERATOR_PREFIXES)).await??;
        let generator = Bytes::from(subset);
        loaded.generator = Some(generator.clone());
        *guard = Some(loaded);
        Ok(generator)
    }

    async fn load(&self, loaded: &mut Option<Loaded>, step: Step) -> anyhow::Result<Loaded> {
        if let Some(loaded) = loaded.as_ref().filter(|loaded| loaded.step == step) {
            return Ok(loaded.clone());
        }
        // The older one makes room first.
        *loaded = None;
        let shared = Arc::clone(&self.0);
        // Reading and verifying a file would block the network's one thread.
        let checkpoint: VerifiedCheckpoint =
            spawn_blocking(move || shared.checkpoints.load(step)).await??;
        let digest = checkpoint.manifest().file_digest;
        let state = Bytes::from(checkpoint.into_state());
        Ok(loaded.insert(Loaded { step, state, digest, generator: None }).clone())
    }
}
