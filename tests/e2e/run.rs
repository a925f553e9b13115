//! Runs: a coordinator with its workers, and what the run directory holds afterwards.

use std::io::Read;
use std::net::TcpStream;
use std::path::Path;

use dcgan_core::ids::{Digest, Step};
use dcgan_core::metrics::MetricsRow;
use dcgan_store::checkpoint::{Checkpoints, Manifest};
use dcgan_store::metrics_log;
use dcgan_store::run_dir::RunPaths;

use crate::events;
use crate::process::{COORD, Process, WORKER};

/// An argument of workers that makes a run of the toy take its time: a test that waits for
/// something else does not need a whole processor meanwhile.
pub(crate) const PACED: &str = "--fault step-done=pace@1+";

/// A running coordinator. Its run directory is `run` in the folder of the test.
pub(crate) struct Coordinator {
    pub(crate) process: Process,
    /// The address that it listens on, as `http://127.0.0.1:PORT`.
    pub(crate) address: String,
}

impl Coordinator {
    /// Starts a coordinator on a free port, or on the port given by `--listen`.
    pub(crate) fn start(folder: &Path, arguments: &str) -> Self {
        Self::start_by(COORD, folder, arguments)
    }

    /// Starts a coordinator by another program, which becomes it.
    pub(crate) fn start_by(program: &str, folder: &Path, arguments: &str) -> Self {
        let listen = if arguments.contains("--listen") { "" } else { "--listen 127.0.0.1:0" };
        let process = Process::start(program, folder, &format!("--out run {listen} {arguments}"));
        let address = process.wait_for_event("listening", &[]).field("address").to_owned();
        Self { process, address }
    }

    /// Starts a worker of this coordinator.
    pub(crate) fn worker(&self, folder: &Path, arguments: &str) -> Process {
        Process::start(WORKER, folder, &format!("--coordinator {} {arguments}", self.address))
    }

    /// The arguments that start another coordinator on the same port.
    pub(crate) fn same_port(&self) -> String {
        format!("--listen {}", self.address.trim_start_matches("http://"))
    }
}

/// Trains to the end on local workers; gives the digest of the last state.
pub(crate) fn local(folder: &Path, arguments: &str) -> Digest {
    crate::process::run(COORD, folder, &format!("--out run --local {arguments}"), 0);
    last_digest(folder)
}

/// The rows of metrics in the run directory.
pub(crate) fn rows(folder: &Path) -> Vec<MetricsRow> {
    metrics_log::read(&RunPaths::new(folder.join("run")).metrics()).unwrap()
}

/// The steps that have a row of metrics.
pub(crate) fn logged_steps(folder: &Path) -> Vec<Step> {
    rows(folder).iter().map(|row| row.step).collect()
}

/// The steps that have a checkpoint.
pub(crate) fn saved_steps(folder: &Path) -> Vec<Step> {
    Checkpoints::new(&RunPaths::new(folder.join("run"))).steps().unwrap()
}

/// The manifest of the newest checkpoint, after the checkpoint is verified.
pub(crate) fn newest_manifest(folder: &Path) -> Manifest {
    let (newest, damaged) = Checkpoints::new(&RunPaths::new(folder.join("run"))).newest().unwrap();
    assert!(damaged.is_empty(), "{damaged:?}");
    newest.expect("there is a checkpoint").manifest().clone()
}

/// The digest of the last state. The last row and the newest checkpoint must agree on it.
pub(crate) fn last_digest(folder: &Path) -> Digest {
    let row = rows(folder).pop().expect("there are rows of metrics");
    let manifest = newest_manifest(folder);
    assert_eq!((manifest.step, manifest.state_digest), (row.step, row.state_digest));
    row.state_digest
}

/// A worker that `--local` started.
pub(crate) struct LocalWorker {
    /// Its process id.
    pub(crate) process: String,
    stream: TcpStream,
}

impl LocalWorker {
    /// Finds the newest worker process of that name by its log, and connects to it.
    pub(crate) fn find(folder: &Path, name: &str) -> Self {
        let events = events::read(&folder.join(format!("run/logs/{name}.log")));
        // A worker that was started again writes to the same log.
        let started = events.iter().rfind(|event| event.is("worker_started", &[]));
        let started = started.expect("a worker says first that it has started");
        let stream = TcpStream::connect(started.field("listening")).unwrap();
        Self { process: started.field("process").to_owned(), stream }
    }

    /// Waits until the process is gone: its connections close then.
    pub(crate) fn wait_until_gone(mut self) {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
    }
}
