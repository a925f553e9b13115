//! What keeps: data sets in IDX format, MNIST among them, and the run directory with its checkpoints and metrics.
//!
//! Everything that is read is checked before it is believed, and everything that is written is complete or absent:
//! a temporary name, fsync, rename, fsync of the directory. Nothing here knows of networks, processes or tensors'
//! meaning.

pub mod checkpoint;
pub mod dataset;
mod file;
pub mod idx;
pub mod metrics_log;
pub mod run_dir;
pub mod state_file;
