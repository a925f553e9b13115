//! Runs: coordinators with workers, and what a run directory holds afterwards.

use std::io::Read;
use std::net::TcpStream;
use std::path::Path;

use dcgan_core::ids::{Digest, Step};
use dcgan_core::metrics::MetricsRow;
use dcgan_store::checkpoint::{Checkpoints, Manifest};
use dcgan_store::metrics_log;
use dcgan_store::run_dir::RunPaths;

use crate::process::{COORD, Process, WORKER};

/// A coordinator in a folder, whose run directory is `run`.
pub(crate) struct Coordinator {
    pub(crate) process: Process,
    pub(crate) address: String,
}

impl Coordinator {
    /// Starts one on a free port, or on the port given by `--listen`.
    pub(crate) fn start(folder: &Path, arguments: &str) -> Self {
        let listen = if arguments.contains("--listen") { "" } else { "--listen 127.0.0.1:0" };
        let process = Process::start(COORD, folder, &format!("--out run {listen} {arguments}"));
        let address = process.wait_for_word_after("listening on ");
        Self { process, address }
    }

    /// Starts a worker of this coordinator.
    pub(crate) fn worker(&self, folder: &Path, arguments: &str) -> Process {
        Process::start(WORKER, folder, &format!("--coordinator {} {arguments}", self.address))
    }

    /// The arguments for another one on the same port.
    pub(crate) fn same_port(&self) -> String {
        format!("--listen {}", self.address.trim_start_matches("http://"))
    }
}

/// Trains to the end on local workers; gives the digest.
pub(crate) fn local(folder: &Path, arguments: &str) -> Digest {
    crate::process::run(COORD, folder, &format!("--out run --local {arguments}"), 0);
    last_digest(folder)
}

/// The lines of metrics.
pub(crate) fn lines(folder: &Path) -> Vec<MetricsRow> {
    metrics_log::read(&RunPaths::new(folder.join("run")).metrics()).unwrap()
}

/// The steps that have a line.
pub(crate) fn logged_steps(folder: &Path) -> Vec<Step> {
    lines(folder).iter().map(|line| line.step).collect()
}

/// The steps that have a checkpoint.
pub(crate) fn saved_steps(folder: &Path) -> Vec<Step> {
    Checkpoints::new(&RunPaths::new(folder.join("run"))).steps().unwrap()
}

/// What the newest checkpoint says of itself, once it is verified.
pub(crate) fn newest_manifest(folder: &Path) -> Manifest {
    let (newest, damaged) = Checkpoints::new(&RunPaths::new(folder.join("run"))).newest().unwrap();
    assert!(damaged.is_empty(), "{damaged:?}");
    newest.expect("there is a checkpoint").manifest().clone()
}

/// The digest of the last state, which the last line and the newest checkpoint agree on.
pub(crate) fn last_digest(folder: &Path) -> Digest {
    let line = lines(folder).pop().expect("there are lines");
    let manifest = newest_manifest(folder);
    assert_eq!((manifest.step, manifest.state_digest), (line.step, line.state_digest));
    line.state_digest
}

/// A worker that `--local` started, by its log.
pub(crate) struct LocalWorker {
    /// Its number, for signals.
    pub(crate) process: String,
    stream: TcpStream,
}

impl LocalWorker {
    /// The newest process of that name.
    pub(crate) fn find(folder: &Path, name: &str) -> Self {
        let log = std::fs::read_to_string(folder.join(format!("run/logs/{name}.log"))).unwrap();
        let line = log.lines().rfind(|line| line.contains("(process ")).expect("it says who it is");
        let word = |after: &str| {
            line.split_once(after).unwrap().1.split([')', ';', ',']).next().unwrap().to_owned()
        };
        let stream = TcpStream::connect(word(") at ")).unwrap();
        Self { process: word("(process "), stream }
    }

    /// Waits until the process is gone: its connections close then.
    pub(crate) fn wait_until_gone(mut self) {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
    }
}
