//! The workers that are connected, as far as the services need to know them: who may fetch files,
//! and who was asked for which snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dcgan_core::ids::{Step, WorkerId};
use dcgan_core::protocol::coordinator::ConnId;
use dcgan_rpc::Who;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// Transfers that one worker may have at a time. It waits with the next one.
pub(crate) const TRANSFERS_MAX: usize = 4;
/// Snapshots that one worker was asked for and has not sent. Of more, the earliest are forgotten,
/// and would be refused.
pub(crate) const REQUESTED_MAX: usize = 64;
/// The size of a snapshot, in bytes, as long as no checkpoint has shown how large they are. A
/// larger one is refused. The DCGAN's has 6 MB.
pub(crate) const SNAPSHOT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The connected workers. The driver and the services share it.
pub(crate) struct Workers {
    connected: Mutex<BTreeMap<ConnId, Connected>>,
    snapshot_bytes_max: AtomicUsize,
}

struct Connected {
    id: WorkerId,
    /// The steps whose snapshots it was asked for.
    requested: BTreeSet<Step>,
    transfers: Arc<Semaphore>,
}

impl Workers {
    /// No worker yet.
    pub(crate) fn new() -> Self {
        let snapshot_bytes_max = AtomicUsize::new(SNAPSHOT_BYTES_MAX);
        Self { connected: Mutex::default(), snapshot_bytes_max }
    }

    /// Adds the worker of a control stream.
    pub(super) fn connect(&self, conn: ConnId, id: WorkerId) {
        let transfers = Arc::new(Semaphore::new(TRANSFERS_MAX));
        self.lock().insert(conn, Connected { id, requested: BTreeSet::new(), transfers });
    }

    /// Removes the worker of a control stream that has ended.
    pub(super) fn disconnect(&self, conn: ConnId) {
        self.lock().remove(&conn);
    }

    /// Notes that a worker is asked for a snapshot.
    pub(crate) fn request_snapshot(&self, conn: ConnId, step: Step) {
        if let Some(worker) = self.lock().get_mut(&conn) {
            worker.requested.insert(step);
            if worker.requested.len() > REQUESTED_MAX {
                worker.requested.pop_first();
            }
        }
    }

    /// Notes the size of a snapshot that has become a checkpoint: all others have about the same.
    pub(crate) fn set_snapshot_bytes(&self, bytes: usize) {
        self.snapshot_bytes_max.store(bytes + bytes / 10, Ordering::Relaxed);
    }

    /// The size of the largest snapshot that is accepted.
    pub(super) fn snapshot_bytes_max(&self) -> usize {
        self.snapshot_bytes_max.load(Ordering::Relaxed)
    }

    /// Accepts a snapshot once from a worker that was asked for it.
    ///
    /// # Errors
    /// If it was not.
    pub(super) fn accept_snapshot(&self, who: &Who, step: Step) -> Result<(), Status> {
        let mut connected = self.lock();
        let mut of_sender = connected.values_mut().filter(|worker| worker.is(who));
        if of_sender.any(|worker| worker.requested.remove(&step)) {
            return Ok(());
        }
        let text = format!("{who} was not asked for the snapshot of step {step}");
        Err(Status::failed_precondition(text))
    }

    /// Waits until a worker may begin a transfer, which ends when the permit is dropped.
    ///
    /// # Errors
    /// If it is no worker with a control stream.
    pub(super) async fn begin_transfer(&self, who: &Who) -> Result<OwnedSemaphorePermit, Status> {
        let transfers = {
            let connected = self.lock();
            let newest = connected.values().rev().find(|worker| worker.is(who));
            newest.map(|worker| Arc::clone(&worker.transfers))
        };
        let stranger = || Status::unavailable(format!("{who} has no control stream here"));
        let transfers = transfers.ok_or_else(stranger)?;
        transfers.acquire_owned().await.map_err(|_| stranger())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ConnId, Connected>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connected {
    fn is(&self, who: &Who) -> bool {
        matches!(who, Who::Worker(id) if *id == self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str) -> WorkerId {
        WorkerId { name: name.to_owned(), incarnation: 1 }
    }

    #[test]
    fn a_snapshot_is_accepted_once_from_the_worker_that_was_asked() {
        let workers = Workers::new();
        workers.connect(ConnId(1), worker("a"));
        workers.connect(ConnId(2), worker("b"));
        workers.request_snapshot(ConnId(1), 20);
        let [a, b] = ["a", "b"].map(|name| Who::Worker(worker(name)));
        let error = workers.accept_snapshot(&b, 20).unwrap_err();
        assert_eq!(error.message(), "worker b was not asked for the snapshot of step 20");
        assert!(workers.accept_snapshot(&a, 40).is_err());
        assert!(workers.accept_snapshot(&a, 20).is_ok());
        assert!(workers.accept_snapshot(&a, 20).is_err(), "only once");
        workers.request_snapshot(ConnId(1), 60);
        workers.disconnect(ConnId(1));
        assert!(workers.accept_snapshot(&a, 60).is_err(), "its stream has ended");
    }

    #[test]
    fn snapshots_may_be_a_tenth_larger_than_the_last_one() {
        let workers = Workers::new();
        assert_eq!(workers.snapshot_bytes_max(), SNAPSHOT_BYTES_MAX);
        workers.set_snapshot_bytes(5_000_000);
        assert_eq!(workers.snapshot_bytes_max(), 5_500_000);
    }

    #[tokio::test]
    async fn a_stranger_transfers_nothing_and_a_worker_a_few_files_at_a_time() {
        let workers = Workers::new();
        workers.connect(ConnId(1), worker("a"));
        let stranger = Who::Person("ada@engine".to_owned());
        assert!(workers.begin_transfer(&stranger).await.is_err());
        let a = Who::Worker(worker("a"));
        let mut permits = Vec::new();
        for _ in 0..TRANSFERS_MAX {
            permits.push(workers.begin_transfer(&a).await.unwrap());
        }
        let mut waiting = Box::pin(workers.begin_transfer(&a));
        let poll = |waiting: &mut _| std::task::Poll::is_pending(&futures_poll(waiting));
        assert!(poll(&mut waiting));
        permits.pop();
        assert!(!poll(&mut waiting));
    }

    fn futures_poll<F: Future + Unpin>(future: &mut F) -> std::task::Poll<F::Output> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::Pin::new(future).poll(&mut cx)
    }
}
