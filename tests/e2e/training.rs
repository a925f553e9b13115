//! Training on real MNIST.

use std::sync::{Mutex, MutexGuard, PoisonError};

use dcgan_core::ids::Digest;
use tempfile::tempdir;

use crate::process::{COORD, Process, signal};
use crate::run::{
    Coordinator, LocalWorker, last_digest, lines, local, logged_steps, newest_manifest,
};

/// Six steps with a line, a grid and a checkpoint at every other one.
const SIX: &str = "--steps 6 --log-every 2 --grid-every 2 --checkpoint-every 2";

/// The state after six steps with the default settings, on every processor. It changes with the fingerprint, and with
/// nothing else.
const GOLDEN: [&str; 2] = ["cpu r2 fma", "9b77d1567cc4fe9f"];

/// Trainings take all cores: one after the other.
static CORES: Mutex<()> = Mutex::new(());

pub(crate) fn all_cores() -> MutexGuard<'static, ()> {
    CORES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one worker gives, computed once.
fn alone() -> Digest {
    static ALONE: std::sync::OnceLock<Digest> = std::sync::OnceLock::new();
    *ALONE.get_or_init(|| {
        let folder = tempdir().unwrap();
        let digest = local(folder.path(), &format!("--workers 1 {SIX}"));
        let fingerprint = newest_manifest(folder.path()).fingerprint;
        assert_eq!(
            [fingerprint, digest.to_string()],
            GOLDEN,
            "a change of numerics is always seen and said"
        );
        digest
    })
}

#[test]
fn four_workers_give_one_workers_bits_also_when_one_is_killed() {
    let _cores = all_cores();
    let folder = tempdir().unwrap();
    let coordinator =
        Process::start(COORD, folder.path(), &format!("--out run --local --workers 4 {SIX}"));
    coordinator.wait_for("step 2/6");
    signal("KILL", &LocalWorker::find(folder.path(), "worker-1").process);
    coordinator.wait_for("lost worker worker-1");
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
    coordinator.wait_for("step 2/6");
    coordinator.signal("TERM");
    let text = coordinator.expect(143);
    assert!(text.contains("go on with: dcgan-coord --out run --local"), "{text}");
    let stopped_at = newest_manifest(folder.path()).step;
    assert!((2..6).contains(&stopped_at), "{stopped_at}");
    assert_eq!(local(folder.path(), "--workers 2 --threads 2"), alone());
    assert_eq!(logged_steps(folder.path()), [2, 4, 6]);
}

#[test]
fn a_killed_coordinator_takes_its_children_along_and_loses_nothing() {
    let _cores = all_cores();
    let folder = tempdir().unwrap();
    let coordinator =
        Process::start(COORD, folder.path(), &format!("--out run --local --workers 2 {SIX}"));
    coordinator.wait_for("checkpoint of step 2");
    let workers = ["worker-0", "worker-1"].map(|name| LocalWorker::find(folder.path(), name));
    coordinator.signal("KILL");
    assert_eq!(coordinator.wait().status, None);
    workers.into_iter().for_each(LocalWorker::wait_until_gone);
    assert_eq!(local(folder.path(), "--workers 1 --threads 2"), alone());
    assert_eq!(logged_steps(folder.path()), [2, 4, 6]);
    for line in lines(folder.path()) {
        let numbers = [
            line.d_loss_real,
            line.d_loss_fake,
            line.g_loss,
            line.real_dacc,
            line.fake_dacc,
            line.gacc,
        ];
        assert!(numbers.iter().all(|number| number.is_finite()), "{line:?}");
    }
}

#[test]
fn workers_started_by_hand_give_the_same_and_exit_0() {
    let _cores = all_cores();
    let folder = tempdir().unwrap();
    let coordinator = Coordinator::start(folder.path(), &format!("--workers 2 {SIX}"));
    // One of them with narrower vectors, where there are any.
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
