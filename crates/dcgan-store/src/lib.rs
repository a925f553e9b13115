//! Files: data sets in IDX format, and the run directory with its checkpoints and metrics.
//!
//! Everything that is read is checked before it is used. Everything that is written is complete or
//! absent, also after a crash: a file is written under a temporary name, synced to disk and then
//! renamed, and the rename is synced as well; only rows of metrics are appended. This crate knows
//! neither the networks nor the processes, and not what a tensor means.
//!
//! # Layout
//!
//! * [`idx`], `content`, [`dataset`]: the IDX format, and what stands in its place; MNIST, and the
//!   search for files of its relatives and for pictures.
//! * [`picture`]: PNG and JPEG files as small grey images.
//! * [`run_dir`]: the files of a run directory, its lock and the grids; `run_file` is `run.json`,
//!   `restore` undoes what others do to them, and `no_run` says where a run is.
//! * [`address_file`]: where the coordinator of a run listens.
//! * [`checkpoint`]: the folder of checkpoints.
//! * [`format`]: the version of the formats of both; older and newer files.
//! * [`state_file`]: states as safetensors files; [`evaluator_file`]: evaluators.
//! * [`metrics_log`]: the file `metrics.jsonl`.
//! * `parsers`: the readers of these files, for fuzzing.
//! * [`png`]: whether bytes are a grid of a sampler.
//! * [`file`]: reading files that anybody may have made, and writing files that are complete or
//!   absent.

pub mod address_file;
pub mod checkpoint;
mod content;
pub mod dataset;
pub mod evaluator_file;
pub mod file;
pub mod format;
pub mod idx;
pub mod metrics_log;
pub mod no_run;
#[doc(hidden)]
pub mod parsers;
pub mod picture;
pub mod png;
mod restore;
pub mod run_dir;
mod run_file;
pub mod state_file;
