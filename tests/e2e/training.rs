//! Training on real MNIST.

use std::sync::{Mutex, MutexGuard, PoisonError};

use dcgan_core::ids::Digest;
use tempfile::tempdir;

use crate::process::{COORD, Process, assert_names, signal};
use crate::run::{
    Coordinator, LocalWorker, last_digest, local, logged_steps, newest_manifest, rows,
};

/// Six steps. Every second one has a row of metrics, a grid and a checkpoint.
const SIX: &str = "--steps 6 --log-every 2 --grid-every 2 --checkpoint-every 2";

/// The fingerprint, and the digest of the state after six steps with the default settings. The
/// digest is the same on every processor. It changes only when the fingerprint changes, or the
/// default of a setting.
const GOLDEN: [&str; 2] = ["cpu r2 fma", "9772e82e5b0f75a4"];

/// Held while a test trains. A training takes all cores, so that two at once would only be slower.
static CORES: Mutex<()> = Mutex::new(());

pub(crate) fn all_cores() -> MutexGuard<'static, ()> {
    CORES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The digest of a run by one worker. It is computed once.
fn alone() -> Digest {
    static ALONE: std::sync::OnceLock<Digest> = std::sync::OnceLock::new();
    *ALONE.get_or_init(|| {
        let folder = tempdir().unwrap();
        let digest = local(folder.path(), &format!("--workers 1 {SIX}"));
        let fingerprint = newest_manifest(folder.path()).fingerprint;
        assert_eq!(
            [fingerprint, digest.to_string()],
            GOLDEN,
            "a change of the arithmetic needs a new fingerprint and a new golden digest"
        );
        digest
    })
}

#[test]
fn four_workers_one_of_which_is_killed_give_the_bits_of_one_worker() {
    let _cores = all_cores();
    let folder = tempdir().unwrap();
    let coordinator =
        Process::start(COORD, folder.path(), &format!("--out run --local --workers 4 {SIX}"));
    coordinator.wait_for_step(2);
    signal("KILL", &LocalWorker::find(folder.path(), "worker-1").process);
    coordinator.wait_for_event("worker_lost", &[("worker", "worker-1")]);
    coordinator.expect(0);
    assert_eq!(last_digest(folder.path()), alone());
    assert_eq!(logged_steps(folder.path()), [2, 4, 6]);
    for step in [2, 4, 6] {
        let grid = std::fs::File::open(folder.path().join(format!("run/grids/step-{step:08}.png")))
            .unwrap();
        let reader = png::Decoder::new(std::io::BufReader::new(grid)).read_info().unwrap();
        assert_eq!((reader.info().width, reader.info().height), (302, 302));
    }
}

#[test]
fn a_run_that_is_stopped_goes_on_with_another_number_of_workers_and_threads() {
    let _cores = all_cores();
    let folder = tempdir().unwrap();
    let coordinator =
        Process::start(COORD, folder.path(), &format!("--out run --local --workers 3 {SIX}"));
    coordinator.wait_for_step(2);
    coordinator.signal("TERM");
    let stopped = coordinator.expect(143);
    let stopped_at = newest_manifest(folder.path()).step;
    let event = stopped.event("run_stopped", &[("step", &stopped_at.to_string())]);
    // The command that resumes the run.
    assert_names(&event.message, &["dcgan-coord", "--out run --local"]);
    assert!((2..6).contains(&stopped_at), "{stopped_at}");
    assert_eq!(local(folder.path(), "--workers 2 --threads 2 --steps 6"), alone());
    assert_eq!(logged_steps(folder.path()), [2, 4, 6]);
}

#[test]
fn the_children_of_a_killed_coordinator_end_and_the_run_resumes_with_the_same_bits() {
    let _cores = all_cores();
    let folder = tempdir().unwrap();
    let coordinator =
        Process::start(COORD, folder.path(), &format!("--out run --local --workers 2 {SIX}"));
    coordinator.wait_for_event("checkpoint_saved", &[("step", "2")]);
    let workers = ["worker-0", "worker-1"].map(|name| LocalWorker::find(folder.path(), name));
    coordinator.signal("KILL");
    assert_eq!(coordinator.wait().status, None);
    workers.into_iter().for_each(LocalWorker::wait_until_gone);
    assert_eq!(local(folder.path(), "--workers 1 --threads 2 --steps 6"), alone());
    assert_eq!(logged_steps(folder.path()), [2, 4, 6]);
    for row in rows(folder.path()) {
        let names: Vec<&str> = row.metrics.iter().map(|(name, _)| name).collect();
        let expected = ["d_loss_real", "d_loss_fake", "g_loss", "real_dacc", "fake_dacc", "gacc"];
        assert_eq!(names, expected);
        assert!(row.scalars().all(|(_, number)| number.is_finite()), "{row:?}");
    }
}

#[test]
fn workers_that_a_person_starts_give_the_same_bits_and_exit_with_0() {
    let _cores = all_cores();
    let folder = tempdir().unwrap();
    let coordinator = Coordinator::start(folder.path(), &format!("--workers 2 {SIX}"));
    // One worker uses narrower vector instructions, where the processor has them: same bits.
    #[cfg(target_arch = "x86_64")]
    let narrow = if std::arch::is_x86_feature_detected!("avx2") { "--device cpu:avx2" } else { "" };
    #[cfg(not(target_arch = "x86_64"))]
    let narrow = "";
    let workers = [
        coordinator.worker(folder.path(), "--threads 2"),
        coordinator.worker(folder.path(), narrow),
    ];
    coordinator.process.expect(0);
    workers.into_iter().for_each(|worker| drop(worker.expect(0)));
    assert_eq!(last_digest(folder.path()), alone());
}
