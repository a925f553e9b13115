//! The people who have asked for the end of the run, with `dcgan-coord stop`: what they are told.

use dcgan_core::protocol::coordinator::Reason;
use dcgan_rpc::pb;
use pb::stop_progress::Kind;

use crate::input::StopWatcher;

/// The people who wait for the end of the run.
#[derive(Default)]
pub(super) struct StopWatchers {
    watchers: Vec<StopWatcher>,
    /// The code of the reason that they were told last.
    told: &'static str,
}

impl StopWatchers {
    pub(super) fn add(&mut self, watcher: StopWatcher) {
        self.watchers.push(watcher);
        self.told = "";
    }

    /// Tells them what is waited for, if that is news.
    pub(super) fn tell(&mut self, reason: &Reason) {
        if self.told == reason.code() {
            return;
        }
        self.told = reason.code();
        // One who has gone away needs no message any more. The last place is for the end.
        self.watchers.retain(|watcher| !watcher.is_closed());
        for watcher in self.watchers.iter().filter(|watcher| watcher.capacity() > 1) {
            send(watcher, Kind::Waiting(reason.to_string()));
        }
    }

    /// Tells them how the run has ended.
    pub(super) fn tell_end(&mut self, ended: &pb::RunEnded) {
        for watcher in self.watchers.drain(..) {
            send(&watcher, Kind::Ended(ended.clone()));
        }
    }
}

fn send(watcher: &StopWatcher, kind: Kind) {
    // Whoever has gone away needs no answer.
    let _ = watcher.try_send(Ok(pb::StopProgress { kind: Some(kind) }));
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn who_does_not_listen_is_still_told_the_end() {
        let (watcher, mut progress) = mpsc::channel(2);
        let mut watchers = StopWatchers::default();
        watchers.add(watcher);
        let ended = pb::RunEnded { code: "stopped".to_owned(), text: "x".to_owned() };
        for reason in [Reason::Stopping, Reason::Stopping, Reason::Finishing] {
            watchers.tell(&reason);
        }
        watchers.tell_end(&ended);
        let kinds: Vec<Kind> = std::iter::from_fn(|| progress.blocking_recv())
            .filter_map(|progress| progress.ok()?.kind)
            .collect();
        assert_eq!(kinds, [Kind::Waiting(Reason::Stopping.to_string()), Kind::Ended(ended)]);
    }
}
